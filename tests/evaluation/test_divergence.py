"""How far a candidate's outputs are from the float network's, told beside its score by every evaluator."""

import math
import pickle

import numpy as np
import pytest
import torch
from problems import prefix_evaluator, search_loader, tiny_model, tiny_network, tiny_problem
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import EvaluationError
from qexplore.evaluation import parts
from qexplore.evaluation.engine import Engine
from qexplore.metrics import kl_divergence

SOME = [(2, 3, 4), (4, 4, 4), (8, 2, 8), (0, 0, 0), (2, 2, 2)]
EVALUATORS = {"direct": qx.DirectEvaluator, "prefix": prefix_evaluator}


@pytest.fixture(params=EVALUATORS.values(), ids=EVALUATORS)
def build(request):
    def make(model=None, loader=None, metric=qx.top1_accuracy, divergence="auto", **options):
        given = search_loader(90) if loader is None else loader
        return request.param(model or tiny_model(), given, metric, divergence=divergence, **options)

    return make


def told(evaluator, candidates=SOME, **options):
    return [one.divergence for one in evaluator.evaluate(np.array(candidates), **options)]


def outputs(model, candidate, x):
    with model.using(list(candidate)), torch.no_grad():
        return model(x)


def by_hand(model, loader, apart, candidates=SOME):
    """Mean over all samples of ``apart(output, float_output) -> [B]``."""
    off = [0] * len(model.points)
    rows = [
        [apart(outputs(model, candidate, x), outputs(model, off, x)) for x, *_ in loader] for candidate in candidates
    ]
    return pytest.approx([float(torch.cat(row).double().mean()) for row in rows], rel=1e-4, abs=1e-7)


def kl(output, reference):
    return F.kl_div(output.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


def targets_as_float(size=90):
    return [(x, F.one_hot(y, 10).float()) for x, y in search_loader(size)]


@pytest.mark.parametrize("size", [400, 37])
def test_the_divergence_is_that_of_a_plain_loop_whatever_the_batches(build, size):
    evaluator = build(loader=search_loader(size))
    assert told(evaluator) == by_hand(tiny_model(), search_loader(), kl)
    assert evaluator.divergence_gap == ""


def test_noise_of_all_samples_over_the_signal_of_all_is_told_where_targets_are_no_classes(build):
    model, (x, _) = tiny_model(), search_loader()[0]
    evaluator = build(model, targets_as_float(), qx.squared_error)
    power = outputs(model, (0, 0, 0), x).square().sum(1).mean()
    assert told(evaluator) == by_hand(model, search_loader(), lambda a, b: (a - b).square().sum(1) / power)


def test_it_does_not_depend_on_the_rest_of_the_call_nor_on_the_order_of_samples(build):
    evaluator = build()
    first = told(evaluator)
    raced = told(evaluator, must_beat=[0.99] * len(SOME))
    assert told(evaluator, SOME[:1]) == pytest.approx(first[:1], rel=1e-5)
    assert told(evaluator) == pytest.approx(first, rel=1e-5, abs=1e-9)
    assert all(
        one is None or one == pytest.approx(two, rel=1e-5, abs=1e-9) for one, two in zip(raced, first, strict=True)
    )


def test_a_stopped_candidate_has_none():
    evaluator = prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy, divergence="auto")
    list(evaluator.evaluate(np.array(SOME)))
    stopped = next(evaluator.evaluate(np.array([(2, 2, 2)]), must_beat=[1.0]))
    assert (stopped.state, stopped.divergence) == ("stopped", None)


