"""The picture of what stands at every quantization point along a front.

Shape letters: K front members, L quantization points.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore._choices import choice_name, is_float_code
from qexplore.front import by_stored_bits, score_text
from qexplore.report._canvas import (
    MOST_ROWS,
    OFF_COLOUR,
    figure_of,
    label_rows,
    label_size,
    luminance,
    panel_of,
    set_titles,
    short_names,
    tallness_of,
    thinned,
)
from qexplore.report._drawing import Backend, drawn, draws
from qexplore.report._fronts import by_cost, drawable_front
from qexplore.report._wording import amount_text, choices_axis, cost_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from qexplore.report._sources import Source

Colour = tuple[float, ...]

MOST_COLUMN_LABELS = 48
# Letters that fit beside each other into the cells of a row, in points: at 7 points about 120 of them.
_ROW_OF_LETTERS = 840
_LEAST_TEXT = 5.5


@dataclass(frozen=True)
class NumBitsRecord:
    """Codes of choices as a picture, `num_bits[l][k]`: L rows in the order of the points, K columns, cheap ones first.

    `cost` are the K first costs.
    """

    metric_name: str
    cost_name: str
    point_names: tuple[str, ...]
    cost: tuple[float, ...]
    accuracy: tuple[float, ...]
    num_bits: tuple[tuple[int, ...], ...]

    @property
    def title(self) -> str:
        """Above the picture."""
        return "num_bits of each quantization point over the front"

    @property
    def axes(self) -> tuple[str, str]:
        """Beside the horizontal and the vertical axis."""
        words = f"{cost_words(self.cost_name)} | {self.metric_name} on the search set"
        return f"front members from cheap to costly: {words}", "quantization points in order"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the K columns."""
        pairs = zip(self.cost, self.accuracy, strict=True)
        return tuple(f"{amount_text(cost)} | {score_text(score)}" for cost, score in pairs)

    @property
    def levels(self) -> tuple[int, ...]:
        """The codes of the colour scale: widths without gaps and the formats that occur, upwards by stored bits.

        0 (off) is the last, because off is the most precise.
        """
        present = {code for row in self.num_bits for code in row}
        widths = {code for code in present if code and not is_float_code(code)}
        return tuple(by_stored_bits(present | (set(range(min(widths), max(widths) + 1)) if widths else set())))


def plot_num_bits(
    source: Source,
    path: str | os.PathLike[str] | None = None,
    *,
    ax: Axes | None = None,
    backend: Backend = "matplotlib",
) -> Any:
    """Draw the width or format of every quantization point for every front member as a heat map.

    `ax` is the panel to draw in, a new picture when None. `path` saves it, by its suffix as PNG, SVG or
    PDF.
    `backend="plotly"` gives a figure of plotly instead, to look
    into with the mouse (extra `report`), without `ax`, and saved as HTML.
    ReportError when the front is empty or the suffix is another.
    """
    return drawn(num_bits_record(source), path, backend, ax)


def num_bits_record(source: Source) -> NumBitsRecord:
    """The record of what stands at the points of each front member. ReportError when the front is empty."""
    front = drawable_front("plot_num_bits", source)
    name = front.cost_names[0]
    points = by_cost(front, name)
    return NumBitsRecord(
        metric_name=front.metric_name,
        cost_name=name,
        point_names=front.point_names,
        cost=tuple(point.costs[name] for point in points),
        accuracy=tuple(point.accuracy for point in points),
        num_bits=tuple(zip(*(point.num_bits for point in points), strict=True)),
    )


@draws(NumBitsRecord)
def draw_num_bits(record: NumBitsRecord, ax: Axes | None = None) -> Figure:
    """The heat map of choices: 1200 x 800 pixels, taller when there are many rows."""
    axes = panel_of(ax, tallness_of(len(record.point_names)))
    image = _draw_cells(axes, record)
    _write_cells(axes, record)
    label_rows(axes, short_names(record.point_names))
    columns = thinned(len(record.cost), MOST_COLUMN_LABELS)
    axes.set_xticks(columns, [record.columns[k] for k in columns], rotation=90, fontsize=label_size(len(columns)))
    across, up = record.axes
    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(up)
    set_titles(axes, record.title, "")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=range(len(record.levels)))
    bar.set_label(choices_axis(record.levels))
    bar.set_ticklabels([choice_name(level) for level in record.levels])
    bar.ax.tick_params(length=0)
    return figure_of(axes)


def _draw_cells(axes: Axes, record: NumBitsRecord) -> AxesImage:
    from matplotlib.colors import ListedColormap

    position = {level: index for index, level in enumerate(record.levels)}
    cells = np.array([[position[code] for code in row] for row in record.num_bits])
    colours = ListedColormap(level_colours(record.levels))
    image = axes.imshow(cells, cmap=colours, vmin=-0.5, vmax=len(record.levels) - 0.5, aspect="auto")
    # White lines between the cells instead of ticks.
    axes.set_xticks(np.arange(0.5, cells.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, cells.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    return image


def _write_cells(axes: Axes, record: NumBitsRecord) -> None:
    """Write each choice into its cell, unless the cells are too small to hold it."""
    names = {level: choice_name(level) for level in record.levels}
    if not (size := text_size(record)):
        return
    colours = dict(zip(record.levels, level_colours(record.levels), strict=True))
    for row, codes in enumerate(record.num_bits):
        for column, code in enumerate(codes):
            ink = "black" if luminance(colours[code]) > 0.4 else "white"
            axes.text(column, row, names[code], ha="center", va="center", color=ink, fontsize=size)


def text_size(record: NumBitsRecord) -> float:
    """Of the choices in their cells, in points; 0 where the cells are too small to hold them."""
    letters = max(3, *(len(choice_name(level)) for level in record.levels))
    size = min(label_size(len(record.point_names)), _ROW_OF_LETTERS / (len(record.cost) * letters))
    return size if len(record.point_names) <= MOST_ROWS and size >= _LEAST_TEXT else 0


def level_colours(levels: Sequence[int]) -> list[Colour]:
    """A colour for each level, from dark (few bits) to light (many).

    Widths take viridis, which is even in grey and for the colour-blind; float formats take reds, off is grey.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    formats = [level for level in levels if is_float_code(level)]
    widths = [level for level in levels if level and not is_float_code(level)]
    shades: dict[int, Colour] = {0: to_rgba(OFF_COLOUR)}
    for codes, name, ends in ((widths, "viridis", (0.05, 0.97)), (formats, "Reds_r", (0.05, 0.75))):
        scale = colormaps[name](np.linspace(*ends, len(codes)))
        shades |= {code: tuple(map(float, shade)) for code, shade in zip(codes, scale, strict=True)}
    return [shades[level] for level in levels]
