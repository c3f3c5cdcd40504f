"""Arguments that a traced network gives by keyword, put in their places: readers of a graph look there."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.jit._builtins import _find_builtin

from qexplore.model.hooks import foreign_hooks

BY_KEYWORD = "by_keyword"
"""In ``node.meta`` of calls that were written with keywords for what now stands in its place."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMES_OF_SELF = {"self", "input"}
"""Torch's schemas say ``self`` where its functions say ``input``."""


def place_arguments(network: nn.Module, graph: fx.Graph) -> None:
    """Make positional arguments of those that are tensors, and of what stands before them, in every call of ``graph``.

    So ``fc(input=x)`` becomes ``fc(x)``, and ``F.linear(x, weight=w, bias=b)`` ``F.linear(x, w, b)``. Options stay
    keywords: ``torch.flatten(input=x, start_dim=1)`` becomes ``torch.flatten(x, start_dim=1)``. So does what follows an
    argument that is left out, and all of a call whose names are not known.

    Args:
        network: whose modules ``graph`` calls; a module with hooks keeps its call as it is, for they see it.
        graph: changed.
    """
    for node in graph.nodes:
        if not node.kwargs or not node.op.startswith("call_"):
            continue
        placed = max((_placed(node, names) for names in _signatures(network, node)), key=len, default={})
        if placed:
            node.kwargs = {name: value for name, value in node.kwargs.items() if name not in placed}
            node.args = (*node.args, *placed.values())
            node.meta[BY_KEYWORD] = True


def _placed(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments that follow the positional ones, up to the last that holds a value of the graph."""
    given = list(_given(names[len(node.args) :], node.kwargs))
    while given and not _holds_node(node.kwargs[given[-1]]):
        given.pop()
    return {name: node.kwargs[name] for name in given}


def _given(names: Iterable[str], kwargs: dict[str, Any]) -> Iterator[str]:
    for name in names:
        alias = "input" if name in _NAMES_OF_SELF and "input" in kwargs else name
        if alias not in kwargs:
            return
        yield alias


def _holds_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return bool(found)


def _signatures(network: nn.Module, node: fx.Node) -> Iterator[list[str]]:
    """Names of positional parameters of what ``node`` calls, one list for each of its overloads."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if not foreign_hooks(module):
            yield from _of_function(module.forward)
    elif node.op == "call_method":
        yield from _of_operator(f"aten::{node.target}", node.kwargs)
    elif operator := _find_builtin(node.target):  # type: ignore[no-untyped-call]
        yield from _of_operator(operator, node.kwargs)
    else:
        yield from _of_function(node.target)


def _of_function(function: Any) -> Iterator[list[str]]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # a built-in function that does not tell its signature
    yield [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]


def _of_operator(name: str, kwargs: Collection[str]) -> Iterator[list[str]]:
    for schema in torch._C._jit_get_schemas_for_operator(name):
        known = {argument.name for argument in schema.arguments} | _NAMES_OF_SELF
        if known.issuperset(kwargs):
            yield [argument.name for argument in schema.arguments if not argument.kwarg_only]
