"""What a problem consists of, in words."""

from __future__ import annotations

from dataclasses import dataclass

from qexplore.model import Plan


@dataclass(frozen=True)
class Description:
    """What will be searched, and how candidates are evaluated; ``print`` shows it.

    Attributes:
        plan: the quantization points.
        lower: narrowest width at each point.
        upper: widest width at each point.
        engine: how candidates are evaluated, or why one after the other.
        early_stop: ``"on"``, or why candidates are always run to their end.
    """

    plan: Plan
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    engine: str
    early_stop: str

    def __str__(self) -> str:
        limits = sorted(set(zip(self.lower, self.upper, strict=True)))
        widths = ", ".join(f"{low} to {high} bits" for low, high in limits)
        return f"{self.plan}\n\nwidths: {widths}\nengine: {self.engine}\nearly stop: {self.early_stop}"
