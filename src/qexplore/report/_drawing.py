"""The one door from a record to its picture: every kind of record has a drawing in each backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from qexplore._arguments import checked_name
from qexplore.errors import ReportError
from qexplore.report._canvas import finished
from qexplore.report._plotly import figure_of_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Backend = Literal["matplotlib", "plotly"]
Drawing = TypeVar("Drawing", bound=Callable[..., Any])
Path = str | os.PathLike[str] | None

_DRAWINGS: dict[tuple[str, type], Callable[..., Any]] = {}


def draws(kind: type, backend: Backend = "matplotlib") -> Callable[[Drawing], Drawing]:
    """Marks what draws records of that ``kind``: a figure of matplotlib in a panel, or a sheet for plotly."""

    def known(drawing: Drawing) -> Drawing:
        _DRAWINGS[backend, kind] = drawing
        return drawing

    return known


def drawn(record: object, path: Path, backend: Backend, ax: Axes | None) -> Any:
    """The figure of a record in that backend, also saved when there is a ``path``.

    ReportError when there is no such backend, or it takes no ``ax`` or no file of that suffix; MissingPackageError when
    it is not installed.
    """
    name = checked_name("backend", backend, tuple(_FIGURES), ReportError)
    return _FIGURES[name](_DRAWINGS[name, type(record)], record, path, ax)


def _in_matplotlib(drawing: Callable[..., Any], record: object, path: Path, ax: Axes | None) -> Any:
    return finished(drawing(record, ax), path)


def _in_plotly(drawing: Callable[..., Any], record: object, path: Path, ax: Axes | None) -> Any:
    if ax is not None:
        raise ReportError(
            f"ax: backend='plotly' draws a figure of its own and takes no panel of matplotlib's, got "
            f"{type(ax).__name__}. Leave ax= out, or draw with backend='matplotlib'."
        )
    return figure_of_sheet(drawing(record), path)


_FIGURES: dict[str, Callable[..., Any]] = {"matplotlib": _in_matplotlib, "plotly": _in_plotly}
