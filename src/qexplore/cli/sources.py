"""What is read back: fronts, studies, and files of widths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qexplore._references import did_you_mean
from qexplore.errors import ConfigError, FrontError, StudyError

if TYPE_CHECKING:
    from qexplore.front import Front, FrontPoint
    from qexplore.model import QuantizedModel
    from qexplore.study import Study

_SQLITE = b"SQLite format 3\x00"
_ENDINGS = (".db", ".sqlite", ".sqlite3")
_FLAGS = {
    r"\. Front: ": ": ",
    r"\bFront(\.\w+)?: ": "",
    r"^(at|cost) must": r"--\1 must",
    r"\bmin_accuracy=": "--accuracy ",
    r"\bknee\(\), cheapest\(\) or most_accurate\(\)": "--knee, --accuracy or --cost",
}
"""What Python says of picking points, by pattern, and what the command line says instead."""


def is_study(path: Path) -> bool:
    """Whether ``path`` is to be read as a study: by what it begins with, else by its ending."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE or path.suffix in _ENDINGS
    except OSError:
        return path.suffix in _ENDINGS


def read_front(path: Path, run: int | None = None) -> Front:
    """The front in a front file or a study.

    Raises:
        FrontFileError, StudyError: it holds none.
        UsageError: a run of a front file.
    """
    from qexplore.front import Front
    from qexplore.study import Study

    if is_study(path):
        with Study.open(path) as study:
            return study_front(study, run)
    if run is not None:
        raise click.UsageError(f"--run is of a study, and '{path}' is none")
    return Front.load(path)


def study_front(study: Study, run: int | None) -> Front:
    """The front of a run or of all; of the last, which is said, where they asked for different things.

    Raises:
        StudyError: it cannot be told.
    """
    runs = study.runs
    try:
        return study.front(run)
    except StudyError:
        if run is not None or len(runs) < 2:
            raise
    click.echo(f"The front is that of run {runs[-1].id}, the last; they differ, and --run takes another.", err=True)
    return study.front(runs[-1].id)


def picked(
    front: Front,
    accuracy: float | None,
    limits: Sequence[str],
    knee: bool,
    index: int | None,
    point: str | None,
) -> FrontPoint:
    """The point that the flags of `qexplore.cli.options.picking` mean.

    Raises:
        UsageError: no flag, or several that do not go together.
        FrontError: there is no such point.
    """
    asked = [accuracy is not None or bool(limits), knee, index is not None, point is not None]
    if sum(asked) != 1:
        raise click.UsageError("pick a point by --accuracy, --cost or both, or by --knee, or by --index, or by --point")
    most = dict(_limit(front, one) for one in limits)
    with in_flags():
        if knee:
            return front.knee()
        if point is not None:
            return front.find(point)
        if index is not None:
            return front[index]
        return front.most_accurate(limits=most) if accuracy is None else front.cheapest(accuracy, limits=most)


@contextmanager
def in_flags() -> Iterator[None]:
    """Have what a front refuses said in the words of the command line."""
    try:
        yield
    except (FrontError, IndexError) as error:
        text = str(error)
        for python, flag in _FLAGS.items():
            text = re.sub(python, flag, text)
        raise FrontError(text) from error


def _limit(front: Front, text: str) -> tuple[str, float]:
    name, _, most = text.rpartition("=")
    try:
        limit = name or front.cost_names[0], float(most)
    except ValueError as error:
        raise click.UsageError(f"--cost must be a number or NAME=NUMBER, got '{text}'") from error
    if limit[0] not in front.cost_names:
        near = did_you_mean(name, list(front.cost_names))
        raise FrontError(
            f"--cost must name one of this front's costs, {', '.join(front.cost_names)}, got '{name}'{near}"
        )
    return limit


def set_widths(model: QuantizedModel, source: Path, picks: dict[str, Any]) -> str:
    """Give ``model`` the widths of a picked point, of a JSON file of widths, or of a manifest; a line that says which.

    Raises:
        QExploreError: the file holds none, or those of another model.
        UsageError: flags that pick a point, beside a file that holds one.
    """
    widths = None if is_study(source) else _json_widths(source)
    if widths is None:
        run = picks.pop("run")
        point = picked(read_front(source, run), **picks)
        point.apply_to(model)
        return str(point)
    if are_given(picks):
        raise click.UsageError(f"'{source}' holds one choice of widths: flags that pick a point are for fronts")
    if "format" in widths:
        from qexplore.export import load_manifest

        load_manifest(source).apply(model)
    else:
        model.num_bits = widths
    return f"widths of '{source}'"


def are_given(picks: Mapping[str, Any]) -> bool:
    """Whether a flag of `qexplore.cli.options.picking` is given; 0 is one."""
    return any(value is not None and value is not False and value != () for value in picks.values())


def _json_widths(path: Path) -> dict[str, Any] | None:
    """The mapping in a file of widths or in a manifest; None of what may be a front."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file '{path}': `qexplore pick` writes one of widths") from error
    except (OSError, ValueError):
        return None
    is_front = not isinstance(content, dict) or content.get("format") == "qexplore-front"
    return None if is_front else content
