"""Candidates replayed as graphs get what steps give them, to the last bit, on a device that pretends to have graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from networks import digits, trained, wrapping
from numpy.typing import NDArray
from pretended_graph import PretendedGraph, allocating, pretended_graphs
from problems import search_loader, tiny_model, tiny_network
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import PrefixEvaluator
from qexplore.evaluation import recording as recording_room
from qexplore.evaluation.engine import Engine
from qexplore.evaluation.recording import GraphMaker, Runs

SOFT = qx.Metric(lambda output, target: output[:, 3].sigmoid() + 0 * target, name="soft", range=(0.0, 1.0))


@pytest.fixture
def graphs(accelerator: torch.device) -> Iterator[type[PretendedGraph]]:
    with pretended_graphs() as kind:
        yield kind


def evaluator_of(model: qx.QuantizedModel, samples: int = 64, **options: Any) -> PrefixEvaluator:
    loader = [(x[:samples], y[:samples]) for x, y in search_loader()]
    return PrefixEvaluator(qx.DirectEvaluator(model, loader, SOFT), required=True, **options)


def engine_of(evaluator: PrefixEvaluator) -> Engine:
    assert evaluator._engine is not None
    return evaluator._engine


def drawn(num_points: int, count: int = 20, off: bool = True) -> NDArray[np.int64]:
    """Candidates of which many agree on the first points; with ``off``, some switch quantizers off."""
    rng = np.random.default_rng(0)
    found = rng.choice([0, 3, 4, 8] if off else [2, 3, 4, 8], size=(count, num_points))
    found[count // 2 :, : num_points // 2] = found[0, : num_points // 2]
    return found


def by_steps(engine: Engine, candidates: NDArray[np.int64], limits: Any = None) -> Any:
    """What the engine measures without graphs."""
    kept, engine.replays = engine.replays, None
    try:
        return engine.measure(candidates, limits)
    finally:
        engine.replays = kept


def network_model(name: str) -> qx.QuantizedModel:
    model = qx.QuantizedActivationsModel(trained(name).to("pretended"), **wrapping(name))
    model.calibrate([digits().calibration.x[:64].clone()])
    return model


def tiny_there() -> qx.QuantizedModel:
    return tiny_model(tiny_network().to("pretended"))


def weighted_there(network: nn.Module | None = None) -> qx.QuantizedModel:
    network = (network or tiny_network()).to("pretended")
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([digits().calibration.x.clone()])
    return model


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu"])
def test_replayed_candidates_get_what_steps_give_them(graphs: type[PretendedGraph], name: str) -> None:
    engine = engine_of(evaluator_of(network_model(name), 24))
    candidates = drawn(engine.network.num_points)
    expected = by_steps(engine, candidates).scores
    np.testing.assert_array_equal(engine.measure(candidates).scores, expected)
    before = graphs.replays
    for rows in (candidates[::3], candidates[-1:], candidates[:1], candidates):
        np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert graphs.replays > before
    assert "replayed as" in engine.replays.description  # type: ignore[union-attr]


def encoder_with_points_inside(device: Any, weights: Any = None) -> qx.QuantizedModel:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    cut = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (8, 8)))
    network = nn.Sequential(cut, layer, nn.Flatten(), nn.Linear(64, 10))
    own = predicates.by_type(nn.Linear, nn.LayerNorm, nn.TransformerEncoderLayer)
    chosen = own & ~predicates.by_regex(r".*out_proj")
    model = qx.QuantizedModel(network.eval().to(device), chosen, weights, weight_granularity="tensor")
    model.calibrate([digits().calibration.x[:64].clone()])
    return model


@pytest.mark.parametrize("weights", [None, predicates.weighted], ids=["activations", "weights too"])
def test_points_inside_a_module_that_runs_as_one_step_are_data_too(graphs: type[PretendedGraph], weights: Any) -> None:
    engine = engine_of(evaluator_of(encoder_with_points_inside("pretended", weights)))
    assert sum(len(step.hidden) for step in engine.network.steps.steps) > 2
    candidates = drawn(engine.network.num_points)
    expected = by_steps(engine, candidates).scores
    np.testing.assert_array_equal(engine.measure(candidates).scores, expected)
    assert graphs.captures
    np.testing.assert_array_equal(engine.measure(candidates[::-1]).scores, expected[::-1])
    assert "replayed as" in engine.replays.description  # type: ignore[union-attr]


def test_a_candidate_is_replayed_from_the_first_run_that_differs(graphs: type[PretendedGraph]) -> None:
    engine = engine_of(evaluator_of(network_model("resnet20"), 8))
    rows = np.repeat(drawn(20, 1, off=False), 20, axis=0)
    engine.measure(rows)  # 20 times the same
    order = list(engine.network.steps.order)
    made = next(iter(engine.replays._recordings.values()))  # type: ignore[union-attr]
    for place, runs in ((0, made.num_graphs), (10, None), (19, 1), (None, 0)):
        engine.measure(rows[:1])
        changed = rows[:1].copy()
        if place is not None:
            changed[0, order[place]] = 7
        before = graphs.replays
        got = engine.measure(changed).scores
        assert runs is None or graphs.replays - before == runs
        assert runs is not None or 1 < graphs.replays - before < made.num_graphs
        np.testing.assert_array_equal(got, by_steps(engine, changed).scores)


def test_quantized_weights_are_written_into_the_graphs_memory(graphs: type[PretendedGraph]) -> None:
    engine = engine_of(evaluator_of(weighted_there()))
    rows = drawn(6)
    expected = by_steps(engine, rows).scores
    for _ in range(2):
        np.testing.assert_array_equal(engine.measure(rows).scores, expected)
    assert graphs.captures


class Tied(nn.Module):
    """Reads a weight by itself, and calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(64, 8, bias=False)
        self.twice = nn.Linear(8, 8)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.table(x.flatten(1)))
        x = self.relu(self.twice(self.relu(self.twice(x)))) + x
        return nn.functional.linear(x, self.table.weight.t()[:10])


