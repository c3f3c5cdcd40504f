"""Labels beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels

# Of a letter, as shares of the font's size: mean width, and height with the room between lines.
_LETTER_WIDTH, _LETTER_HEIGHT = 0.74, 1.15
_MARKER = 5.0  # half a marker's width, in pixels
_GAP = 8.0
_MOST_TRIES = 8
_NEAR = 4  # places at the point itself


def label_points(
    axes: Axes,
    labels: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]],
    *,
    colour: str,
    size: float,
    below: bool,
) -> None:
    """Write each (x, y, text) near its point, preferably `below` it, or above; `others` are points not to be covered.

    Call it when all is drawn: it needs the axes' limits.
    """
    limits = axes.get_xlim(), axes.get_ylim()
    pixels = size * axes.figure.dpi / 72
    places = axes.transData.transform([(x, y) for x, y, _ in labels] + list(others)) if labels else np.zeros((0, 2))
    taken = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in places.tolist()]
    for (x, y, text), place in zip(labels, places.tolist(), strict=False):
        width, height = _LETTER_WIDTH * pixels * len(text), _LETTER_HEIGHT * pixels
        offsets = list(_offsets(width, height, below))
        boxes = [_box(place, offset, width, height) for offset in offsets]
        best = int(np.argmin([_overlap(box, taken) + _outside(box, tuple(axes.bbox.extents)) for box in boxes]))
        taken.append(boxes[best])
        dx, dy = offsets[best]
        to_points = 72 / axes.figure.dpi
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            text,
            (x, y),
            xytext=(dx * to_points, dy * to_points),
            textcoords="offset points",
            ha="left",
            va="bottom",
            color=colour,
            fontsize=size,
            annotation_clip=True,
            # A line back to the point for a label that had to move away from it.
            arrowprops=leader if best >= _NEAR else None,
            zorder=8,
        )
    axes.set(xlim=limits[0], ylim=limits[1])


def _offsets(width: float, height: float, below: bool) -> Iterator[tuple[float, float]]:
    """Places of a label's lower left corner around its point, the best first: right, left, then farther away."""
    for step in range(_MOST_TRIES):
        away = _GAP / 2 + step * height
        for side in (-away - height, away) if below else (away, -away - height):
            yield (_GAP, side)
            yield (-_GAP - width, side)


def _box(place: Sequence[float], offset: tuple[float, float], width: float, height: float) -> Box:
    left, bottom = place[0] + offset[0], place[1] + offset[1]
    return left, bottom, left + width, bottom + height


def _outside(box: Box, panel: Sequence[float]) -> float:
    """Area of `box` beyond the panel, in square pixels."""
    width = min(box[2], panel[2]) - max(box[0], panel[0])
    height = min(box[3], panel[3]) - max(box[1], panel[1])
    return (box[2] - box[0]) * (box[3] - box[1]) - max(width, 0.0) * max(height, 0.0)


def _overlap(box: Box, taken: Sequence[Box]) -> float:
    """Area of `box` that is taken, in square pixels."""
    boxes = np.array(taken).reshape(-1, 4)
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    return float((width.clip(0) * height.clip(0)).sum())
