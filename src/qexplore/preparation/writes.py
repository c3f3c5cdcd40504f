"""Taking in-place writes out of a graph, whose edges do not tell who reads a tensor that was written into."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_WITHOUT_WRITE = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


def take_out_writes(network: fx.GraphModule) -> None:
    """Let in-place operations give new tensors, which later readers of the old ones read instead.

    A tensor may get a copy in integers beside it, which a write would miss.

    Args:
        network: changed; its code is to be made anew with ``recompile()``.
    """
    read_past_writes(network, network.graph)
    for node in network.graph.nodes:
        if not _writes(network, node):
            continue
        if node.op == "call_module":
            network.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
        elif node.op == "call_method":
            node.target = str(node.target).removesuffix("_")
        else:
            node.target = _without_write(node.target) or node.target
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}


def read_past_writes(network: nn.Module, graph: fx.Graph) -> None:
    """Let what reads a tensor after a write into it read what the write gives, in ``graph`` of ``network``."""
    for node in graph.nodes:
        if _writes(network, node):
            for user in _later_readers(node):
                user.replace_input_with(node.args[0], node)


def reads_what_was_written(network: nn.Module, graph: fx.Graph) -> bool:
    """Whether in ``graph``, of ``network``, a tensor is read after an in-place operation, whose edges do not tell."""
    return any(_writes(network, node) and _later_readers(node) for node in graph.nodes)


def _later_readers(node: fx.Node) -> list[fx.Node]:
    """What reads the tensor that ``node`` writes into, behind it."""
    written = node.args[0]
    return [user for user in written.users if node < user] if isinstance(written, fx.Node) else []


def _writes(network: nn.Module, node: fx.Node) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_module":
        return getattr(network.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        plain = str(node.target).removesuffix("_")
        return plain != node.target and not plain.endswith("_") and hasattr(Tensor, plain)
    return _without_write(node.target) is not None or node.kwargs.get("inplace") is True


def _without_write(function: Any) -> Any:
    """The function that gives in a new tensor what ``function`` writes into its argument; None where it does not."""
    name = str(getattr(function, "__name__", ""))
    plain = name.removesuffix("_")
    if plain == name or plain.endswith("_"):
        return _WITHOUT_WRITE.get(function)
    return next((getattr(home, plain) for home in (F, torch) if getattr(home, name, None) is function), None)
