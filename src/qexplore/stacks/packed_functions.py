"""Weights of functions that torch.ao packed: attributes of a converted graph that no module owns.

torch saves them with a network's state as objects that cannot be read without trusting a file, and loads those alone
that stand on top of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

_NAMED = "_packed_weight"


def packed_functions(model: nn.Module) -> dict[str, Any]:
    """The packed weights of functions in ``model``, by the name of the attribute."""
    return {name: value for name, value in vars(model).items() if _NAMED in name and _is_packed(value)}


def packed_of(model: nn.Module, node: fx.Node) -> Any:
    """What the function that ``node`` calls has packed; None where it has nothing."""
    read = (getattr(model, str(one.target), None) for one in node.all_input_nodes if one.op == "get_attr")
    return next((one for one in read if _is_packed(one)), None)


def parameters_of(packed: Any) -> dict[str, Tensor | None]:
    """Weight and bias."""
    weight, bias = packed.unpack()
    return {"weight": weight, "bias": bias}


def with_parameters(packed: Any, given: Mapping[str, Tensor | None]) -> Any:
    """Weight and bias ``given``, packed for the engine in force as ``packed`` is.

    Raises:
        ValueError: they are of other shapes.
    """
    shapes = [{name: None if one is None else one.shape for name, one in both.items()}
              for both in (parameters_of(packed), given)]  # fmt: skip
    if shapes[0] != shapes[1]:
        raise ValueError(f"weight and bias of a function are of {shapes[1]} in the file, of {shapes[0]} here")
    weight, bias = given["weight"], given["bias"]
    if not packed._has_method("stride"):
        return torch.ops.quantized.linear_prepack(weight, bias)
    axes = len(packed.stride())  # a convolution over one axis is packed as one over two
    name = f"conv{'_transpose' if packed.transpose() else ''}{axes}d_prepack"
    places = [packed.stride(), packed.padding(), *([packed.output_padding()] if packed.transpose() else [])]
    return getattr(torch.ops.quantized, name)(weight, bias, *places, packed.dilation(), packed.groups())


def _is_packed(value: Any) -> bool:
    is_object = isinstance(value, torch.ScriptObject)
    return is_object and bool(value._has_method("unpack"))
