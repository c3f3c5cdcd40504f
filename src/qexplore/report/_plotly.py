"""What the drawings in plotly share: sheets of panels in plotly's own words, which become figures at the end."""

from __future__ import annotations

import html
import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qexplore._arguments import made_folder
from qexplore._optional import import_optional
from qexplore._table import visible
from qexplore.errors import ReportError
from qexplore.front import choice_words
from qexplore.report._canvas import LARGE, MOST_ROWS, short_names, thinned

DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}

_HEIGHT, _ROW, _LINE = 660, 15, 19  # pixels: of a picture, of a row of names, of a line above or below it
_TOP, _BELOW = 60, 74  # pixels over the first panel, and from the last one down to the legend
_LEGEND_CHARACTERS, _TITLE_CHARACTERS, _HOVER_CHARACTERS = 90, 130, 110
_LISTED = 16  # widths that stand below each other; more stand beside each other
_SHADES = 32
NBSP = "\N{NO-BREAK SPACE}"

Span = tuple[float, float]
Trace = dict[str, Any]
Rows = Sequence[Sequence[Any]]


def plain(text: str) -> str:
    """``text`` as plotly is to write it: in a name begins no tag, no entity and no formula, and lines stay lines."""
    lines = text.replace(NBSP, " ").split("\n")
    return "<br>".join(html.escape(visible(line), quote=False).replace("$", "&#36;") for line in lines)


def hover(*lines: str) -> str:
    """What stands beside the mouse, line by line, without those that are empty."""
    return plain("\n".join(filter(None, lines)))


def widths_text(point_names: Sequence[str], num_bits: Sequence[int]) -> str:
    """Every point with its width, in full: below each other, many of them beside each other."""
    pieces = [f"{name}: {choice_words(code)}" for name, code in zip(point_names, num_bits, strict=True)]
    if len(pieces) <= _LISTED:
        return "\n".join(pieces)
    return _filled(", ".join(piece.replace(" ", NBSP) for piece in pieces), _HOVER_CHARACTERS)


def _filled(text: str, width: int) -> str:
    lines = text.split("\n")
    return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines)


