"""Which method of calibration finds the range of which point: one for all, or by selectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qexplore._arguments import checked_name
from qexplore.errors import CalibrationError
from qexplore.model.selectors import PointModules, Selector, selector_text
from qexplore.quant import CALIBRATORS, check_options

AUTOMATIC = "auto"
"""The method that does least to the network's output, point by point and width by width."""


@dataclass(frozen=True)
class Methods:
    """Methods by point.

    Attributes:
        argument: how messages call it.
        default: of the points that no rule is about.
        rules: selectors with a method each; the last about a point counts.
    """

    argument: str
    default: str
    rules: tuple[tuple[Selector, str], ...] = ()

    @classmethod
    def checked(cls, argument: str, given: Any, known: Sequence[str], default: str, hint: str = "") -> Methods:
        """From what a user gave: None, a method, or a mapping from selectors to methods.

        Raises:
            CalibrationError: an unknown method; of one that others have, ``hint`` stands behind the sentence.
        """

        def method(name: str, value: Any) -> str:
            note = hint.format(value) if value in tuple(CALIBRATORS) else ""
            return checked_name(name, value, known, CalibrationError, hint=note)

        if not isinstance(given, Mapping):
            return cls(argument, default if given is None else method(f"`{argument}`", given))
        if not given:
            raise CalibrationError(f"`{argument}` must hold at least one selector with its method, got {given!r}")
        named = ((selector, method(f"{argument}[{selector_text(selector)}]", one)) for selector, one in given.items())
        return cls(argument, default, tuple(named))

    @property
    def names(self) -> tuple[str, ...]:
        """All that a point may have."""
        return tuple(dict.fromkeys([self.default, *(method for _, method in self.rules)]))

    def of(self, points: PointModules) -> dict[str, str]:
        """The method of each of ``points``, by name.

        Raises:
            CalibrationError: a selector means none of them, where that is their error.
        """
        methods = {point.name: self.default for point in points.points}
        for selector, method in self.rules:
            for index in points.select(selector, f"{self.argument}[{selector_text(selector)}]"):
                methods[points.points[index].name] = method
        return methods

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options``, each of a method that is asked for.

        Raises:
            CalibrationError: one is not, or has a value that the method does not take.
        """
        checked: dict[str, Any] = {}
        try:
            for name, value in options.items():
                having = next((one for one in self.names if name in _options_of(one)), self.names[-1])
                checked |= check_options(having, {name: value})
        except (TypeError, CalibrationError) as error:
            raise CalibrationError(f"calibration by {', '.join(self.names)} with {options} failed: {error}") from error
        return checked


def of_method(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that ``method`` has."""
    return {name: value for name, value in options.items() if name in _options_of(method)}


def _options_of(method: str) -> Iterable[str]:
    return CALIBRATORS[method].options if method in CALIBRATORS else ()


def methods_text(methods: Iterable[str]) -> str:
    """How the methods of points are shown: ``max``, or ``max at 88 points, percentile at 6``; empty for no points."""
    first, *others = Counter(methods).most_common() or [("", 0)]
    if not others:
        return first[0]
    points = "points" if first[1] > 1 else "point"
    return ", ".join([f"{first[0]} at {first[1]} {points}", *(f"{name} at {count}" for name, count in others)])
