"""Which layers follow each other with nothing between them that minds the scale of a channel."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from qexplore.model import foreign_hooks, is_layer, num_inputs, num_outputs, num_spatial
from qexplore.preparation.connections import Connections

_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
_SPATIAL = tuple(
    getattr(nn, f"{kind}{axes}d")
    for kind in ("AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "ZeroPad")
    for axes in (1, 2, 3)
)
_ELEMENTWISE_FUNCTIONS = (F.relu, torch.relu, F.leaky_relu, F.dropout, F.dropout2d)
_ELEMENTWISE_METHODS = ("relu", "relu_", "contiguous", "clone")
_SPATIAL_FUNCTIONS = tuple(
    getattr(F, f"{kind}_pool{axes}d") for kind in ("avg", "max", "adaptive_avg") for axes in (1, 2, 3)
)


@dataclass(frozen=True)
class Neighbours:
    """Two layers, the second of which reads the channels that the first gives, each with its scale.

    Attributes:
        repeat: how many inputs of the second a channel is: more than 1 for a linear layer behind a flattened map.
    """

    first: Any
    second: Any
    repeat: int

    @property
    def num_channels(self) -> int:
        """Channels between them."""
        return num_outputs(self.first)


class _Apart(Exception):
    """Says why a layer has no neighbour."""


def find_neighbours(
    connections: Connections, replace_relu6: bool
) -> tuple[list[Neighbours], Mapping[str, str], list[nn.ReLU6]]:
    """The pairs, in the order of the forward; layers without a second one, with the reason; ReLU6 to be replaced."""
    pairs: list[Neighbours] = []
    skipped: dict[str, str] = {}
    replaced: dict[int, nn.ReLU6] = {}
    for name, module in connections.network.named_modules():
        if is_layer(module) and not connections.is_called(module):
            skipped[name] = str(connections.refusal(module))
    for node in connections.graph.nodes:
        layer = connections.module(node)
        if layer is None or not is_layer(layer):
            continue
        try:
            pair, passed = _neighbours(connections, node, layer, replace_relu6)
        except _Apart as reason:
            skipped[connections.name_of(layer)] = str(reason)
            continue
        pairs.append(pair)
        replaced |= {id(module): module for module in passed}
    return pairs, skipped, list(replaced.values())


def _neighbours(
    connections: Connections, node: fx.Node, layer: nn.Module, replace_relu6: bool
) -> tuple[Neighbours, list[nn.ReLU6]]:
    _refuse(connections, layer)
    is_linear = isinstance(layer, nn.Linear)
    if not is_linear and node.meta.get("dims", num_spatial(layer) + 2) != num_spatial(layer) + 2:
        raise _Apart("its output has no axis of samples")
    channels_last = is_linear
    is_flattened = False
    passed: list[nn.ReLU6] = []
    while True:
        source, node = node, _only_reader(connections, node)
        module = connections.module(node)
        if module is not None and is_layer(module):
            break
        if node.args[:1] != (source,):
            raise _Apart(f"its output goes into {connections.describe(node)}")
        if isinstance(module, nn.ReLU6) and replace_relu6 and not foreign_hooks(module):
            passed.append(module)
        elif _is_elementwise(node, module) or (not channels_last and _is_spatial(node, module)):
            continue
        elif _is_flatten(node, module, source):
            channels_last = is_flattened = True
        elif not channels_last and _is_mean(node, num_spatial(layer)):
            channels_last = True
        else:
            raise _Apart(_obstacle(connections, node, module))
    if isinstance(module, nn.Linear) != channels_last:
        raise _Apart(f"its channels lie on another axis than those of {connections.describe(node)}")
    _refuse(connections, module)
    repeat, rest = divmod(num_inputs(module), num_outputs(layer))
    if rest or repeat < 1 or (repeat > 1 and (is_linear or not is_flattened)):
        raise _Apart(f"its channels are not those that {connections.describe(node)} reads")
    return Neighbours(layer, module, repeat), passed


def _refuse(connections: Connections, layer: nn.Module) -> None:
    reason = connections.refusal(layer)
    if reason is not None:
        raise _Apart(f"'{connections.name_of(layer)}': {reason}")


def _only_reader(connections: Connections, node: fx.Node) -> fx.Node:
    readers = connections.readers(node)
    if len(readers) != 1:
        told = ", ".join(map(connections.describe, readers)) or "nothing"
        raise _Apart(f"{connections.describe(node)} goes to {told}")
    if readers[0].op == "output":
        raise _Apart("its output is the network's")
    return readers[0]


def _obstacle(connections: Connections, node: fx.Node, module: nn.Module | None) -> str:
    if module is not None and foreign_hooks(module):
        return f"{connections.describe(node)} carries hooks"
    if isinstance(module, nn.ReLU6):
        return f"{connections.describe(node)} is not positive homogeneous: replace_relu6=True would replace it by ReLU"
    if module is None and len(node.all_input_nodes) > 1:
        return f"its output goes into {connections.describe(node)}"
    return f"{connections.describe(node)} is not known to be positive homogeneous and to keep channels apart"


def _is_elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in _ELEMENTWISE and not foreign_hooks(module)
    return node.target in (_ELEMENTWISE_METHODS if node.op == "call_method" else _ELEMENTWISE_FUNCTIONS)


def _is_spatial(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in _SPATIAL and not foreign_hooks(module)
    return node.target in _SPATIAL_FUNCTIONS


def _is_flatten(node: fx.Node, module: nn.Module | None, source: fx.Node) -> bool:
    """Whether all axes behind the samples become one, channel by channel."""
    if module is not None:
        return (
            type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1) and not foreign_hooks(module)
        )
    if node.target is torch.flatten or (node.op, node.target) == ("call_method", "flatten"):
        given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return bool((given.get("start_dim", 0), given.get("end_dim", -1)) == (1, -1))
    if node.op == "call_method" and node.target in ("view", "reshape"):
        return len(node.args) == 3 and bool(node.args[2] == -1) and _is_num_samples(node.args[1], source)
    return False


def _is_num_samples(node: Any, source: fx.Node) -> bool:
    """Whether ``node`` is the length of the first axis of ``source``."""
    if not isinstance(node, fx.Node):
        return False
    if (node.op, node.target) == ("call_method", "size"):
        return bool(node.args == (source, 0))
    if node.target is not operator.getitem or node.args[1] != 0 or not isinstance(node.args[0], fx.Node):
        return False
    shape = node.args[0]
    is_size = (shape.op, shape.target) == ("call_method", "size")
    is_shape = shape.target is getattr and shape.args[1:] == ("shape",)
    return bool(shape.args[0] is source and (is_size or is_shape))


def _is_mean(node: fx.Node, num_axes: int) -> bool:
    """Whether all axes behind the channels are averaged away."""
    if node.target is not torch.mean and (node.op, node.target) != ("call_method", "mean"):
        return False
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims = given.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, (tuple, list)) or given.get("keepdim", False):
        return False
    total = num_axes + 2
    return {int(dim) % total for dim in dims} == set(range(2, total))