def test_a_layer_that_is_called_twice_and_a_weight_that_is_read_by_itself(graphs: type[PretendedGraph]) -> None:
    engine = engine_of(evaluator_of(weighted_there(Tied().eval())))
    rows = drawn(engine.network.num_points)
    expected = by_steps(engine, rows).scores
    np.testing.assert_array_equal(engine.measure(rows).scores, expected)
    assert graphs.captures


@pytest.mark.parametrize("limits", [None, 0.15, 1.0], ids=["to the end", "stopping", "stopping soon"])
def test_batches_and_a_smaller_last_one_and_early_stop(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch, limits: float | None
) -> None:
    monkeypatch.setattr("qexplore.evaluation.cutting._WORTH_A_LAUNCH", 1)
    engine = engine_of(evaluator_of(tiny_there(), 61))
    assert {len(batch) for batch in engine._batches} == {7, 6}
    rows = drawn(3)
    bounds = None if limits is None else np.full(len(rows), limits)
    expected, plain_bounds = by_steps(engine, rows, bounds), by_steps(engine, rows, bounds).bounds
    for _ in range(3):
        got = engine.measure(rows, bounds)
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.num_samples, expected.num_samples)
        np.testing.assert_array_equal(got.bounds, plain_bounds)
    assert graphs.captures
    assert len(engine.replays._recordings) == (1 if limits == 1.0 else 2)  # type: ignore[union-attr]


def test_samples_in_another_order_are_loaded_anew(graphs: type[PretendedGraph]) -> None:
    engine = engine_of(evaluator_of(tiny_there()))
    rows = drawn(3)
    engine.measure(rows)
    order = [batch.samples.tolist() for batch in engine._batches]
    engine.reorder(np.arange(64)[::-1].copy())
    assert [batch.samples.tolist() for batch in engine._batches] != order
    got = engine.measure(rows).scores
    np.testing.assert_array_equal(got, by_steps(engine, rows).scores)


