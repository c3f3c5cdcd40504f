"""Rules of layer control: made from arguments, and which of them decides a point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qexplore._choices import choice_name
from qexplore.cost import Groups
from qexplore.errors import ProblemError
from qexplore.model import PointModules, QuantizedModel, selector_text
from qexplore.search.choices import Codes, choices_text, parsed_choice, parsed_choices


@dataclass(frozen=True)
class Rule:
    """What a rule asks for.

    Attributes:
        text: how it is called.
        codes: the choices it gives.
        where: indices of its points.
        is_final: whether neither a target nor a later step narrows it.
    """

    text: str
    codes: Codes
    where: tuple[int, ...]
    is_final: bool = False


def choice_rules(choices: Any, points: PointModules, everywhere: tuple[int, ...]) -> list[Rule]:
    """Rules of a sequence of choices for the points ``everywhere``, or of a mapping from selectors to such sequences.

    Raises:
        ProblemError: no such form, a selector that matches nothing, or two that read the same and contradict.
    """
    if choices is None:
        return []
    if not isinstance(choices, Mapping):
        return [Rule("choices", parsed_choices(choices, "choices"), everywhere)]
    rules = _rules_of("choices", choices, parsed_choices, points)
    for one, other in combinations(rules, 2):
        # Two predicates that read the same are two keys of a mapping all the same.
        if (one.text, one.where) == (other.text, other.where):
            _refuse_conflict(one, other, one.where[0], points)
    return rules


def pinned_rules(pinned: Mapping[Any, Any] | None, points: PointModules) -> list[Rule]:
    """Rules of a mapping from selectors to one choice each.

    Raises:
        ProblemError: no such form, a selector that matches nothing, or two that pin a point to different choices.
    """
    if pinned is None:
        return []
    if not isinstance(pinned, Mapping):
        raise ProblemError(f"`pinned` must be a mapping from selectors to one choice each, got {pinned!r}")
    rules = _rules_of("pinned", pinned, lambda value, rule: (parsed_choice(value, rule),), points)
    for one, other in combinations(rules, 2):
        for index in one.where:
            if index in other.where:
                _refuse_conflict(one, other, index, points)
    return rules


def _rules_of(
    argument: str, entries: Mapping[Any, Any], parse: Callable[[Any, str], Codes], points: PointModules
) -> list[Rule]:
    texts = {selector: f"{argument}[{selector_text(selector)}]" for selector in entries}
    return [
        Rule(text, parse(entries[selector], text), points.select(selector, text)) for selector, text in texts.items()
    ]


def _refuse_conflict(one: Rule, other: Rule, index: int, points: PointModules) -> None:
    if one.codes != other.codes:
        raise ProblemError(
            f"rules in conflict at '{points.points[index].name}': {one.text} gives {choices_text(one.codes)}, and "
            f"{other.text} gives {choices_text(other.codes)}. Let one of them leave it out"
        )


def first_last_rules(first_last: Any, model: QuantizedModel, points: PointModules, groups: Groups) -> list[Rule]:
    """Rules that give one choice to the ends of the network, and to what is tied to them.

    Raises:
        ProblemError: ``first_last`` is a choice for no quantizer.
    """
    if first_last is None:
        return []
    codes = (parsed_choice(first_last, "first_last"),)
    inputs = [point.index for point in points.points if point.kind == "input"] or _first_read(model, points)
    called = [index for index in model.call_order if points.points[index].kind in ("activation", "function")]
    ends = {*inputs, *_outer_weights(model, points), *called[-1:]}
    mates = {index for group in groups if not ends.isdisjoint(group) for index in group} - ends
    text = f"first_last={choice_name(codes[0])}"
    return [Rule(text, codes, tuple(sorted(ends))), Rule(f"{text}, tied", codes, tuple(sorted(mates)))]


def _first_read(model: QuantizedModel, points: PointModules) -> list[int]:
    """The first of what modules read, where it is passed before anything else: the network's input in their place."""
    order = [index for index in model.call_order if points.points[index].kind != "weight"]
    return [index for index in order[:1] if points.points[index].kind == "argument"]


def _outer_weights(model: QuantizedModel, points: PointModules) -> set[int]:
    """The first and the last weight in the order of the network's modules; a shared one stands at each of its holders.

    A call order places those only whose module is a point.
    """
    order = {name: place for place, (name, _) in enumerate(model.model.named_modules())}
    places = [
        (order[name], point.index)
        for point, modules in zip(points.points, points.modules, strict=True)
        if point.kind == "weight"
        for name in modules
    ]
    return {min(places)[1], max(places)[1]} if places else set()


def decide(rules: Sequence[Rule], points: PointModules) -> tuple[list[Rule], list[str]]:
    """The last rule about each point, and what it overrode; the first of ``rules`` is about all."""
    decided = [rules[0]] * len(points.points)
    overridden: dict[tuple[str, str], list[int]] = {}
    for rule in rules[1:]:
        for index in rule.where:
            before = decided[index]
            if before is not rules[0] and before.codes != rule.codes:
                overridden.setdefault((before.text, rule.text), []).append(index)
            decided[index] = rule
    notes = [f"{points.named(where)}: {old} overridden by {new}" for (old, new), where in overridden.items()]
    return decided, notes
