"""Callbacks that write down how a search goes, elsewhere: any function, TensorBoard, MLflow."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from qexplore._optional import import_optional
from qexplore._warnings import warn
from qexplore.errors import ProblemError
from qexplore.exploration.records import Snapshot
from qexplore.front import Front

Figures = dict[str, float]

_REFUSED = re.compile(r"[^\w\-. /]")  # in the name of a metric of MLflow
_MOST_AT_ONCE = 900  # figures; MLflow takes 1,000
_RHYTHM = 5.0  # seconds between two messages to a server


def log_to(function: Callable[[Figures, int], object]) -> Callable[[Snapshot], None]:
    """A callback that gives figures of every snapshot to ``function(figures, step)``: for whatever keeps figures.

    ``figures`` maps names to finite numbers: "hypervolume", "num_points" of the front, "num_evaluations", "num_passes",
    "seconds", "generation", and while the front has points "best_NAME" of the score, "least_NAME" of each cost, and
    "knee_NAME" of all of these. The front is that by scores so far: the judge looks at it when the search has ended, so
    that the last "num_points" may be more than `explore` gives. ``step`` is the number of full passes, rounded; several
    snapshots may have the same.

    Example:
        >>> import qexplore as qx
        >>> rows = []
        >>> callback = qx.log_to(lambda figures, step: rows.append((step, figures["hypervolume"])))

    Raises:
        ProblemError: ``function`` cannot be called.
    """
    if not callable(function):
        raise ProblemError(
            f"log_to: must be given a function of (figures, step), got {function!r}. For example "
            "log_to(lambda figures, step: run.log(figures, step=step))."
        )

    def log(snapshot: Snapshot) -> None:
        function(figures_of(snapshot), step_of(snapshot))

    return log


def step_of(snapshot: Snapshot) -> int:
    """Full passes, rounded: what keeps figures wants whole steps."""
    return round(snapshot.num_passes)


def figures_of(snapshot: Snapshot) -> Figures:
    """Flat figures of a snapshot, finite ones alone."""
    front = snapshot.front
    figures = {
        "hypervolume": snapshot.hypervolume,
        "num_points": len(front),
        "num_evaluations": snapshot.num_evaluations,
        "num_passes": snapshot.num_passes,
        "seconds": snapshot.seconds,
        "generation": snapshot.generation,
        **(_of_front(front) if len(front) else {}),
    }
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def _of_front(front: Front) -> Figures:
    names, knee = (front.metric_name, *front.cost_names), front.knee()
    starts = ("best", *("least" for _ in front.cost_names))
    best = {f"{start}_{name}": value for start, name, value in zip(starts, names, front.best, strict=True)}
    scores = zip(names, (knee.accuracy, *knee.costs.values()), strict=True)
    return best | {f"knee_{name}": value for name, value in scores}


class _Tracker:
    """A callback that is open while an exploration runs, and closed at its end, also by an error."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None

    def __enter__(self) -> Any:
        self._open()
        return self

    def __call__(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        self._log(figures_of(snapshot), step_of(snapshot))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close("" if self._last is None else str(self._last.front), kind)
        self._last = None

    def _open(self) -> None:
        raise NotImplementedError

    def _log(self, figures: Figures, step: int) -> None:
        raise NotImplementedError

    def _close(self, table: str, failed_with: type[BaseException] | None) -> None:
        raise NotImplementedError


class _TensorBoard(_Tracker):
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        import_optional("tensorboard", extra="tensorboard", purpose="log_to_tensorboard")
        self._folder = os.fspath(folder)

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(self._folder)

    def _log(self, figures: Figures, step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def _close(self, table: str, failed_with: type[BaseException] | None) -> None:
        if table:  # indented, so that it is shown as it is
            self._writer.add_text("front", "\n".join(f"    {line}" for line in table.splitlines()))
        self._writer.close()


def log_to_tensorboard(folder: str | os.PathLike[str]) -> Callable[[Snapshot], None]:
    """A callback that writes the figures of `log_to` for TensorBoard, step by step in full passes, and the front.

    Each exploration writes a file of its own into ``folder``, closed at its end, also by an error. A folder per
    exploration shows each as a run: ``tensorboard --logdir runs``. Needs the extra ``tensorboard``.

    Raises:
        MissingPackageError: TensorBoard is not installed.
    """
    return _TensorBoard(folder)


class _MLflow(_Tracker):
    """Writes to the run that is active, or to one of its own, which it ends.

    Figures go in bundles; what could not be sent waits for the next bundle, and a warning says so once.
    """

    def __init__(self, run_name: str | None) -> None:
        super().__init__()
        self._mlflow: Any = import_optional("mlflow", extra="mlflow", purpose="log_to_mlflow")
        self._run_name = run_name

    def _open(self) -> None:
        self._has_warned, self._waiting, self._sent_at = False, list[Any](), time.monotonic()
        active = self._mlflow.active_run()
        self._is_own = active is None
        run = self._mlflow.start_run(run_name=self._run_name) if active is None else active
        self._id, self._client = run.info.run_id, self._mlflow.MlflowClient()

    def _log(self, figures: Figures, step: int) -> None:
        metric, moment = self._mlflow.entities.Metric, int(time.time() * 1000)
        self._waiting += [metric(_REFUSED.sub("_", name), value, moment, step) for name, value in figures.items()]
        if len(self._waiting) >= _MOST_AT_ONCE or time.monotonic() - self._sent_at > _RHYTHM:
            self._careful(self._send)

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:_MOST_AT_ONCE])
            del self._waiting[:_MOST_AT_ONCE]

    def _close(self, table: str, failed_with: type[BaseException] | None) -> None:
        self._careful(self._send)
        if table:
            self._careful(lambda: self._client.log_text(self._id, table, "front.txt"))
        if self._is_own:
            self._careful(lambda: self._mlflow.end_run("FINISHED" if failed_with is None else "FAILED"))

    def _careful(self, send: Callable[[], object]) -> None:
        """A server that does not answer is no reason to lose an exploration."""
        try:
            send()
        except Exception as error:
            if not self._has_warned:
                warn(f"log_to_mlflow: the run {self._id} lacks figures: {error}")
            self._has_warned = True


def log_to_mlflow(run_name: str | None = None) -> Callable[[Snapshot], None]:
    """A callback that writes the figures of `log_to` to MLflow, step by step in full passes, and the front as a text.

    They go to the run that is active, which stays open; without one, to a run of its own called ``run_name``, ended as
    finished, or as failed where the exploration raises. Where they go, ``mlflow.set_tracking_uri`` and
    ``mlflow.set_experiment`` say. A server that does not answer is warned of once, and the search goes on. What MLflow
    does not take in a name becomes "_". Needs the extra ``mlflow``.

    Raises:
        MissingPackageError: MLflow is not installed.
    """
    return _MLflow(run_name)
