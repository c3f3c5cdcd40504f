"""Additions, products and concatenations as modules, so that the eager stack can give their results a range."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from qexplore.preparation import module_of
from qexplore.stacks.eager_graph import add_module
from qexplore.stacks.torch_ao import activation_range, require

_METHODS: dict[Any, str] = {
    **dict.fromkeys((operator.add, torch.add, "add", "__add__", "__radd__"), "add"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul", "multiply"), "mul"),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "cat"),
}
EIGHT_BITS = 255
"""The largest integer of an activation on an engine that reads all 8 bits."""

SUMS = frozenset(function for function, method in _METHODS.items() if method != "cat")
"""Functions and methods that add or multiply."""


def functional_call(node: fx.Node) -> tuple[str, tuple[Any, ...]] | None:
    """The method of FloatFunctional that does what ``node`` does, with its arguments; None where there is none.

    Methods are ``add``, ``mul`` and ``cat``, and ``add_scalar`` and ``mul_scalar`` for a tensor and a number.
    """
    method = _METHODS.get(node.target) if node.op in ("call_function", "call_method") else None
    if method is None:
        return None
    given: dict[str, Any] = dict(zip(("input", "other"), node.args, strict=False)) | node.kwargs
    if method == "cat":
        tensors = node.kwargs.get("tensors", node.args[0] if node.args else None)
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return ("cat", (tensors, dim)) if isinstance(tensors, (list, tuple)) and isinstance(dim, int) else None
    first, second = given.get("input"), given.get("other")
    if len(node.args) > 2 or given.keys() - {"input", "other", "alpha"} or given.get("alpha", 1) != 1:
        return None
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        return method, (first, second)
    number, tensor = (first, second) if isinstance(second, fx.Node) else (second, first)
    if isinstance(number, (int, float)) and not isinstance(number, bool) and isinstance(tensor, fx.Node):
        return f"{method}_scalar", (tensor, float(number))
    return None


def keeps_range(method: str, args: tuple[Any, ...], engine: str | None) -> bool:
    """Whether a call that `functional_call` gives only moves its input's grid, to one that ``engine`` can read.

    Torch's kernels for a tensor and a number change scale and zero point alone, and where those cannot say it, spread
    the integers to all 8 bits. A product with a number that is not negative leaves the integers as they are.
    """
    is_product = method == "mul_scalar" and args[1] >= 0
    return is_product or (method.endswith("_scalar") and activation_range(engine)[1] == EIGHT_BITS)


@dataclass(frozen=True)
class Swapped:
    """A function that a module does now.

    Attributes:
        name: the module's.
        method: of FloatFunctional, such as ``"add_relu"``.
        node: name of the node that it stands for.
        relu: name of the ReLU module that became part of it; empty where none did.
    """

    name: str
    method: str
    node: str
    relu: str


def swap_functions(network: fx.GraphModule, nodes: Collection[str]) -> tuple[Swapped, ...]:
    """Let modules of their own do the additions, products and concatenations among ``nodes``.

    An addition becomes one step with the ReLU behind it, where nothing else reads the sum. Outputs stay equal.

    Args:
        network: changed.
        nodes: names of the nodes that are computed in integers.
    """
    swapped = []
    for node in list(network.graph.nodes):
        call = functional_call(node) if node.name in nodes else None
        if call is None:
            continue
        method, args = call
        relu = _relu_behind(network, node) if method == "add" else None
        method = "add_relu" if relu else method
        name = add_module(network, str(node.name), require("FloatFunctional")())
        with network.graph.inserting_before(node):
            holder = network.graph.get_attr(name)
            result = network.graph.call_method(method, (holder, *args))
        for gone in [node, relu] if relu else [node]:
            gone.replace_all_uses_with(result)
            network.graph.erase_node(gone)
        if relu:
            network.delete_submodule(str(relu.target))
        swapped.append(Swapped(name, method, str(node.name), str(relu.target) if relu else ""))
    network.recompile()
    return tuple(swapped)


def _relu_behind(network: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and type(module_of(network, readers[0])) is nn.ReLU else None
