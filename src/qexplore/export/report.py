"""What an export wrote, and how near it is to the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qexplore._table import Tabular, text_table
from qexplore.export.parity import Parity


@dataclass(frozen=True)
class ExportedPoint:
    """A point as it stands in a file.

    Attributes:
        name: of the point.
        kind: ``"input"``, ``"activation"`` or ``"weight"``.
        choice: its width or format in the model: "5", "E4M3", "off".
        type: of the values in the file, such as ``"int8"``; ``"float"`` where they are not quantized.
        zero_point: the integer that stands for 0.
    """

    name: str
    kind: str
    choice: str
    type: str
    zero_point: int = 0


@dataclass(frozen=True)
class ExportReport(Tabular):
    """What `export_onnx` did.

    Attributes:
        path: of the ONNX file.
        manifest: path of the widths manifest beside it.
        target: what the file is written for.
        opset: of the file.
        points: one row per point of the model.
        not_represented: points that the file holds in float although the model quantizes them, with the reason.
        widened: points that the target made wider than the model has them, with the reason.
        size: of the file and of the weights beside it, in bytes.
        parity: what the comparison on `data` found, with the model that the file is written from: for TensorRT a copy,
            changed as ``widened`` says. None without data.
        parity_with_given: what the same comparison with the model as it was given found, for a file that is written
            from a changed copy: what the change does, too. None without data, and where nothing is changed.
        left_out: outputs of the network that are no tensors, which a file cannot hold.
        float_operands: a sentence for every operand of a product that is in float in the file, and of a sum beside one
            in integers: points could have them in integers, as ``QuantizedModel(network, scheme=...)`` does.
    """

    path: Path
    manifest: Path
    target: str
    opset: int
    points: tuple[ExportedPoint, ...]
    not_represented: tuple[str, ...]
    widened: tuple[str, ...]
    size: int
    parity: Parity | None = None
    parity_with_given: Parity | None = None
    left_out: tuple[str, ...] = ()
    float_operands: tuple[str, ...] = ()

    @property
    def num_points(self) -> int:
        """How many points the file quantizes."""
        return sum(point.type != "float" for point in self.points)

    @property
    def num_samples(self) -> int:
        """Samples that were compared."""
        return 0 if self.parity is None else self.parity.num_samples

    @property
    def num_different(self) -> int | None:
        """Samples with a prediction that differs in `parity`; None where none were compared."""
        return None if self.parity is None else self.parity.num_different

    @property
    def largest_difference(self) -> float | None:
        """Of two numbers in the outputs, in `parity`; None where nothing was compared."""
        return None if self.parity is None else self.parity.largest_difference

    def __str__(self) -> str:
        header = ("point", "kind", "num_bits", "type", "zero point")
        rows = [(p.name, p.kind, p.choice, p.type, str(p.zero_point or "")) for p in self.points]
        size = f"{self.size / 1024:.1f} KiB"
        first = f"{self.path} for {self.target}, opset {self.opset}, {size}: {self.num_points} points quantized"
        lines = [first, text_table(header, rows, numeric=(2, 4))]
        lines += [f"could not be represented: {sentence}" for sentence in self.not_represented]
        lines += [f"widened: {sentence}" for sentence in self.widened]
        lines += [f"left out, for it is no tensor: {output}" for output in self.left_out]
        lines += self._in_float()
        lines += [*self._comparisons(), f"widths and ranges: {self.manifest}"]
        return "\n".join(lines)

    def _in_float(self) -> list[str]:
        if not self.float_operands:
            return [_IN_INTEGERS] if self.num_points else []
        more = len(self.float_operands) - _SHOWN
        shown = self.float_operands[:_SHOWN]
        return [f"in float: {one}" for one in shown] + ([f"in float: {more} more operands"] if more > 0 else [])

    def _comparisons(self) -> list[str]:
        is_for_tensorrt = self.target == "tensorrt"
        lines = [_TENSORRT_ONLY] if is_for_tensorrt else []
        if self.parity is None:
            return ["not compared with the model: give data= to do so", *lines]
        if self.parity_with_given is not None:
            lines.insert(0, f"compared with the model as it was given on {self.parity_with_given}")
        model = "the model as changed for TensorRT" if is_for_tensorrt else "the model"
        return [f"compared with {model} on {self.parity}", *lines]


_IN_INTEGERS = "every operand of convolutions and products of matrices is in integers, and of sums with one that is"

_SHOWN = 4
"""Operands that are listed before it is said how many more there are."""

_TENSORRT_ONLY = (
    "the file is for TensorRT: do not judge it in onnxruntime with its optimizer on, which computes other numbers for "
    "such files; graph_optimization_level = ORT_DISABLE_ALL gives what a comparison here sees"
)
