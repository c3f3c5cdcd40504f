"""Answers, engine and tables are the same whatever widths the model happens to have when it is asked or posed."""

import functools

import numpy as np
import pytest
from networks import trained
from problems import prefix_evaluator, search_loader, state_of, tiny_model, tiny_network, weighted_model
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.metrics import as_metric, mean_squared_divergence


def transformer():
    """Points inside a module that the engine runs as a whole."""
    model = qx.QuantizedModel(
        trained("transformer"), predicates.by_type(nn.LayerNorm), predicates.by_type(nn.Linear, nn.MultiheadAttention)
    )
    model.calibrate(search_loader(100)[:1], weight_method="max")
    return model


def corrected():
    """Biases that answer to the widths of their weights."""
    model = weighted_model()
    qx.correct_biases(model, search_loader(100)[:1])
    return model


MODELS = {
    "activations": tiny_model,
    "rows": weighted_model,
    "groups": lambda: weighted_model(weight_granularity=8),
    "asymmetric": lambda: weighted_model(asymmetric=True),
    "half": lambda: weighted_model().half(),
    "hidden": transformer,
    "biases": corrected,
}


def _off(model):
    model.num_bits = [0] * len(model.points)


def _partly_off(model):
    model.num_bits = [(0, 5, 0, 403)[index % 4] for index in range(len(model.points))]


def _floats(model):
    model.num_bits = [(403, 1201)[index % 2] for index in range(len(model.points))]


def _by_hand(model):
    for quantizer in model.fake_quantizers.values():
        quantizer.num_bits = 3
        quantizer.switched_off = True


PRESENT = {"off": _off, "partly off": _partly_off, "float formats": _floats, "edited by hand": _by_hand}


def asked(model):
    """What an engine says of some candidates, its description, and the divergences of a table."""
    loader = search_loader(100)[:1]
    evaluator = prefix_evaluator(model, loader, as_metric(qx.negative_log_likelihood))
    before, length = state_of(model), len(model.points)
    codes = np.random.default_rng(0).choice([0, 2, 3, 4, 8, 403, 1201], size=(4, length))
    candidates = np.concatenate([codes, np.full((1, length), 8), np.full((1, length), 2)])
    scores = [evaluation.scores.tolist() for evaluation in evaluator.evaluate(candidates)]
    part = evaluator.scores_on_subset(candidates, mean_squared_divergence, 32, against_float=True).tolist()
    direct = [evaluation.scores.tolist() for evaluation in evaluator.direct.evaluate(candidates)]
    assert state_of(model) == before
    return evaluator.description, scores, part, direct


@functools.cache
def as_calibrated(kind):
    return asked(MODELS[kind]())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("present", PRESENT)
def test_an_engine_answers_the_same_whatever_the_present_widths_are(kind, present):
    expected = as_calibrated(kind)
    assert expected[0].startswith("prefix")
    model = MODELS[kind]()
    PRESENT[present](model)
    assert asked(model) == expected


@pytest.mark.parametrize("present", PRESENT)
def test_sensitivity_and_searches_are_the_same_whatever_the_present_widths_are(present):
    def found(set_widths):
        model = weighted_model()
        set_widths(model)
        problem = qx.LayerwiseQuantizationProblem(model, search_loader(100)[:1], num_bits_lower_limit=3)
        set_widths(model)
        table = qx.sensitivity(problem, "mse")
        result = qx.explore(problem, max_evaluations=12, seed=1)
        layers = qx.analyze(model, search_loader(100)[:1], [4, 0, 8, 403, 0, 2])
        return table, result.front.num_bits.tolist(), result.front.accuracy.tolist(), str(layers)

    expected, got = found(lambda model: None), found(PRESENT[present])
    np.testing.assert_array_equal(got[0].values, expected[0].values)
    assert got[1:] == expected[1:]


@pytest.mark.parametrize("present", PRESENT)
def test_training_at_given_widths_is_the_same_whatever_the_present_widths_are(present):
    def weights(set_widths):
        model = weighted_model(tiny_network().requires_grad_(True))
        set_widths(model)
        qx.fine_tune(model, [4, 3, 8, 4, 0, 2], search_loader(200), nn.functional.cross_entropy, epochs=1)
        return [parameter.tolist() for parameter in model.model.parameters()]

    assert weights(PRESENT[present]) == weights(lambda model: None)


def test_a_switch_by_hand_is_no_width_and_outlasts_every_evaluation():
    model = weighted_model()
    model.weight_fake_quantizers["fc2.weight"].disable()
    _off(model)
    loader = search_loader(100)[:1]
    problem = qx.LayerwiseQuantizationProblem(model, loader, num_bits_lower_limit=3)
    engine, direct = (next(answers([[3] * 6])) for answers in (problem.measure, problem.measure_directly))
    assert engine.candidate == (3, 3, 3, 3, 0, 3)
    assert engine.scores.tolist() == direct.scores.tolist()
    assert model.weight_fake_quantizers["fc2.weight"].disabled
    model.num_bits = [3, 3, 3, 3, 0, 3]
    assert model.weight_fake_quantizers["fc2.weight"].disabled
    model.num_bits = [3] * 6  # a width for the point itself switches it on
    assert model.num_bits.tolist() == [3] * 6
