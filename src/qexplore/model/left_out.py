"""What stays float though a predicate could have taken it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qexplore._coverage import listing
from qexplore.model.points import PointKind

_NAMED = 5
_ARGUMENTS: dict[PointKind, str] = {
    "activation": "activations",
    "argument": "inputs",
    "function": "functions",
    "weight": "weights",
}


@dataclass(frozen=True)
class LeftOut:
    """What stays float, and could be at a point of its own.

    Attributes:
        name: of the module, the call or the weight.
        kind: ``"activation"`` (a module's output), ``"argument"`` (what it reads), ``"function"`` (a call's result) or
            ``"weight"``.
        num_elements: how many numbers it has, of one sample.
    """

    name: str
    kind: PointKind
    num_elements: float


def left_out_text(left: Iterable[LeftOut]) -> str:
    """What is ``left`` out, a line for each argument of `qexplore.QuantizedModel` that takes it; empty for nothing."""
    by_kind: dict[PointKind, list[tuple[str, float]]] = {}
    for one in left:
        by_kind.setdefault(one.kind, []).append((one.name, one.num_elements))
    lines = [f"  {_ARGUMENTS[kind]}: {listing(parts[:_NAMED], len(parts))}" for kind, parts in by_kind.items()]
    return (
        "\n".join(["left float, and could be at points, by the argument that selects them:", *lines]) if lines else ""
    )