class Panel:
    """A pair of axes on a sheet, and what is drawn over them."""

    def __init__(self, sheet: Sheet, number: int) -> None:
        self._sheet = sheet
        self._end = "" if number == 1 else str(number)

    @property
    def x(self) -> str:
        """Plotly's name of the horizontal axis."""
        return f"x{self._end}"

    @property
    def y(self) -> str:
        """Plotly's name of the vertical axis."""
        return f"y{self._end}"

    def add(
        self,
        x: Iterable[Any],
        y: Iterable[Any],
        *,
        name: str = "",
        text: Sequence[str] = (),
        labels: Sequence[str] = (),
        is_named: bool = True,
        **trace: Any,
    ) -> None:
        """Draw a trace.

        ``text`` is what the mouse shows, `labels` stand beside the points. The legend has its ``name``, unless that is
        empty or stands there already (`is_named`); it hides all that have it.
        """
        written = {"text": list(map(plain, labels))} if labels else {}
        self._sheet.traces.append(
            {
                "type": "scatter",
                "x": list(x),
                "y": list(y),
                "xaxis": self.x,
                "yaxis": self.y,
                "name": plain(_filled(name, _LEGEND_CHARACTERS)),
                "showlegend": bool(name) and is_named,
                "legendgroup": plain(name),
                "hoverinfo": "text" if text else "skip",
                **({"hovertext": list(text)} if text else {}),
                **written,
                **trace,
            }
        )

    def map(self, cells: Rows, texts: Rows, labels: Rows, colours: Trace) -> None:
        """Draw a heat map; ``texts`` are what the mouse shows, ``labels`` stand in the cells, where there are any."""
        written = {"text": labels, "texttemplate": "%{text}"} if labels else {}
        self._sheet.traces.append(
            {"type": "heatmap", "z": cells, "xaxis": self.x, "yaxis": self.y, "hovertext": texts, "hoverinfo": "text"}
            | {"xgap": 1, "ygap": 1, "hoverongaps": False, **written, **colours}
        )

    def level(
        self,
        value: float,
        name: str,
        colour: str,
        style: str,
        width: float = 1.5,
        *,
        upright: bool = False,
        is_named: bool = True,
    ) -> None:
        """A line across the panel, in the legend by its ``name``, unless that is empty or stands there already."""
        along, across = ("y", "x") if upright else ("x", "y")
        ends = {f"{along}0": 0, f"{along}1": 1, f"{across}0": value, f"{across}1": value}
        refs = {"x": self.x, "y": self.y}
        self._sheet.shapes.append(
            {
                "type": "line",
                "layer": "between",
                "name": plain(name),
                "showlegend": bool(name) and is_named,
                "legendgroup": plain(name),
                "line": {"color": colour, "dash": DASHES[style], "width": width},
                f"{along}ref": f"{refs[along]} domain",
                f"{across}ref": refs[across],
                **ends,
            }
        )

    def arrow(self, start: Span, end: Span, colour: str) -> None:
        """An arrow from one point to another."""
        self._sheet.notes.append(
            {"x": end[0], "y": end[1], "xref": self.x, "yref": self.y}
            | {"ax": start[0], "ay": start[1], "axref": self.x, "ayref": self.y}
            | {"text": "", "showarrow": True, "arrowhead": 2, "arrowwidth": 1.2, "arrowcolor": colour}
            | {"standoff": 6, "startstandoff": 6}
        )

    def write(self, text: str, place: Span) -> None:
        """Words to the left of a place, over what is drawn there."""
        self._sheet.notes.append(
            {"text": plain(text), "x": place[0], "y": place[1], "xref": self.x, "yref": self.y, "showarrow": False}
            | {"xanchor": "right", "borderpad": 0, "bgcolor": "rgba(255,255,255,0.75)", "font": {"size": 11}}
        )


class Sheet:
    """A picture as plotly describes it: panels, and the words around them."""

    def __init__(self, title: str, subtitle: str = "", *, num_rows: int = 0) -> None:
        lines = _filled(subtitle, _TITLE_CHARACTERS) if subtitle else ""
        self.traces: list[Trace] = []
        self.shapes: list[Trace] = []
        self.notes: list[Trace] = []
        self._num_panels = 0
        top = _TOP + _LINE * len(lines.splitlines())
        height = max(_HEIGHT, top + 2 * _BELOW + _ROW * min(num_rows, MOST_ROWS))
        self.layout: Trace = {
            "template": "plotly_white",
            "height": height,
            "margin": {"t": top, "l": 70, "r": 30, "b": _BELOW},
            "title": {
                "text": f"<b>{plain(title)}</b>",
                "subtitle": {"text": plain(lines)},
                "x": 0.0,
                "xref": "paper",
                "y": 1.0,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 16},
            },
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": "black", "size": 11}},
            "legend": {"orientation": "h", "x": 0, "y": -_BELOW / (height - top - _BELOW), "yanchor": "top"},
        }

    def panel(self, x: Trace, y: Trace, across: Span = (0, 1), up: Span = (0, 1)) -> Panel:
        """Axes in a part of the sheet, from 0 to 1 across and up; ``x`` and ``y`` are plotly's words for each."""
        self._num_panels += 1
        panel = Panel(self, self._num_panels)
        end = "" if self._num_panels == 1 else str(self._num_panels)
        self.layout[f"xaxis{end}"] = {"domain": across, "anchor": panel.y, "zeroline": False} | x
        self.layout[f"yaxis{end}"] = {"domain": up, "anchor": panel.x, "zeroline": False} | y
        return panel

    def note(self, panel: Panel, text: str) -> None:
        """Words over a panel, at its left edge."""
        self.notes.append(
            {"text": plain(text), "xref": f"{panel.x} domain", "yref": f"{panel.y} domain", "x": 0, "y": 1}
            | {"xanchor": "left", "yanchor": "bottom", "showarrow": False}
        )

    def described(self) -> Trace:
        """All of it, as ``plotly.graph_objects.Figure`` takes it."""
        return {"data": self.traces, "layout": self.layout | {"shapes": self.shapes, "annotations": self.notes}}


