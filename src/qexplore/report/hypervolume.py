"""The picture of a search's progress: the hypervolume of its front over the evaluations it took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.report._canvas import BLUE, finished, new_picture, set_large_ticks, set_titles
from qexplore.report._fronts import drawable_front
from qexplore.report._wording import cost_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qexplore.exploration import Exploration

_MOST_MARKERS = 60  # on the curve
_HEAD_ROOM = 0.05


@dataclass(frozen=True)
class HypervolumeRecord:
    """Hypervolume over the evaluations it took; `reference_point` names each value, as in (("accuracy", 0.88), ...)."""

    metric_name: str
    num_evaluations: tuple[float, ...]
    hypervolume: tuple[float, ...]
    reference_point: tuple[tuple[str, float], ...]


def plot_hypervolume(
    exploration: Exploration,
    path: str | os.PathLike[str] | None = None,
    *,
    reference_point: Sequence[float] | None = None,
) -> Figure:
    """Draw the hypervolume of the front over the evaluations that the search has spent.

    It is measured against `reference_point` = (accuracy, cost of each), the search's own when None. `path` saves it, by
    its suffix as PNG, SVG or PDF. ReportError when the front is empty or the suffix is another, FrontError when the
    reference point is not 1 + C finite numbers.
    """
    return finished(draw_hypervolume(hypervolume_record(exploration, reference_point)), path)


def hypervolume_record(exploration: Exploration, reference_point: Sequence[float] | None = None) -> HypervolumeRecord:
    """The record of a search's progress, measured against `reference_point` instead of the search's own if given.

    ReportError when its front or its history is empty, FrontError when the reference point is not 1 + C finite numbers.
    """
    owner = "plot_hypervolume"
    if isinstance(exploration, Front):
        raise ReportError(
            f"{owner}: needs an Exploration, got a Front, which has no history. Give what explore returned."
        )
    front = drawable_front(owner, exploration)
    history = exploration.history
    if not history:
        raise ReportError(f"{owner}: there is nothing to draw, the history of this exploration is empty.")
    reference = exploration.reference_point if reference_point is None else tuple(reference_point)
    volumes = [
        snapshot.hypervolume if reference_point is None else snapshot.front.hypervolume(reference)
        for snapshot in history
    ]
    return HypervolumeRecord(
        metric_name=front.metric_name,
        num_evaluations=tuple(snapshot.num_passes for snapshot in history),
        hypervolume=tuple(map(float, volumes)),
        reference_point=tuple(zip((front.metric_name, *front.cost_names), map(float, reference), strict=True)),
    )


def draw_hypervolume(record: HypervolumeRecord) -> Figure:
    """The step curve of a search's progress."""
    figure, axes = new_picture()
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
    axes.set_xlabel("evaluations (full passes over the search set)")
    units = " x ".join([record.metric_name, *(cost_words(name) for name, _ in record.reference_point[1:])])
    axes.set_ylabel(f"hypervolume ({units})", parse_math=False)
    reference = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in record.reference_point)
    set_large_ticks(axes.yaxis, max(record.hypervolume))
    set_titles(axes, "Hypervolume of the front over the search", f"reference point: {reference}")
    axes.grid(alpha=0.3)
    return figure
