"""A weight is quantized once for a choice, whatever the candidate and the batch, until it or its range changes."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.model import WeightQuantization, WeightStore


@pytest.fixture
def quantized(monkeypatch):
    """How often each weight was quantized."""
    counts = Counter()
    plain = WeightQuantization.quantize

    def counted(self, weight, quantizer):
        counts[self.name] += 1
        return plain(self, weight, quantizer)

    monkeypatch.setattr(WeightQuantization, "quantize", counted)
    return counts


class Opaque(nn.Module):
    """Asks what a proxy cannot answer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).relu() if x.isfinite().all() else x)


def evaluator_of(make, **options):
    torch.manual_seed(0)
    network = nn.Sequential(make()).eval()
    model = qx.QuantizedModel(network, weights=predicates.by_type(nn.Linear), weight_granularity=4)
    data = [(torch.randn(4, 6), torch.arange(4) % 3) for _ in range(3)]
    model.calibrate(data, weight_method="max")
    return qx.DirectEvaluator(model, data, qx.negative_log_likelihood, **options)


ROWS = np.array([[2, 3], [3, 3], [2, 4], [2, 3]])


def test_the_direct_evaluator_quantizes_a_weight_once_for_each_choice(quantized):
    direct = evaluator_of(Opaque)
    first = [e.score for e in direct.evaluate(ROWS)]
    direct.scores_on_subset(ROWS, qx.negative_log_likelihood, 8)
    assert quantized == {"0.first.weight": 2, "0.second.weight": 2}
    weight = direct.model.model[0].first.parametrizations.weight.original
    weight.data.mul_(0.5)
    changed = [e.score for e in direct.evaluate(ROWS)]
    assert changed == [e.score for e in evaluator_of_same(direct).evaluate(ROWS)] != first
    direct.model.weight_fake_quantizers["0.second.weight"].amax *= 0.5
    assert [e.score for e in direct.evaluate(ROWS)] == [e.score for e in evaluator_of_same(direct).evaluate(ROWS)]


def evaluator_of_same(direct):
    """One that has quantized nothing yet."""
    return qx.DirectEvaluator(direct.model, list(direct.data), direct.metric)


def test_a_step_that_is_run_as_a_whole_quantizes_a_weight_once_for_each_choice(quantized):
    fast = qx.evaluation.PrefixEvaluator(evaluator_of(Opaque))
    assert "'0' as one step" in fast.description
    list(fast.evaluate(ROWS))
    quantized.clear()
    list(fast.evaluate(ROWS[::-1]))
    assert not quantized


def test_without_room_each_weight_is_still_quantized_once_a_candidate(quantized):
    direct = evaluator_of(Opaque, hold_bytes=400)  # half of it is less than both weights at one choice
    list(direct.evaluate(ROWS))
    assert sum(quantized.values()) <= ROWS.size


def test_what_was_not_asked_for_the_longest_goes_first():
    store, made = WeightStore(100), []
    for key in "abacab":
        store.get(key, lambda key=key: made.append(key) or torch.zeros(12))  # 48 bytes
    assert made == ["a", "b", "c", "b"]
    assert store.nbytes == 96
    assert store.get("large", lambda: torch.ones(100)).sum() == 100  # given, and not held
    assert store.nbytes == 96
    store.clear()
    assert store.nbytes == 0
