"""What a target can run, from a small YAML file: the choices of weights and activations, and limits on costs."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexplore._yaml import read_yaml
from qexplore.errors import ProblemError
from qexplore.model import KINDS_OF_WORD, PointModules, QuantizedModel
from qexplore.search.choices import Codes, choices_text, parsed_choices

_KEYS = ("name", "weights", "activations", "rules", "symmetric_only", "limits")
_RULE_KEYS = ("types", "names", "kind", "choices")
_KINDS = ("weights", "activations")
_SWITCH_WORDS = {"yes": True, "on": True, "no": False, "off": False}  # YAML 1.1's, for the one switch that there is


@dataclass(frozen=True)
class TargetRule:
    """What points may have that belong to modules of certain types, or bear certain names.

    Attributes:
        path: where it stands in the file.
        types: class names of modules, base classes count too; None for all.
        names: globs over names of points; None for all.
        kind: "weights", "activations" (the input too) or None for both.
        choices: codes of what is allowed.
    """

    path: str
    types: tuple[str, ...] | None
    names: tuple[str, ...] | None
    kind: str | None
    choices: Codes

    def where(self, points: PointModules) -> tuple[int, ...]:
        """Indices of the points it is about."""
        return tuple(index for index in range(len(points.points)) if self._is_about(index, points))

    def _is_about(self, index: int, points: PointModules) -> bool:
        point = points.points[index]
        if self.kind is not None and point.kind not in KINDS_OF_WORD[self.kind]:
            return False
        called = points.names[index]
        if self.names is not None and not any(
            fnmatch.fnmatchcase(name, glob) for glob in self.names for name in called
        ):
            return False
        classes = {base.__name__ for module in points.modules[index].values() for base in type(module).__mro__}
        return self.types is None or not classes.isdisjoint(self.types)


@dataclass(frozen=True)
class Target:
    """What a device can run.

    Attributes:
        name: how messages call it, with its file.
        rules: what points may have; of those about a point the last one counts. A point that none is about may have
            anything.
        symmetric_only: whether quantizers with a zero point are refused.
        limits: upper limits of costs by name.
    """

    name: str
    rules: tuple[TargetRule, ...]
    symmetric_only: bool
    limits: Mapping[str, float]

    def allowed(self, points: PointModules) -> tuple[TargetRule | None, ...]:
        """The rule that counts at each point."""
        counting: list[TargetRule | None] = [None] * len(points.points)
        for rule in self.rules:
            for index in rule.where(points):
                counting[index] = rule
        return tuple(counting)

    def idle_rules(self, points: PointModules) -> Iterator[str]:
        """A line on each of the file's ``rules`` that is about no point of this network."""
        for rule in self.rules:
            if rule.path not in _KINDS and not rule.where(points):
                yield f"{self.name}: {rule.path} ({choices_text(rule.choices)}) matches no point"

    def require_symmetric(self, model: QuantizedModel) -> None:
        """Raise where the target is symmetric and a quantizer is not.

        Raises:
            ProblemError: names the points.
        """
        quantizers = model.fake_quantizers.items()
        refused = [name for name, quantizer in quantizers if quantizer.asymmetric and not quantizer.disabled]
        if self.symmetric_only and refused:
            raise ProblemError(
                f"{self.name} is symmetric_only, but these points have a zero point: {', '.join(refused)}. Wrap the "
                "network with asymmetric=False"
            )


