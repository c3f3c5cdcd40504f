"""Whether a written ONNX file keeps to TensorRT's rules for explicit quantization, read from the file alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qexplore._table import Tabular, text_table
from qexplore.errors import ExportError
from qexplore.export import tensorrt_numbers as numbers
from qexplore.export import tensorrt_placement as placement
from qexplore.export.onnx_graph import OnnxGraph, read_graph
from qexplore.export.violation import Violation

Rule = Callable[[OnnxGraph], Iterator[Violation]]

RULES: Mapping[str, tuple[str, Rule]] = {
    "opset": ("an opset that the parser reads and that has the types", numbers.check_opset),
    "operator": ("Q and DQ instead of operators on integers, nothing outside the standard", placement.check_operators),
    "type": ("int8, float8 E4M3FN or int4", numbers.check_types),
    "signed": ("no unsigned integers", numbers.check_signs),
    "zero point": ("absent, or constant and zero", numbers.check_zero_points),
    "zero point type": ("the tensor's own type, one for each scale", numbers.check_zero_point_types),
    "scale": ("constant, floating, finite, above zero", numbers.check_scales),
    "per channel": ("for weights only, along the axis of their channels", numbers.check_granularity),
    "block": ("for int4 only: 64 or 128 values along one of the last two axes", numbers.check_granularity),
    "int4": ("for weights of matrix products only", numbers.check_int4),
    "pair": ("every Q goes to DQs of its own scale and nowhere else", placement.check_pairs),
    "weight": ("a weight's DQ goes straight into the layer", placement.check_weights),
    "bias": ("in float", placement.check_biases),
    "clip": ("none that cuts a grid down to fewer bits", placement.check_clips),
}
"""What each rule asks for, and the function that looks; several rules may share one."""


@dataclass(frozen=True)
class TensorRTCheck(Tabular):
    """What `check_tensorrt` found.

    Attributes:
        path: of the file.
        violations: empty where the file keeps to the rules.
        rules: names of the rules that were checked.
        tensors: how many activations and weights are quantized to which type: ``{"int8 weights": 21}``.
        notes: one sentence for each layer that is likely to run in float, although something of it is quantized; no
            violation.
    """

    path: Path
    violations: tuple[Violation, ...]
    rules: tuple[str, ...]
    tensors: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether no rule is broken."""
        return not self.violations

    def __str__(self) -> str:
        broken = Counter(violation.rule for violation in self.violations)
        rows = [(name, RULES[name][0], str(broken[name]) if broken[name] else "kept") for name in self.rules]
        found = ", ".join(f"{count} {kind}" for kind, count in self.tensors.items()) or "nothing is quantized"
        lines = [f"{self.path.name} for TensorRT: {found}", "", text_table(("rule", "asks for", "broken"), rows)]
        lines += ["", *map(str, self.violations)] if self.violations else []
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines)


def check_tensorrt(path: str | Path) -> TensorRTCheck:
    """Read an ONNX file and check it against TensorRT's rules for explicit quantization.

    Knows nothing of how the file came about, and needs neither TensorRT nor a GPU. What it looks at is the main graph;
    whether every operator of the float network has a TensorRT layer is the parser's to say.

    Args:
        path: of the file.

    Raises:
        ExportError: there is no such file, or it is not valid ONNX.
        MissingPackageError: ``onnx`` is not installed.
    """
    if not isinstance(path, (str, Path)):
        raise ExportError(
            f"check_tensorrt takes the path of an ONNX file, got {type(path).__name__}: write one with "
            "export_onnx(model, path, example_input)"
        )
    graph = read_graph(path)
    checks = dict.fromkeys(check for _, check in RULES.values())
    violations = tuple(violation for check in checks for violation in check(graph))
    return TensorRTCheck(Path(path), violations, tuple(RULES), _tensors(graph), tuple(placement.layers_in_float(graph)))


def _tensors(graph: OnnxGraph) -> dict[str, int]:
    kinds = [
        f"{step.type} {'weights' if graph.is_of_weight(step) else 'activations'}"
        for step in graph.steps.values()
        if not step.quantizes
    ]
    return dict(sorted(Counter(kinds).items()))
