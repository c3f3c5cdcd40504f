"""What a problem consists of, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qexplore.model import Plan
from qexplore.search.control import ChoicePlan


@dataclass(frozen=True)
class Description:
    """What will be searched, and how candidates are evaluated; ``print`` shows it.

    Attributes:
        plan: the quantization points.
        choices: what each of them may have, and which rule says so.
        costs: names of what is kept small.
        min_accuracy: the worst acceptable score; None accepts all.
        limits: the most of costs, by name.
        engine: how candidates are evaluated, or why one after the other.
        early_stop: ``"on"``, or why candidates are always run to their end.
    """

    plan: Plan
    choices: ChoicePlan
    costs: tuple[str, ...]
    min_accuracy: float | None
    limits: Mapping[str, float]
    engine: str
    early_stop: str

    def __str__(self) -> str:
        accuracy = [] if self.min_accuracy is None else [f"accuracy {self.min_accuracy:g} or better"]
        required = ", ".join([*accuracy, *(f"{name} at most {upper:g}" for name, upper in self.limits.items())])
        return (
            f"{self.plan}\n\n{self.choices}\n\ncosts: {', '.join(self.costs)}\nrequired: {required or 'nothing'}\n"
            f"engine: {self.engine}\nearly stop: {self.early_stop}"
        )
