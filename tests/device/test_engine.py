"""The engine on an accelerator: it waits for the device once a turn, and its batches suit the device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pretended_device import num_transfers
from problems import search_loader, tiny_model
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import MetricError
from qexplore.evaluation import PrefixEvaluator
from qexplore.evaluation.engine import Engine

SOME = np.random.default_rng(0).integers(2, 9, size=(24, 3))


def direct_on(device: Any, metric: Any = qx.top1_accuracy) -> qx.DirectEvaluator:
    model = tiny_model()
    model.to(device)
    return qx.DirectEvaluator(model, search_loader(), metric)


def evaluator_on(device: Any, metric: Any = qx.top1_accuracy, **options: Any) -> PrefixEvaluator:
    return PrefixEvaluator(direct_on(device, metric), required=True, **options)


def engine_of(evaluator: PrefixEvaluator) -> Engine:
    """The engine, with the ranges of all widths at hand: each is looked at once in its life."""
    engine = evaluator._engine
    assert engine is not None
    for row in SOME[:, : engine.network.num_points]:
        engine.network.quantizers(row)
    return engine


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches of 50 and more moments to stop: as for a network whose values are large."""
    monkeypatch.setattr("qexplore.evaluation.cutting._WORTH_A_LAUNCH", 1)
    return


METRICS = [qx.top1_accuracy, qx.negative_log_likelihood, qx.topk_accuracy(2)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_call_waits_for_the_device_once_however_many_candidates_and_batches_there_are(
    accelerator: torch.device, few_bytes: None, metric: qx.Metric
) -> None:
    engine = engine_of(evaluator_on(accelerator, metric))
    assert engine.num_batches == 8
    for rows in (SOME, SOME[:5], SOME[:1]):
        before = num_transfers()
        engine.measure(rows)
        assert num_transfers() - before == 1


def test_candidates_that_may_be_stopped_are_waited_for_once_a_turn(accelerator: torch.device, few_bytes: None) -> None:
    engine = engine_of(evaluator_on(accelerator))
    before = num_transfers()
    result = engine.measure(SOME, np.full(len(SOME), -1.0))
    assert result.num_samples.tolist() == [400] * len(SOME)
    assert num_transfers() - before == 4  # after 1, 2, 4 and 8 batches
    before = num_transfers()
    result = engine.measure(SOME, np.full(len(SOME), 1.0))
    assert set(result.num_samples.tolist()) == {50}
    assert num_transfers() - before == 1


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("limits", [None, np.full(len(SOME), 0.6)], ids=["to the end", "stopping"])
def test_scores_and_stops_are_those_of_the_cpu(
    accelerator: torch.device, few_bytes: None, metric: qx.Metric, limits: Any
) -> None:
    engine, plain = engine_of(evaluator_on(accelerator, metric)), direct_on("cpu", metric)
    result = engine.measure(SOME, limits if metric.higher_is_better or limits is None else limits * 2)
    expected = [next(plain.evaluate(row[None])).scores for row in SOME]
    for row, scores in enumerate(result.scores):
        ran = ~np.isnan(scores)
        assert ran.sum() == result.num_samples[row]
        np.testing.assert_allclose(scores[ran], np.asarray(expected[row])[ran], atol=1e-5)


def test_a_network_of_small_values_takes_the_whole_set_at_once(accelerator: torch.device) -> None:
    evaluator = evaluator_on(accelerator)
    assert engine_of(evaluator).num_batches == 1
    assert "all samples in one batch, so that none is left" in evaluator.description
    assert "batches of 32" in evaluator_on("cpu").description


def test_memory_that_is_asked_for_holds_for_batches_of_an_accelerator(accelerator: torch.device) -> None:
    evaluator = evaluator_on(accelerator, budget_bytes=2**15)
    assert engine_of(evaluator).batch_size < 32
    expected = [(each.state, each.score) for each in evaluator_on("cpu").evaluate(SOME)]
    assert [(each.state, each.score) for each in evaluator.evaluate(SOME)] == expected


@pytest.mark.parametrize(("free", "reserved"), [(2**30, 0), (2**16, 0), (0, 2**16)])
def test_batches_follow_from_what_is_free_on_the_device(
    accelerator: torch.device, monkeypatch: pytest.MonkeyPatch, free: int, reserved: int
) -> None:
    direct = direct_on(accelerator)
    monkeypatch.setattr(torch.pretended, "free_bytes", free)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.pretended, "reserved_bytes", reserved)  # type: ignore[attr-defined]
    engine = engine_of(PrefixEvaluator(direct, required=True))
    assert engine.budget_bytes == (free + reserved) // 4
    assert (engine.num_batches == 1) is (free == 2**30)


