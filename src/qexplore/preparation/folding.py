"""BatchNorm folded into the layers before it, in a copy of a float network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from qexplore._table import Tabular, counted, text_table
from qexplore.errors import ModelError
from qexplore.model import TRANSPOSED, is_layer, unwrap
from qexplore.preparation.connections import Connections, check_example, largest_difference, outputs_of

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output, that other rounding in float32 may make."""


@dataclass(frozen=True)
class FoldReport(Tabular):
    """What `fold_batchnorm` did; ``print`` shows it.

    Attributes:
        network: the folded copy.
        pairs: each folded BatchNorm, with the layer that it went into, as ``(layer, norm)``.
        skipped: each BatchNorm that stays, with the reason.
        new_biases: layers that had no bias before.
        difference: largest difference of outputs on the example, as a share of the largest one; None without example.
    """

    network: nn.Module
    pairs: tuple[tuple[str, str], ...]
    skipped: Mapping[str, str]
    new_biases: tuple[str, ...]
    difference: float | None

    def __str__(self) -> str:
        found = counted(len(self.pairs) + len(self.skipped), "BatchNorm module")
        lines = [f"Folded {len(self.pairs)} of {found}; {counted(len(self.new_biases), 'layer')} got a bias"]
        if self.difference is not None:
            lines.append(f"Outputs on the example differ by at most {self.difference:.1e} of the largest")
        rows = [(norm, f"into {layer}") for layer, norm in self.pairs]
        rows += [(norm, f"stays: {reason}") for norm, reason in self.skipped.items()]
        return "\n".join([*lines, text_table(("BatchNorm", ""), rows)] if rows else lines)


def fold_batchnorm(network: nn.Module, example_input: Any = None) -> FoldReport:
    """Fold every BatchNorm of a copy of ``network`` into the convolution or linear layer before it.

    Done where nothing else reads the layer's output and both are called once. Class and module names stay: a folded
    BatchNorm becomes ``nn.Identity``, and its layer has new numbers. What BatchNorm does in eval mode is folded,
    whatever mode the network is in.

    Args:
        network: a float network that `torch.fx` can trace, not wrapped; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments, on which outputs before and after
            are compared. Linear layers are folded only with it, for it shows where their channels lie.

    Raises:
        TraceError: `torch.fx` cannot trace the network.
        ModelError: a network that cannot be copied, or whose outputs folding changes.
        DataError: ``example_input`` has none of these forms, or ``forward`` does not take it.
    """
    return fold(copied_network(network), example_input)


def copied_network(network: nn.Module) -> nn.Module:
    """A copy of the eager network inside ``network``.

    Raises:
        ModelError: it is wrapped, scripted or compiled, or cannot be copied, or a lazy module in it has no shape yet.
    """
    eager = unwrap(network)
    for name, module in eager.named_modules():
        lazy = next((one for one, held in {**module._parameters, **module._buffers}.items() if is_lazy(held)), None)
        if lazy is not None:
            raise ModelError(
                f"the {lazy} of '{name}' ({type(module).__name__}) has no shape yet: call the network once before it "
                "is quantized or changed"
            )
    try:
        return copy.deepcopy(eager)
    except Exception as error:
        raise ModelError(f"the network must be one that can be copied, but: {type(error).__name__}: {error}") from error


def require_equal(before: list[torch.Tensor], network: nn.Module, example: Any, step: str) -> float:
    """The largest difference that ``step`` made to the outputs on ``example``.

    Raises:
        ModelError: it is more than float rounding.
    """
    after = outputs_of(network, example)
    if len(after) != len(before) or any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        raise ModelError(f"{step} must not change the network's output, but its structure is another one afterwards")
    difference = largest_difference(before, after)
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"{step} must not change the network's output, but on the example it moves by {difference:.2g} of the "
            "largest value: the network does something with its layers that tracing does not show"
        )
    return difference


def fold(network: nn.Module, example: Any) -> FoldReport:
    """`fold_batchnorm` on ``network`` itself, a copy."""
    check_example(network, example)
    before = None if example is None else outputs_of(network, example)
    connections = Connections(network, example)
    skipped = _uncalled(connections)
    found: list[tuple[Any, nn.Module]] = []
    for node in connections.graph.nodes:
        norm = connections.module(node)
        if not isinstance(norm, _BatchNorm):
            continue
        reason = _refusal(connections, node, norm)
        if reason is None:
            found.append((connections.module(node.args[0]), norm))
        else:
            skipped[connections.name_of(norm)] = reason
    pairs = tuple((connections.name_of(layer), connections.name_of(norm)) for layer, norm in found)
    new_biases = tuple(connections.name_of(layer) for layer, _ in found if layer.bias is None)
    for layer, norm in found:
        _fuse(layer, norm)
        replace_everywhere(network, norm, nn.Identity())
    difference = None if before is None else require_equal(before, network, example, "folding BatchNorm")
    return FoldReport(network, pairs, skipped, new_biases, difference)


def replace_everywhere(network: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """``network`` with ``new`` under every name of ``old``; ``new`` itself where ``old`` is the whole of it."""
    new.train(old.training)
    if old is network:
        return new
    names = [name for name, module in network.named_modules(remove_duplicate=False) if module is old]
    for name in names:
        network.set_submodule(name, new)
    return network


def _uncalled(connections: Connections) -> dict[str, str]:
    """BatchNorm modules that are no node."""
    return {
        name: connections.refusal(module) or ""
        for name, module in connections.network.named_modules()
        if isinstance(module, _BatchNorm) and not connections.is_called(module)
    }


def _refusal(connections: Connections, node: Any, norm: Any) -> str | None:
    """Why the BatchNorm that ``node`` calls stays; None when it need not."""
    reason = connections.refusal(norm)
    if reason is not None:
        return reason
    if type(norm) not in _BATCHNORMS:
        return f"{type(norm).__name__} is a class of its own"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    source: Any = node.args[0] if node.args else None
    layer: Any = connections.module(source)
    if not is_layer(layer):
        return f"it reads {connections.describe(source)}, no convolution or linear layer"
    name = connections.name_of(layer)
    others = [user for user in connections.readers(source) if user is not node]
    if others:
        return f"the output of '{name}' also goes to {connections.describe(others[0])}"
    reason = connections.refusal(layer)
    if reason is not None:
        return f"'{name}' stays as it is: {reason}"
    if isinstance(layer, TRANSPOSED) and layer.groups > 1:
        return f"'{name}' is a transposed convolution in groups"
    if isinstance(layer, nn.Linear):
        return _linear_refusal(source, name)
    return None


def _linear_refusal(source: Any, name: str) -> str | None:
    dims = source.meta.get("dims")
    if dims is None:
        return f"channels of '{name}' may lie on another axis than BatchNorm's: pass example_input"
    return None if dims == 2 else f"channels of '{name}' lie on another axis than BatchNorm's"


@torch.no_grad()
def _fuse(layer: Any, norm: Any) -> None:
    scale = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    given = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, scale, shift)
    if isinstance(layer, nn.Linear):
        weight, bias = fuse_linear_bn_weights(*given)
    else:
        weight, bias = fuse_conv_bn_weights(*given, transpose=isinstance(layer, TRANSPOSED))
    bias.requires_grad_(layer.weight.requires_grad)
    layer.weight, layer.bias = weight, bias
