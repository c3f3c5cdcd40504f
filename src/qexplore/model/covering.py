"""Which share of a wrapped network is at points, from a float forward of each kind of sample, and what could be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qexplore._coverage import Coverage, CoveredShare, listing, whole
from qexplore.errors import NumBitsError
from qexplore.model.examples import Example
from qexplore.model.left_float import NOT_SELECTED, LeftFloat, left_float, plain_name
from qexplore.model.left_out import LeftOut
from qexplore.model.points import PointKind
from qexplore.model.taping import taped
from qexplore.model.weights import with_plain_weights
from qexplore.model.wrapped import WrappedNetwork
from qexplore.tape import Tape

_MOST = 8
"""So many kinds of samples are looked at, the commonest."""
_NAMED = 5
_SEEN_IN_DATA = (
    "what a forward multiplies and reads, which is seen in data: call model.describe(example_input) or "
    "model.calibrate(loader)"
)


@dataclass
class _Amounts:
    """Amounts of one sample by what they are of: of all, and of parts that stay float."""

    total: Counter[str] = field(default_factory=Counter)
    left: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    could_be: defaultdict[PointKind, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    missing: Counter[str] = field(default_factory=Counter)
    kernels: dict[str, None] = field(default_factory=dict)

    def add(self, tape: Tape, weight: float) -> None:
        """Add what one forward did, so many times."""
        for operation in tape.operations:
            name, macs = operation.call or operation.module, weight * operation.macs
            for sources, is_weight in zip(operation.operands, operation.of_weights, strict=True):
                self._add("weight" if is_weight else "activation", name, macs, bool(sources))
        for read in tape.reads:
            self._add("read", read.reader, weight * read.num_elements, read.is_quantized)
            if read.is_argument and read.reader and not read.is_quantized:
                self.could_be["argument"][read.reader] += weight * read.num_elements  # type: ignore[assignment]
        for value in tape.given:
            if value.given_by is not None and value.given_by[1] and value.is_float:
                kind, name = value.given_by
                self.could_be[kind][name] += weight * value.num_elements  # type: ignore[assignment]
        self.kernels.update(tape.kernels)
        for name, least in tape.missing.items():
            self.missing[name] += weight * least  # type: ignore[assignment]

    def _add(self, what: str, name: str, amount: float, is_quantized: bool) -> None:
        self.total[what] += amount  # type: ignore[assignment]
        if not is_quantized:
            self.left[what][name] += amount  # type: ignore[assignment]

    def share(self, what: str) -> CoveredShare:
        """How much of ``what`` is quantized."""
        return CoveredShare.of(self.total[what], self.left[what])


@dataclass(frozen=True)
class Covered:
    """What `covered` finds: the shares, what else could be at points, and the points that are off."""

    coverage: Coverage
    left_out: tuple[LeftOut, ...]
    left_float: tuple[LeftFloat, ...]


def covered(model: WrappedNetwork, choices: Any = None) -> Covered:
    """How much of ``model`` is at points that are not off, and what else could be, the largest of each kind first.

    Args:
        model: wrapped.
        choices: the plan of a search, whose points are off where they may have nothing else; None looks at what they
            have at present.

    Raises:
        NumBitsError: no plan, or one of other points.
    """
    codes = _codes(model, choices)
    on = {name for name, own in codes.items() if any(own)}
    coverage, left_out = _covered(model, on)
    off = tuple(_left(model, name, choices is not None) for name in codes if name not in on)
    if choices is not None:
        num_off = sum(0 in codes[name] for name in on)
        coverage = replace(coverage, is_searched=True, num_may_be_off=num_off)
    return Covered(coverage, left_out, off)


def _codes(model: WrappedNetwork, choices: Any) -> dict[str, tuple[int, ...]]:
    """What each point may have, by name; off alone where its quantizer was disabled by hand."""
    quantizers = model.fake_quantizers
    if choices is None:
        return {name: (code,) for name, code in zip(quantizers, model.num_bits.tolist(), strict=True)}
    points = getattr(choices, "points", None)
    if points is None or [point.name for point in points] != list(quantizers):
        raise NumBitsError(
            f"`choices` must be a plan for the {len(quantizers)} points of this model, got {type(choices).__name__}: "
            "take problem.plan, or make one with plan_choices(model, ...)"
        )
    return {
        name: (0,) if quantizers[name].disabled else tuple(own)
        for name, own in zip(quantizers, choices.choices, strict=True)
    }


def _left(model: WrappedNetwork, name: str, is_searched: bool) -> LeftFloat:
    if model.fake_quantizers[name].disabled:
        return LeftFloat(name, "disabled by hand", "point")
    return LeftFloat(name, "may have nothing but off" if is_searched else "off at present", "point")


def _covered(model: WrappedNetwork, on: Collection[str]) -> tuple[Coverage, tuple[LeftOut, ...]]:
    """The shares, where only points that are ``on`` count, and what no point takes, be it on or off."""
    parameters, weights = _parameters(model, on), _weights(model)
    examples = sorted(model.examples, key=lambda one: -one.num_seen)[:_MOST]
    if not examples:
        return Coverage(parameters, not_counted=_SEEN_IN_DATA), weights
    try:
        amounts = _seen(model, examples, on)
        selected = amounts if len(on) == len(model.points) else _seen(model, examples, model.fake_quantizers)
    except Exception as error:  # whatever a network does that torch's modes cannot follow, it can be quantized
        told = str(error).strip().splitlines() or [""]
        why = f"a forward, which cannot be followed operation by operation here ({type(error).__name__}: {told[0]})"
        return Coverage(parameters, not_counted=why), weights
    coverage = Coverage(
        parameters, amounts.share("weight"), amounts.share("activation"), amounts.share("read"), _not_counted(amounts)
    )
    return coverage, (*_could_be(selected), *weights)


def _seen(model: WrappedNetwork, examples: Sequence[Example], on: Collection[str]) -> _Amounts:
    index = {point.name: point.index for point in model.points if point.name in on}
    plain = with_plain_weights(model)
    parameters = {point.parameter: index[point.name] for point in plain.weight_points if point.name in index}
    amounts, all_seen = _Amounts(), sum(example.num_seen for example in examples)
    for example in examples:
        tape = taped(plain, example.inputs, parameters, index, names_calls=True)
        amounts.add(tape, example.num_seen / (all_seen * example.num_samples))
    return amounts


def _not_counted(amounts: _Amounts) -> str:
    told = []
    if amounts.missing:
        listed = listing(amounts.missing.most_common(_NAMED), len(amounts.missing))
        told.append(f"products of {listed} numbers, for which there is no formula")
    if amounts.kernels:
        names = [name or "the network itself" for name in amounts.kernels]
        within = ", ".join(names[:_NAMED]) + " and others" * (len(names) > _NAMED)
        told.append(f"activation elements within {within}, a kernel each (`unroll_recurrent` opens recurrent ones)")
    return "; ".join(told)


def _could_be(amounts: _Amounts) -> tuple[LeftOut, ...]:
    kinds: tuple[PointKind, ...] = ("activation", "argument", "function")
    return tuple(
        LeftOut(name, kind, whole(count)) for kind in kinds for name, count in amounts.could_be[kind].most_common()
    )


def _parameters(model: WrappedNetwork, on: Collection[str]) -> CoveredShare:
    at_points = {id(parameter) for point in model.weight_points if point.name in on for parameter in point.parameters}
    named = list(model.model.named_parameters())
    left = {plain_name(name): parameter.numel() for name, parameter in named if id(parameter) not in at_points}
    return CoveredShare.of(sum(parameter.numel() for _, parameter in named), left)


def _weights(model: WrappedNetwork) -> tuple[LeftOut, ...]:
    quantized = [holder for point in model.weight_points for holder in point.holders]
    left = [one for one in left_float(model.model, quantized) if one.reason == NOT_SELECTED]
    return tuple(
        LeftOut(one.name, "weight", one.num_elements) for one in sorted(left, key=lambda one: -one.num_elements)
    )
