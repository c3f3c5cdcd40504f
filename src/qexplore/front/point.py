"""One member of a front, and what it saves against another."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from qexplore._choices import Choice
from qexplore._fingerprint import Fingerprint, text_digest
from qexplore.errors import FrontError
from qexplore.front import checks
from qexplore.front.words import bracketed, choices_words, cost_text, difference_text, score_text, widths_words

_KEY_DIGITS = 12


@dataclass(frozen=True)
class FrontPoint:
    """One member of a front: what stands at its quantization points, its scores and its costs by name.

    `num_bits` holds codes in the order of the points, as a model takes them: a width is itself, 0 is off, a float
    format has its code. `widths` says the same by point name, with a `FloatFormat` in the place of its code. Intervals
    are (low, high) at 95 %. An interval or a report accuracy that is not known is None. `further` holds the scores by
    further metrics by name, `report_further` those on the report set, NaN where not known. `found_on` is the
    fingerprint of the model, None where unknown.
    """

    index: int
    num_bits: tuple[int, ...]
    accuracy: float
    costs: dict[str, float] = field(hash=False)
    widths: dict[str, Choice] = field(hash=False, repr=False)
    interval: tuple[float, float] | None = None
    report_accuracy: float | None = None
    report_interval: tuple[float, float] | None = None
    metric_name: str = field(default="accuracy", repr=False)
    further: dict[str, float] = field(default_factory=dict, hash=False)
    report_further: dict[str, float] = field(default_factory=dict, hash=False)
    report_from_float: float | None = None
    report_from_float_interval: tuple[float, float] | None = None
    metric: Any = field(default=None, repr=False, compare=False)
    found_on: Fingerprint | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "metric": None}

    @property
    def total_bits(self) -> float:
        """Total bits of this point. FrontError when "total_bits" is none of the costs."""
        checks.require_total_bits("FrontPoint.total_bits", tuple(self.costs))
        return self.costs["total_bits"]

    @property
    def key(self) -> str:
        """Short digest of the widths by point name: the same point has it on every front, whatever its place there."""
        named = zip(self.widths, self.num_bits, strict=True)
        return text_digest(f"{name} {code}" for name, code in named)[:_KEY_DIGITS]

    def apply_to(self, model: Any, *, other_model: bool = False) -> None:
        """Give ``model``, wrapped, the widths of this point: ``model.num_bits = point``.

        Args:
            model: the one that the point was found on, or the same built again.
            other_model: allow one that differs in weights, ranges or layers, such as after fine-tuning. Widths go by
                the names of the points, which it must have; the point's scores need not hold there.

        Raises:
            OtherModelError: the point knows what it was found on, and ``model`` is another; it names what differs.
            NumBitsError: the model has other points.
            FrontError: ``model`` is not wrapped.
        """
        if not hasattr(model, "fake_quantizers"):
            raise FrontError(
                f"FrontPoint.apply_to: model must be a QuantizedModel, got {type(model).__name__}. Wrap the network as "
                "it was wrapped for the search."
            )
        model.num_bits = self.widths if other_model else self

    def __str__(self) -> str:
        """One line: index, scores, costs, widths."""
        parts = [f"{self.metric_name} {score_text(self.accuracy)}{bracketed(self.interval)}"]
        if self.report_accuracy is not None:
            parts.append(f"on the report set {score_text(self.report_accuracy)}{bracketed(self.report_interval)}")
        if self.report_from_float is not None:
            parts.append(f"{difference_text(self.report_from_float, self.report_from_float_interval)} from float there")
        for name, score in self.further.items():
            parts += [] if math.isnan(score) else [f"{name} {score_text(score)}"]
            report = self.report_further.get(name, math.nan)
            parts += [] if math.isnan(report) else [f"{name} on the report set {score_text(report)}"]
        parts += [f"{name} {cost_text(cost)}" for name, cost in self.costs.items()]
        return f"point {self.index}: {', '.join(parts)}; num_bits: {widths_words(self.num_bits, tuple(self.widths))}"


@dataclass(frozen=True, repr=False)
class BitsSaved:
    """What `point` needs less than `other_point` of the cost `cost_name`, at no less accuracy.

    `share` is of what `other_point` needs, nan where that is 0. `difference` is the score of `point` less that of
    `other_point`, `interval` its 95 % interval paired by sample, both on the report set if `on_report_set`, else on the
    search set, where no interval is known. `Front.bits_saved` says what "no less" means.
    """

    saved: float
    share: float
    point: FrontPoint
    other_point: FrontPoint
    cost_name: str = "total_bits"
    difference: float = math.nan
    interval: tuple[float, float] | None = None
    on_report_set: bool = False

    @property
    def change(self) -> str:
        """What becomes of the score, with the interval where it is known: "accuracy -0.0100 (-0.0288 to +0.0089)"."""
        return f"{self.point.metric_name} {difference_text(self.difference, self.interval)}"

    def text(self, other: str) -> str:
        """One line; ``other`` names what it is against."""
        return f"{cost_text(self.saved)} ({self.share:.0%}) by point {self.point.index}, {self.change}, against {other}"

    def __str__(self) -> str:
        other = f"point {self.other_point.index} ({choices_words(self.other_point.num_bits)})"
        where = "report set" if self.on_report_set else "search set"
        return f"{self.cost_name.replace('_', ' ')} saved: {self.text(other)}, on the {where}"

    def __repr__(self) -> str:
        return f"<{self}>"  # of which a tuple is what `Front.bits_saved` gives: all fields of two points are a wall
