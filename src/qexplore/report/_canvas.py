"""What the drawings share: canvases of their own (pyplot is never touched), files, colours, labels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
OFF_COLOUR = "#D9D9D9"

_MOST_ROW_LABELS = 48  # that fit into a picture of the usual height at the smallest font size
MOST_ROWS = 240
"""Up to here a picture grows with its rows, from here on labels are left out."""
_LONGEST_NAME = 34
_LONGEST_SUBTITLE = 112  # letters, in the usual size
_LARGE = 2e4


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """``figure``, also saved when there is a ``path``. ReportError when its suffix is of no picture."""
    if path is not None:
        target = _checked_path(path)
        made_folder(target, ReportError)
        figure.savefig(target, dpi=_DPI)
    return figure


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ReportError(
            f"path: the suffix of a picture must be one of {', '.join(_SUFFIXES)}, got {target.suffix!r} in "
            f"{str(target)!r}. Rename the file, for example to {target.with_suffix('.png').name!r}."
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


def new_picture(tallness: float = 1.0) -> tuple[Figure, Axes]:
    """A picture of one panel."""
    figure = new_figure(tallness)
    return figure, figure.add_subplot()


def set_titles(axes: Axes, title: str, subtitle: str) -> None:
    """Write above the panel, from its left edge."""
    axes.set_title(title, loc="left", fontsize=15, fontweight="bold", pad=32 if subtitle else 12, parse_math=False)
    if subtitle:
        written = axes.annotate(
            subtitle,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 10),
            textcoords="offset points",
            fontsize=12 * min(1.0, _LONGEST_SUBTITLE / len(subtitle)),
            parse_math=False,
        )
        written.set_in_layout(False)


def plain_legend(of: Axes | Figure, *entries: Any, **options: Any) -> Legend:
    """The legend of a panel or a figure without a frame, its text as it is: a dollar sign begins no formula."""
    legend: Legend = of.legend(*entries, frameon=False, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


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

    if largest >= _LARGE:
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
