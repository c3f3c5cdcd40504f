"""Tables: text aligned for people, the same cells as HTML for notebooks, CSV for spreadsheets, frames for pandas."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, NamedTuple

from qexplore._optional import import_optional

Rows = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""Names of columns, and rows of plain values."""


class _Written(NamedTuple):
    """A table and the text it became."""

    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Collection[int]


_SHOWN = 5
"""Rows at either end of a short table."""

_WRITTEN: ContextVar[list[_Written] | None] = ContextVar("written", default=None)
"""Gathers the tables of a text while it is put together; None while nobody asks."""


class Tabular:
    """What prints as text with tables in it; a notebook shows the same words and cells as HTML, everything escaped."""

    def _repr_html_(self) -> str:
        gathered: list[_Written] = []
        token = _WRITTEN.set(gathered)
        try:
            text = str(self)
        finally:
            _WRITTEN.reset(token)
        return "\n".join(_html_pieces(text, gathered))


class Framed(Tabular):
    """What has its rows as a pandas frame too."""

    def _frame_rows(self) -> Rows:
        """Names of the columns, and the rows."""
        raise NotImplementedError

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame: numbers as numbers, NaN or None where one is not known.

        A column of the name of another one before it gets " (2)" behind its name. Needs the extra ``frames``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        pandas = import_optional("pandas", extra="frames", purpose="A frame")
        header, rows = self._frame_rows()
        names: list[str] = []
        for name in header:
            told, number = name, 2
            while told in names:
                told, number = f"{name} ({number})", number + 1
            names.append(told)
        return pandas.DataFrame(list(map(tuple, rows)), columns=names)


def visible(text: str) -> str:
    """``text`` with escapes in the place of what moves a cursor, colours a terminal or turns writing around."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def counted(count: int, thing: str, things: str = "") -> str:
    """Such as "1 layer" and "2 layers"; ``things`` where an s does not make many of one."""
    return f"{count} {thing if count == 1 else things or f'{thing}s'}"


def record_rows(kind: type, records: Iterable[Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Field names of a dataclass, and the values of each of its ``records``."""
    names = [field.name for field in fields(kind)]
    return names, [tuple(getattr(record, name) for name in names) for record in records]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Collection[int] = ()) -> str:
    """``rows`` under ``header``, columns aligned: the ``numeric`` ones to the right, the others to the left."""
    header, rows = [visible(cell) for cell in header], [[visible(cell) for cell in row] for row in rows]
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if index in numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    text = "\n".join([line(header), "  ".join("-" * width for width in widths).rstrip(), *map(line, rows)])
    gathered = _WRITTEN.get()
    if gathered is not None:
        gathered.append(_Written(text, header, rows, numeric))
    return text


def short_table(
    header: Sequence[str], count: int, row: Callable[[int], Sequence[str]], *, numeric: Collection[int] = ()
) -> str:
    """As `text_table`, ``row`` giving each of ``count`` rows by its place; of many the first and the last only."""
    if count <= 2 * _SHOWN:
        return text_table(header, [row(place) for place in range(count)], numeric=numeric)
    first, last = ([row(place) for place in places] for places in (range(_SHOWN), range(count - _SHOWN, count)))
    return text_table(header, [*first, ["…"] * len(header), *last], numeric=numeric)


def _html_pieces(text: str, tables: Iterable[_Written]) -> Iterable[str]:
    """The text before each table, and the table."""
    for table in tables:
        before, found, after = text.partition(table.text)
        if found:
            yield from (_html_text(before), _html_table(table))
            text = after
    yield _html_text(text)


def _html_text(text: str) -> str:
    lines = html.escape(text.strip("\n"))
    return f'<div style="white-space: pre-wrap">{lines}</div>' if lines else ""


def _html_table(table: _Written) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        sides = ("right" if column in table.numeric else "left" for column in range(len(cells)))
        told = (
            f'<{kind} style="text-align: {side}; white-space: pre">{html.escape(cell)}</{kind}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(told)}</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    # A long table scrolls, so that the notebook does not.
    head = f"<thead>{row(table.header, 'th')}</thead>"
    return f'<div style="max-height: 32em; overflow: auto"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """``rows`` under ``header``, comma-separated, one line each; a value that is not known (NaN) is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_csv_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return ""
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
