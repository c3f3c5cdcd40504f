"""A picture of a search that is drawn anew while it runs."""

from __future__ import annotations

import importlib
import io
import math
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qexplore._arguments import checked_number
from qexplore.errors import ReportError
from qexplore.front import score_text
from qexplore.report._canvas import checked_path, figure_of, finished, new_figure
from qexplore.report.hypervolume import HypervolumeRecord, draw_hypervolume
from qexplore.report.pareto_front import draw_pareto_front, pareto_front_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qexplore.exploration import Snapshot

_MOST_OF_THE_TIME = 0.05  # that drawing may take
_DPI = 80
_TALLNESS = 0.62


class LivePlot:
    """A callback that shows the front and its hypervolume while they grow: ``explore(..., callbacks=[LivePlot()])``.

    In a notebook the picture is drawn anew in the cell that explores, at most every few seconds and for at most 5 % of
    the time, and once more at the end, also after an error or an interrupt. Anywhere else it needs a file to draw into.

    Args:
        every: seconds between two pictures, at least.
        path: a file for the picture, by its suffix PNG, SVG or PDF, in a notebook too.
        cost: the name of the cost to draw over; the first one when None.

    Raises:
        ReportError: there is no notebook and no ``path``; a suffix of no picture; ``every`` is no positive number.
    """

    def __init__(
        self, *, every: float = 2.0, path: str | os.PathLike[str] | None = None, cost: str | None = None
    ) -> None:
        self._every = checked_number("LivePlot: every", every, ReportError, above=0)
        self._path = None if path is None else checked_path(path)
        self._cost = cost
        if path is None and not is_notebook():
            raise ReportError(
                "LivePlot: redraws its picture in a notebook, and this is none. Run it in Jupyter, or give a file, "
                "LivePlot(path='live.png'); progress=True shows a bar in a terminal."
            )
        self._begin()

    def _begin(self) -> None:
        self._moments: list[tuple[float, float]] = []
        self._last: Snapshot | None = None
        self._handle: Any = None
        self._next = 0.0
        self._is_drawn = False

    def __enter__(self) -> LivePlot:
        self._begin()
        return self

    def __call__(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and draw it if it is time."""
        self._last, self._is_drawn = snapshot, False
        self._moments.append((snapshot.num_passes, snapshot.hypervolume))
        if time.monotonic() >= self._next:
            self._show()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None and not self._is_drawn:
            self._show()

    def _show(self) -> None:
        assert self._last is not None
        start = time.monotonic()
        figure = draw_snapshot(self._last, self._moments, self._cost)
        if self._path is not None:
            finished(figure, self._path)
        if is_notebook():
            self._display(figure)
        end = time.monotonic()
        self._is_drawn = True
        self._next = end + max(self._every, (end - start) / _MOST_OF_THE_TIME)

    def _display(self, figure: Figure) -> None:
        shown = importlib.import_module("IPython.display")  # it is there: this is a notebook
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
        image = shown.Image(stream.getvalue())
        if self._handle is None:
            self._handle = shown.display(image, display_id=True)
        else:
            self._handle.update(image)


def is_notebook() -> bool:
    """Whether what is displayed is shown by a notebook, and not by a terminal or nobody."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and getattr(running, "kernel", None) is not None


def draw_snapshot(snapshot: Snapshot, moments: list[tuple[float, float]], cost: str | None = None) -> Figure:
    """The front of a snapshot, and the hypervolume over the (passes, hypervolume) of all until then."""
    front = snapshot.front
    figure = new_figure(_TALLNESS)
    left, right = figure.subplots(1, 2)
    if len(front):
        draw_pareto_front(pareto_front_record(front, cost), left)
    else:
        least = "" if front.min_accuracy is None else f"\n(min_accuracy {score_text(front.min_accuracy)})"
        left.set_axis_off()
        left.text(0.5, 0.5, f"no candidate meets what is asked yet{least}", ha="center", parse_math=False)
    passes, hypervolumes = zip(*moments, strict=True)
    unknown = tuple((name, math.nan) for name in (front.metric_name, *front.cost_names))
    draw_hypervolume(HypervolumeRecord(front.metric_name, passes, hypervolumes, unknown), right)
    figure.suptitle(
        f"{snapshot.num_evaluations:,} candidates, {snapshot.num_passes:,.0f} passes, {snapshot.seconds:,.0f} s",
        fontsize=11,
    )
    return figure_of(left)
