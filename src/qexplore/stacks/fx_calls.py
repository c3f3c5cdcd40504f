"""Calls of functions in the form that torch.ao lowers without losing an argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from qexplore.stacks.eager_graph import named_padding

_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_PER_AXIS = ("stride", "padding", "dilation")


_SAME: dict[Any, Any] = {
    torch.concat: torch.cat,
    torch.concatenate: torch.cat,
    torch.multiply: torch.mul,
}
"""Functions that torch.ao does not know, with the same ones under the names that it knows."""


def complete_calls(graph: fx.Graph) -> bool:
    """Give convolutions all their arguments, and multiply out the ``alpha`` of a sum, which torch.ao would drop.

    Padding is in numbers, and functions get the names that torch.ao knows.

    Args:
        graph: changed; tensors stand in their places, and nodes tell the shapes of their tensors.

    Returns:
        Whether there was something to change.
    """
    changed = [
        _is_renamed(node) or _is_reshaped(node) or _is_completed(node) or _is_multiplied_out(node)
        for node in list(graph.nodes)
    ]
    return any(changed)


def _is_renamed(node: fx.Node) -> bool:
    is_other = node.op == "call_function" and node.target in _SAME
    if is_other:
        node.target = _SAME[node.target]
    return is_other


def _is_reshaped(node: fx.Node) -> bool:
    """The method has no range in torch.ao where what it reads has none, as behind an embedding; the function has."""
    if (node.op, node.target) != ("call_method", "reshape") or len(node.args) < 2:
        return False
    source, *sizes = node.args
    is_size = isinstance(sizes[0], int) or (isinstance(sizes[0], fx.Node) and sizes[0].meta.get("is_number"))
    node.op, node.target, node.args = "call_function", torch.reshape, (source, tuple(sizes) if is_size else sizes[0])
    return True


def _is_completed(node: fx.Node) -> bool:
    num_axes = _CONVOLUTIONS.get(node.target) if node.op == "call_function" else None
    if num_axes is None or len(node.args) < 2:
        return False
    given: Any = dict(zip(_DEFAULTS, node.args[2:], strict=False)) | node.kwargs
    values = {name: given.get(name, default) for name, default in _DEFAULTS.items()}
    for name in _PER_AXIS:
        if isinstance(values[name], int):
            values[name] = (values[name],) * num_axes
    if isinstance(values["padding"], str):
        values["padding"] = _numbers(node, values["padding"], values["dilation"])
    node.args, node.kwargs = (*node.args[:2], *values.values()), {}
    return True


def _numbers(node: fx.Node, padding: str, dilation: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of a padding that is named; where they differ at both ends of an axis, a step before pads there."""
    source, weight = node.args[:2]
    sides = named_padding(padding, dilation, weight.meta["shape"][2:])  # type: ignore[union-attr]
    ends = [side % 2 for side in sides]
    if any(ends):
        with node.graph.inserting_before(node):
            at_ends = [zeros for end in reversed(ends) for zeros in (0, end)]  # the last axis first
            node.args = (node.graph.call_function(F.pad, (source, at_ends)), *node.args[1:])
    return tuple(side // 2 for side in sides)


def _is_multiplied_out(node: fx.Node) -> bool:
    if node.target is not torch.add or node.kwargs.get("alpha", 1) == 1 or len(node.args) != 2:
        return False
    alpha = node.kwargs["alpha"]
    with node.graph.inserting_before(node):
        scaled = node.graph.call_function(torch.mul, (node.args[1], alpha))
    node.args = node.args[0], scaled
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "alpha"}
    return True
