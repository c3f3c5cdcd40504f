"""Quantized weights in steps: what the hooked network gives, bit for bit, and what the direct evaluator counts."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from networks import AWKWARD, EACH, digits
from problems import prefix_evaluator, search_loader
from torch import nn
from torch.utils import _pytree as pytree
from weighted_networks import MIXED, NETWORKS, cloned, of_trained, of_untrained, scores, top1_flat, vectors, wrapped

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation.graph import build_steps
from qexplore.evaluation.trace import CaptureError, trace
from qexplore.evaluation.written import without_writes
from qexplore.metrics import as_metric
from qexplore.model import QuantizedModel, call
from qexplore.quant import FixedQuantizer

NOT_IN_STEPS = {
    "branching": "control flow",
    "noisy": "random",
    "never_called_unselected": "spare.weight do not appear in the traced network",
}


def tensors(tree):
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def require_equal_in_steps(model, inputs):
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    traced = trace(copied, cloned(inputs))
    without_writes(traced, cloned(inputs))
    steps = build_steps(traced, traced.root)
    for candidate in vectors(model):
        quantizers = [
            FixedQuantizer.of(quantizer, int(code)) if code else None
            for quantizer, code in zip(model.fake_quantizers.values(), candidate, strict=True)
        ]
        with model.using(candidate):
            expected = call(model, cloned(inputs))
        for _ in range(2):
            got = steps.run(traced.bind(cloned(inputs)), quantizers)
            assert all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(got), strict=True))


# -------------------------------------------------------------------------------------------------- bit for bit


def awkward(name):
    case = AWKWARD[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = case.build()
    model = QuantizedModel(network, case.predicate, predicates.weighted, **case.options).eval()
    model.calibrate([case.inputs()], unpack=lambda batch: (batch, None))
    return model, case.inputs()


@pytest.mark.parametrize("name", sorted(AWKWARD.keys() - NOT_IN_STEPS))
def test_every_awkward_network_in_steps_equals_the_hooked_one_bit_for_bit(name):
    require_equal_in_steps(*awkward(name))


@pytest.mark.parametrize("granularity", ["channel", "tensor", 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_awkward_about_weights_in_steps_equal_the_hooked_ones_bit_for_bit(name, granularity):
    require_equal_in_steps(*wrapped(name, granularity))


@pytest.mark.parametrize("name", EACH)
def test_trained_networks_in_steps_equal_the_hooked_ones_bit_for_bit(name):
    model = of_trained(name)
    require_equal_in_steps(model, digits().search.x[:20])


@pytest.mark.parametrize("name", NOT_IN_STEPS)
def test_networks_that_cannot_be_had_in_steps_say_why_and_are_answered_directly(name):
    model, inputs = awkward(name)
    data = [(inputs, torch.zeros(len(inputs), dtype=torch.int64))]
    is_passed = name != "never_called_unselected"
    with contextlib.nullcontext() if is_passed else pytest.warns(RuntimeWarning, match="never passes.*spare.weight"):
        ours = prefix_evaluator(model, data, as_metric(qx.top1_accuracy))
        direct = qx.DirectEvaluator(model, data, as_metric(qx.top1_accuracy))
    assert ours.description.startswith("direct: ")
    assert NOT_IN_STEPS[name] in ours.description
    candidates = vectors(model)
    assert scores(ours.evaluate(candidates)) == scores(direct.evaluate(candidates))
    if name != "noisy":
        with pytest.raises(CaptureError, match=NOT_IN_STEPS[name]):
            require_equal_in_steps(model, inputs)


# -------------------------------------------------------------------------------------------------- whole evaluations


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_the_direct_evaluators(name):
    model, loader = of_untrained(name)
    candidates = vectors(model, 12)
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    direct = qx.DirectEvaluator(model, loader, as_metric(top1_flat))
    assert scores(ours.evaluate(candidates)) == scores(direct.evaluate(candidates))
    folded = {"convolutions": 4, "volumes": 1, "signals": 1}.get(name, 0)
    assert ours._engine.network.num_folded == folded


@pytest.mark.parametrize("name", EACH)
def test_counts_on_trained_networks_equal_the_direct_evaluators_but_for_one_that_folding_may_move(name):
    model = of_trained(name)
    candidates = np.random.default_rng(1).choice([3, 4, 5, 6, 8, 403, 1403, 0], size=(12, len(model.points)))
    ours = prefix_evaluator(model, search_loader(100), as_metric(qx.top1_accuracy), required=True)
    direct = qx.DirectEvaluator(model, search_loader(100), as_metric(qx.top1_accuracy))
    for one, other in zip(ours.evaluate(candidates), direct.evaluate(candidates), strict=True):
        assert one.state == other.state == "complete"
        assert abs(one.scores.sum() - other.scores.sum()) <= 1  # of 400
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.model.modules())
    has_quantized_convolutions = any(point.module_type == "Conv2d" for point in model.points if point.kind != "weight")
    assert ours._engine.network.num_folded == (0 if has_quantized_convolutions else norms)


@torch.no_grad()
def test_the_folded_network_agrees_with_the_unfolded_within_the_tolerance_at_every_choice():
    model, loader = of_untrained("convolutions")
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    network, x = ours._engine.network, torch.cat([x for x, _ in loader])
    quantizes_weights = np.array([point.kind == "weight" for point in model.points])
    for code in MIXED:
        # Activations float: a value that folding moves across the edge of a step would move by a whole step.
        candidate = np.where(quantizes_weights, code, 0)
        with model.using(candidate):
            expected = model(x)
        got = network.run(x, candidate)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