def test_a_device_without_memory_left_has_its_batches_halved_and_nothing_of_the_attempt_is_held(
    accelerator: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [each.score for each in evaluator_on("cpu").evaluate(SOME)]
    evaluator, run, held = evaluator_on(accelerator), Engine._run_batch, []

    def limited(self: Engine, worker: int, item: Any) -> Any:
        assert all(reference() is None for reference in held)
        if len(self._batches[item[0]]) > 60:
            value = torch.ones(100, device=accelerator)
            held.append(weakref.ref(value))
            raise torch.OutOfMemoryError("out of memory")
        return run(self, worker, item)

    monkeypatch.setattr(Engine, "_run_batch", limited)
    assert [each.score for each in evaluator.evaluate(SOME)] == expected
    assert held and "batches of 50" in evaluator.description


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_direct_evaluator_waits_once_for_what_no_quantizer_asks(
    accelerator: torch.device, metric: qx.Metric
) -> None:
    direct = direct_on(accelerator, metric)
    before = num_transfers()
    assert next(direct.evaluate(np.zeros((1, 3), dtype=int))).state == "complete"
    assert num_transfers() - before == 1


def test_labels_that_are_no_classes_are_still_refused_there(accelerator: torch.device) -> None:
    model = tiny_model()
    model.to(accelerator)
    loader = [(x, y + 1) for x, y in search_loader()]
    with pytest.raises(MetricError, match="labels from 0 to 9"):
        qx.DirectEvaluator(model, loader, qx.top1_accuracy)


@pytest.mark.parametrize("off", [[], [0]])
def test_all_choices_of_the_last_quantizer_go_through_what_is_behind_it_together(
    accelerator: torch.device, off: list[int]
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Identity(), nn.LogSoftmax(dim=1)).eval()
    rows = np.array([[width] for width in [*off, 2, 3, 5, 8, *off]])
    scores = []
    for device in (torch.device("cpu"), accelerator):
        model = qx.QuantizedActivationsModel(network.to(device), predicates.by_type(nn.Identity), quantize_input=False)
        model.calibrate(search_loader())
        direct = qx.DirectEvaluator(model, search_loader(), qx.negative_log_likelihood)
        evaluator = PrefixEvaluator(direct, required=True)
        assert engine_of(evaluator).network.steps.tail
        scores.append([each.score for each in evaluator.evaluate(rows)])
        assert scores[-1] == pytest.approx([each.score for each in direct.evaluate(rows)], rel=1e-6)
        model.detach()
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_points_inside_a_module_that_runs_as_one_step_wait_for_nothing(accelerator: torch.device) -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    network = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(32, 3)).to(accelerator)
    data = [(torch.randn(8, 4, 8), torch.arange(8) % 3) for _ in range(4)]
    chosen = qx.predicates.by_type(torch.nn.Linear, torch.nn.LayerNorm) & ~qx.predicates.by_name("0.self_attn.out_proj")
    model = qx.QuantizedActivationsModel(network, chosen)
    model.calibrate(data)
    evaluator = PrefixEvaluator(qx.DirectEvaluator(model, data, qx.negative_log_likelihood), required=True)
    rows = np.random.default_rng(0).integers(2, 9, size=(6, len(model.fake_quantizers)))
    engine = evaluator._engine
    assert engine is not None and any(len(step.hidden) > 2 for step in engine.network.steps.steps)
    scores = engine.measure(rows).scores
    before = num_transfers()
    assert np.array_equal(engine.measure(rows).scores, scores)
    assert num_transfers() - before == 1
    for row, expected in zip(scores, evaluator.direct.evaluate(rows), strict=True):
        np.testing.assert_allclose(row, expected.scores, atol=1e-5)
