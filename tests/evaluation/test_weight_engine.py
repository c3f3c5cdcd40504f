"""An engine with quantized weights: each is quantized once, workers and memory change nothing, nothing is stale."""

from collections import Counter

import pytest
import torch
from networks import batches, digits
from problems import prefix_evaluator, search_loader
from torch.nn import functional as F
from weighted_networks import of_trained, of_untrained, scores, top1_flat, vectors

import qexplore as qx
from qexplore.metrics import as_metric
from qexplore.model import WeightQuantization


@pytest.fixture
def quantized(monkeypatch):
    """Counts what is quantized, by weight and choice."""
    counts = Counter()
    real = WeightQuantization.quantize

    def counting(self, weight, quantizer):
        counts[self.name, getattr(quantizer, "quantizer", quantizer).code] += 1
        return real(self, weight, quantizer)

    monkeypatch.setattr(WeightQuantization, "quantize", counting)
    return counts


@pytest.mark.parametrize("name", ["convolutions", "encoder layer", "tied by function", "called twice", "own"])
def test_a_weight_is_quantized_once_for_each_reader_and_choice_and_not_once_a_batch(name, quantized):
    model, loader = of_untrained(name)
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    candidates = vectors(model, 12)
    quantized.clear()
    readers = 2 if name == "tied by function" else 1  # the layer, and the weight alone
    for _ in range(2):
        list(ours.evaluate(candidates))
        list(ours.evaluate(candidates[::-1], must_beat=[0.5] * len(candidates)))
    assert max(quantized.values()) <= readers
    asked = {
        (point.name, int(code))
        for point in model.points
        if point.kind == "weight"
        for code in candidates[:, point.index]
        if code
    }
    assert set(quantized) <= asked
    assert len(quantized) > 10


@pytest.mark.parametrize("name", ["encoder layer", "convolutions", "tied by function"])
def test_two_workers_give_what_one_gives(two_threads, name):
    model, loader = of_untrained(name)
    candidates = vectors(model, 8)

    def evaluator():
        return prefix_evaluator(model, loader, as_metric(top1_flat), required=True)

    ours = evaluator()
    assert "2 workers" in ours.description
    together = [scores(ours.evaluate(candidates)) for _ in range(2)]
    torch.set_num_threads(1)
    assert together == [scores(evaluator().evaluate(candidates))] * 2


@pytest.mark.parametrize("name", ["transformer", "small_cnn"])
def test_a_small_budget_of_memory_changes_nothing(name):
    model = of_trained(name)
    candidates = vectors(model, 3)
    loader = [(x[:40], y[:40]) for x, y in search_loader(100)[:1]]
    ours = [
        prefix_evaluator(model, loader, as_metric(qx.top1_accuracy), budget_bytes=budget, required=True)
        for budget in (None, 2**18, 1)
    ]
    found = [scores(evaluator.evaluate(candidates)) for evaluator in ours]
    assert found[0] == found[1] == found[2]
    kept = [evaluator._engine._variants.nbytes for evaluator in ours]
    assert kept[0] > kept[2] == 0
    assert kept[1] <= 2**17


def a_step_of_training(model):
    model.train()
    model.num_bits = [4] * len(model.points)
    x, y = batches(digits().train)[0]
    F.cross_entropy(model(x), y).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    model.zero_grad()
    model.eval()


CHANGES = {
    "a step of training": a_step_of_training,
    "another range": lambda model: model.weight_fake_quantizers["conv2.weight"].set_amax(torch.full((16, 1), 0.05)),
    "another calibration": lambda model: model.calibrate(batches(digits().report), method="mse"),
    "data behind torch's back": lambda model: model.weight_points[0].parameter.data[0].mul_(-3),
    "a switch by hand": lambda model: model.weight_fake_quantizers["fc1.weight"].disable(),
    "a state dict": lambda model: model.load_state_dict(
        {name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_makes_the_engine_drop_its_copies(change):
    model, loader = of_trained("small_cnn"), search_loader(100)
    metric = qx.negative_log_likelihood  # the order of the outputs alone would not tell
    evaluator = prefix_evaluator(model, loader, metric, required=True)
    candidates = vectors(model, 4)[1:]
    before = scores(evaluator.evaluate(candidates))
    change(model)
    after = scores(evaluator.evaluate(candidates))
    assert after == scores(prefix_evaluator(model, loader, metric, required=True).evaluate(candidates))
    direct = qx.DirectEvaluator(model, loader, metric).evaluate(candidates)
    assert [score for _, score in after] == pytest.approx([evaluation.score for evaluation in direct], rel=0.05)
    assert before != after
