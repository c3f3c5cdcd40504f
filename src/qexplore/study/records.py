"""What lies in a study: plain records, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class Stored:
    """An evaluation as it lies in the study.

    Attributes:
        run: the id of the run that measured it.
        role: whose evaluation it is, such as ``"search"``, ``"search 1"`` or ``"direct"``.
        limit: the score it had to beat; None without one.
        order: a digest of the order of samples; empty for the loader's own.
        at: seconds since the run began, replayed time included.
        evaluation: what was measured.
    """

    run: int
    role: str
    limit: float | None
    order: str
    at: float
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class Part:
    """Scores of one candidate on a part of the set.

    Attributes:
        run: the id of the run that measured it.
        role: whose measurement it is.
        metric: the metric's name.
        num_samples: how many samples were asked for.
        against_float: whether the float network's outputs were the targets.
        candidate: codes by point, 0 where a quantizer is off.
        values: score per sample, shape ``[samples]``.
        seconds: time spent.
        at: seconds since the run began, replayed time included.
    """

    run: int
    role: str
    metric: str
    num_samples: int
    against_float: bool
    candidate: tuple[int, ...]
    values: NDArray[np.float32]
    seconds: float
    at: float


@dataclass(frozen=True)
class StoredSnapshot:
    """The front of a run at one moment.

    Attributes:
        run: the id of the run.
        num_evaluations: candidates measured until then.
        num_passes: the same in full passes over the set.
        seconds: seconds since the run began.
        hypervolume: of the front, against the run's reference point.
        generation: the search's generation.
        candidates: the front's candidates.
    """

    run: int
    num_evaluations: int
    num_passes: float
    seconds: float
    hypervolume: float
    generation: int
    candidates: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        run: the id of the run.
        at: seconds since the run began.
        kind: ``"began"``, ``"resumed"``, ``"ended"``, ...
        text: more about it; of ``"ended"``, what stopped it.
    """

    run: int
    at: float
    kind: str
    text: str


@dataclass(frozen=True)
class RunRecord:
    """One exploration in a study.

    Attributes:
        id: its number in the file, from 1.
        settings: what identifies it: seed, algorithm, limits, ...
        budget: how far it may go; may grow.
        facts: what is needed to read it without the problem: names of points and costs, the metric, versions, ...
    """

    id: int
    settings: Mapping[str, Any]
    budget: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Columns:
    """Many evaluations as arrays, without their scores by sample; NaN where a number is not known.

    Attributes:
        candidates: codes, shape ``[N, L]``.
        run: ids of the runs, shape ``[N]``.
        state: ``"complete"``, ``"stopped"`` or ``"failed"``, shape ``[N]``.
        score: shape ``[N]``.
        interval: 95 % interval of the score, shape ``[N, 2]``.
        bound: what the score of a stopped candidate cannot beat, shape ``[N]``.
        divergence: shape ``[N]``.
        num_samples: samples run, shape ``[N]``.
        seconds: time spent, shape ``[N]``.
        at: seconds since the run began, shape ``[N]``.
    """

    candidates: NDArray[np.int64]
    run: NDArray[np.int64]
    state: NDArray[np.str_]
    score: NDArray[np.float64]
    interval: NDArray[np.float64]
    bound: NDArray[np.float64]
    divergence: NDArray[np.float64]
    num_samples: NDArray[np.int64]
    seconds: NDArray[np.float64]
    at: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)


def row_keys(candidates: NDArray[np.int64]) -> list[bytes]:
    """A key for each row of ``candidates [N, L]``, equal for equal ones: tuples of many rows take seconds to make."""
    count, length = candidates.shape
    rows = np.ascontiguousarray(candidates, dtype=np.int64)
    return rows.view(f"V{8 * length}").ravel().tolist() if length else [b""] * count
