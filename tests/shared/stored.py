"""Records of a study that hold everything that is hard to keep, and a store that holds them."""

import dataclasses
import math

import numpy as np

from qexplore.evaluation import Evaluation
from qexplore.study import Event, Part, Store, Stored, StoredSnapshot

AWKWARD = "'); DROP TABLE evaluations; -- \0 \N{SNOWMAN}\U0001f600 \udcff\ud800 <b>"
FINGERPRINT = {"weights": "0123abcd", AWKWARD: AWKWARD, "": ""}
BITS = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 1], np.float32)
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, 1e-45, 0.1], np.float32)

EVALUATIONS = {
    "complete": Evaluation(
        (8, 0, 2), "complete", 0.1, BITS, (0.05, 0.2), divergence=1e-300, num_samples=10, seconds=2.0
    ),
    "whole set": Evaluation((3, 4, 5), "complete", -0.0, None, (math.nan, math.inf), further=(math.nan, 0.5)),
    "odd scores": Evaluation((403, 1201, 0), "complete", 7.0, ODD, None, divergence=math.nan),
    "stopped": Evaluation((70000, 2, 2), "stopped", bound=0.30000000000000004, num_samples=3, reason="proved"),
    "failed": Evaluation((-1, 2, 2), "failed", math.nan, reason=AWKWARD, seconds=-math.inf),
    "no score at all": Evaluation((255, 256, 2), "complete", math.inf, np.zeros(0, np.float32)),
    "no point at all": Evaluation((), "complete", 1 / 3, np.ones(1, np.float32)),
}


def stored(evaluation: Evaluation, **changes: object) -> Stored:
    return dataclasses.replace(Stored(1, "search", None, "", 1.5, evaluation), **changes)


RECORDS = [
    *(stored(one) for one in EVALUATIONS.values()),
    stored(EVALUATIONS["stopped"], limit=math.nan, order="ab" * 16),
    stored(EVALUATIONS["stopped"], limit=-0.0, role=AWKWARD, at=math.nan),
    stored(EVALUATIONS["failed"], limit=0.5, role="search 1", order=AWKWARD),
]
PARTS = [
    Part(1, "search", AWKWARD, 64, True, (8, 8, 8), ODD, 0.1, 0.2),
    Part(1, "search", AWKWARD, 64, False, (8, 8, 8), BITS, math.nan, 0.3),
]
SNAPSHOTS = [
    StoredSnapshot(1, 10, 2.5, 0.1, math.nan, 0, ()),
    StoredSnapshot(1, 20, 3.5, 1.1, 7.0, 1, ((8, 8), (403, 0))),
]
EVENTS = [Event(1, 0.0, "began", ""), Event(1, 0.0, "began", ""), Event(1, math.inf, AWKWARD, AWKWARD)]
FACTS = {"points": [AWKWARD, "conv1"], "float score": math.nan, "table": {"a": [1, 0.1, None]}}


def same(one: object, other: object) -> bool:
    """Whether two records are equal to the bit, NaN and the sign of zero included."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def fill(store: Store, evaluations: list[Stored] = RECORDS) -> None:
    store.begin_run({"seed": 1}, {"max_evaluations": 5}, FACTS)
    store.write(evaluations, PARTS, SNAPSHOTS, EVENTS)


def everything(store: Store) -> list[object]:
    """All that lies in a store."""
    runs = [(run.id, run.settings, run.budget, run.facts) for run in store.runs()]
    lists = (store.evaluations(), store.parts(), store.snapshots(), store.events())
    return [sorted(store.fingerprint.items()), runs, *map(list, lists)]