def test_halved_batches_are_recorded_anew(graphs: type[PretendedGraph]) -> None:
    engine = engine_of(evaluator_of(tiny_there()))
    rows = drawn(3)
    engine.measure(rows)
    before = graphs.captures
    assert engine.halve_batches()
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert graphs.captures == 2 * before
    engine.close()
    assert not engine.replays._recordings  # type: ignore[union-attr]


def test_a_fine_tuned_network_is_recorded_anew(graphs: type[PretendedGraph]) -> None:
    model = tiny_there()
    evaluator = evaluator_of(model)
    rows = drawn(3)
    first = [each.score for each in evaluator.evaluate(rows)]
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(0.9)
    second = [each.score for each in evaluator.evaluate(rows)]
    assert first != second
    assert second == pytest.approx([each.score for each in evaluator.direct.evaluate(rows)], rel=1e-5)


def test_an_interrupt_between_replays_leaves_nothing_wrong(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(evaluator_of(weighted_there()))
    rows, replay, count = drawn(6), PretendedGraph.replay, [0]
    expected = by_steps(engine, rows).scores
    engine.measure(rows)

    def interrupted(self: PretendedGraph) -> None:
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        replay(self)

    monkeypatch.setattr(PretendedGraph, "replay", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.measure(rows[::-1])
    np.testing.assert_array_equal(engine.measure(rows).scores, expected)


@pytest.mark.parametrize("error", [RuntimeError("capture failed"), torch.OutOfMemoryError("out of memory")])
def test_a_capture_that_fails_leaves_the_steps_and_is_told(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(self: PretendedGraph) -> None:
        PretendedGraph.__dict__["_end"](self)
        raise error

    monkeypatch.setattr(PretendedGraph, "_end", PretendedGraph.capture_end, raising=False)
    monkeypatch.setattr(PretendedGraph, "capture_end", fails)
    evaluator = evaluator_of(tiny_there())
    engine, rows = engine_of(evaluator), drawn(3)
    assert "graphs as soon as enough candidates" in evaluator.description
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert f"no graphs: {type(error).__name__}: {error}" in evaluator.description


def test_graphs_that_give_something_else_are_not_taken(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: PretendedGraph) -> None:
        made = [result for *_, result in self._ran if isinstance(result, Tensor) and result.is_floating_point()]
        replay(self)
        made[-1].add_(1e-3)

    replay = PretendedGraph.replay
    monkeypatch.setattr(PretendedGraph, "replay", wrong)
    evaluator = evaluator_of(tiny_there())
    engine, rows = engine_of(evaluator), drawn(3)
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert "no graphs: what is replayed does not equal the steps" in evaluator.description


class Waits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x) * (1.0 if bool((x < 1e9).all()) else 2.0)


def test_what_no_graph_can_hold_goes_by_steps_and_says_why(
    accelerator: torch.device, graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), Waits(), nn.Linear(8, 10)).eval()
    sentence = "modules that run code of yours cannot be recorded"
    for model in (tiny_model(own.to(accelerator)), tiny_there()):
        evaluator = evaluator_of(model)
        engine = engine_of(evaluator)
        rows = drawn(engine.network.num_points)
        np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
        assert f"no graphs: {sentence}" in evaluator.description
        monkeypatch.setattr(Runs, "within", classmethod(lambda *_: None))
        sentence = "their memory takes more than half of the budget of"


class ThereAndBack(nn.Module):
    """Brings its values to the CPU and back, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x.flatten(1)))
        return self.last(x.cpu().to(x))


def test_a_network_that_waits_for_the_device_is_found_before_a_capture(
    accelerator: torch.device, graphs: type[PretendedGraph]
) -> None:
    evaluator = evaluator_of(tiny_model(ThereAndBack().eval().to(accelerator)))
    engine = engine_of(evaluator)
    rows = drawn(engine.network.num_points)
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert "no graphs: a step of the network waits for the device" in evaluator.description
    assert graphs.captures == 0
    assert torch.get_device_module(accelerator).get_sync_debug_mode() == 0


@pytest.mark.parametrize("name", ["endAllocateToPool", "endAllocateCurrentStreamToPool"])
def test_a_capture_that_the_device_refuses_leaves_allocator_and_random_state_in_order(
    accelerator: torch.device, graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    released: list[Any] = []
    end, release = f"_pretended_{name}", "_pretended_releasePool"
    monkeypatch.setattr(torch._C, end, lambda device, pool: allocating.remove(pool), raising=False)
    monkeypatch.setattr(torch._C, release, lambda device, pool: released.append((device, pool)), raising=False)
    monkeypatch.setattr(GraphMaker, "without_waits", lambda self: nullcontext())  # not all of it can be seen before
    evaluator = evaluator_of(tiny_model(ThereAndBack().eval().to(accelerator)))
    engine = engine_of(evaluator)
    rows = drawn(engine.network.num_points)
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert "no graphs: RuntimeError: operation not permitted when stream is capturing" in evaluator.description
    assert released == [(0, (0, 1))]
    assert not allocating
    torch.rand(3, device=accelerator)  # a generator that believes in a capture refuses to


def test_one_stream_serves_all_captures(graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    made, module = [], torch.get_device_module("pretended")
    recording_room._side_stream.cache_clear()
    stream = module.Stream
    monkeypatch.setattr(module, "Stream", lambda device: made.append(device) or stream(device))
    engine = engine_of(evaluator_of(tiny_there()))
    engine.measure(drawn(3))
    assert engine.halve_batches()
    engine.measure(drawn(3))
    assert len(made) == 1


def test_workspaces_of_libraries_lie_in_the_graphs_own_memory(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[tuple[int, int]] = []
    note = lambda: cleared.append((graphs.captures, len(allocating)))  # noqa: E731
    monkeypatch.setattr(torch._C, "_pretended_clearCublasWorkspaces", note, raising=False)
    engine = engine_of(evaluator_of(tiny_there()))
    engine.measure(drawn(3))
    assert gc.isenabled()
    assert cleared == [(0, 0)]  # behind the trial, before the first capture
    assert graphs.captures


def test_choices_that_numbers_cannot_say_go_by_steps(
    graphs: type[PretendedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_of = recording_room.row_of
    monkeypatch.setattr(
        recording_room, "row_of", lambda fixed, clamp: None if fixed and fixed.high == 7 else row_of(fixed, clamp)
    )
    evaluator = evaluator_of(tiny_there())
    engine, rows = engine_of(evaluator), drawn(3)
    assert (rows == 3).any()  # three bits without a sign
    np.testing.assert_array_equal(engine.measure(rows).scores, by_steps(engine, rows).scores)
    assert "no graphs: choices among them are no plain" in evaluator.description
    engine.measure(np.where(rows == 3, 8, rows))
    assert "replayed as 3 graphs" in evaluator.description


def test_a_device_without_graphs_says_so_and_the_cpu_says_nothing(accelerator: torch.device) -> None:
    evaluator = evaluator_of(tiny_there())
    assert "no graphs: the device has none" in evaluator.description
    model = tiny_model()
    assert "graphs" not in PrefixEvaluator(qx.DirectEvaluator(model, search_loader(), SOFT)).description


def test_runs_begin_where_values_depend_on_another_point(accelerator: torch.device) -> None:
    steps = engine_of(evaluator_of(network_model("resnet20"), 8)).network.steps
    for count in (1, 2, 5, 16):
        runs = Runs.of(steps, count)
        assert len(runs.parts) == count
        assert [index for part in runs.parts for index in part] == list(range(steps.num_inputs, len(steps.steps)))
        for place, point in enumerate(steps.order):
            depends = [index for index, step in enumerate(steps.steps) if point in step.upstream]
            assert min(depends) in runs.parts[runs.first[place]]
    assert Runs.of(steps, 16).nbytes < Runs.of(steps, 1).nbytes
    assert Runs.within(steps, 0) is None
    assert Runs.within(steps, 1e12) == Runs.of(steps, 16)
