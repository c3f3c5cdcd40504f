"""A study as trials of Optuna, for its dashboard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from qexplore._choices import MAX_NUM_BITS, choice_name
from qexplore._direction import Directed
from qexplore._optional import import_optional
from qexplore._quiet import filtered
from qexplore.errors import StudyError
from qexplore.front import FurtherMetric
from qexplore.study.asking import AS_ASKED, Question
from qexplore.study.recording import SEARCH
from qexplore.study.records import Stored
from qexplore.study.runs import StudyRun, chosen
from qexplore.study.store import Store

_CONSTRAINTS = "constraints"
"""Where Optuna's samplers keep them, among a trial's system attributes."""


def to_optuna(store: Store, runs: Sequence[StudyRun], storage: Any, name: str) -> Any:
    """As `Study.to_optuna`."""
    optuna = import_optional("optuna", extra="optuna", purpose="Writing a study for Optuna")
    asked = chosen(runs, None)
    # Minima and limits may differ from run to run: a trial's constraints are those of its own.
    question = Question.of(store, asked, None, {}, None, "accuracy")
    own = {run.id: Question.of(store, [run], AS_ASKED, AS_ASKED, None, "accuracy") for run in asked}
    facts = asked[-1].facts
    metric = facts["metric"]
    direction = "maximize" if metric["higher_is_better"] else "minimize"
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, directions=[direction, *["minimize"] * len(question.costs)]
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise StudyError(
            f"The storage must have no study of the name '{name}', and it has one, which is left as it is. Give "
            "another, name="
        ) from error
    with filtered(("ignore", None, optuna.exceptions.ExperimentalWarning, None, 0)):  # of the names alone
        study.set_metric_names([metric["name"], *(cost.name for cost in question.costs)])
    for field, text in store.fingerprint.items():
        study.set_user_attr(field, text)
    study.add_trials(list(_Trials(optuna, store, asked, question, own).all()))
    return study


class _Trials(Directed):
    """Makes trials.

    Args:
        optuna: the package.
        store: of the study.
        runs: its runs.
        question: of all: costs.
        own: of each run, by its number.
    """

    def __init__(
        self,
        optuna: Any,
        store: Store,
        runs: Sequence[StudyRun],
        question: Question,
        own: Mapping[int, Question],
    ) -> None:
        facts = runs[-1].facts
        self._optuna, self._store, self._question, self._own = optuna, store, question, own
        self.higher_is_better = bool(facts["metric"]["higher_is_better"])
        self._names = [point["name"] for point in facts["points"]]
        self._distributions = dict(zip(self._names, map(self._distribution, facts["choices"]), strict=True))
        self._minima = {run.id: [FurtherMetric(**one) for one in run.settings["further"]] for run in runs}
        further = max(map(len, self._minima.values()))
        self._further = [_scores(store, f"{SEARCH} {place}") for place in range(1, further + 1)]
        # The file knows how long ago within a run, not the day: moments are counted back from its last change.
        ends = {run.id: run.seconds for run in runs}
        last = datetime.fromtimestamp(store.path.stat().st_mtime)
        self._began = {run: last - timedelta(seconds=seconds) for run, seconds in ends.items()}

    def all(self) -> Iterator[Any]:
        """One a candidate, the complete one where there are several evaluations."""
        found: dict[tuple[int, ...], Stored] = {}
        for stored in self._store.evaluations(role=SEARCH):
            known = found.get(stored.evaluation.candidate)
            if stored.run in self._own and (known is None or not known.evaluation.is_complete):
                found[stored.evaluation.candidate] = stored
        rows = np.array(list(found), dtype=np.int64).reshape(len(found), len(self._names))
        costs = self._question.costs_of(rows).tolist() if len(found) else []
        for stored, of_trial in zip(found.values(), costs, strict=True):
            yield self._trial(stored, of_trial)

    def _trial(self, stored: Stored, costs: list[float]) -> Any:
        one = stored.evaluation
        state = getattr(self._optuna.trial.TrialState, _STATES[one.state])
        codes = [
            choice_name(code)
            if isinstance(self._distributions[name], self._optuna.distributions.CategoricalDistribution)
            else code
            for name, code in zip(self._names, one.candidate, strict=True)
        ]
        trial = self._optuna.trial.create_trial(
            state=state,
            values=[one.score, *costs] if one.is_complete else None,
            params=dict(zip(self._names, codes, strict=True)),
            distributions=self._distributions,
            user_attrs=self._attributes(stored, costs),
            system_attrs={_CONSTRAINTS: self._constraints(stored)} if one.is_complete else {},
        )
        ended = self._began[stored.run] + timedelta(seconds=_finite(stored.at))
        trial.datetime_complete = ended
        trial.datetime_start = ended - timedelta(seconds=_finite(one.seconds))
        return trial

    def _attributes(self, stored: Stored, costs: Sequence[float]) -> dict[str, Any]:
        one = stored.evaluation
        told = {
            "run": stored.run,
            "role": stored.role,
            "seconds": one.seconds,
            "num_samples": one.num_samples,
            "divergence": one.divergence,
            "interval": one.interval,
            "bound": one.bound,
            "reason": one.reason,
        }
        told |= {cost.name: value for cost, value in zip(self._question.costs, costs, strict=True)}
        for metric, scores in zip(self._minima[stored.run], self._further, strict=False):
            told[metric.name] = scores.get(one.candidate)
        return {name: value for name, value in told.items() if value not in (None, "")}

    def _constraints(self, stored: Stored) -> list[float]:
        """By how much the run's minima and limits are missed; at most 0 where they are kept."""
        one, own = stored.evaluation, self._own[stored.run]
        least = [] if own.min_accuracy is None else [self.gain(own.min_accuracy) - self.gain(one.score)]
        for metric, scores in zip(self._minima[stored.run], self._further, strict=False):
            score, minimum = scores.get(one.candidate), metric.min_accuracy
            known = score is not None and not math.isnan(score) and minimum is not None
            least.append(metric.gain(minimum) - metric.gain(score) if known else 1.0)
        row = np.array([one.candidate], dtype=np.int64)
        return [*least, *(float(cost.cost(row)[0]) - upper for cost, upper in own.limits)]

    def _distribution(self, choices: Sequence[int]) -> Any:
        kinds = self._optuna.distributions
        is_range = list(choices) == list(range(choices[0], choices[0] + len(choices)))
        if is_range and choices[0] > 0 and choices[-1] <= MAX_NUM_BITS:
            return kinds.IntDistribution(choices[0], choices[-1])
        return kinds.CategoricalDistribution([choice_name(code) for code in choices])


_STATES: Mapping[str, str] = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


def _scores(store: Store, role: str) -> dict[tuple[int, ...], float]:
    columns = store.columns(role=role)
    return dict(zip(map(tuple, columns.candidates.tolist()), columns.score.tolist(), strict=True))


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else 0.0
