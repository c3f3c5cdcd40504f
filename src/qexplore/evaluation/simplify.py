"""Fewer passes over memory for the same answer: BatchNorm folded, clamps taken over by quantizers."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from qexplore.evaluation.graph import Clamp
from qexplore.evaluation.layers import can_be_merged, merged
from qexplore.evaluation.trace import Trace, quantize

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_INFINITY = float("inf")
_CLAMPED = (torch.float32, torch.float16, torch.bfloat16)
"""What quantizers compute in float32, where clamping to the rounded limits is the same."""


def fold_batchnorm(traced: Trace) -> int:
    """Fold each BatchNorm into the convolution or linear layer before it; says how many.

    Only where nothing else reads the layer's output, a quantizer included, and both modules are called once. Moves
    float rounding: the folded network is another one in the last bits.
    """
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(traced.graph.nodes):
        norm, source = _module(traced, node), node.args[0] if node.args else None
        if type(norm) not in _BATCHNORMS or not isinstance(source, fx.Node) or len(source.users) != 1:
            continue
        layer = _module(traced, source)
        if calls[node.target] != 1 or calls[source.target] != 1 or layer is None or not _is_bare(norm):
            continue
        if not can_be_merged(layer, norm):
            continue
        if source.target in traced.weights and not _is_hooked(layer):
            source.meta["norm"] = norm
        elif _is_bare(layer):
            traced.root.set_submodule(str(source.target), merged(layer, norm))
        else:
            continue
        source.meta["value"] = node.meta.get("value")
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        folded += 1
    return folded


def has_batchnorm(traced: Trace) -> bool:
    """Whether there is a BatchNorm that `fold_batchnorm` may look at."""
    return any(type(_module(traced, node)) in _BATCHNORMS for node in traced.graph.nodes)


def drop_idle(traced: Trace) -> int:
    """Leave out Dropout and Identity, which do nothing in eval mode; says how many."""
    dropped = 0
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        if not isinstance(module, _IDLE) or not _is_bare(module) or len(node.args) != 1 or node.kwargs:
            continue
        node.replace_all_uses_with(node.args[0])
        traced.graph.erase_node(node)
        dropped += 1
    return dropped


def _quantized(traced: Trace) -> list[tuple[fx.Node, fx.Node]]:
    """Each quantizer with the operation before it, where nothing else reads that."""
    pairs = [(node, node.args[0]) for node in traced.graph.nodes if node.target is quantize]
    return [(node, source) for node, source in pairs if isinstance(source, fx.Node) and len(source.users) == 1]


def merge_clamps(traced: Trace) -> int:
    """Let quantizers take over the ReLU, ReLU6 or Hardtanh before them, which nothing else reads; says how many."""
    count = 0
    for node, source in _quantized(traced):
        clamp = _clamp(traced, source)
        dtype = getattr(source.meta.get("value"), "dtype", None)
        if clamp is None or dtype not in _CLAMPED or any(float(torch.tensor(x, dtype=dtype)) != x for x in clamp):
            continue
        node.update_arg(0, source.args[0])
        node.meta["clamp"] = clamp
        traced.graph.erase_node(source)
        count += 1
    return count


def merge_sums(traced: Trace) -> int:
    """Let quantizers take over the sum of two tensors before them, which nothing else reads; says how many."""
    count = 0
    for node, source in _quantized(traced):
        if source.target not in (operator.add, torch.add):
            continue
        terms = [arg for arg in source.args if isinstance(arg, fx.Node)]
        shapes = {(getattr(d, "shape", None), getattr(d, "dtype", None)) for d in (a.meta.get("value") for a in terms)}
        if len(terms) != 2 or source.kwargs or len(shapes) != 1 or shapes.pop()[1] != torch.float32:
            continue
        node.args = (terms[0], node.args[1], terms[1])
        traced.graph.erase_node(source)
        count += 1
    return count


def _clamp(traced: Trace, node: fx.Node) -> Clamp | None:
    """The limits of a node that only clamps its one argument."""
    if node.kwargs or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    module = _module(traced, node)
    if module is not None:
        if not _is_bare(module):
            return None
        if type(module) in (nn.Hardtanh, nn.ReLU6):
            return float(module.min_val), float(module.max_val)  # type: ignore[arg-type]
        return (0.0, _INFINITY) if type(module) is nn.ReLU else None
    if len(node.args) == 1 and (
        node.target in (F.relu, torch.relu) or (node.op, node.target) == ("call_method", "relu")
    ):
        return 0.0, _INFINITY
    return (0.0, 6.0) if len(node.args) == 1 and node.target is F.relu6 else None


def _module(traced: Trace, node: Any) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return traced.root.get_submodule(str(node.target)) if is_call else None


def _is_bare(module: nn.Module | None) -> bool:
    """Whether calling ``module`` runs its forward and nothing else."""
    return module is not None and not _is_hooked(module) and not parametrize.is_parametrized(module)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
