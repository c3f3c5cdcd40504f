"""A traced network made ready for torch.ao's FX stack: every call has a module of its own, layers are fused by rule."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from qexplore.preparation import Connections, as_graph_module, take_out_writes
from qexplore.stacks.eager_graph import fuse_layers, layers_called_once, split_calls
from qexplore.stacks.fx_float import mark_numbers
from qexplore.stacks.torch_ao import require


def own_graph(connections: Connections, *, is_rewritten: bool) -> fx.GraphModule:
    """The graph of ``connections`` as a network around the same modules; ``connections`` stays as it is.

    What the graph reads of a module that it also calls is a tensor of the network's own: the module will be another.

    Args:
        connections: a traced network.
        is_rewritten: whether a tensor is read after something was written into it.

    Raises:
        TraceError: as `as_graph_module` says.
    """
    network = as_graph_module(connections)
    network.graph = copy.deepcopy(network.graph)
    called = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    for node in network.graph.nodes:
        owner, _, attribute = str(node.target).rpartition(".")
        if node.op == "get_attr" and owner in called:
            node.target = _own_tensor(network, node.name, getattr(network.get_submodule(owner), attribute))
    if is_rewritten:  # torch.ao follows edges alone, and drops an activation whose result nobody takes
        take_out_writes(network)
    network.recompile()
    return network


def _own_tensor(network: nn.Module, name: str, tensor: Tensor) -> str:
    while hasattr(network, name):
        name += "_"
    if isinstance(tensor, nn.Parameter):
        network.register_parameter(name, tensor)
    else:
        network.register_buffer(name, tensor)
    return name


def fuse(network: fx.GraphModule, method: str, chosen: Collection[str]) -> dict[str, str]:
    """Give calls modules of their own and fuse layers with what stands behind them, where `fuse_layers` allows it.

    Torch's own fusing asks who reads a call, and forgets that a module may have other calls.

    Args:
        network: as `own_graph` gives it; changed.
        method: of the workflow.
        chosen: names of modules that may be in integers.

    Returns:
        The modules that later calls of another one got, with the name of that one.
    """
    # Ranges belong to modules; dynamic quantization has none.
    copies = {} if method == "dynamic" else split_calls(network, chosen)
    fuse_layers(network, layers_called_once(network), is_qat=method == "qat")
    return copies


def prepare(network: fx.GraphModule, mapping: Any, example: tuple[Any, ...], *, is_qat: bool) -> Any:
    """What torch's ``prepare_fx`` does behind its fusing: observers, or fake quantizers, where ``mapping`` says.

    Args:
        network: fused; changed.
        mapping: a QConfigMapping.
        example: of the network's arguments.
        is_qat: whether it will be trained.
    """
    mark_numbers(network)
    scopes = {node.name: _scope(node, network) for node in network.graph.nodes}
    require("convert_fx")  # is said before anything is calibrated
    torch_prepare = require("fx_prepare").prepare  # brings what the backend's configuration needs
    backend = _backend_without_fusing()
    constants = _take_out_constants(network.graph.output_node())
    prepared = torch_prepare(network, mapping, is_qat, scopes, example_inputs=example, backend_config=backend)
    output = prepared.graph.output_node()
    output.args = map_aggregate(output.args, lambda leaf: leaf if isinstance(leaf, fx.Node) else next(constants))
    prepared.recompile()
    return prepared


def _take_out_constants(output: fx.Node) -> Iterator[Any]:
    """What a network returns besides what it computes, such as a number; torch's ``prepare`` knows None alone."""
    constants: list[Any] = []

    def keep(leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            constants.append(leaf)
        return leaf if isinstance(leaf, fx.Node) else None

    output.args = map_aggregate(output.args, keep)
    return iter(constants)


def _scope(node: fx.Node, network: nn.Module) -> tuple[str, Any]:
    """Name and type of the module that ``node`` stands in, by which torch finds who chose a function."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1] if stack else ("", type(network))


def _backend_without_fusing() -> Any:
    native = require("get_native_backend_config")()
    plain = [config for config in native.configs if config.fuser_method is None]
    return require("BackendConfig")(native.name).set_backend_pattern_configs(plain)