class Tokens(nn.Module):
    """Logits [B, T, C] from a float sequence [B, T, 8]."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.relu(self.first(x)))


def test_tokens_and_samples_that_do_not_count_in_the_metric_do_not_count_here(build):
    x, y = torch.randn(24, 6, 8), torch.randint(0, 5, (24, 6))
    y[:, 3:] = torch.where(torch.rand(24, 3) < 0.5, -100, y[:, 3:])
    y[5] = -100
    model = qx.QuantizedActivationsModel(Tokens(), predicates.by_type(nn.ReLU))
    model.calibrate([x])
    rows = [(2, 3), (8, 2)]
    means = []
    for candidate in rows:
        given, expected = (outputs(model, one, x).log_softmax(-1) for one in (candidate, (0, 0)))
        terms = (expected.exp() * (expected - given)).sum(-1)
        means.append(np.mean([float(terms[i][y[i] != -100].mean()) for i in range(24) if i != 5]))
    assert told(build(model, [(x[:10], y[:10]), (x[10:], y[10:])], qx.token_accuracy), rows) == pytest.approx(
        means, rel=1e-4
    )


@pytest.mark.parametrize("options", [{}, {"hold_bytes": 0}], ids=["held", "streamed"])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole batches"])
def test_samples_that_do_not_count_are_in_no_part_of_the_set(build, cut, options):
    loader = []
    for place, (x, y) in enumerate(search_loader(90)):
        ignored = torch.arange(len(y)) % 3 > 0 if place else torch.ones(len(y), dtype=torch.bool)
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(place)) * 3
        # Of targets that differ in more than their samples no two batches can be put together.
        targets = torch.where(ignored, -100, y), torch.zeros(1 if cut else 1 + place).expand(len(y), -1)
        loader.append((torch.where(ignored[:, None, None, None], noise, x), targets))
    metric = qx.Metric(lambda output, target: qx.top1_accuracy(output, target[0]), range=(0.0, 1.0), ignored=-100)
    evaluator = build(loader=loader, metric=metric, divergence=kl_divergence, **options)
    rows, count = np.array(SOME), sum(int((y != -100).sum()) for _, (y, _) in loader)
    everything = evaluator.scores_on_subset(rows, kl_divergence, 400, against_float=True)
    assert everything.shape == (len(SOME), count)
    if not options:
        assert everything.mean(axis=1).tolist() == pytest.approx(told(evaluator), rel=1e-4, abs=1e-7)
    few = evaluator.scores_on_subset(rows[:1], metric, 4)
    assert (few.shape[1] == 4 if cut and not options else few.shape[1] >= 4) and (few >= 0).all()


class Unsteady:
    """Refuses what is further than ``limit`` from the float network's outputs."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, output, reference):
        if (output - reference).abs().max() > self.limit:
            raise ValueError("too far")
        return (output - reference).abs().mean(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"divergence": None}, "none was asked for"),
        ({"hold_bytes": 400 * 10 * 4 - 1}, "hold_bytes"),
        ({"metric": qx.whole_set(lambda model, loader: 0.5), "loader": search_loader()}, "reads the set itself"),
        ({"divergence": qx.Metric(Unsteady(-1))}, "too far"),
        (
            {"divergence": qx.Metric(lambda output, reference: output[:, :3].flatten())},
            "must return one score per sample",
        ),
        ({"divergence": qx.Metric(Unsteady(1e-9))}, "too far"),
        ({"divergence": qx.Metric(Unsteady(9.0), fit=lambda references: references.nowhere)}, "could not be fitted"),
    ],
    ids=["not asked for", "no memory", "whole set", "never", "other shape", "for quantized outputs", "no fit"],
)
def test_where_none_can_be_told_evaluations_are_complete_without_and_the_evaluator_says_why(build, options, said):
    evaluator = build(**options)
    (evaluation,) = evaluator.evaluate(np.array([(2, 3, 4)]))
    assert evaluation.is_complete and evaluation.divergence is None
    assert said in evaluator.divergence_gap


def test_what_is_no_divergence_is_refused():
    with pytest.raises(EvaluationError, match=r"`divergence` must be a qexplore.Metric.*'kl'"):
        qx.DirectEvaluator(tiny_model(), search_loader(), divergence="kl", metric=qx.top1_accuracy)


def test_outputs_of_several_tensors_are_compared_where_the_metric_reads_the_first(build):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x):
            logits = self.inner(x)
            return logits, logits.sum()

    metric = qx.Metric(lambda output, target: (output[0].argmax(1) == target).float(), range=(0.0, 1.0))
    assert told(build(tiny_model(Two()), metric=metric)) == by_hand(tiny_model(), search_loader(), kl)


def test_outputs_that_are_no_numbers_are_infinitely_far_away(build):
    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            hidden = self.relu(x)
            return hidden / hidden[:, :1]

    x = torch.tensor([[0.1, 1.0, 0.5]] * 8)
    model = qx.QuantizedActivationsModel(Overflows(), predicates.by_type(nn.ReLU), quantize_input=False)
    model.calibrate([x])
    metric = qx.Metric(lambda output, target: torch.ones(len(output)), range=(0.0, 1.0))
    evaluator = build(model, [(x, torch.zeros(8, dtype=torch.long))], metric)
    assert told(evaluator, [(16,), (1,)])[1] == math.inf


def test_it_follows_the_network_to_another_device_and_back(build, accelerator):
    model = tiny_model()
    evaluator = build(model)
    here = told(evaluator)
    model.to(accelerator)
    assert told(evaluator) == pytest.approx(here, rel=1e-4, abs=1e-9)
    model.to("cpu")
    assert told(evaluator) == here


@pytest.mark.parametrize("change", ["weight", "pickled"])
def test_it_is_told_from_the_network_as_it_is(build, change):
    model = tiny_model()
    evaluator = build(model)
    before = told(evaluator)
    if change == "pickled":
        assert told(pickle.loads(pickle.dumps(evaluator))) == before
        return
    with torch.no_grad():
        model.model.fc2.weight.mul_(1.5)
    changed = told(evaluator)
    assert changed == by_hand(model, search_loader(), kl)
    assert changed != before


