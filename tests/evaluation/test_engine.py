"""How the engine runs the candidates of a call: other ways than steps, batches and turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from problems import prefix_evaluator, search_loader, tiny_model

import qexplore as qx
from qexplore.evaluation.engine import Engine

SOME = np.random.default_rng(0).integers(2, 9, size=(12, 3))


def engine_of(metric: Any = qx.top1_accuracy) -> Engine:
    engine = prefix_evaluator(tiny_model(), search_loader(), metric, required=True)._engine
    assert engine is not None
    return engine


class OneTensor:
    """Gives every output in the same memory, for batches at even places."""

    def __init__(self, engine: Engine) -> None:
        self.network, self.asked, self.closed = engine.network, [], 0  # type: ignore[var-annotated]

    def outputs(self, place: int, arguments: Sequence[Any], candidates: NDArray[np.int64]) -> Iterator[Any] | None:
        self.asked.append((place, candidates.tolist()))
        return None if place % 2 else self._each(arguments, candidates)

    def _each(self, arguments: Sequence[Any], candidates: NDArray[np.int64]) -> Iterator[Any]:
        held = None
        for candidate in candidates:
            output = self.network.steps.run(arguments, self.network.quantizers(candidate))
            held = output.clone() if held is None else held.copy_(output)
            yield held
        assert held is not None
        held.fill_(float("nan"))

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("limits", [None, np.full(len(SOME), 0.5)], ids=["to the end", "stopping"])
def test_another_way_to_run_candidates_is_asked_first_and_gives_the_same(limits: NDArray[np.float64] | None) -> None:
    metric = qx.Metric(lambda output, target: output[:, 3].sigmoid(), range=(0.0, 1.0))
    plain, ours = engine_of(metric), engine_of(metric)
    ours.replays = replays = OneTensor(ours)
    expected, got = plain.measure(SOME, limits), ours.measure(SOME, limits)
    np.testing.assert_array_equal(got.num_samples, expected.num_samples)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
    assert [place for place, _ in replays.asked] == list(range(len(replays.asked)))
    assert all(rows == sorted(rows) for _, rows in replays.asked)
    assert ours.halve_batches() and replays.closed == 1
    ours.close()
    assert replays.closed == 2
