"""From a file and flags to a `Config` and what it names, with every mistake of both named at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexplore._references import did_you_mean
from qexplore._yaml import Document, read_yaml
from qexplore.config.config import Config, described, mistakes_of
from qexplore.config.forms import CHOICE, shown
from qexplore.config.layers import LAYER_FIELDS, layers_named, unknown_layers_at_first
from qexplore.config.parts import SELECTIONS, Parts
from qexplore.errors import ConfigError

_FIRST, _LAST = 0, 10**9


@dataclass(frozen=True)
class ReadConfig:
    """A configuration, and what it is about.

    Attributes:
        config: the fields.
        parts: network, data and functions that they name, made.
        name: of the file, without its ending; the study is called so.
        error: the one that names mistakes which are seen later, each a field and a sentence, with their lines.
    """

    config: Config
    parts: Parts
    name: str
    error: Callable[[Iterable[tuple[str, str]]], ConfigError]


@dataclass
class _Source:
    """Where values come from, and what is wrong with them."""

    file: Path
    document: Document
    flags: Mapping[str, str]
    values: dict[str, Any]
    mistakes: list[tuple[int, str]]

    def note(self, field: str, text: str) -> None:
        """Keep a mistake of ``field``, which its line or its flag stands before."""
        if field in self.flags:
            self.mistakes.append((_LAST, f"{flag_of(field)}: `{field}` {text}"))
        elif field in self.document.lines:
            line = self.document.lines[field]
            self.mistakes.append((line, f"line {line}: `{field}` {text}"))
        else:
            self.mistakes.append((_LAST - 1, f"`{field}` {text}"))

    def error(self, more: Iterable[tuple[str, str]] = (), unchecked: Sequence[str] = ()) -> ConfigError:
        """The error that names all mistakes, and ``more``."""
        for field, text in more:
            self.note(field, text)
        texts = [text for _, text in sorted(self.mistakes, key=lambda one: one[0])]
        return ConfigError.of(f"'{self.file}'", texts, unchecked)


def flag_of(field: str) -> str:
    """The flag of a field."""
    return next(one.flag for one in described() if one.name == field)


def read_config(path: str | os.PathLike[str], flags: Mapping[str, str] | None = None) -> ReadConfig:
    """The configuration of a YAML file, with the factories that it names imported and called.

    Args:
        path: of the file.
        flags: texts by field, YAML too, in the place of what the file says.

    Raises:
        ConfigError: names every mistake with its line, the value, what is allowed and the nearest right spelling.
    """
    file = Path(path)
    source = _Source(file, _document(file), flags or {}, {}, [])
    _take_over(source)
    for field, text in mistakes_of(source.values):
        source.note(field, text)
    wrong = {field for field, _ in mistakes_of(source.values)}
    said = {name: value for name, value in source.values.items() if value is not None}
    forms = {one.name: one.form for one in described()}
    parts = Parts({name: forms[name].shaped(value) for name, value in said.items() if name not in wrong}, source.note)
    unchecked = _unchecked(parts, said, wrong)
    for field, text in () if unchecked else unknown_layers_at_first(said, parts):
        source.note(field, text)
    if source.mistakes:
        raise source.error(unchecked=unchecked) from parts.first_error
    return ReadConfig(Config(**_defaulted(source.values)), parts, file.stem, source.error)


def _unchecked(parts: Parts, said: Mapping[str, Any], wrong: Collection[str]) -> list[str]:
    """Fields that name what is in the network and that cannot be held against it."""
    selections = [name for name in SELECTIONS if name in said]
    lacking = [name for name in selections if getattr(parts, name) is None]
    beyond = [name for name in lacking if parts.network is None and name not in wrong]
    return [*beyond, *(name for name in LAYER_FIELDS if lacking and layers_named(name, said.get(name)))]


def _document(file: Path) -> Document:
    try:
        document = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(
            f"configuration '{file}' cannot be read: {reason}. `qexplore init package.module:factory` writes one"
        ) from error
    except ValueError as error:
        raise ConfigError(f"configuration '{file}' is no YAML: {error}") from error
    if not isinstance(document.content, Mapping):
        raise ConfigError(
            f"configuration '{file}' must hold fields, such as `network: package.module:factory`, got "
            f"{'nothing' if document.content is None else repr(document.content)}. `qexplore init "
            "package.module:factory` writes one"
        )
    return document


def _take_over(source: _Source) -> None:
    """Values of file and flags; what has no field is a mistake, and so is what is said twice."""
    known = [one.name for one in described()]
    for name, value in source.document.content.items():
        if name in known:
            source.values[name] = value
        else:
            near = did_you_mean(str(name), known) or f": there are {', '.join(known)}"
            line = source.document.lines.get(name, _FIRST)
            source.mistakes.append((line, f"line {line}: there is no field `{name}`, got {shown(value)}{near}"))
    for name, line in source.document.repeated:
        source.mistakes.append((line, f"line {line}: `{name}` stands there twice: leave one of them"))
    for name, text in source.flags.items():
        try:
            source.values[name] = _parsed(name, text)
        except ValueError:
            source.values[name] = text  # its form says what is wrong


def _parsed(name: str, text: str) -> Any:
    """What a flag says: YAML, in which a comma parts values too, and none is nothing."""
    [form] = [one.form for one in described() if one.name == name]
    value = read_yaml(text).content
    if value in ("none", "None") and form is not CHOICE:  # to which none is off
        return None
    return [part.strip() for part in value.split(",")] if form.many and isinstance(value, str) else value


def _defaulted(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without those that say nothing of a field which has to say something."""
    defaults = {one.name: one.default for one in described()}
    return {name: value for name, value in values.items() if value is not None or _may_be_none(name, defaults[name])}


def _may_be_none(name: str, default: Any) -> bool:
    return default is None or name == "max_evaluations"
