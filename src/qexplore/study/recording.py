"""Recording evaluators: what the study knows is answered from it, everything else is written down before it is used."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qexplore._clock import Clock
from qexplore.cost import Cost
from qexplore.evaluation import Evaluation, Evaluator, EvaluatorAround, Order, Told
from qexplore.metrics import Metric, Scores
from qexplore.model import Candidate, Candidates
from qexplore.study.records import Event, Part, Stored, StoredSnapshot
from qexplore.study.store import Store

SEARCH, DIRECT = "search", "direct"
"""Roles: whose evaluations are by the evaluator that a search asks, and by the direct one; of a further metric with its
number behind, from 1."""
_AT_ONCE = 1.0
"""Seconds of work that are written together: a write waits for the disk."""
_SLICE_SECONDS, _FIRST_SLICE, _LARGEST_SLICE = 5.0, 64, 1024
"""How long candidates on a part of the set are measured before they are written; how many at first, and at most."""


class Recorder:
    """Writes what a run measures into its study, and knows what was written before.

    It never changes what a search computes, only whether it is measured: a search that runs once more on the same study
    asks the same questions, is given the same answers, and goes on where these end.

    Args:
        store: open for writing.
        run: the id of the run.
        clock: put forward by the seconds that an answer took when it was measured.
        costs: what is written down of every candidate beside its score, by role, for what no table can tell later.
        is_shared: whether other processes write to it too.
    """

    def __init__(
        self,
        store: Store,
        run: int,
        clock: Clock,
        costs: Mapping[str, Cost] | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self.store = store
        self.run = run
        self.num_known = 0
        """Evaluations that the study answered."""
        self.num_written = 0
        """Evaluations that were measured and written down."""
        self.has_measured = False
        """Whether anything was, on a part of the set too."""
        self.guard: Callable[[], None] = lambda: None
        """Raises where what is measured now does not belong to the run."""
        self._clock = clock
        self._began = clock.now()
        self._snapshots: list[StoredSnapshot] = []
        self._costs = costs or {}
        self._priced: list[Stored] = []
        self._is_shared = is_shared
        self._again: set[tuple[str, Candidate]] = set()
        self._held: dict[tuple[str, str], set[Candidate]] = {}

    @property
    def seconds(self) -> float:
        """Since the run began, what the study answered counted as it took then."""
        return self._clock.now() - self._began

    def around(self, evaluator: Evaluator, role: str) -> RecordedEvaluator:
        """``evaluator``, recorded as ``role``."""
        return RecordedEvaluator(self, evaluator, role)

    def keep(self, evaluations: Sequence[Evaluation]) -> None:
        """Write down what was measured before the run began."""
        stored = list[Stored]()
        for one in evaluations:
            self.price(np.array([one.candidate], dtype=np.int64))
            if self._lookup(SEARCH, one.candidate, None, "") is not None:
                continue
            further = [
                Evaluation(one.candidate, "failed" if math.isnan(score) else "complete", score) for score in one.further
            ]
            alone = [replace(one, further=()), *further]
            roles = [SEARCH, *(f"{SEARCH} {place}" for place in range(1, len(alone)))]
            stored += [Stored(self.run, role, None, "", 0.0, each) for role, each in zip(roles, alone, strict=True)]
        self._flush(stored)

    def price(self, candidates: Candidates) -> None:
        """Keep the costs of candidates that the study does not know, to be written with what is measured next."""
        for role, cost in self._costs.items():
            rows = [row for row in map(tuple, candidates.tolist()) if self._lookup(role, row, None, "") is None]
            prices = cost.cost(np.array(rows, dtype=np.int64)).tolist() if rows else []
            self._priced += [
                Stored(self.run, role, None, "", self.seconds, Evaluation(row, "complete", price))
                for row, price in zip(rows, prices, strict=True)
            ]

    def known(self, role: str, candidate: Candidate, limit: float | None, order: str) -> Evaluation | None:
        """What the study knows of ``candidate``."""
        stored = self._lookup(role, candidate, limit, order)
        if stored is None:
            return None
        self.num_known += 1
        self._clock.skip(stored.evaluation.seconds)
        return stored.evaluation

    def _lookup(self, role: str, candidate: Candidate, limit: float | None, order: str) -> Stored | None:
        if not self._may_hold("evaluations", role, candidate):
            return None
        stored = self.store.evaluation(role, candidate, limit, order)
        if stored is not None and self._failed_elsewhere(stored):
            self._again.add((role, candidate))
            stored = self.store.evaluation(role, candidate, limit, self._own(order))
        return None if stored is None or self._failed_elsewhere(stored) else stored

    def _failed_elsewhere(self, stored: Stored) -> bool:
        """Whether it failed in another run, which had less time or memory, or a fault that was mended.

        Or, though in this run, at the last word on a point, on which no search depends.
        """
        is_last_word = not stored.role.startswith(SEARCH)
        return stored.evaluation.state == "failed" and (stored.run != self.run or is_last_word)

    def _own(self, order: str) -> str:
        """Under what a candidate lies that is measured again after it failed elsewhere."""
        return f"{order} of run {self.run}"

    def write(self, role: str, order: str, measured: Sequence[tuple[Evaluation, float | None]]) -> None:
        """Write evaluations down, each with the score it had to beat."""
        at, again = self.seconds, self._again
        orders = [self._own(order) if (role, one.candidate) in again else order for one, _ in measured]
        pairs = zip(measured, orders, strict=True)
        self._flush([Stored(self.run, role, limit, told, at, one) for (one, limit), told in pairs])
        self.num_written += len(measured)
        self.has_measured |= bool(measured)

    def known_part(self, role: str, metric: str, count: int, against_float: bool, row: Candidate) -> Scores | None:
        """Scores of a candidate on a part of the set, as far as the study knows them."""
        part = None
        if self._may_hold("parts", role, row):
            part = self.store.part(role, metric, count, against_float, row)
        if part is None:
            return None
        self._clock.skip(part.seconds)
        return part.values

    def write_parts(self, parts: Sequence[Part]) -> None:
        """Write scores on parts of the set down."""
        self._flush(parts=parts)
        self.has_measured = True

    def note(self, snapshot: StoredSnapshot) -> None:
        """Keep a snapshot of the front, to be written with what is measured next."""
        self._snapshots.append(snapshot)

    def tell(self, kind: str, text: str) -> None:
        """Write down that something happened, and what was kept until now."""
        self._flush(events=[Event(self.run, self.seconds, kind, text)])

    def _flush(
        self, evaluations: Sequence[Stored] = (), parts: Sequence[Part] = (), events: Sequence[Event] = ()
    ) -> None:
        evaluations = [*self._priced, *evaluations]
        self.store.write(evaluations, parts, self._snapshots, events)
        self._snapshots, self._priced = [], []
        for table, written in (("evaluations", evaluations), ("parts", parts)):
            for one in written:
                row = one.evaluation.candidate if isinstance(one, Stored) else one.candidate
                self._held.get((table, one.role), set()).add(row)

    def _may_hold(self, table: str, role: str, row: Candidate) -> bool:
        """Whether the study may know something of a candidate: asking it of each takes longer than a quick look."""
        if self._is_shared:
            return True
        if (table, role) not in self._held:
            self._held[table, role] = self.store.candidates(table, role)
        return row in self._held[table, role]


class RecordedEvaluator(EvaluatorAround):
    """An `Evaluator` whose answers are in a study before anyone sees them.

    Args:
        recorder: of the run.
        evaluator: measures what is not known.
        role: whose evaluations these are: the same candidates have others under another metric or on another set.
    """

    def __init__(self, recorder: Recorder, evaluator: Evaluator, role: str) -> None:
        super().__init__(evaluator)
        self._recorder = recorder
        self._role = role

    def evaluate(
        self, candidates: Candidates, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        """As `Evaluator.evaluate`; what the study does not know is measured in one call, and written in chunks."""
        self._recorder.guard()
        codes = np.asarray(candidates, dtype=np.int64)
        if self._role == SEARCH:
            self._recorder.price(codes)
        rows = [tuple(row) for row in codes.tolist()]
        limits = [None] * len(rows) if must_beat is None else list(map(float, must_beat))
        digest = "" if order is None or must_beat is None else _digest(order)
        keys = zip(rows, limits, strict=True)
        known = [self._recorder.known(self._role, row, limit, digest) for row, limit in keys]
        left = [place for place, evaluation in enumerate(known) if evaluation is None]
        answers = self._evaluator.evaluate(
            codes[left],
            must_beat=None if must_beat is None else [must_beat[place] for place in left],
            order=order,
        )
        fresh = self._written(answers, digest, [limits[place] for place in left])
        for evaluation in known:
            yield next(fresh) if evaluation is None else evaluation

    def _written(
        self, answers: Iterator[Evaluation], digest: str, limits: Sequence[float | None]
    ) -> Iterator[Evaluation]:
        """``answers``, none before it is written: some at once where they come quickly, or are all that is left."""
        waiting: list[tuple[Evaluation, float | None]] = []
        for place, limit in enumerate(limits):
            try:
                waiting.append((next(answers), limit))
            except BaseException:  # what was measured before it stays
                self._recorder.write(self._role, digest, waiting)
                raise
            is_last = place == len(limits) - 1
            if is_last or sum(evaluation.seconds for evaluation, _ in waiting) >= _AT_ONCE:
                self._recorder.write(self._role, digest, waiting)
                done, waiting = waiting, []
                yield from (evaluation for evaluation, _ in done)

    def scores_on_subset(
        self,
        candidates: Candidates,
        metric: Metric,
        num_samples: int,
        *,
        against_float: bool = False,
        told: Told = lambda part: None,
    ) -> Scores:
        """As `Evaluator.scores_on_subset`; what the study does not know is measured in slices of some seconds."""
        rows = [tuple(row) for row in np.asarray(candidates, dtype=np.int64).tolist()]
        key = (self._role, metric.name, num_samples, against_float)
        found = {row: self._recorder.known_part(*key, row) for row in dict.fromkeys(rows)}
        left = [row for row, scores in found.items() if scores is None]
        told(len(found) - len(left))
        size = _FIRST_SLICE
        while left:
            now, left = left[:size], left[size:]
            start = time.perf_counter()
            scores = self._evaluator.scores_on_subset(
                np.array(now, dtype=np.int64), metric, num_samples, against_float=against_float, told=told
            )
            each = (time.perf_counter() - start) / len(now)
            at, run = self._recorder.seconds, self._recorder.run
            self._recorder.write_parts(
                [Part(run, *key, row, values, each, at) for row, values in zip(now, scores, strict=True)]
            )
            found.update(zip(now, scores, strict=True))
            size = int(np.clip(_SLICE_SECONDS / max(each, 1e-9), _FIRST_SLICE, _LARGEST_SLICE))
        values = [found[row] for row in rows]
        return np.stack([one for one in values if one is not None]) if values else np.zeros((0, 0), dtype=np.float32)


def _digest(order: Order) -> str:
    return hashlib.blake2b(order.astype("<i8").tobytes(), digest_size=8).hexdigest()
