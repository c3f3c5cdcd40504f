"""What the drawings share: canvases of their own (pyplot is never touched), files, colours, labels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qexplore._arguments import made_folder
from qexplore._table import visible
from qexplore.errors import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

_SIZE_INCHES = (12.0, 8.0)
_DPI = 100
_SUFFIXES = (".png", ".svg", ".pdf")

# Okabe and Ito's palette, told apart with every common form of colour blindness (jfly.uni-koeln.de/color, 2008).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
COLOURS = (BLUE, ORANGE, PURPLE, "#E69F00", "#56B4E9", "black")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OFF_COLOUR = "#D9D9D9"

_MOST_ROW_LABELS = 48  # that fit into a picture of the usual height at the smallest font size
MOST_ROWS = 240
"""Up to here a picture grows with its rows, from here on labels are left out."""
_LONGEST_NAME = 34
_LONGEST_SUBTITLE = 112  # letters, in the usual size
LARGE = 2e4
_OWN_WIDTH, _LEAST_SCALE, _LEAST_LABEL = 9.3, 0.58, 7.5  # inches of a panel in a picture of its own; points
_ONE_COLUMN = 0.8  # the scale up to which a legend has one column
_BELOW = 40  # points from a panel down to its legend, past ticks and label


class Grid(NamedTuple):
    """Room for several panels: the figure they are added to, the cells, and the scale of letters over all of them."""

    figure: Any
    cells: Any
    scale: float


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """``figure``, also saved when there is a ``path``. ReportError when its suffix is of no picture."""
    if path is not None:
        target = checked_path(path)
        made_folder(target, ReportError)
        figure.savefig(target, dpi=_DPI)
    return figure


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of a picture. ReportError when its suffix is of none."""
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        page = " Pages, .html, are saved by pictures with backend='plotly'." if target.suffix.lower() == ".html" else ""
        raise ReportError(
            f"path: the suffix of a picture must be one of {', '.join(_SUFFIXES)}, got {target.suffix!r} in "
            f"{str(target)!r}. Rename the file, for example to {target.with_suffix('.png').name!r}.{page}"
        )
    return target


def new_figure(tallness: float = 1.0) -> Figure:
    """An empty picture of 1200 x 800 pixels, `tallness` times as high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _SIZE_INCHES
    figure = Figure(figsize=(width, height * tallness), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_of(ax: Axes | None, tallness: float = 1.0) -> Axes:
    """The user's panel, or the only one of a new picture. ReportError when it is no panel of matplotlib."""
    if ax is None:
        return new_figure(tallness).add_subplot()
    if not hasattr(ax, "transAxes"):
        hint = " Give one of them." if hasattr(ax, "__len__") else " `matplotlib.pyplot.subplots()` makes one."
        raise ReportError(f"ax: must be an Axes of matplotlib, got {type(ax).__name__}.{hint}")
    return ax


def grid_of(ax: Axes | None, rows: int, columns: int, tallness: float = 1.0, **options: Any) -> Grid:
    """Room for several panels: in a new picture, or in the place of the user's panel, which itself turns empty."""
    panel = panel_of(ax, tallness)
    cell = panel.get_subplotspec()
    if cell is None:
        raise ReportError(
            "ax: a picture of several panels needs an Axes in a grid, such as `matplotlib.pyplot.subplots()` makes, "
            "got one that was placed by hand."
        )
    grid = Grid(panel.figure, cell.subgridspec(rows, columns, **options), scale_of(panel))
    if ax is None:
        panel.remove()
    else:
        panel.set_axis_off()
    return grid


def figure_of(place: Axes) -> Figure:
    """The whole picture that a panel is in, where figures lie within figures."""
    figure: Figure = place.figure.figure
    return figure


def scale_of(axes: Axes) -> float:
    """Of letters: 1 in a picture of its own, less where the panel is narrower."""
    inches = axes.get_position().width * axes.figure.bbox.width / axes.figure.dpi
    return max(_LEAST_SCALE, min(1.0, inches / _OWN_WIDTH))