@pytest.mark.parametrize("engine", ["prefix", "direct"])
def test_a_problem_tells_it_in_its_search_in_its_verification_and_after_pickling(engine):
    problem = tiny_problem(engine=engine)
    assert problem.divergence.name == "KL divergence"
    assert "divergence from the float network: KL divergence" in str(problem.describe())
    rows = np.array(SOME[:3])
    searched = [one.divergence for one in problem.measure(rows)]
    assert searched == by_hand(problem.model, search_loader(), kl, SOME[:3])
    assert [one.divergence for one in problem.measure_directly(rows)] == pytest.approx(searched, rel=1e-4)
    again = pickle.loads(pickle.dumps(problem))
    assert [one.divergence for one in again.measure(rows[::-1])] == searched[::-1]
    assert [one.divergence for one in again.measure([(3, 2, 2)])] == by_hand(
        tiny_model(), search_loader(), kl, [(3, 2, 2)]
    )


@pytest.mark.parametrize("classes", [True, False], ids=["nats", "noise to signal"])
def test_on_parts_both_evaluators_look_at_the_same_samples_and_on_all_of_them_it_is_the_same(classes):
    loader, metric = (search_loader(90), qx.top1_accuracy) if classes else (targets_as_float(), qx.squared_error)
    looks, wholes = [], []
    for make in EVALUATORS.values():
        evaluator = make(tiny_model(), loader, metric, divergence="auto")
        divergence = getattr(evaluator, "direct", evaluator).divergence
        looks.append(evaluator.scores_on_subset(np.array(SOME), divergence, 64, against_float=True))
        everything = evaluator.scores_on_subset(np.array(SOME), divergence, 400, against_float=True)
        for few, whole in zip(looks[-1], everything, strict=True):
            assert np.isclose(few[:, None], whole, rtol=1e-4, atol=1e-6).any(axis=1).all()
        wholes.append(everything.mean(axis=1).tolist())
        assert wholes[-1] == pytest.approx(told(evaluator), rel=1e-4, abs=1e-7)
    assert np.allclose(looks[0], looks[1], rtol=1e-3, atol=1e-6)


def test_looks_at_the_same_part_are_made_ready_once_while_the_budget_has_room(monkeypatch):
    made = []
    monkeypatch.setattr(parts, "Engine", lambda *args, **options: made.append(options) or Engine(*args, **options))
    model = tiny_model()
    for budget, times in ((None, [1, 1, 2, 3, 3, 4]), (60_000, [1, 2, 3, 4, 5, 6])):
        made.clear()
        ours = prefix_evaluator(model, search_loader(), qx.top1_accuracy, divergence="auto", budget_bytes=budget)
        divergence, found, counts = ours.direct.divergence, [], []
        for metric, count in ((divergence, 64), (divergence, 64), (divergence, 96), (qx.top1_accuracy, 64)):
            found.append(ours.scores_on_subset(np.array(SOME), metric, count, against_float=metric is divergence))
            counts.append(len(made))
        found.append(ours.scores_on_subset(np.array(SOME[::-1]), divergence, 96, against_float=True)[::-1])
        counts.append(len(made))
        ours.scores_on_subset(np.array(SOME), divergence, 64, against_float=True)
        assert [*counts, len(made)] == times
        assert found[0].tolist() == found[1].tolist()
        assert found[2].tolist() == found[4].tolist()
    with torch.no_grad():
        model.model.fc2.weight.mul_(1.5)
    fresh = prefix_evaluator(model, search_loader(), qx.top1_accuracy, divergence="auto", budget_bytes=budget)
    looks = [
        each.scores_on_subset(np.array(SOME), divergence, 64, against_float=True).tolist() for each in (ours, fresh)
    ]
    assert looks[0] == looks[1] != found[0].tolist()


@pytest.mark.parametrize("engine", ["prefix", "direct"])
def test_a_look_through_a_problem_sums_up_the_model_once_and_sees_that_it_changed(engine, monkeypatch):
    problem = tiny_problem(engine=engine)
    rows, divergence = np.array(SOME), problem.divergence
    before = problem.scores_on_subset(rows, divergence, 64, against_float=True)
    versions, version = [], qx.QuantizedModel.version
    monkeypatch.setattr(qx.QuantizedModel, "version", lambda model: versions.append(version(model)) or versions[-1])
    assert problem.scores_on_subset(rows, divergence, 64, against_float=True).tolist() == before.tolist()
    assert len(versions) == 1
    with torch.no_grad():
        problem.model.model.fc2.weight.mul_(1.5)
    changed = problem.scores_on_subset(rows, divergence, 64, against_float=True)
    fresh = tiny_problem(model=problem.model, engine=engine)
    assert changed.tolist() == fresh.scores_on_subset(rows, divergence, 64, against_float=True).tolist()
    assert (changed != before).any()
