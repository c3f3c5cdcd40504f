"""Layer control: which choices each quantization point has, and by which rule."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qexplore._arguments import is_whole
from qexplore._choices import MAX_NUM_BITS, choice_name, is_float_code
from qexplore._table import Tabular, text_table
from qexplore.cost import Groups, unite
from qexplore.errors import ProblemError
from qexplore.model import PointModules, QuantizationPoint, QuantizedModel, Scheme, require_wrapped
from qexplore.search.choices import Codes, choices_text, parsed_choices
from qexplore.search.rules import Rule, choice_rules, decide, first_last_rules, pinned_rules
from qexplore.search.space import width_limits
from qexplore.search.target import Target, read_target
from qexplore.search.ties import scheme_groups, tied_groups

_LIMITS = "num_bits_lower_limit", "num_bits_upper_limit"
DEFAULT_LIMITS = 2, 8
DEFAULT_CHOICES = range(DEFAULT_LIMITS[0], DEFAULT_LIMITS[1] + 1)
"""What a point may have that no rule is about."""


@dataclass(frozen=True)
class ChoicePlan(Tabular):
    """The choices of every point and where they come from; ``print`` shows it.

    Attributes:
        points: in the order of ``num_bits``.
        choices: codes of what each point may have, by the bits a value takes, an integer before a float format.
        groups: indices of points that share one choice, two or more each; their choices are the same.
        rules: the rule that decided each point.
        notes: what was overridden, left out or narrowed.
        limits: upper limits of costs by name, from the target.
    """

    points: tuple[QuantizationPoint, ...]
    choices: tuple[Codes, ...]
    groups: Groups = ()
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        letters = {index: _letter(number) for number, group in enumerate(self.groups) for index in group}
        rows = [
            (str(index), point.name, point.kind, choices_text(codes), letters.get(index, ""), rule)
            for index, (point, codes, rule) in enumerate(zip(self.points, self.choices, self.rules, strict=True))
        ]
        table = text_table(("#", "point", "kind", "choices", "tied", "rule"), rows, numeric=(0,))
        limits = [f"limit: {name} at most {limit:g}" for name, limit in self.limits.items()]
        return "\n".join([table, *([""] if limits or self.notes else []), *limits, *self.notes])


_Step = tuple[list[Codes], list[str]]
"""Choices by point, and notes."""


def plan_choices(
    model: QuantizedModel,
    choices: Any = None,
    *,
    pinned: Mapping[Any, Any] | None = None,
    tied: Any = None,
    first_last: Any = None,
    target: Any = None,
    default: Any = None,
) -> ChoicePlan:
    """Which choices each point of ``model`` has.

    A *selector* is a predicate or a function of one module (asked with the module of the point), a glob over names of
    points, or one of the words "weights", "activations" (with the input), "input", "inputs" (of modules), "functions"
    and "everything". A *choice* is a width, "off", or a float format: its name or ``(exponent, mantissa)``. Quantizers
    disabled by hand stay off.

    A model that was wrapped by a scheme has the choices and ties of that where nothing else is said: rules stand over
    its choices, and points that rules give different ones are not tied for its sake.

    Args:
        model: wrapped.
        choices: a sequence of choices for all points, or a mapping from selectors to such sequences, of which the last
            that matches a point counts.
        pinned: one choice for the points of a selector; beats all others.
        tied: groups of points that share one choice; see `tied_groups`. None takes those of the model's scheme, if it
            has one; ``()`` ties none.
        first_last: the choice of the input, the first and the last weight and the last activation, and of what is tied
            to them; beats ``choices``.
        target: what a device can run: the path of a YAML file or a dict; see `read_target`. Narrows all others.
        default: choices of points that no rule is about; None takes those of the model's scheme, without one 2 to 8.

    Raises:
        ProblemError: a rule that matches nothing or asks for what no quantizer has; rules in conflict; tied points
            with different choices; choices of which the target leaves nothing, or a float format that it forbids.
    """
    require_wrapped("plan_choices", model, calibrated=False)
    points = PointModules.of(model)
    device = None if target is None else read_target(target)
    if device is not None:
        device.require_symmetric(model)
    quantizers = tuple(model.fake_quantizers.values())
    disabled = tuple(index for index, quantizer in enumerate(quantizers) if quantizer.disabled)
    asked = scheme_groups(model, points) if tied is None else tied_groups(model, points, tied)
    groups = unite(set(group).difference(disabled) for group in asked)

    everywhere = tuple(range(len(points.points)))
    rules = [
        *_default_rules(default, model.scheme, points, everywhere),
        *choice_rules(choices, points, everywhere),
        *first_last_rules(first_last, model, points, groups),
        *pinned_rules(pinned, points),
        Rule("disabled by hand", (0,), disabled, is_final=True),
    ]
    decided, overridden = decide(rules, points)
    least = [quantizer.min_num_bits for quantizer in quantizers]
    possible, left_out = _leave_out_impossible(decided, least, points)
    allowed, dropped = _narrow(possible, decided, device, points)
    ties: list[str] = []
    if tied is None and model.scheme is not None:
        groups, ties = _agreeing(groups, allowed, decided, points, f"scheme '{model.scheme.name}'")
    shared, narrowings = _share(allowed, decided, groups, points)
    return ChoicePlan(
        points.points,
        tuple(shared),
        groups,
        tuple(rule.text for rule in decided),
        (*overridden, *left_out, *dropped, *ties, *narrowings),
        {} if device is None else dict(device.limits),
    )


def checked_plan(model: QuantizedModel, choices: Any, limits: tuple[Any, Any], rules: Mapping[str, Any]) -> ChoicePlan:
    """``choices`` where that is a ready plan; else the plan of ``choices``, limits of widths and ``rules``.

    Args:
        model: wrapped.
        choices: a plan, or as for `plan_choices`.
        limits: lower and upper limit of widths, an int or one per point each; None where nothing is said.
        rules: further arguments of `plan_choices` by name, None where not given.

    Raises:
        ProblemError: a plan for other points, or beside what makes one; limits that ``choices`` for every point do not
            keep to; see `width_limits` and `plan_choices`.
    """
    if not isinstance(choices, ChoicePlan):
        if model.scheme is not None and all(limit is None for limit in limits):
            return plan_choices(model, choices, **rules)
        said = [default if limit is None else limit for limit, default in zip(limits, DEFAULT_LIMITS, strict=True)]
        widths = width_limits(model, *said)
        if any(limit is not None for limit in limits):
            choices = _beside_limits(choices, limits, widths, PointModules.of(model))
        return plan_choices(model, choices, default=widths[0], **rules)
    defaults = zip(_LIMITS, limits, DEFAULT_LIMITS, strict=True)
    beside = [name for name, rule in rules.items() if rule is not None]
    beside += [name for name, given, default in defaults if given is not None and not _is(given, default)]
    if beside:
        raise ProblemError(
            f"`choices` is a plan already, so leave {' and '.join(beside)} out, and make the plan of what they ask: "
            "plan_choices takes pinned, tied, first_last and target, and for limits of widths their range, such as "
            "plan_choices(model, range(2, 9))"
        )
    if [(point.name, point.kind) for point in choices.points] != [(point.name, point.kind) for point in model.points]:
        raise ProblemError(
            "`choices` is a plan for other points than this model's: make it with plan_choices(model, ...)"
        )
    return choices


def _beside_limits(choices: Any, limits: tuple[Any, Any], widths: Sequence[Codes], points: PointModules) -> Any:
    """``choices``, with what ``limits`` leave of ``widths`` to points that they are not about, where points differ."""
    rules = choice_rules(choices, points, tuple(range(len(points.points))))
    about = {index for rule in rules for index in rule.where}
    if len(about) < len(points.points):
        own = {
            point.name: codes for point, codes in zip(points.points, widths, strict=True) if point.index not in about
        }
        return choices if set(own.values()) == {widths[0]} else own | dict(choices or {})
    for rule, index in ((one, index) for one in rules for index in one.where):
        ends = zip(limits, (min, max), (1, MAX_NUM_BITS), strict=True)
        low, high = (default if limit is None else end(widths[index]) for limit, end, default in ends)
        beyond = tuple(code for code in rule.codes if 0 < code <= MAX_NUM_BITS and not low <= code <= high)
        if beyond:
            given = [f"{name}={limit!r}" for name, limit in zip(_LIMITS, limits, strict=True) if limit is not None]
            raise ProblemError(
                f"{' and '.join(given)} must be left out where `choices` are about every point, for limits are for the "
                f"others: {rule.text} gives {choices_text(beyond)} to '{points.points[index].name}'. Or take these "
                "widths out of `choices`"
            )
    return choices


def _is(given: Any, limit: int) -> bool:
    return is_whole(given) and given == limit


def _default_rules(default: Any, scheme: Scheme | None, points: PointModules, everywhere: Codes) -> list[Rule]:
    """What a point may have that no rule is about, and what the scheme of its model says of it."""
    rule = Rule("default", parsed_choices(DEFAULT_CHOICES if default is None else default, "default"), everywhere)
    if scheme is None or default is not None:
        return [rule]
    name = f"scheme '{scheme.name}'"
    own = choice_rules(scheme.choices, points, everywhere)
    return [rule, *(replace(one, text=name if one.where == everywhere else f"{name}, {one.text}") for one in own)]


def _agreeing(
    groups: Groups, choices: Sequence[Codes], decided: Sequence[Rule], points: PointModules, scheme: str
) -> tuple[Groups, list[str]]:
    """Groups of a scheme without those that rules give different choices; sentences on these and on those."""
    kept = tuple(
        group
        for group in groups
        if len({decided[index].codes for index in group}) == 1 and _common(choices[index] for index in group)
    )
    apart = [
        f"{points.named(group)}: apart, as rules ask, though {scheme} ties them"
        for group in groups
        if group not in kept
    ]
    return kept, [*([f"tied by {scheme}, and apart with tied=()"] if kept else []), *apart]


def _leave_out_impossible(decided: Sequence[Rule], least: Sequence[int], points: PointModules) -> _Step:
    """Leave out widths that a signed quantizer cannot have, where a rule over several points asked for them."""
    left: list[Codes] = []
    without: dict[str, list[int]] = {}
    for index, (rule, narrowest) in enumerate(zip(decided, least, strict=True)):
        possible = tuple(code for code in rule.codes if code == 0 or code >= narrowest)
        if possible != rule.codes:
            if not possible or len(rule.where) == 1:
                raise ProblemError(
                    f"{rule.text} gives 1 bit to '{points.points[index].name}', which is signed: one signed bit has no "
                    "levels beside zero, take 2 or more"
                )
            without.setdefault(rule.text, []).append(index)
        left.append(possible)
    notes = [f"{points.named(where)}: 1 bit of {text} left out (signed)" for text, where in without.items()]
    return left, notes


def _narrow(choices: Sequence[Codes], decided: Sequence[Rule], device: Target | None, points: PointModules) -> _Step:
    """Narrow ``choices`` to what the device can run."""
    if device is None:
        return list(choices), []
    counting = [
        None if rule.is_final else allowed for rule, allowed in zip(decided, device.allowed(points), strict=True)
    ]
    left = [
        tuple(code for code in codes if allowed is None or code in allowed.choices)
        for codes, allowed in zip(choices, counting, strict=True)
    ]
    _refuse_forbidden_formats(choices, left, decided, device, points)
    dropped: dict[tuple[str, str, Codes], list[int]] = {}
    for index, (asked, kept, rule, allowed) in enumerate(zip(choices, left, decided, counting, strict=True)):
        if allowed is None or kept == asked:
            continue
        if not kept:
            raise ProblemError(
                f"{device.name} leaves nothing at '{points.points[index].name}': {rule.text} asks for "
                f"{choices_text(asked)}, and its {allowed.path} allow {choices_text(allowed.choices)}"
            )
        gone = tuple(code for code in asked if code not in kept)
        dropped.setdefault((rule.text, allowed.path, gone), []).append(index)
    notes = [
        f"{points.named(where)}: {choices_text(gone)} of {text} left out ({device.name}, {path})"
        for (text, path, gone), where in dropped.items()
    ]
    return left, [*device.idle_rules(points), *notes]


def _refuse_forbidden_formats(
    choices: Sequence[Codes], left: Sequence[Codes], decided: Sequence[Rule], device: Target, points: PointModules
) -> None:
    """Raise where a rule asks for a float format that the device has at none of the rule's points."""
    asked: dict[tuple[str, int], list[int]] = {}
    for index, (codes, rule) in enumerate(zip(choices, decided, strict=True)):
        for code in filter(is_float_code, codes):
            asked.setdefault((rule.text, code), []).append(index)
    for (text, code), where in asked.items():
        if not any(code in left[index] for index in where):
            raise ProblemError(
                f"{device.name} does not list {choice_name(code)}, which {text} asks for at {points.named(where)}"
            )


