"""What a front knows of a metric beside its first one."""

from __future__ import annotations

from dataclasses import dataclass

from qexplore._arguments import checked_switch
from qexplore._direction import Directed
from qexplore.errors import FrontError
from qexplore.front.checks import checked_score


@dataclass(frozen=True)
class FurtherMetric(Directed):
    """A metric after the first: candidates only have to reach its minimum. FrontError where a field does not fit."""

    name: str
    higher_is_better: bool = True
    min_accuracy: float | None = None
    """The worst acceptable score: the largest one when lower is better."""
    float_accuracy: float | None = None
    """The float network's score on the search set."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise FrontError(f"FurtherMetric: name must be a name, got {self.name!r}.")
        checked_switch("FurtherMetric: higher_is_better", self.higher_is_better, FrontError)
        for name in ("min_accuracy", "float_accuracy"):
            value = checked_score(name, getattr(self, name), owner="FurtherMetric")
            object.__setattr__(self, name, value)  # frozen for everyone but its own constructor
