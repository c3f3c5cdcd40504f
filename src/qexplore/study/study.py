"""A study that is asked: what was measured answers, nothing is measured."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qexplore._arguments import checked_name, nearest_keyword
from qexplore._table import Tabular
from qexplore.errors import StudyError
from qexplore.front import Front
from qexplore.search import SensitivityTable
from qexplore.study.asking import AS_ASKED, Moment, Question
from qexplore.study.fronts import Answer
from qexplore.study.listing import Failures, History
from qexplore.study.looks import sensitivities_of
from qexplore.study.progress import RunProgress, progress_of
from qexplore.study.recording import DIRECT, SEARCH
from qexplore.study.records import Columns
from qexplore.study.rows import joined
from qexplore.study.runs import STATES, StudyRun, chosen, history_of, runs_of
from qexplore.study.store import Store
from qexplore.study.summary import summary
from qexplore.study.table import EvaluationTable
from qexplore.study.trials import to_optuna


class Study(Tabular):
    """The file of explorations with ``study=``, opened to be asked; ``print`` shows what it holds.

    Nothing is measured and the model is not needed; every row that an answer is from is checked. The file may grow
    while it is asked: each answer is of what it holds by then. A context manager; make it with `open`.

    Attributes:
        path: the file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path: Path = store.path
        self._lock = threading.Lock()
        self._num_read = 0
        self._known = joined([])
        self._searched()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Study:
        """The study at ``path``, to be read, also while another process writes to it.

        Raises:
            MissingStudyError: there is no file.
            StudyFileError: it holds no study, is damaged, or was written by a newer version.
        """
        store = Store.open(path, writes=False)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_store"):
            self.close()

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides a measurement, name to text: weights, points, ranges, data, metric, versions, ..."""
        return dict(self._store.fingerprint)

    def _searched(self) -> Columns:
        """All that was searched; what is written stays as it is, so that only what came since has to be read."""
        with self._lock:
            count = self._store.num_evaluations
            if count > self._num_read:
                new = self._store.columns(role=SEARCH, state=None, after=self._num_read, upto=count)
                self._known = joined([page for page in (self._known, new) if len(page)])
                self._num_read = count
            return self._known

    @property
    def runs(self) -> tuple[StudyRun, ...]:
        """The explorations in the file, in the order they began."""
        return runs_of(self._store, self._searched())

    @nearest_keyword
    def front(
        self,
        run: int | None = None,
        *,
        min_accuracy: float | None = AS_ASKED,
        limits: Any = AS_ASKED,
        costs: Any = None,
        judge: str | None = None,
        at: float | None = None,
        first: int | None = None,
    ) -> Front:
        """The front of all complete evaluations, as the runs asked for it or under another question.

        Of one run that has ended, and nothing else asked, it is the very front that the exploration gave. Scores of the
        direct evaluator stand in the place of the search's where there are any, and a front of these alone is
        ``verified``. Scores on the report set are those that the runs ended with, NaN for points that were not measured
        there; without any, or where the runs had several report sets, all scores are those of the search set, and the
        table says so. Its ``judge``, which ``print`` shows, says whether divergence had a say, as `Exploration.judge`;
        that is decided by what the runs found feasible, whatever is asked. Where a candidate was measured only as far
        as its run needed, and might be on the front that is asked for, a warning says so.

        Args:
            run: the number of a run; None takes what all of them measured.
            min_accuracy: worst acceptable score of the first metric; None accepts all. Minima of further metrics stay
                what they were; a candidate of which they are not known is not taken.
            limits: the most of costs, by name or by the cost itself, in place of those of the runs; None for none.
            costs: the axes beside the score: names, `CostTable`, other `Cost` objects, or functions of candidates
                ``[N, L]``. By name go those of the runs and sums over points: "total_bits", "weighted_bits",
                "mean_bits", "model_bits", "model_bytes", "activation_bytes".
            judge: ``"divergence"`` or ``"accuracy"``, as for `explore`.
            at: so many seconds after the run began.
            first: after so many evaluations, at least 1.

        Raises:
            StudyError: no such run, a cost that cannot be told, a minimum outside the metric's range, or runs that
                asked for different things where it is not said which of them is meant.
            ProblemError: a cost fails.
        """
        columns = self._searched()
        runs = chosen(runs_of(self._store, columns), run)
        if run is None and len(runs) == 1:
            run = runs[0].id
        moment = Moment(run, at, first)
        question = Question.of(self._store, runs, min_accuracy, limits, costs, judge)
        if len(runs) == 1 and runs[0].front is not None and question.is_asked and not moment.is_past:
            return runs[0].front
        return Answer(self._store, columns, runs, question, moment).front()

    def evaluations(self, run: int | None = None, role: str = SEARCH, state: str | None = None) -> EvaluationTable:
        """Evaluations as arrays, in the order they were written; ``print`` shows the first and the last.

        Args:
            run: those that this run measured; None for all.
            role: whose: ``"search"``, and ``"direct"`` for the verification of fronts; of a further metric with its
                number behind, ``"search 1"``.
            state: ``"complete"``, ``"stopped"`` or ``"failed"``; None for all.

        Raises:
            StudyError: no such run, role or state.
        """
        columns = self._searched()
        runs = chosen(runs_of(self._store, columns), run)
        if state is not None:
            checked_name("`state`", state, STATES, StudyError)
        if role not in (SEARCH, DIRECT):
            checked_name("`role`", role, self._roles(runs), StudyError)
        names = tuple(point["name"] for point in runs[-1].facts["points"])
        found = self._store.columns(run=run, role=role, state=state)
        values = dict(vars(found))
        values["candidates"] = found.candidates.reshape(-1, len(names))
        return EvaluationTable(**values, point_names=names)

    def _roles(self, runs: Sequence[StudyRun]) -> tuple[str, ...]:
        """Whose evaluations there may be, and those that there are."""
        numbers = range(1, 1 + max(len(run.settings["further"]) for run in runs))
        further = (f"{role} {number}" for role in (SEARCH, DIRECT) for number in numbers)
        return tuple(dict.fromkeys((SEARCH, DIRECT, *further, *self._store.roles())))

    def history(self, run: int | None = None) -> History:
        """The front of a run each time it grew and at the end of every generation; None for all runs, one by one.

        Of a run that went another way after it was given another budget, the way that it went last. A tuple of
        `StoredSnapshot`; ``print`` shows the first and the last.

        Raises:
            StudyError: no such run.
        """
        self._require(run)
        return History(history_of(self._store, run))

    def _require(self, run: int | None) -> None:
        if run is not None:
            chosen(self.runs, run)

    def progress(self, run: int | None = None) -> RunProgress:
        """How a run went, the last one when None: its fronts over time, and what its time was spent on.

        Raises:
            StudyError: no such run.
        """
        columns = self._store.columns(role=SEARCH, state=None)
        record = chosen(runs_of(self._store, columns), run)[-1]
        question = Question.of(self._store, (record,), AS_ASKED, AS_ASKED, None, None)
        answer = Answer(self._store, columns, (record,), question, Moment(record.id))
        return progress_of(self._store, record, answer.everything())

    def failures(self, run: int | None = None) -> Failures:
        """What could not be measured, each with its role and its reason; None for all runs.

        A tuple: of each its ``run``, ``role``, ``at``, and ``evaluation`` with ``candidate`` and ``reason``. ``print``
        shows the first and the last.

        Raises:
            StudyError: no such run.
        """
        self._require(run)
        return Failures(self._store.evaluations(run=run, state="failed"))

    def sensitivities(self) -> SensitivityTable:
        """How much each point alone does to the output, from what the searches measured of it.

        Raises:
            StudyError: they measured nothing of that kind.
        """
        runs = chosen(self.runs, None)
        return sensitivities_of(self._store, runs[-1].facts)

    def to_optuna(self, storage: Any, name: str | None = None) -> Any:
        """Write every candidate as a trial of a new Optuna study, for optuna-dashboard and the like.

        Needs the extra ``optuna``. Directions are those of the metric and, to be minimised, the costs of the runs; a
        parameter of a trial is the choice of a point. A trial is complete, failed, or pruned where the candidate was
        stopped, and says what else is known of it in its user attributes; constraints are where Optuna's samplers look
        for them, at most 0 where they are kept.

        Args:
            storage: of Optuna, or its URL, such as ``"sqlite:///optuna.db"``.
            name: of the study there; None takes the name of this file.

        Returns:
            The `optuna.Study`.

        Raises:
            MissingPackageError: Optuna is not installed.
            StudyError: there is a study of that name already, or runs asked for different costs.
        """
        return to_optuna(self._store, self.runs, storage, self.path.stem if name is None else name)

    def __str__(self) -> str:
        return summary(self._store, self.runs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.path}'>"
