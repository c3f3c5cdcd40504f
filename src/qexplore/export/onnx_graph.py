"""A written ONNX file as a graph one can ask: who makes a tensor, who reads it, which are constants, what is quantized.

Knows nothing of how the file came about: only the ``onnx`` package is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qexplore._optional import import_optional
from qexplore.errors import ExportError

_DEFAULT_AXIS = 1


@dataclass(frozen=True)
class Use:
    """A node that reads a tensor.

    Attributes:
        node: ``onnx.NodeProto``.
        place: which of the node's inputs the tensor is.
    """

    node: Any
    place: int


@dataclass(frozen=True)
class Step:
    """A QuantizeLinear or DequantizeLinear node.

    Attributes:
        node: ``onnx.NodeProto``.
        quantizes: whether it is a QuantizeLinear.
        data: the tensor that comes in.
        result: the tensor that goes out.
        scale: tensor of the scales.
        zero_point: tensor of the zero points; empty where there is none.
        type: of the quantized tensor, as in the ONNX standard: ``"int8"``, ``"float8e4m3fn"``; empty if not known.
        axis: of the scales, where there are several.
        block_size: how many values along the axis share a scale; 0 where a tensor or a channel does.
    """

    node: Any
    quantizes: bool
    data: str
    result: str
    scale: str
    zero_point: str
    type: str
    axis: int
    block_size: int


class OnnxGraph:
    """The main graph of a model.

    Args:
        model: ``onnx.ModelProto``, with its weights.
    """

    def __init__(self, model: Any) -> None:
        self._onnx = import_optional("onnx", extra="onnx", purpose="checking an ONNX file")
        graph = model.graph
        self.nodes: list[Any] = list(graph.node)
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self.outputs = {value.name for value in graph.output}
        self.input_types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in self.input_types}
        self._uses: dict[str, list[Use]] = {}
        for node in self.nodes:
            for place, name in enumerate(node.input):
                self._uses.setdefault(name, []).append(Use(node, place))

    def producer(self, name: str) -> Any:
        """The node that makes the tensor; None for a graph's input or a constant."""
        return self._producers.get(name)

    def uses(self, name: str) -> list[Use]:
        """The nodes that read the tensor, in the order of the file."""
        return self._uses.get(name, [])

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """The value of a node's attribute; ``default`` where the file leaves it out."""
        found = next((attribute for attribute in node.attribute if attribute.name == name), None)
        return default if found is None else self._onnx.helper.get_attribute_value(found)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is written in the file: no input that a caller may replace, nothing computed."""
        return self._tensor(name) is not None

    def type_of_constant(self, name: str) -> str:
        """Element type of a constant, as in the ONNX standard; empty where the tensor is none."""
        tensor = self._tensor(name)
        return "" if tensor is None else self._type_name(tensor.data_type)

    def values(self, name: str) -> npt.NDArray[Any]:
        """The values of a constant, in an element type of ``ml_dtypes`` where numpy has none of its own."""
        values: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(self._tensor(name))
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant."""
        return tuple(self._tensor(name).dims)

    def _tensor(self, name: str) -> Any:
        if name in self._tensors:
            return self._tensors[name]
        node = self._producers.get(name)
        if node is None:
            return None
        if node.op_type == "Identity":
            return self._tensor(node.input[0])
        if node.op_type != "Constant":
            return None
        tensor = self.attribute(node, "value")
        if tensor is None:
            written = self._onnx.helper.get_attribute_value(node.attribute[0])
            kind = np.float32 if node.attribute[0].name.startswith("value_float") else np.int64
            tensor = self._onnx.numpy_helper.from_array(np.asarray(written, dtype=kind))
        self._tensors[name] = tensor
        return tensor

    def _type_name(self, data_type: int) -> str:
        if not data_type:
            return ""
        name: str = self._onnx.TensorProto.DataType.Name(data_type)
        return name.lower()

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """Every QuantizeLinear and DequantizeLinear, by the tensor that it makes."""
        steps: dict[str, Step] = {}
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                steps[node.output[0]] = self._step(node, steps)
        return steps

    def _step(self, node: Any, before: Mapping[str, Step]) -> Step:
        data, scale, zero_point = [*node.input, ""][:3]
        quantizes = node.op_type == "QuantizeLinear"
        if quantizes:
            kind = self._made_type(node, zero_point)
        else:
            kind = before[data].type if data in before else self._type(data)
        return Step(
            node=node,
            quantizes=quantizes,
            data=data,
            result=node.output[0],
            scale=scale,
            zero_point=zero_point,
            type=kind,
            axis=self.attribute(node, "axis", _DEFAULT_AXIS),
            block_size=self.attribute(node, "block_size", 0),
        )

    def _made_type(self, node: Any, zero_point: str) -> str:
        if zero_point:
            return self._type(zero_point)
        return self._type_name(self.attribute(node, "output_dtype", 0)) or "uint8"  # the standard's default

    def _type(self, name: str) -> str:
        return self.type_of_constant(name) or self._type_name(self.input_types.get(name, 0))

    def step_before(self, step: Step) -> Step | None:
        """The QuantizeLinear whose integers a DequantizeLinear reads; None where it reads something else."""
        found = self.steps.get(step.data)
        return found if found is not None and found.quantizes and not step.quantizes else None

    def is_of_weight(self, step: Step) -> bool:
        """Whether what is quantized is written in the file, as floats or as integers."""
        before = self.step_before(step)
        return self.is_constant(step.data if before is None else before.data)

    def weight_shape(self, step: Step) -> tuple[int, ...]:
        """The shape of a weight that `is_of_weight`."""
        before = self.step_before(step)
        return self.shape(step.data if before is None else before.data)

    def dequantized_uses(self, step: Step) -> Iterator[Use]:
        """Who reads the tensor after it is dequantized: the uses behind a QuantizeLinear's DequantizeLinear too."""
        for use in self.uses(step.result):
            if step.quantizes and use.node.op_type == "DequantizeLinear":
                yield from self.uses(use.node.output[0])
            else:
                yield use


def read_graph(path: str | Path) -> OnnxGraph:
    """Read and validate an ONNX file; functions of its own are written out.

    Args:
        path: of the file; weights stored beside it are read too.

    Raises:
        ExportError: there is no such file, or it is not valid ONNX.
        MissingPackageError: ``onnx`` is not installed.
    """
    onnx = import_optional("onnx", extra="onnx", purpose="checking an ONNX file")
    file = Path(path)
    if not file.is_file():
        raise ExportError(f"`path` must be an ONNX file, but there is none at '{file}': write one with qx.export_onnx")
    try:
        onnx.checker.check_model(str(file))
        model = onnx.load(str(file))
    except Exception as error:  # protobuf, onnx and the file system each have errors of their own
        reason = " ".join(str(error).split()).rstrip(".")
        raise ExportError(f"'{file}' must be a valid ONNX file, but it is not: {reason}. Write it anew") from error
    if model.functions:
        inliner = import_optional("onnx.inliner", extra="onnx", purpose="checking an ONNX file")
        model = inliner.inline_local_functions(model)
    return OnnxGraph(model)


def node_name(node: Any) -> str:
    """How a node is called in sentences: its name, or its first output where the file names it not."""
    name: str = node.name or node.output[0]
    return name