def set_titles(axes: Axes, title: str, subtitle: str, scale: float | None = None) -> None:
    """Write above the panel, from its left edge; in letters of that ``scale``, its own when None."""
    scale = scale_of(axes) if scale is None else scale
    lines = subtitle.split("\n") if subtitle else []
    pad = (12 + 20 * len(lines)) * scale
    axes.set_title(title, loc="left", fontsize=15 * scale, fontweight="bold", pad=pad, parse_math=False)
    if scale < 1:
        axes.tick_params(labelsize=max(_LEAST_LABEL, 10 * scale))
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(max(_LEAST_LABEL, 10 * scale))
    if subtitle:
        written = axes.annotate(
            subtitle,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 10 * scale),
            textcoords="offset points",
            fontsize=12 * scale * min(1.0, _LONGEST_SUBTITLE / max(map(len, lines))),
            parse_math=False,
        )
        written.set_in_layout(False)


def plain_legend(of: Axes | Figure, *entries: Any, **options: Any) -> Legend:
    """The legend of a panel or a figure without a frame, its text as it is: a dollar sign begins no formula."""
    legend: Legend = of.legend(*entries, frameon=False, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def legend_below(axes: Axes, ncols: int, *, gap: float = _BELOW, scale: float | None = None) -> Legend:
    """The legend under a panel, where no point can ever lie under it."""
    from matplotlib.transforms import ScaledTranslation

    scale = scale_of(axes) if scale is None else scale
    down = ScaledTranslation(0, -gap / 72, axes.figure.dpi_scale_trans)
    return plain_legend(
        axes,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes + down,
        ncols=ncols if scale > _ONE_COLUMN else 1,
        fontsize=max(_LEAST_LABEL, 10 * scale),
        borderaxespad=0,
    )


def tallness_of(num_rows: int) -> float:
    """How many times as high as usual a picture must be for a label beside every row, up to `MOST_ROWS` of them."""
    return max(1.0, min(num_rows, MOST_ROWS) / _MOST_ROW_LABELS)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a panel, at most `MOST_ROWS` of them."""
    rows = thinned(len(names), MOST_ROWS)
    axes.set_yticks(rows, [visible(names[row]) for row in rows], fontsize=label_size(len(rows)), parse_math=False)


def set_large_ticks(axis: Axis, largest: float) -> None:
    """Write the ticks of an axis of large numbers as 1.5 G instead of a power of ten in its corner."""
    from matplotlib.ticker import EngFormatter

    if largest >= LARGE:
        axis.set_major_formatter(EngFormatter())


def luminance(colour: Sequence[float]) -> float:
    """How bright a colour is, by the ITU-R BT.709 weights; 0 to 1."""
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def thinned(count: int, most: int) -> range:
    """Every so many places of ``count``, so that no more than ``most`` are left."""
    return range(0, count, -(-count // most))


def label_size(count: int) -> float:
    """Font size at which ``count`` labels fit beside each other."""
    return 11 if count <= 20 else 9 if count <= 32 else 7.5


def short_names(names: Sequence[str]) -> list[str]:
    """``names`` without what does not tell them apart, where they are long: numbers and the end of a name stay.

    Two names that would be shortened alike keep their first parts, or all of them.
    """
    for shorten in (_without_beginning, _without_middle):
        short = [shorten(name) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _without_beginning(name: str) -> str:
    return _shortened(name, first=0)


def _without_middle(name: str) -> str:
    return _shortened(name, first=1)


def _shortened(name: str, first: int) -> str:
    """``name`` without parts from the ``first`` on that hold no digit, as many as have to go; the last one stays."""
    parts = re.findall(r"[^._/]+[._/]*|[._/]+", name)
    length = len(name)
    dropped: set[int] = set()
    for place, part in enumerate(parts[:-1]):
        if length <= _LONGEST_NAME:
            break
        if place >= first and not any(map(str.isdigit, part)):
            length -= len(part) - (place - 1 not in dropped)
            dropped.add(place)
    kept = ["…" if place in dropped else part for place, part in enumerate(parts)]
    return re.sub("…+", "…", "".join(kept))
