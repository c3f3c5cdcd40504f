"""Labels beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels
Label = tuple[float, float, str, str]  # x, y, text, colour

# Of a letter, as shares of the font's size: mean width, and height with the room between lines.
_LETTER_WIDTH, _LETTER_HEIGHT = 0.74, 1.15
_MARKER = 5.0  # half a marker's width, in pixels
_STROKE = 2.0  # half a line's width, in pixels
_MOST_COVERED = 0.25  # of a label's area
_GAP = 8.0
_MOST_TRIES = 8
_NEAR = 6  # places at the point itself


def label_points(
    axes: Axes,
    labels: Sequence[Label],
    others: Sequence[tuple[float, float]],
    *,
    size: float,
    below: bool,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    levels: Sequence[float] = (),
) -> None:
    """Write each label near its point, preferably `below` it, or above; where there is no room for one it is left out.

    `others` are points not to be covered, `lines` and the level ones at the heights `levels` are not to strike a label
    through. Call it when all is drawn: it needs the axes' limits.
    """
    limits = axes.get_xlim(), axes.get_ylim()
    pixels = size * axes.figure.dpi / 72
    places = axes.transData.transform([(x, y) for x, y, *_ in labels] + list(others)) if labels else np.zeros((0, 2))
    taken = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in places.tolist()]
    taken += [box for line in lines for box in _along(axes, line)]
    taken += [_level(axes, height) for height in levels]
    for (x, y, text, colour), place in zip(labels, places.tolist(), strict=False):
        width, height = _LETTER_WIDTH * pixels * len(text), _LETTER_HEIGHT * pixels
        offsets = list(_offsets(width, height, below))
        boxes = [_box(place, offset, width, height) for offset in offsets]
        covered = [_overlap(box, taken) + _outside(box, tuple(axes.bbox.extents)) for box in boxes]
        best = int(np.argmin(covered))
        if covered[best] > _MOST_COVERED * width * height:
            continue
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


def _along(axes: Axes, line: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Small boxes along a line of straight pieces."""
    ends = axes.transData.transform(line) if len(line) else np.zeros((0, 2))
    for start, end in zip(ends, ends[1:], strict=False):
        count = 1 + int(np.abs(end - start).max() / (2 * _STROKE))
        for x, y in np.linspace(start, end, count).tolist():
            yield x - _STROKE, y - _STROKE, x + _STROKE, y + _STROKE


def _level(axes: Axes, height: float) -> Box:
    left, _, right, _ = axes.bbox.extents
    y = float(axes.transData.transform((0.0, height))[1])
    return left, y - _STROKE, right, y + _STROKE


def _offsets(width: float, height: float, below: bool) -> Iterator[tuple[float, float]]:
    """Places of a label's lower left corner around its point, the best first: right, left, then farther away."""
    for step in range(_MOST_TRIES):
        away = _GAP / 2 + step * height
        for side in (-away - height, away) if below else (away, -away - height):
            yield (_GAP, side)
            yield (-_GAP - width, side)
            yield (-width / 2, side)


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
