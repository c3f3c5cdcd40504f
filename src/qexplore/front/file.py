"""How a front leaves the process and comes back: its JSON file and its CSV text."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from qexplore._arguments import made_folder
from qexplore._choices import choice_name, is_float_code
from qexplore._table import Rows, csv_table
from qexplore.errors import FrontError, FrontFileError, MissingFrontFileError
from qexplore.front.arrays import FrontArrays, FurtherMetric

_FORMAT = "qexplore-front"
# Version 1 knew widths only: its readers took the code of a float format for a width. Version 2 names the formats.
# Version 3 holds the scores of further metrics. Version 4 holds the uniform candidates, with what was measured of them
# and of the float network on the report set, and why an empty front is empty. Version 5 holds how these candidates
# differ from each other there, and which limits they break. Version 6 says which arithmetic it was measured in.
# Version 7 holds the fingerprint of the model. Version 8 says which share of it a search has at points.
_VERSION = 8
_FIELDS = tuple(field.name for field in fields(FrontArrays) if field.compare)  # one more needs a new version
_SINCE = {
    **dict.fromkeys(("further", "further_scores", "report_further_scores"), 3),
    **dict.fromkeys(
        ("report_float_accuracy", "report_from_float", "uniform", "report_from_uniform", "empty_because"), 4
    ),
    **dict.fromkeys(("report_between", "broken_limits"), 5),
    "arithmetic": 6,
    "fingerprint": 7,
    "coverage": 8,
}
# JSON has no NaN: in these fields, where NaN means "not known", null stands for it.
_UNKNOWN_ALLOWED = (
    "interval",
    "report_accuracy",
    "report_interval",
    "further_scores",
    "report_further_scores",
    "report_from_float",
    "report_from_uniform",
    "report_between",
)


def to_json(front: FrontArrays) -> str:
    """The front as JSON text, one field a line; Python's shortest float text reads back to the same bits."""
    codes = np.unique(front.num_bits if front.uniform is None else [*front.num_bits, *front.uniform.num_bits])
    formats = {str(code): choice_name(code) for code in codes.tolist() if is_float_code(code)}
    entries: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "formats": formats, **_entries(front)}
    lines = (f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _entries(front: FrontArrays) -> dict[str, Any]:
    entries = {name: _plain(getattr(front, name)) for name in _FIELDS}
    uniform = None if front.uniform is None else _entries(front.uniform)
    fingerprint = None if front.fingerprint is None else asdict(front.fingerprint)
    coverage = None if front.coverage is None else asdict(front.coverage)
    records = {"further": list(map(asdict, front.further)), "fingerprint": fingerprint, "coverage": coverage}
    return entries | records | {"uniform": uniform}


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` so that a crash leaves the old file or the new one, never half of one.

    FrontFileError when `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise FrontFileError(f"'{os.fspath(path)}' is a folder, and a file is to be written: name one in it")
    made_folder(target, MissingFrontFileError)
    # In the same folder, because os.replace is atomic within one file system only.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The constructor's fields from a front file; their values are checked by the constructor. So are `uniform`'s own.

    MissingFrontFileError when there is no file. FrontFileError when it is no JSON, no front, of a newer version, lacks
    a field or names no format for a code.
    """
    shown = f"Front file {os.fspath(path)!r}"
    try:
        return fields_of(shown, Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFrontFileError(f"{shown} does not exist. Give a file written by Front.save.") from error
    except IsADirectoryError as error:
        raise FrontFileError(f"{shown} is a folder. Give a file written by Front.save.") from error
    except UnicodeDecodeError as error:
        raise FrontFileError(f"{shown} must be JSON, got: {error}. Give a file written by Front.save.") from error


def fields_of(shown: str, text: str) -> dict[str, Any]:
    """The same from the text of a file."""
    try:
        entries = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FrontFileError(f"{shown} must be JSON, got: {error}. Give a file written by Front.save.") from error
    found = entries.get("format") if isinstance(entries, dict) else None
    if found != _FORMAT:
        raise FrontFileError(
            f"{shown} must hold the format {_FORMAT!r}, got {found!r}. Give a file written by Front.save."
        )
    _check_version(shown, entries.get("version"))
    formats = {} if entries["version"] == 1 else entries.get("formats")
    return _fields(shown, entries, entries["version"], formats)


def _fields(shown: str, entries: dict[str, Any], version: int, formats: Any) -> dict[str, Any]:
    names = [name for name in _FIELDS if version >= _SINCE.get(name, 1)]
    missing = [name for name in names if name not in entries]
    if missing:
        raise FrontFileError(f"{shown} must hold every field of a front, {missing} missing. Save the front again.")
    _check_formats(shown, entries["num_bits"], formats)
    known = {name: _with_unknown(name, entries[name]) for name in names}
    uniform = known.get("uniform")
    if isinstance(uniform, dict):
        known["uniform"] = _fields(f"{shown}, uniform,", uniform, version, formats)
    return known | {"further": _further(shown, known.get("further", []))}


def to_csv(front: FrontArrays) -> str:
    """Header and one line a point, comma-separated; a value that is not known is an empty cell."""
    return csv_table(*table_rows(front))


def table_rows(front: FrontArrays) -> Rows:
    """Names of the columns, and a row a point: scores, costs, and what stands at each quantization point.

    A width is a number, 0 is off, a float format is its name.
    """
    columns: dict[str, list[Any]] = {"index": list(range(len(front)))}
    for name, scores, interval in front.scores("report_"):
        columns[name] = scores.tolist()
        if interval is not None:
            columns |= {f"{name}_low": interval[:, 0].tolist(), f"{name}_high": interval[:, 1].tolist()}
    if front.report_change is not None:
        columns["report_from_float"] = front.report_change.tolist()
        if front.report_from_float is not None:
            low, high = front.report_from_float.T.tolist()
            columns |= {"report_from_float_low": low, "report_from_float_high": high}
    names = [*columns, *front.cost_names, *front.point_names]
    choices = [
        [choice_name(code) if is_float_code(code) else code for code in row] for row in front.num_bits.T.tolist()
    ]
    cells = [*columns.values(), *front.costs.T.tolist(), *choices]
    return names, zip(*cells, strict=True)


def _check_version(shown: str, version: Any) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FrontFileError(f"{shown} must hold a version number, got {version!r}. Save the front again.")
    if version > _VERSION:
        raise FrontFileError(
            f"{shown} must be of version {_VERSION} or older, got {version}: it was written by a newer qexplore. "
            f"Install that version, or a newer one."
        )


def _check_formats(shown: str, num_bits: Any, formats: Any) -> None:
    """A code must stand for the same format here as where the file was written."""
    rows = [row for row in num_bits if isinstance(row, list)] if isinstance(num_bits, list) else []
    codes = {code for row in rows for code in row if isinstance(code, int) and is_float_code(code)}
    named = formats if isinstance(formats, dict) else {}
    wrong = [code for code in sorted(codes) if named.get(str(code)) != choice_name(code)]
    if wrong:
        raise FrontFileError(
            f"{shown} must name the float format {choice_name(wrong[0])} for the code {wrong[0]} in 'formats', got "
            f"{named.get(str(wrong[0]))!r}. Save the front again."
        )


def _further(shown: str, entries: Any) -> tuple[FurtherMetric, ...]:
    try:
        return tuple(FurtherMetric(**entry) for entry in entries)
    except (TypeError, FrontError) as error:
        raise FrontFileError(f"{shown} is damaged: 'further', {error}. Save the front again.") from error


def _plain(value: Any) -> Any:
    rows = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(rows, (list, tuple)):
        return [_plain(one) for one in rows]
    return None if isinstance(rows, float) and math.isnan(rows) else rows


def _with_unknown(name: str, value: Any) -> Any:
    if name not in _UNKNOWN_ALLOWED or not isinstance(value, list):
        return value
    return [_with_unknown(name, one) if isinstance(one, list) else math.nan if one is None else one for one in value]


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
