"""The graph of a network as a table: opcode, name, target, args, kwargs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qexplore._quiet import silenced
from qexplore._table import Framed, Rows, record_rows, text_table
from qexplore.errors import TraceError, first_line
from qexplore.model import Placement, as_arguments, in_eval_mode, measuring, unwrap
from qexplore.preparation.connections import check_example
from qexplore.preparation.own_modules import trace_network

_HEADER = ("opcode", "name", "target", "args", "kwargs")
_WIDEST = 44
"""Characters of a cell; what is longer ends in dots."""


@dataclass(frozen=True)
class GraphRow:
    """One node of a graph, in words.

    Attributes:
        opcode: ``placeholder``, ``get_attr``, ``call_module``, ``call_function``, ``call_method`` or ``output``.
        name: of the value that the node gives.
        target: what is called or read.
        args: positional arguments, complete.
        kwargs: keyword arguments, complete.
    """

    opcode: str
    name: str
    target: str
    args: str
    kwargs: str


@dataclass(frozen=True)
class GraphTable(Framed):
    """One forward of a network in eval mode; ``print`` shows it with long arguments shortened.

    Attributes:
        rows: the nodes, in the order they run.
        source: ``"torch.fx"`` or ``"torch.export"``.
        opaque: modules that torch.fx could not look into and took as a whole, each with the reason.
    """

    rows: tuple[GraphRow, ...]
    source: str
    opaque: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def _frame_rows(self) -> Rows:
        return record_rows(GraphRow, self.rows)

    def __str__(self) -> str:
        return self.text()

    def text(self, max_rows: int | None = None) -> str:
        """The table; beyond ``max_rows`` it says how many rows are left out."""
        shown = self.rows if max_rows is None else self.rows[:max_rows]
        cells = [(row.opcode, row.name, _short(row.target), _short(row.args), _short(row.kwargs)) for row in shown]
        lines = [text_table(_HEADER, cells)]
        if len(shown) < len(self.rows):
            lines.append(f"... and {len(self.rows) - len(shown)} more rows")
        return "\n".join(lines)


def graph_table(network: nn.Module, example_input: Any = None) -> GraphTable:
    """The graph of ``network`` in eval mode, by symbolic tracing (torch.fx); by torch.export where that fails.

    The network itself is called on the example alone.

    Args:
        network: a float network, left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments. torch.export needs it.

    Raises:
        TraceError: neither can take the network apart, with the reasons.
        ModelError: the network is wrapped, scripted or compiled.
        DataError: ``example_input`` has none of these forms, or ``forward`` does not take it or fails on it.
    """
    eager = unwrap(network)
    check_example(eager, example_input)
    try:
        connections = trace_network(eager, example_input)
    except TraceError as error:
        if example_input is None:
            raise
        return _exported(eager, example_input, error)
    traced = table_of(connections.graph, "torch.fx", connections.opaque)
    if not connections.opaque or example_input is None:
        return traced
    try:
        return _exported(eager, example_input, None)
    except TraceError:
        return traced


def table_of(graph: fx.Graph, source: str, opaque: Mapping[str, str] | None = None) -> GraphTable:
    """The nodes of ``graph`` in words."""
    rows = tuple(_row(node) for node in graph.nodes if str(node.target) != "_guards_fn")
    return GraphTable(rows, source, dict(opaque or {}))


def _exported(network: nn.Module, example: Any, symbolic: TraceError | None) -> GraphTable:
    """What torch.export sees: operations on tensors, parameters read by their names."""
    placement = Placement.of(network)
    args, kwargs = as_arguments(placement.copy_inputs(example))
    try:
        with in_eval_mode(network), measuring(placement.device), torch.no_grad(), silenced():
            program = torch.export.export(network, args, kwargs or None, strict=False)
            graph = program.module().graph
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        before = f"{symbolic}; and " if symbolic is not None else ""
        raise TraceError(f"{before}torch.export cannot take the network apart either: {reason}") from error
    return table_of(graph, "torch.export")


def _row(node: fx.Node) -> GraphRow:
    args = ", ".join(_words(argument) for argument in node.args)
    kwargs = ", ".join(f"{name}={_words(value)}" for name, value in node.kwargs.items())
    return GraphRow(node.op, node.name, _target(node), args, kwargs)


def _target(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, (str, torch._ops.OpOverload)) or not hasattr(target, "__name__"):
        return str(target)
    home = str(getattr(target, "__module__", None) or "torch").lstrip("_")
    return f"{home}.{target.__name__}"


def _words(value: Any) -> str:
    def leaf(one: Any) -> Any:
        return f"tensor{list(one.shape)}" if isinstance(one, Tensor) else one

    return str(pytree.tree_map(leaf, value))


def _short(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else cell[: _WIDEST - 3] + "..."
