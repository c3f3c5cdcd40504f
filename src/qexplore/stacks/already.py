"""Networks that are quantized already, or prepared for it: told by their modules, operators and tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from qexplore._onnx import OnnxModel
from qexplore.errors import WorkflowError
from qexplore.stacks.packed_linear import PackedLinear
from qexplore.stacks.pt2e_graph import ExportedNetwork

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_TRAINED = ("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")
_FLOAT = ("FloatFunctional", "FXFloatFunctional")
"""Modules that live among the quantized ones and compute in float."""
_OBSERVING = ("ObserverBase", "FakeQuantizeBase")
_OPERATORS = ("quantized", "quantized_decomposed", "torchao")


def refuse_quantized(network: nn.Module) -> None:
    """Raise unless ``network`` is a float network that nobody has prepared.

    Raises:
        WorkflowError: it names the first module, operator or tensor that tells.
    """
    found = next(_signs(network), None)
    if found is not None:
        raise WorkflowError(
            f"a network to be quantized must be a float one, but {type(network).__name__} {found}: give the network "
            "that it was made of"
        )


def _signs(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        kind = type(module)
        where = f" ('{name}' is a {kind.__module__.partition('.modules')[0]}.{kind.__name__})" if name else ""
        if isinstance(module, (PackedLinear, ExportedNetwork, OnnxModel)) or _is_integer(kind):
            yield f"is quantized already{where}"
        elif kind.__module__.startswith(_TRAINED) or any(one.__name__ in _OBSERVING for one in kind.__mro__):
            yield f"is prepared for quantization already{where}"
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if _namespace(node.target) in _OPERATORS:
                    yield f"is quantized already (its graph calls {node.target})"
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    for name, tensor in named:
        if tensor.is_quantized or _is_other_tensor(tensor):
            yield f"is quantized already ('{name}' is a {type(tensor.data).__name__} of {tensor.dtype})"


def _is_integer(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith(_QUANTIZED) and kind.__name__ not in _FLOAT


def _namespace(target: Any) -> str:
    return str(getattr(target, "namespace", "")) or str(getattr(target, "_qualified_op_name", "")).partition("::")[0]


def _is_other_tensor(tensor: Tensor) -> bool:
    return type(tensor.data).__module__.startswith("torchao.")
