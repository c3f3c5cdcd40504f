"""Which share of a network is quantized, and what stays float: numbers, and the words for them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

LISTED = 8
"""So many of the largest parts that stay float are named."""
_IN_A_LINE = 2


@dataclass(frozen=True)
class CoveredShare:
    """How much of something is quantized.

    Attributes:
        quantized: so much of it is at quantization points.
        total: all of it.
        largest_float: names of the largest parts that are not, each with its amount, largest first; eight at most.
        num_float: how many parts are not, named or not.
    """

    quantized: float
    total: float
    largest_float: tuple[tuple[str, float], ...] = ()
    num_float: int = 0

    @classmethod
    def of(cls, total: float, left: Mapping[str, float]) -> CoveredShare:
        """From the parts that are ``left`` float, amounts by name."""
        parts = sorted(((name, whole(amount)) for name, amount in left.items() if amount), key=lambda part: -part[1])
        return cls(whole(max(0.0, total - sum(left.values()))), whole(total), tuple(parts[:LISTED]), len(parts))

    @property
    def share(self) -> float:
        """From 0 to 1; 1 where there is nothing to quantize."""
        return self.quantized / self.total if self.total else 1.0

    @property
    def float_text(self) -> str:
        """The largest parts that stay float, in words; empty where none does."""
        return listing(self.largest_float, self.num_float)


@dataclass(frozen=True)
class Coverage:
    """Which share of a network is at quantization points; ``print`` shows it.

    At points that are not off: of a model those whose present choice is not off, of a search those that may have
    another choice than off. A point that was disabled by hand is off. All but the parameters is of one sample, in the
    mean over the kinds of samples that were seen, and None until a forward was.

    Attributes:
        parameters: numbers in all parameters, biases and norms included; parts are parameters.
        weight_macs: multiply-accumulates by their operand that is a parameter, or is made of parameters and buffers
            alone: those whose operand is at a point. Parts are modules, and calls of functions.
        activation_macs: multiply-accumulates by their other operand; of a product of two activations each counts.
        activation_elements: numbers that operations compute with, each once however many read it: those that all read
            at a point. An operation that works on one tensor alone element by element or channel by channel
            (activation functions, scales, BatchNorm) and one that moves numbers do not count as reading, for they are
            part of what does. Parts are the modules and calls that read them in float.
        not_counted: a sentence on what is in none of these figures; empty where all is.
        is_searched: whether it is of the points that a search has, of which a member may leave some off. What a member
            has tells `QuantizedModel.coverage` after ``member.apply_to(model)``.
        num_may_be_off: of a search, how many points may be off in a member; None where that is not known, as in files
            that were written before it was told.
    """

    parameters: CoveredShare
    weight_macs: CoveredShare | None = None
    activation_macs: CoveredShare | None = None
    activation_elements: CoveredShare | None = None
    not_counted: str = ""
    is_searched: bool = False
    num_may_be_off: int | None = None

    @classmethod
    def read(cls, value: Any) -> Coverage | None:
        """From what a file holds: a mapping of its fields, or None. TypeError for anything else.

        Files hold the coverage of searches, older ones without saying so.
        """
        if value is None or isinstance(value, Coverage):
            return value
        told = dict(value) if isinstance(value, Mapping) else {}
        parameters, not_counted = _share(told.pop("parameters", None)), told.pop("not_counted", "")
        is_searched, num_off = told.pop("is_searched", True), told.pop("num_may_be_off", None)
        are_told = isinstance(not_counted, str) and isinstance(is_searched, bool) and _is_count(num_off)
        if parameters is None or not are_told:
            raise TypeError(f"Coverage: must be a mapping of its fields, got {value!r}")
        shares = {name: _share(one) for name, one in told.items()}
        return cls(parameters, **shares, not_counted=not_counted, is_searched=is_searched, num_may_be_off=num_off)

    @property
    def shares(self) -> dict[str, CoveredShare]:
        """What is known, by its words."""
        known = {words: getattr(self, name) for name, words in _WORDS.items()}
        return {words: share for words, share in known.items() if share is not None}

    @property
    def title(self) -> str:
        """What `line` is of, in words."""
        return "coverage at points" if self.is_searched else "coverage"

    @property
    def may_be_off(self) -> str:
        """That points may be off in a member of a search, in words; empty where none may, or it is not known."""
        count = self.num_may_be_off or 0
        points = "1 point" if count == 1 else f"{count:,} points"
        return f"{points} may be off in a member, which leaves more in float" if count else ""

    @property
    def line(self) -> str:
        """The shares in one line, with the largest parts that stay float, and how many points may be off."""
        shares = ", ".join(f"{words} {percent(share)}" for words, share in self.shares.items())
        left = [
            f"{words + ' read by' * (words in _BY_READER)} {listing(share.largest_float[:_IN_A_LINE], share.num_float)}"
            for words, share in self.shares.items()
            if share.num_float
        ]
        told = [shares, *([f"left float: {'; '.join(left)}"] if left else []), self.may_be_off]
        return "; ".join(filter(None, told))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        rows = [
            (words, percent(one), amount_text(one.quantized), amount_text(one.total))
            for words, one in self.shares.items()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        told = [
            f"  {words:{widths[0]}}  {share:>{widths[1]}}  {quantized:>{widths[2]}} of {total:>{widths[3]}}"
            for words, share, quantized, total in rows
        ]
        left = [
            f"{words} left float{', by what reads them' * (words in _BY_READER)}: {one.float_text}"
            for words, one in self.shares.items()
            if one.float_text
        ]
        gap = [f"not counted: {self.not_counted}"] if self.not_counted else []
        may_be_off = [self.may_be_off] if self.may_be_off else []
        return "\n".join(["at points:" if self.is_searched else "quantized:", *told, *left, *may_be_off, *gap])


_WORDS = {
    "parameters": "parameters",
    "weight_macs": "MACs by weight",
    "activation_macs": "MACs by activation",
    "activation_elements": "activation elements",
}
_BY_READER = ("activation elements",)
"""Words of amounts whose parts are named by what reads them, not by what makes them."""


def listing(parts: Iterable[tuple[str, float]], count: int) -> str:
    """Names with amounts, and how many of ``count`` are not among them."""
    named = [f"{name or '(the network itself)'} ({amount_text(amount)})" for name, amount in parts]
    return ", ".join(named) + (f" and {count - len(named):,} more" if count > len(named) else "")


def amount_text(amount: float) -> str:
    """A number of things as people read it; a mean may be no whole one."""
    return f"{amount:,}" if amount == round(amount) else f"{amount:,.1f}"


def whole(number: float) -> float:
    """``number``, as an int where it is one."""
    return round(number) if number == round(number) else number


def percent(one: CoveredShare) -> str:
    """The share in words. Never 100 % where something stays float, nor 0 % where something does not."""
    if not one.total:
        return "none"
    shown = f"{one.share:.1%}"
    if shown == "100.0%" and one.quantized < one.total:
        return ">99.9%"
    return "<0.1%" if shown == "0.0%" and one.quantized else shown


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _share(value: Any) -> CoveredShare | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"Coverage: a share must be a mapping of its fields, got {value!r}")
    try:
        largest = tuple((str(name), whole(float(amount))) for name, amount in value.get("largest_float", ()))
    except (ValueError, OverflowError) as error:  # no pair, or no finite number
        raise TypeError(f"Coverage: a share must hold names and numbers, got {value!r}") from error
    known = {name: value[name] for name in ("quantized", "total", "num_float") if name in value}
    bad = next((name for name, number in known.items() if not isinstance(number, (int, float))), None)
    if bad is not None or set(value) - {one.name for one in fields(CoveredShare)}:
        raise TypeError(f"Coverage: a share must hold numbers, got {value!r}")
    return CoveredShare(**known, largest_float=largest)
