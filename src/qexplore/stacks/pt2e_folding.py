"""BatchNorm of exported graphs: folded into the layer before it where it may be, and kept from torchao where not.

torchao folds a BatchNorm into the convolution that it reads whoever else reads that one, or has the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_ATEN = torch.ops.aten
_TRANSPOSED = (_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input)
LAYERS = (
    *(_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default),
    *(_ATEN.conv1d.padding, _ATEN.conv2d.padding, _ATEN.conv3d.padding),
    *_TRANSPOSED,
    _ATEN.linear.default,
)
"""Operators that read an input, a weight and a bias, in these places."""

_GUARD = "guards_batch_norm"


def fold(exported: fx.GraphModule) -> None:
    """Fold every BatchNorm that alone reads what a layer gives into that layer, which gets weights of its own.

    Args:
        exported: of a network in eval mode; changed.
    """
    for norm in [node for node in exported.graph.nodes if node.target is _ATEN.batch_norm.default]:
        if _may_fold(norm):
            _fold(exported, norm)
    exported.recompile()


def guard(exported: fx.GraphModule) -> None:
    """Part a BatchNorm from the layer it reads where torchao must not find them together: it would stop there."""
    for norm in [node for node in exported.graph.nodes if node.target is _ATEN.batch_norm.default]:
        layer = norm.args[0]
        if layer.target in LAYERS and (len(layer.users) > 1 or not _can_train_together(layer, norm)):
            with exported.graph.inserting_before(norm):
                parted = exported.graph.call_function(_ATEN.alias.default, (layer,))
            parted.meta = {"val": layer.meta["val"], _GUARD: True}  # without telling whose operator it is
            norm.update_arg(0, parted)
    exported.recompile()


def unguard(exported: fx.GraphModule) -> None:
    """Undo `guard`."""
    for node in [one for one in exported.graph.nodes if one.target is _ATEN.alias.default and _GUARD in one.meta]:
        node.replace_all_uses_with(node.args[0])
        exported.graph.erase_node(node)
    exported.recompile()


def _can_train_together(layer: Any, norm: Any) -> bool:
    """Whether torchao's pair is right: it reads all tensors of both, and in training knows no groups here."""
    is_whole = _has_constants(layer) and all(map(is_constant, norm.args[1:5]))
    return is_whole and not (layer.target in _TRANSPOSED and _groups(layer) != 1)


def _groups(transposed: Any) -> int:
    return transposed.args[6] if len(transposed.args) > 6 else 1


def _may_fold(norm: fx.Node) -> bool:
    layer: Any = norm.args[0]
    if layer.target not in LAYERS or len(layer.users) > 1 or norm.args[5]:
        return False
    if not _has_constants(layer) or not _has_constants(norm) or not all(map(is_constant, norm.args[3:5])):
        return False
    if layer.target is _ATEN.linear.default:
        return bool(layer.meta["val"].dim() == 2)  # else BatchNorm's channels lie on another axis
    return layer.target not in _TRANSPOSED or _groups(layer) == 1


def _has_constants(layer: Any) -> bool:
    """Whether weight and bias of ``layer``, as far as it has them, can be read: weight_norm, say, computes one."""
    return all(one is None or is_constant(one) for one in layer.args[1:3])


def is_constant(node: Any) -> bool:
    """Whether ``node`` reads a tensor of the network."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _fold(exported: fx.GraphModule, norm: Any) -> None:
    layer = norm.args[0]
    bias = layer.args[2] if len(layer.args) > 2 else None
    scale, shift, mean, variance = (None if one is None else _value(exported, one) for one in norm.args[1:5])
    assert mean is not None and variance is not None
    given = (
        *(_value(exported, layer.args[1]), None if bias is None else _value(exported, bias)),
        *(mean, variance, norm.args[7]),
        *(torch.ones_like(mean) if scale is None else scale, torch.zeros_like(mean) if shift is None else shift),
    )
    if layer.target is _ATEN.linear.default:
        folded: Any = fuse_linear_bn_weights(*given)
    else:
        folded = fuse_conv_bn_weights(*given, transpose=layer.target in _TRANSPOSED)
    weight, bias = (
        _constant(exported, layer, f"{layer.name}_folded_{name}", value, like)
        for name, value, like in zip(("weight", "bias"), folded, (layer.args[1], norm.args[3]), strict=True)
    )
    layer.args = (layer.args[0], weight, bias, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    exported.graph.erase_node(norm)


def _value(exported: fx.GraphModule, node: Any) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(exported.get_submodule(owner), name)
    return value.detach()


def _constant(exported: fx.GraphModule, before: fx.Node, name: str, value: Tensor, like: fx.Node) -> fx.Node:
    exported.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))
    with exported.graph.inserting_before(before):
        node = exported.graph.get_attr(name)
    node.meta = dict(like.meta)
    return node
