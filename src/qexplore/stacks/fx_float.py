"""What FX is to leave in float, and does not compute in integers after all because its neighbours are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from torch import Tensor, fx

from qexplore.stacks.eager_graph import step_of


def leave_functions_float(mapping: Any, graph: fx.Graph, names: Collection[str]) -> None:
    """Tell torch.ao's ``mapping`` of QConfigs that the functions at nodes of these names stay float.

    Calls of one method cannot be told apart there: all stay float where one is to.

    Args:
        mapping: changed.
        graph: what torch.ao will observe.
        names: of nodes; those of modules are passed over.
    """
    counts: Counter[tuple[str, Any]] = Counter()
    for node in graph.nodes:
        if node.op == "call_method" and node.name in names:
            mapping.set_object_type(node.target, None)
        if node.op != "call_function":
            continue
        place = _caller(node), node.target
        if node.name in names:
            mapping.set_module_name_object_type_order(*place, counts[place], None)
        counts[place] += 1


def _caller(node: fx.Node) -> str:
    """Name of the module in whose forward a function is called."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def stand_before(prepared: fx.GraphModule, names: Collection[str]) -> None:
    """Put a step that does nothing before every node that is to stay float.

    torch.ao takes a module or function between a dequantized and a quantized tensor for one that is to be lowered,
    whatever its QConfig says.

    Args:
        prepared: changed, before conversion.
        names: of the steps that are to stay float.
    """
    for node in [one for one in prepared.graph.nodes if one.op.startswith("call") and step_of(one) in names]:
        for source in node.all_input_nodes:
            with prepared.graph.inserting_before(node):
                node.replace_input_with(source, prepared.graph.call_function(_as_it_is, (source,)))
    prepared.recompile()


def mark_numbers(network: fx.GraphModule) -> None:
    """Put a step between numbers that a network computes, such as ``x.shape[1] ** -0.5``, and those who read them.

    torch.ao takes for a number what is made of whole numbers alone, and observes all others like tensors.

    Args:
        network: changed; its nodes tell what is a number, see `Connections`.
    """
    numbers = [node for node in network.graph.nodes if node.meta.get("is_number")]
    for node in numbers:
        readers = [one for one in node.users if one.op.startswith("call") and one not in numbers]
        for reader in readers:
            with network.graph.inserting_before(reader):
                reader.replace_input_with(node, network.graph.call_function(_number, (0,), {"number": node}))
    network.recompile()


def stand_aside(model: fx.GraphModule) -> None:
    """Take out what `stand_before` and `mark_numbers` put in."""
    for node in list(model.graph.nodes):
        if node.target in (_as_it_is, _number):
            node.replace_all_uses_with(node.kwargs.get("number") or node.args[0])
            model.graph.erase_node(node)
    model.recompile()


def _number(whole: int, *, number: float) -> float:
    """``number``; the first argument is a whole number, and so torch.ao sees no tensor here."""
    return number


def _as_it_is(x: Tensor) -> Tensor:
    return x