def axis(title: str = "", largest: float | None = None, **options: Any) -> Trace:
    """An axis with its words; of numbers up to ``largest``, which are written as 1.5 M where they are large."""
    numbers = {} if largest is None else {"exponentformat": "SI" if largest >= LARGE else "none"}
    return {"title": {"text": plain(title)}, "separatethousands": True} | numbers | options


def rows_axis(names: Sequence[str], title: str, **options: Any) -> Trace:
    """An axis of named rows, the first on top."""
    rows = thinned(len(names), MOST_ROWS)
    texts = [plain(names[row]) for row in rows]
    ticks: Trace = {"tickvals": list(rows), "ticktext": texts, "tickfont": {"size": 10}, "automargin": True}
    return axis(title, range=[len(names) - 0.4, -0.6], showgrid=False, **ticks) | options


def short_row_names(names: Sequence[str]) -> list[str]:
    """Names of rows as they stand on an axis."""
    return short_names(list(map(visible, names)))


def shades(name: str, low: float = 0.0, high: float = 1.0) -> list[list[Any]]:
    """A scale of matplotlib's colours, or a part of it, as plotly takes it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = [step / (_SHADES - 1) for step in range(_SHADES)]
    return [[step, to_hex(colormaps[name](low + step * (high - low)))] for step in steps]


def bar_of(title: str, **options: Any) -> Trace:
    """A bar of colours with its words beside it."""
    return {"title": {"text": plain(title), "side": "right"}, "thickness": 16, "outlinewidth": 0} | options


def line(colour: str, style: str = "-", width: float = 2.0, *, steps: bool = True) -> Trace:
    """A line; in steps it keeps its height up to the next point."""
    return {"color": colour, "dash": DASHES[style], "width": width, "shape": "hv" if steps else "linear"}


def bars(values: Sequence[float], intervals: Sequence[Span | None], colour: str) -> Trace:
    """The bars of intervals around ``values``, where they are known."""
    if not any(intervals):
        return {}
    ends = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    # An interval need not hold its score (a bootstrap's may not); a negative length is no bar.
    above = [max(high - value, 0) for value, (_, high) in zip(values, ends, strict=True)]
    below = [max(value - low, 0) for value, (low, _) in zip(values, ends, strict=True)]
    style = {"color": faint(colour, 0.45), "thickness": 1, "width": 3}
    return {"error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below} | style}


def faint(colour: str, share: float = 0.18) -> str:
    """A colour, "#0072B2" or "black", that lets through what is below it."""
    from matplotlib.colors import to_rgb

    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return f"rgba({red},{green},{blue},{share})"


def finite(values: Iterable[float | None]) -> list[float | None]:
    """``values`` without what has no place in a picture."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def figure_of_sheet(sheet: Sheet, path: str | os.PathLike[str] | None = None) -> Any:
    """The figure of plotly, also written as a page of its own when there is a ``path``.

    MissingPackageError when plotly is not installed, ReportError when the suffix is not that of a page.
    """
    objects = import_optional("plotly.graph_objects", extra="report", purpose="A picture with backend='plotly'")
    figure = objects.Figure(sheet.described())
    if path is not None:
        target = _checked_page(path)
        made_folder(target, ReportError)
        figure.write_html(target)
    return figure


def _checked_page(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".html":
        raise ReportError(
            f"path: backend='plotly' saves a page, whose suffix must be .html, got {target.suffix!r} in "
            f"{str(target)!r}. Rename the file, or save a still picture with backend='matplotlib'."
        )
    return target
