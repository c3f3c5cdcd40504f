"""Which quantization points a selector means: by a predicate over modules, by a glob over names, by kind."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from qexplore._functions import function_called
from qexplore._references import did_you_mean
from qexplore.errors import ProblemError, QExploreError, SelectionError
from qexplore.model.input_points import bare_name
from qexplore.model.points import QuantizationPoint, call_name
from qexplore.model.wrapped import WrappedNetwork
from qexplore.predicates import Predicate, PredicateLike, as_predicate

Selector = str | PredicateLike
"""A predicate or a function of one module, a point's name, one of `KINDS_OF_WORD`, or a glob over names."""

_ACTIVATIONS = ("input", "argument", "activation", "function")
KINDS_OF_WORD = {
    "weights": ("weight",),
    "activations": _ACTIVATIONS,
    "input": ("input",),
    "inputs": ("argument",),
    "functions": ("function",),
    "everything": (*_ACTIVATIONS, "weight"),
}
"""Words for points of a kind; all but weights are activations, the network's input too."""

_LISTED = 40
_NAMED = 4


@dataclass(frozen=True, eq=False)
class PointModules:
    """The points of a wrapped network, each with the modules that it belongs to.

    Attributes:
        points: in the order of ``num_bits``.
        modules: of each point by qualified name: of an activation the one whose output it is, of a weight all that
            hold it, of what modules read these, of the input none; of a call its function, by the call's name.
        names: of each point, its own first; a weight that several modules hold has one at each, and a tensor that
            several read at each of the calls.
        error: what a selector that means none of them raises.
    """

    points: tuple[QuantizationPoint, ...]
    modules: tuple[Mapping[str, Any], ...]
    names: tuple[tuple[str, ...], ...]
    error: type[QExploreError] = ProblemError

    @classmethod
    def of(cls, model: WrappedNetwork) -> PointModules:
        """Those of ``model``."""
        by_name = dict(model.model.named_modules())
        names = {id(module): name for name, module in by_name.items()}
        holders = {point.name: [module for module, _ in point.holders] for point in model.weight_points}

        def modules(point: QuantizationPoint) -> Mapping[str, Any]:
            if point.kind == "weight":
                return {names[id(module)]: module for module in holders[point.name]}
            if point.kind == "input":
                return {}
            if point.kind == "argument":
                return {name: by_name[name] if name in by_name else function_called(name) for name in point.readers}
            if point.kind == "function":
                return {name: function_called(name) for name in point.readers or (bare_name(point.name),)}
            name = point.module if point.module in by_name else ""  # the network's own output has a name of its own
            return {name: by_name[name]}

        points = model.points
        shared = {
            point.name: [f"{names[id(module)]}.{weight}".lstrip(".") for module, weight in point.holders]
            for point in model.weight_points
        }
        taken = {point.name for point in points}
        shared |= {
            one.name: [name for name in map(call_name, one.calls) if name not in taken] for one in model.found.points
        }
        every = (tuple(dict.fromkeys([point.name, *shared.get(point.name, [])])) for point in points)
        return cls(points, tuple(modules(point) for point in points), tuple(every))

    def of_kinds(self, kinds: Collection[str], error: type[QExploreError]) -> PointModules:
        """Those of these kinds, whose ``error`` is this; indices are among them."""
        kept = [index for index, point in enumerate(self.points) if point.kind in kinds]
        points, modules = tuple(self.points[index] for index in kept), tuple(self.modules[index] for index in kept)
        return PointModules(points, modules, tuple(self.names[index] for index in kept), error)

    def select(self, selector: Selector, rule: str, words: Iterable[str] = ()) -> tuple[int, ...]:
        """Indices of the points that ``selector`` means.

        Raises:
            QExploreError: none, or something that is no selector, as ``error``; ``rule`` is how the message calls it,
                and ``words`` might have stood there too.
        """
        found = tuple(index for index in range(len(self.points)) if self._is_meant(index, selector, rule))
        if not found:
            raise self.error(f"{rule} matches no point{self._near(selector, words) or self._listing()}")
        return found

    def named(self, indices: Iterable[int]) -> str:
        """The points' names in a sentence, the first few of many."""
        names = [self.points[index].name for index in indices]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more

    def _is_meant(self, index: int, selector: Selector, rule: str) -> bool:
        point = self.points[index]
        if isinstance(selector, str):
            if any(selector in names for names in self.names):  # a module may bear a word's name
                return selector in self.names[index]
            if selector in KINDS_OF_WORD:
                return point.kind in KINDS_OF_WORD[selector]
            return any(fnmatch.fnmatchcase(name, selector) for name in self.names[index])
        predicate = self._predicate(selector, rule)
        return any(predicate(name, module) for name, module in self.modules[index].items())

    def _predicate(self, selector: PredicateLike, rule: str) -> Predicate:
        try:
            return as_predicate(selector)
        except SelectionError as error:
            raise self.error(f"{rule} is no selector: {error}") from error

    def _listing(self) -> str:
        lines = [
            f"  {point.name}" + (f" ({point.kind}, {point.module_type})" if point.module_type else "")
            for point in self.points[:_LISTED]
        ]
        more = len(self.points) - len(lines)
        return "\n".join([". There are:", *lines, *([f"  ... and {more} more"] if more else [])])

    def _near(self, selector: Selector, words: Iterable[str]) -> str:
        """The name or word that may be meant, at the end of a sentence."""
        if not isinstance(selector, str) or selector in KINDS_OF_WORD:
            return ""
        there = {point.kind for point in self.points}
        words = [*words, *(word for word, kinds in KINDS_OF_WORD.items() if not there.isdisjoint(kinds))]
        return did_you_mean(selector, [*words, *(name for names in self.names for name in names)])


def selector_text(selector: object) -> str:
    """How a selector is shown: ``'fc.*'`` or ``by_type(Linear)``."""
    is_plain_function = callable(selector) and not isinstance(selector, (Predicate, type, nn.Module))
    return getattr(selector, "__name__", repr(selector)) if is_plain_function else repr(selector)
