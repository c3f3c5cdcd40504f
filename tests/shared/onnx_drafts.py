"""Small ONNX files made by hand: within TensorRT's rules, and easily altered to break one."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

import qexplore as qx

E4M3, INT4 = ml_dtypes.float8_e4m3fn, ml_dtypes.int4


def constant(name, values, dtype=np.float32):
    return onnx.numpy_helper.from_array(np.asarray(values).astype(dtype), name)


class Draft:
    """An ONNX file in the making: nodes and constants by name, to be altered before it is written."""

    def __init__(self, opset: int = 21) -> None:
        self.opset, self.nodes, self.constants = opset, [], {}
        self.inputs = {"x": (TensorProto.FLOAT, ["batch", 2, 4, 4])}
        self.output = ("y", TensorProto.FLOAT)

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"{kind} {output}", **attributes))
        return output

    def give(self, name, values, dtype=np.float32):
        self.constants[name] = constant(name, values, dtype)
        return name

    def pair(self, data, scale=0.02, dtype=np.int8, **attributes):
        """Q and DQ of a tensor; the name of what comes out."""
        scale = self.give(f"{data}_scale", scale)
        zero = self.give(f"{data}_zero", np.zeros(self.constants[scale].dims), dtype)
        self.add("QuantizeLinear", [data, scale, zero], f"{data}_q", **attributes)
        return self.add("DequantizeLinear", [f"{data}_q", scale, zero], f"{data}_dq", **attributes)

    def weight(self, name, integers, scale, dtype=np.int8, **attributes):
        """DQ of a weight that is stored quantized; the name of what comes out."""
        inputs = [self.give(name, integers, dtype), self.give(f"{name}_scale", scale)]
        inputs.append(self.give(f"{name}_zero", np.zeros(np.shape(scale)), dtype))
        return self.add("DequantizeLinear", inputs, f"{name}_dq", **attributes)

    def node(self, output):
        return next(node for node in self.nodes if node.output[0] == output)

    def write(self, path: Path) -> Path:
        graph = onnx.helper.make_graph(
            self.nodes,
            "draft",
            [onnx.helper.make_tensor_value_info(name, *kind) for name, kind in self.inputs.items()],
            [onnx.helper.make_tensor_value_info(*self.output, [None, None])],
            list(self.constants.values()),
        )
        imports = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid("com.example", 1)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), path)
        return path


def convolution(dtype=np.int8, **options) -> Draft:
    """Input, convolution with bias, ReLU, matrix product: activations and weights quantized to one type."""
    draft, random = Draft(**options), np.random.default_rng(0)
    filters = draft.weight("w", random.integers(-9, 9, (3, 2, 3, 3)), [0.1, 0.2, 0.3], dtype, axis=0)
    draft.add("Conv", [draft.pair("x", dtype=dtype), filters, draft.give("b", [0.1, 0.2, 0.3])], "c", pads=[1, 1, 1, 1])
    draft.add("Relu", ["c"], "r")
    draft.add("Flatten", [draft.pair("r", dtype=dtype)], "f")
    matrix = draft.weight("m", random.integers(-9, 9, (5, 48)), np.full(5, 0.1), dtype, axis=0)
    draft.add("Gemm", ["f", matrix], "y", transB=1)
    return draft


def int4_product(block=64, size=128) -> Draft:
    """A matrix product with int4 weights in blocks along its inputs."""
    draft = Draft()
    draft.inputs = {"x": (TensorProto.FLOAT, ["batch", size])}
    integers = np.random.default_rng(0).integers(-8, 8, (size, 6))
    matrix = draft.weight("m", integers, np.full((size // block, 6), 0.1), INT4, axis=0, block_size=block)
    draft.add("MatMul", ["x", matrix], "y")
    return draft


def check(draft: Draft, tmp_path: Path) -> qx.TensorRTCheck:
    return qx.check_tensorrt(draft.write(tmp_path / "model.onnx"))


def change(draft: Draft, name: str, values, dtype=np.float32) -> Draft:
    """``draft`` with another constant under a name."""
    draft.give(name, values, dtype)
    return draft


def rewire(draft: Draft, output: str, place: int, tensor: str) -> Draft:
    """``draft`` with another tensor at an input of the node that makes ``output``."""
    draft.node(output).input[place] = tensor
    return draft
