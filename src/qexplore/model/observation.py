"""One forward in full precision that shows where tensors pass, and the plan that comes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from qexplore._choices import choice_name
from qexplore._table import text_table
from qexplore.errors import SelectionError
from qexplore.model.points import QuantizationPoint


class CallCounter:
    """Listens at all points during one forward: shapes, calls, and how many values pass.

    Args:
        num_samples: of the forward that it listens to.
    """

    def __init__(self, num_samples: int = 1) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calls: Counter[str] = Counter()
        self._num_samples = num_samples
        self._values: Counter[str] = Counter()

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Note one call at the point ``name``."""
        if tensors:
            self.shapes.setdefault(name, tuple(tensors[0].shape))
            self.calls[name] += 1
            self._values[name] += sum(tensor.numel() for tensor in tensors)

    def num_elements(self, name: str) -> int:
        """Values that one sample's forward passes at the point ``name``; at least that where samples share some."""
        return -(-self._values[name] // self._num_samples)


def refuse_never_called(never_called: list[str], network: nn.Module) -> None:
    """Raise when selected modules were not called.

    Raises:
        SelectionError: lists them, and says so when torch's attention reads their weights without calling them.
    """
    if not never_called:
        return
    listed = ", ".join(f"'{name}'" for name in never_called)
    bypassed = [name for name in never_called if _is_bypassed(name, network)]
    note = (
        f" (torch's MultiheadAttention uses the weights of {', '.join(bypassed)} without calling the module)"
        if bypassed
        else ""
    )
    raise SelectionError(
        f"every selected module must be called in a forward, but these never are: {listed}{note}. Leave them out: "
        f"predicate & ~predicates.by_name({', '.join(map(repr, never_called))})"
    )


def _is_bypassed(name: str, network: nn.Module) -> bool:
    parent, _, child = name.rpartition(".")
    return child == "out_proj" and isinstance(network.get_submodule(parent), nn.MultiheadAttention)


@dataclass(frozen=True)
class PlannedPoint:
    """One row of a `Plan`: the point, and what its quantizer is set to."""

    point: QuantizationPoint
    num_bits: int
    unsigned: bool
    auto_sign: bool
    asymmetric: bool
    amax: float | None


@dataclass(frozen=True)
class Plan:
    """What will be quantized, where and how; ``print`` shows it as a table."""

    network: str
    predicate: str
    points: tuple[PlannedPoint, ...]

    def __str__(self) -> str:
        rows = [_row(planned) for planned in self.points]
        header = ("#", "point", "type", "shape", "calls", "num_bits", "sign", "amax")
        title = f"{self.network}: {len(rows)} quantization points, selected by {self.predicate}"
        return f"{title}\n{text_table(header, rows, numeric=(0, 4, 5, 7))}"


def _row(planned: PlannedPoint) -> tuple[str, ...]:
    point = planned.point
    calls = "-" if point.kind == "weight" else "?"
    sign = "asymmetric" if planned.asymmetric else "unsigned" if planned.unsigned else "signed"
    return (
        str(point.index),
        point.name,
        point.module_type or "(input)",
        "?" if point.shape is None else " x ".join(map(str, point.shape)) or "scalar",
        calls if point.num_calls is None else str(point.num_calls),
        choice_name(planned.num_bits),
        "auto" if planned.auto_sign and planned.amax is None else sign,
        "not calibrated" if planned.amax is None else f"{planned.amax:.6g}",
    )