def read_target(target: str | os.PathLike[str] | Mapping[str, Any]) -> Target:
    """The target that a YAML file, or a dict of the same form, describes.

    Raises:
        ProblemError: a file that cannot be read, an unknown key, or a value of the wrong form; says where.
    """
    if isinstance(target, Mapping):
        content, stem, source = target, "", ""
    elif isinstance(target, (str, os.PathLike)):
        path = Path(target)
        content, stem, source = _load(path), path.stem, f" ({path})"
    else:
        raise ProblemError(f"`target` must be the path of a YAML file or a dict, got {target!r}")
    called = content.get("name", stem)
    if not isinstance(called, str):
        raise ProblemError(f"target{source}: name must be text, got {called!r}")
    return _Reader(f"target {called}".rstrip() + source).target(content)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8")).content
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"target file '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise ProblemError(f"target file '{path}' is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ProblemError(f"target file '{path}' must hold keys ({', '.join(_KEYS)}), got {content!r}")
    switch = content.get("symmetric_only")
    known = _SWITCH_WORDS.get(switch.lower()) if isinstance(switch, str) else None
    return content if known is None else {**content, "symmetric_only": known}


@dataclass(frozen=True)
class _Reader:
    """Reads a target's content; ``name`` is how messages call it."""

    name: str

    def target(self, content: Mapping[str, Any]) -> Target:
        self._check_keys(content, _KEYS, "")
        symmetric_only = content.get("symmetric_only", False)
        if not isinstance(symmetric_only, bool):
            raise self._error("symmetric_only", "true or false", symmetric_only)
        by_kind = (
            TargetRule(kind, None, None, kind, self._choices(content[kind], kind)) for kind in _KINDS if kind in content
        )
        return Target(self.name, (*by_kind, *self._rules(content)), symmetric_only, self._limits(content))

    def _rules(self, content: Mapping[str, Any]) -> Iterator[TargetRule]:
        rules = content.get("rules", [])
        if not isinstance(rules, list):
            raise self._error("rules", "a list", rules)
        for number, rule in enumerate(rules):
            path = f"rules[{number}]"
            if not isinstance(rule, Mapping):
                raise self._error(path, "a mapping such as {types: [Linear], choices: [8]}", rule)
            self._check_keys(rule, _RULE_KEYS, f"{path}.")
            types, names = (self._words(rule, key, path) for key in ("types", "names"))
            if types is None and names is None:
                raise self._error(path, "about some types or names", rule)
            kind = rule.get("kind")
            if kind is not None and kind not in _KINDS:
                raise self._error(f"{path}.kind", "weights or activations", kind)
            yield TargetRule(path, types, names, kind, self._choices(rule.get("choices"), f"{path}.choices"))

    def _words(self, rule: Mapping[str, Any], key: str, path: str) -> tuple[str, ...] | None:
        if key not in rule:
            return None
        words = rule[key]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise self._error(f"{path}.{key}", "a list of words", words)
        return tuple(words)

    def _choices(self, value: Any, path: str) -> Codes:
        if not isinstance(value, (list, tuple, range)):
            raise self._error(path, "a list such as [4, 8, E4M3]", value)
        # A dict may come from a reader of YAML 1.1, to which the word off is false.
        return parsed_choices(["off" if choice is False else choice for choice in value], f"{self.name}: {path}")

    def _limits(self, content: Mapping[str, Any]) -> dict[str, float]:
        limits = content.get("limits", {})
        if not isinstance(limits, Mapping):
            raise self._error("limits", "a mapping from cost to number", limits)
        return {name: self._limit(name, value) for name, value in limits.items()}

    def _limit(self, name: object, value: Any) -> float:
        if not isinstance(name, str):
            raise self._error("limits", "a mapping from names of costs", name)
        try:
            # YAML 1.1 reads 1.0e9 as text.
            limit = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            limit = math.nan
        if not 0 < limit < math.inf:
            raise self._error(f"limits.{name}", "a number above 0", value)
        return limit

    def _check_keys(self, content: Mapping[str, Any], known: Collection[str], path: str) -> None:
        for key in content:
            if key not in known:
                raise ProblemError(f"{self.name}: unknown key '{path}{key}': known are {', '.join(known)}")

    def _error(self, path: str, wanted: str, value: object) -> ProblemError:
        return ProblemError(f"{self.name}: {path} must be {wanted}, got {value!r}")