def _share(choices: Sequence[Codes], decided: Sequence[Rule], groups: Groups, points: PointModules) -> _Step:
    """Give the points of a group the same choices, where they were asked to have the same."""
    shared, notes = list(choices), []
    for group in groups:
        if len({choices[index] for index in group}) == 1:
            continue
        first = group[0]
        other = next((index for index in group if decided[index].codes != decided[first].codes), None)
        if other is not None:
            raise ProblemError(
                f"{_difference(first, other, choices, decided, points)}: give them the same choices, "
                "or pin all of them to one"
            )
        common = _common(choices[index] for index in group)
        if not common:
            other = next(index for index in group if choices[index] != choices[first])
            raise ProblemError(
                f"{_difference(first, other, choices, decided, points)}: nothing is left for both, do not tie them"
            )
        for index in group:
            shared[index] = common
        notes.append(f"{points.named(group)}: tied, so {choices_text(common)}")
    return shared, notes


def _difference(one: int, other: int, choices: Sequence[Codes], decided: Sequence[Rule], points: PointModules) -> str:
    has = [
        f"'{points.points[index].name}' has {choices_text(choices[index])} ({decided[index].text})"
        for index in (one, other)
    ]
    return f"tied points must have the same choices, but {has[0]} and {has[1]}"


def _common(sets: Iterable[Codes]) -> Codes:
    first, *others = sets
    return tuple(code for code in first if all(code in other for other in others))


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    before, place = divmod(number, len(string.ascii_uppercase))
    return (_letter(before - 1) if before else "") + string.ascii_uppercase[place]
