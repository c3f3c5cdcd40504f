"""A float network without what costs time and changes nothing: BatchNorm folded, Dropout and Identity dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from qexplore._table import Tabular, counted
from qexplore.errors import DataError
from qexplore.model import foreign_hooks
from qexplore.preparation.connections import Connections, check_example, outputs_of
from qexplore.preparation.folding import copied_network, fold, require_equal
from qexplore.preparation.graph_table import GraphTable, table_of
from qexplore.preparation.own_modules import as_graph_module, trace_network

_DROPOUT_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


@dataclass(frozen=True)
class FoldedPair:
    """A BatchNorm, and the layer before it that takes it in.

    Attributes:
        layer: its qualified name.
        layer_type: such as ``"Conv2d"``.
        norm: the BatchNorm's qualified name.
        norm_type: such as ``"BatchNorm2d"``.
    """

    layer: str
    layer_type: str
    norm: str
    norm_type: str

    def __str__(self) -> str:
        return f"{self.layer} ({self.layer_type}) and {self.norm} ({self.norm_type})"


@dataclass(frozen=True)
class GraphOptimization(Tabular):
    """What `optimize_graph` found and did; ``print`` shows it, tables included.

    Attributes:
        network: the optimized copy, a ``torch.fx.GraphModule`` with the network's class name and module names, for
            inference.
        pairs: every layer and BatchNorm that were folded.
        skipped: each BatchNorm that stays, with the reason.
        dropped: modules, and calls of functions, that did nothing in eval mode, with their type.
        before: the graph of the given network.
        after: the graph of ``network``.
        difference: largest difference of outputs on the example, as a share of the largest one.
    """

    network: fx.GraphModule
    pairs: tuple[FoldedPair, ...]
    skipped: Mapping[str, str]
    dropped: Mapping[str, str]
    before: GraphTable
    after: GraphTable
    difference: float

    @property
    def found(self) -> str:
        """What there was to optimize, in lines of text."""
        lines = [f"A layer and the BatchNorm behind it that folds into it: {counted(len(self.pairs), 'pair')}"]
        lines += [f"  {pair}" for pair in self.pairs]
        lines += [f"  {norm} stays: {reason}" for norm, reason in self.skipped.items()]
        lines.append(f"Dropout and Identity to drop: {len(self.dropped)}")
        lines += [f"  {name} ({kind})" for name, kind in self.dropped.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        equality = f"Outputs on the example differ by at most {self.difference:.1e} of the largest"
        return "\n\n".join([f"{self.found}\n{equality}", f"Before\n{self.before}", f"After\n{self.after}"])


def optimize_graph(network: nn.Module, example_input: Any) -> GraphOptimization:
    """Fold Conv-BatchNorm and Linear-BatchNorm pairs of a copy of ``network``, and drop its Dropout and Identity.

    For inference: what the network does in eval mode is kept, whatever mode it is in.

    Args:
        network: a float network that `torch.fx` can trace, not wrapped; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments, on which outputs before and after
            are compared.

    Raises:
        TraceError: `torch.fx` cannot trace the network, or it carries hooks that a graph would lose.
        ModelError: a network that cannot be copied, or whose outputs change.
        DataError: ``example_input`` is None, has none of these forms, or ``forward`` does not take it or fails on it.
    """
    copied = copied_network(network)
    if example_input is None:
        raise DataError("optimize_graph compares outputs before and after: pass example_input, the inputs of one batch")
    check_example(copied, example_input)
    connections = trace_network(copied, example_input)
    before, outputs = table_of(connections.graph, "torch.fx", connections.opaque), outputs_of(copied, example_input)
    types = {name: type(module).__name__ for name, module in copied.named_modules()}
    folding = fold(copied, example_input)
    pairs = tuple(FoldedPair(layer, types[layer], norm, types[norm]) for layer, norm in folding.pairs)
    optimized, dropped = _without_idle(trace_network(copied, example_input))
    for pair in pairs:
        del dropped[pair.norm]
    difference = require_equal(outputs, optimized, example_input, "optimizing the graph")
    after = table_of(optimized.graph, "torch.fx", connections.opaque)
    return GraphOptimization(optimized, pairs, folding.skipped, dropped, before, after, difference)


def _without_idle(connections: Connections) -> tuple[fx.GraphModule, dict[str, str]]:
    """The network as a graph without nodes that give what they are given, and the names and types of these."""
    idle = {node: kind for node in connections.graph.nodes if (kind := _idle_type(connections, node)) is not None}
    dropped = {node.target if node.op == "call_module" else node.name: kind for node, kind in idle.items()}
    module = as_graph_module(connections)
    for node in idle:
        given: Any = node.args[0] if node.args else node.kwargs["input"]
        node.replace_all_uses_with(given)
        module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module, dropped


def _idle_type(connections: Connections, node: fx.Node) -> str | None:
    """The type of what does nothing in eval mode; None for everything else."""
    module = connections.module(node)
    if module is not None:
        is_idle = type(module) is nn.Identity or _is_dropout(module)
        return type(module).__name__ if is_idle and not foreign_hooks(module) else None
    if node.op == "call_function" and node.target in _DROPOUT_FUNCTIONS and not node.kwargs.get("training", True):
        return str(getattr(node.target, "__name__", node.target))
    return None


def _is_dropout(module: nn.Module) -> bool:
    # A class derived from one may have a forward of its own.
    return isinstance(module, _DropoutNd) and type(module).__module__ == _DropoutNd.__module__
