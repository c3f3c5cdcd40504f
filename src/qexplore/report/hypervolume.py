"""The picture of a search's progress: the hypervolume of its front over the evaluations it took."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexplore.errors import ReportError
from qexplore.report._canvas import BLUE, figure_of, panel_of, set_large_ticks, set_titles
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._progress import progress_of
from qexplore.report._wording import cost_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qexplore.report._sources import Source

_MOST_MARKERS = 60  # on the curve
_HEAD_ROOM = 0.05


@dataclass(frozen=True)
class HypervolumeRecord:
    """Hypervolume over the evaluations it took.

    `reference_point` names each value, as in (("accuracy", 0.88), ...); values are NaN where they are not known.
    """

    metric_name: str
    num_evaluations: tuple[float, ...]
    hypervolume: tuple[float, ...]
    reference_point: tuple[tuple[str, float], ...]

    @property
    def title(self) -> str:
        """Above the picture."""
        return "Hypervolume of the front over the search"

    @property
    def subtitle(self) -> str:
        """Below the title: the reference point, where it is known."""
        values = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in self.reference_point)
        is_known = all(math.isfinite(value) for _, value in self.reference_point)
        return f"reference point: {values}" if is_known else ""

    @property
    def axes(self) -> tuple[str, str]:
        """Beside the horizontal and the vertical axis."""
        units = " x ".join(
            [f"{self.metric_name} on the search set", *(cost_words(name) for name, _ in self.reference_point[1:])]
        )
        return "evaluations (full passes over the search set)", f"hypervolume ({units})"


def plot_hypervolume(
    exploration: Source,
    path: str | os.PathLike[str] | None = None,
    *,
    reference_point: Sequence[float] | None = None,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw the hypervolume of the front over the evaluations that the search has spent.

    It is measured against `reference_point` = (accuracy, cost of each), the search's own when None. `ax` is the panel
    to draw in, a new picture when None. `path` saves it, by its suffix as PNG, SVG or PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when the front is empty or the suffix is another, FrontError when the reference point is not 1 + C
    finite numbers.
    """
    return drawn(hypervolume_record(exploration, reference_point), path, backend, ax)


def hypervolume_record(exploration: Source, reference_point: Sequence[float] | None = None) -> HypervolumeRecord:
    """The record of a search's progress, measured against `reference_point` instead of the search's own if given.

    ReportError when its front or its history is empty, FrontError when the reference point is not 1 + C finite numbers.
    """
    owner = "plot_hypervolume"
    progress = progress_of(owner, exploration)
    front = progress.fronts[-1]
    reference = progress.reference_point if reference_point is None else tuple(reference_point)
    if not len(front) or reference is None:
        raise ReportError(f"{owner}: there is nothing to draw, the search had found no point.")
    volumes = progress.hypervolume
    if reference_point is not None:
        volumes = tuple(one.hypervolume(reference) for one in progress.fronts)
    return HypervolumeRecord(
        metric_name=front.metric_name,
        num_evaluations=progress.passes_at,
        hypervolume=volumes,
        reference_point=tuple(zip((front.metric_name, *front.cost_names), map(float, reference), strict=True)),
    )


@draws(HypervolumeRecord)
def draw_hypervolume(record: HypervolumeRecord, ax: Axes | None = None) -> Figure:
    """The step curve of a search's progress."""
    axes = panel_of(ax)
    marker = "o" if len(record.hypervolume) <= _MOST_MARKERS else ""
    axes.step(
        record.num_evaluations,
        record.hypervolume,
        where="post",
        color=BLUE,
        linewidth=2,
        marker=marker,
        markersize=5,
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(record.hypervolume) * (1 + _HEAD_ROOM) or 1)
    across, up = record.axes
    axes.set_xlabel(across)
    axes.set_ylabel(up, parse_math=False)
    set_large_ticks(axes.yaxis, max(record.hypervolume))
    set_titles(axes, record.title, record.subtitle)
    axes.grid(alpha=0.3)
    return figure_of(axes)
