"""Points in series: what one has rounded reaches the next without being mixed with anything."""

from __future__ import annotations

import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional as F

from qexplore.evaluation.trace import Trace, itself, quantize
from qexplore.evaluation.written import described_in

_ACTIVATIONS = (
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish sigmoid logsigmoid softplus softsign tanh hardsigmoid "
    "hardswish threshold dropout alpha_dropout"
)
_POOLS = "max_pool avg_pool adaptive_max_pool adaptive_avg_pool"
_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle),
)
_RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
_METHODS = _RESHAPES | {"t", "clone", "clamp", "relu", "sigmoid", "tanh"}
_WITH_NUMBERS = {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg}
_FUNCTIONS = {
    *(getattr(F, name) for name in _ACTIVATIONS.split()),
    *(getattr(F, f"{name}{axes}d") for name in _POOLS.split() for axes in (1, 2, 3)),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clamp),
    *(getattr(torch, name) for name in _RESHAPES if hasattr(torch, name)),
    *_WITH_NUMBERS,
    itself,
}


def series_of(traced: Trace) -> tuple[tuple[int, ...], ...]:
    """Points that stand in series, two or more each, in the order they are passed.

    What a quantizer gives reaches the next one of its series through operations that take each element alone, pool, or
    change the shape alone, and goes nowhere else. So a width that is lowered behind a narrower one costs little.
    Points that are passed more than once, and weights, are in none.
    """
    passed = Counter(node.args[1] for node in traced.graph.nodes if node.target is quantize)
    found: dict[fx.Node, list[int]] = {}
    for node in traced.graph.nodes:  # in the order of a forward
        if node.target is not quantize or passed[node.args[1]] > 1 or len(described_in(node)) != 1:
            continue
        before = _quantizer_before(node, traced)
        chain = found.pop(before, []) if before is not None else []
        found[node] = [*chain, int(node.args[1])]
    return tuple(tuple(chain) for chain in found.values() if len(chain) > 1)


def _quantizer_before(node: fx.Node, traced: Trace) -> fx.Node | None:
    """The quantizer whose value, unmixed, is all that ``node`` quantizes, and that nothing else reads."""
    if len(node.args) > 2:  # a sum
        return None
    current = node.args[0]
    while isinstance(current, fx.Node) and len([user for user in current.users if not _reads_shape(user)]) == 1:
        if current.target is quantize:
            return current
        if not _is_unmixed(current, traced):
            return None
        current = current.args[0]
    return None


def _is_unmixed(node: fx.Node, traced: Trace) -> bool:
    """Whether an operation keeps what its first argument holds apart, and takes no other tensor."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    others = [source for source in node.all_input_nodes if source is not node.args[0]]
    if node.op == "call_module":
        module = traced.root.get_submodule(str(node.target))
        bare = not module._forward_hooks and not module._forward_pre_hooks
        return isinstance(module, _MODULES) and bare and not others
    known = node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)
    return known and (not others or getattr(node.target, "__name__", node.target) in _RESHAPES)


def _reads_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1] in ("shape", "ndim")
