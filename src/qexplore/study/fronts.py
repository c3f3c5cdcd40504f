"""The front of what a study holds, under whatever is asked of it, without measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore._direction import Directed
from qexplore._fingerprint import Fingerprint
from qexplore._warnings import warn
from qexplore.front import Front, FurtherMetric, nondominated
from qexplore.metrics import Metric, Scores
from qexplore.search import Contest, SearchSpace, contradiction_words, judged_words
from qexplore.study.asking import AS_ASKED, Measured, Moment, Question, measured
from qexplore.study.recording import SEARCH
from qexplore.study.records import Columns, row_keys
from qexplore.study.reports import with_reports
from qexplore.study.runs import StudyRun, history_of
from qexplore.study.store import Store

Rows = NDArray[np.int64]

_ASKED = ("min_accuracy", "further", "costs", "limits", "limited")
"""Settings of a run that say which of its candidates are feasible, and what they are compared by."""


class Answer(Directed):
    """Answers a question for fronts.

    Args:
        store: the study's.
        columns: all that was searched.
        runs: those that are asked.
        question: what makes the front.
        moment: which measurements count.
    """

    def __init__(
        self, store: Store, columns: Columns, runs: Sequence[StudyRun], question: Question, moment: Moment
    ) -> None:
        self._runs, self._run = runs, runs[-1]
        if not len(columns):  # a run that was killed as it began: its points are known all the same
            columns = replace(columns, candidates=np.zeros((0, len(self._run.facts["points"])), dtype=np.int64))
        self._store, self._columns, self._question, self._moment = store, columns, question, moment
        self.higher_is_better = bool(self._run.facts["metric"]["higher_is_better"])
        self._further = [FurtherMetric(**one) for one in self._run.settings["further"]]

    def front(self) -> Front:
        """The front; a warning tells of candidates that might be on it if they had been measured to the end."""
        known, direct = measured(self._store, self._columns, self._moment, len(self._further))
        feasible = known.rows(self._are_feasible(known))
        judged = known.rows(self._are_feasible(known, is_judged=True))
        kept, judge = self._kept(judged)
        members = judged.rows(kept)
        members, is_verified = members.rows(self._are_feasible(members)).replaced_by(direct)
        members = members.rows(self._are_feasible(members))
        front = Front.from_candidates(
            **self._fields(members),
            min_accuracy=self._question.min_accuracy,
            verified=bool(len(is_verified) and is_verified.all()),
        )
        if self._question.is_other:
            self._tell_of_unknown(known, feasible)
        uniform = self._uniform(known)
        front = replace(
            front,
            judge=judge if len(front) else "",
            uniform=uniform if len(uniform) else None,
            empty_because="" if len(front) else self._why_empty(known),
        )
        return front if self._moment.is_past else with_reports(front, self._store, self._runs)

    def everything(self) -> Front:
        """All complete evaluations, by the search's own scores, dominated and infeasible ones too."""
        known, _ = measured(self._store, self._columns, self._moment, len(self._further))
        return Front(**self._fields(known), min_accuracy=self._question.min_accuracy)

    def _objectives(self, score: NDArray[np.float64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.column_stack([-self.gain(score), self._question.costs_of(candidates)])

    def _are_feasible(self, known: Measured, *, is_judged: bool = False) -> NDArray[np.bool_]:
        return self._meet_minima(known) & self._question.are_within(known.candidates, is_judged=is_judged)

    def _meet_minima(self, known: Measured) -> NDArray[np.bool_]:
        meets: NDArray[np.bool_] = self.meets(known.score, self._question.min_accuracy)
        for place, one in enumerate(self._further):
            meets = meets & one.meets(known.further[:, place], one.min_accuracy)
        return meets

    def _kept(self, feasible: Measured) -> tuple[Rows, str]:
        """Rows of the front, as the judge would have it, and what is said of the judge."""
        by_score = self._by_score(feasible)
        if self._question.judge == "accuracy":
            return by_score, "accuracy"
        if why := self._why_by_score() or self._unknown(feasible):
            return by_score, why
        told, contest = self._contest(feasible)
        rows, gave_way = contest.members()
        num_gave_way = int(self._question.are_within(feasible.candidates[told[gave_way]]).sum())
        return told[rows], judged_words(num_gave_way, self._run.facts["metric"]["name"])

    def _why_by_score(self) -> str:
        """Why scores alone have to decide, by all that the runs found to be feasible; empty where divergence may.

        Whatever is asked of them afterwards: a limit that takes a few dear points away must not change who judges.
        """
        asked = [{name: run.settings[name] for name in _ASKED} for run in self._runs]
        together = [self._runs] if asked == asked[:1] * len(asked) else [(run,) for run in self._runs]
        return next(filter(None, (self._own(runs)._misled() for runs in together)), "")

    def _own(self, runs: Sequence[StudyRun]) -> Answer:
        question = Question.of(self._store, runs, AS_ASKED, AS_ASKED, None, "divergence")
        return Answer(self._store, self._columns, runs, question, Moment(runs[0].id if len(runs) == 1 else None))

    def _misled(self) -> str:
        known, _ = measured(self._store, self._columns, self._moment, len(self._further))
        feasible = known.rows(self._are_feasible(known))
        if why := self._unknown(feasible):
            return why
        contradicted = self._contest(feasible)[1].contradictions()
        return contradiction_words(*contradicted) if contradicted else ""

    def _unknown(self, feasible: Measured) -> str:
        is_unknown = np.isnan(feasible.divergence[self._by_score(feasible)]).any()
        return "accuracy: no divergence decides, that of some points is not known" if is_unknown else ""

    def _by_score(self, feasible: Measured) -> Rows:
        """Rows of the front by score and cost alone."""
        objectives = self._objectives(feasible.score, feasible.candidates)
        return np.flatnonzero(nondominated(objectives)) if len(objectives) else np.zeros(0, dtype=np.int64)

    def _contest(self, feasible: Measured) -> tuple[Rows, Contest]:
        """Of those whose divergence is known, which are these rows."""
        told = np.flatnonzero(~np.isnan(feasible.divergence))
        objectives = self._objectives(feasible.score[told], feasible.candidates[told])
        scores = _Scores(self._store, feasible.candidates[told])
        return told, Contest(objectives, feasible.divergence[told], scores, _compared_by(self._run.facts))

    def _fields(self, known: Measured) -> dict[str, Any]:
        facts = self._run.facts
        fingerprint = self._store.fingerprint
        names = tuple(Fingerprint.__dataclass_fields__)
        return {
            "num_bits": known.candidates.reshape(-1, len(facts["points"])),
            "accuracy": known.score,
            "costs": self._question.costs_of(known.candidates),
            "interval": None if np.isnan(known.interval).all() else known.interval,
            "point_names": tuple(point["name"] for point in facts["points"]),
            "cost_names": tuple(cost.name for cost in self._question.costs),
            "metric_name": facts["metric"]["name"],
            "higher_is_better": self.higher_is_better,
            "float_accuracy": facts["float_accuracy"],
            "further": tuple(self._further),
            "further_scores": known.further if self._further else None,
            "arithmetic": facts["arithmetic"],
            "coverage": self._run.coverage,
            "fingerprint": Fingerprint(**{name: fingerprint[name] for name in names})
            if set(names) <= set(fingerprint)
            else None,
        }

    def _uniform(self, known: Measured) -> Front:
        """The uniform candidates that were measured, the cheapest first."""
        facts = self._run.facts
        space = SearchSpace(tuple(map(tuple, facts["choices"])), tuple(map(tuple, facts["ties"])))
        wanted = row_keys(space.uniform()[::-1])
        place = {key: number for number, key in enumerate(row_keys(known.candidates)) if key in wanted}
        found = [place[key] for key in wanted if key in place]
        rows = known.rows(np.array(found, dtype=np.int64))
        fields = {**self._fields(rows), "coverage": None}  # the front's own
        return Front(**fields, broken_limits=self._question.broken(rows.candidates))

    def _tell_of_unknown(self, known: Measured, feasible: Measured) -> None:
        """Warn of candidates whose scores are not known well enough to say that they are not on the front."""
        snapshots = [] if self._moment.run is None else history_of(self._store, self._moment.run)
        rows = self._moment.rows(self._columns, snapshots) & (self._columns.state == "stopped")
        bounds, stopped = self._columns.bound[rows], self._columns.candidates[rows]
        lacking = np.isnan(known.further).any(axis=1)
        candidates = np.concatenate([stopped, known.candidates[lacking]])
        bounds = np.concatenate([bounds, known.score[lacking]])
        may = self.meets(bounds, self._question.min_accuracy) & self._question.are_within(candidates)
        told = set(row_keys(known.candidates[~lacking]))
        may &= np.array([key not in told for key in row_keys(candidates)], dtype=bool)
        objectives = self._objectives(bounds[may], candidates[may])
        front = self._objectives(feasible.score, feasible.candidates)
        front = front[nondominated(front)] if len(front) else front
        open_ = sum(not (front <= row).all(axis=1).any() for row in objectives)
        if open_:
            warn(
                f"{open_} candidate{'s' if open_ > 1 else ''} of the study '{self._store.path}' might be on this "
                "front, but were measured only as far as the run's own question needed. Explore with this question and "
                "the same study= to know: what was measured is reused"
            )

    def _why_empty(self, known: Measured) -> str:
        missed = int((~self._meet_minima(known)).sum())
        beyond = int((~self._question.are_within(known.candidates)).sum())
        return (
            f"The front is empty: of {len(known.score)} complete evaluations {missed} missed min_accuracy and {beyond} "
            "went beyond a limit. Relax what is asked, or explore longer."
        )


class _Scores:
    """Scores by sample of a row, looked up where they are asked for."""

    def __init__(self, store: Store, candidates: NDArray[np.int64]) -> None:
        self._store, self._candidates = store, candidates
        self._known: dict[int, Scores | None] = {}

    def __call__(self, row: int) -> Scores | None:
        if row not in self._known:
            stored = self._store.evaluation(SEARCH, self._candidates[row].tolist(), None, "")
            self._known[row] = None if stored is None else stored.evaluation.scores
        return self._known[row]


def _compared_by(facts: Mapping[str, Any]) -> Metric | None:
    """What tells whether scores of samples differ beyond chance; of a function of the mean, the mean itself."""
    if facts["metric"]["kind"] == "whole set":
        return None
    return Metric(_never_called, name=facts["metric"]["name"], higher_is_better=facts["metric"]["higher_is_better"])


def _never_called(output: Any, target: Any) -> Any:
    raise AssertionError("a study measures nothing")
