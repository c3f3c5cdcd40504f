"""What is printed: text for people, one JSON document for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from qexplore._table import visible

if TYPE_CHECKING:
    from qexplore.exploration import Exploration
    from qexplore.front import FrontPoint

_OF_EXPLORATION = (
    "algorithm",
    "seed",
    "stopped_by",
    "num_evaluations",
    "num_passes",
    "num_verifications",
    "seconds",
    "float_accuracy",
    "report_float_accuracy",
    "optimism_gap",
    "hypervolume",
    "reference_point",
    "engine",
    "early_stop",
    "judge",
    "coverage",
    "failure_summary",
    "notes",
)


def say(text: object, value: Any, *, as_json: bool) -> None:
    """Print ``text``, in which names write nothing but themselves, or ``value`` as JSON."""
    click.echo(json.dumps(plain(value), indent=1) if as_json else shown(str(text)))


def shown(text: str) -> str:
    """``text`` as it may stand in a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def plain(value: Any) -> Any:
    """``value`` as JSON has it: records are objects, what is not known is null, infinities are texts."""
    from qexplore._choices import FloatFormat
    from qexplore.front import Front, FrontPoint

    if isinstance(value, float):
        return None if math.isnan(value) else str(value) if math.isinf(value) else value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Front):
        return json.loads(value.to_json())
    if isinstance(value, FrontPoint):
        return {one: plain(part) for one, part in _fields(value).items()} | {
            "widths": widths_of(value),
            "key": value.key,
        }
    if isinstance(value, (FloatFormat, PurePath)):
        return str(value)
    if is_dataclass(value):
        return {one: plain(part) for one, part in _fields(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    return plain(value.tolist()) if hasattr(value, "tolist") else [plain(part) for part in value]


def _fields(value: Any) -> dict[str, Any]:
    """Fields of a record; a function, such as a metric, is no fact."""
    names = [one.name for one in fields(value) if one.name not in ("metric", "found_on")]
    return {name: getattr(value, name) for name in names}


def widths_of(point: FrontPoint) -> dict[str, int | str]:
    """Choices by the names of points, as a file holds them and ``model.num_bits`` takes them."""
    return {
        name: choice if isinstance(choice, int) and choice else _word(choice) for name, choice in point.widths.items()
    }


def _word(choice: Any) -> str:
    return str(choice) if choice else "off"


def exploration_facts(exploration: Exploration) -> dict[str, Any]:
    """What a machine wants to know of an exploration."""
    facts = {name: getattr(exploration, name) for name in _OF_EXPLORATION}
    return {**facts, "num_failures": len(exploration.failures), "front": exploration.front}
