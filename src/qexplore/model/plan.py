"""What will be quantized, where and how, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qexplore._choices import choice_name
from qexplore._coverage import Coverage
from qexplore._table import Framed, Rows, record_rows, text_table
from qexplore.model.left_float import LeftFloat, left_float_text
from qexplore.model.left_out import LeftOut, left_out_text
from qexplore.model.points import QuantizationPoint
from qexplore.quant import TensorQuantizer


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
class Plan(Framed):
    """What will be quantized, where and how; ``print`` shows it as a table.

    Attributes:
        network: its class.
        predicate: what selected the points.
        points: in the order of ``num_bits``.
        left_float: inputs that are not quantized though they might be, points that are off, and, where weights are
            quantized, those of two axes or more that are not, with the reasons.
        notes: sentences about weights that share memory.
        coverage: which share of the network is at those of the points that are not off; of what a forward does once
            data was seen.
        left_out: what else could be at points, by kind the largest first: outputs of modules, what modules read, calls
            of functions, weights.
    """

    network: str
    predicate: str
    points: tuple[PlannedPoint, ...]
    left_float: tuple[LeftFloat, ...] = ()
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None
    left_out: tuple[LeftOut, ...] = ()

    def _frame_rows(self) -> Rows:
        points, rows = record_rows(QuantizationPoint, (planned.point for planned in self.points))
        settings, values = record_rows(PlannedPoint, self.points)
        return [*points, *settings[1:]], [(*row, *more[1:]) for row, more in zip(rows, values, strict=True)]

    def __str__(self) -> str:
        rows = [_row(one) for one in self.points]
        header = ("#", "point", "type", "shape", "calls", "num_bits", "sign", "amax")
        title = f"{self.network}: {len(rows)} quantization points, selected by {self.predicate}"
        table = text_table(header, rows, numeric=(0, 4, 5, 7))
        coverage = str(self.coverage or "")
        parts = title, table, coverage, left_out_text(self.left_out), left_float_text(self.left_float), *self.notes
        return "\n".join(part for part in parts if part)


def planned(points: Sequence[QuantizationPoint], quantizers: Mapping[str, TensorQuantizer]) -> tuple[PlannedPoint, ...]:
    """The rows of a plan, from points and their quantizers in the same order."""
    return tuple(
        PlannedPoint(
            point,
            quantizer.code if quantizer.is_active else 0,
            quantizer.unsigned,
            quantizer.auto_sign,
            quantizer.asymmetric,
            None if quantizer.amax is None else float(quantizer.amax.max()),
        )
        for point, quantizer in zip(points, quantizers.values(), strict=True)
    )


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
