"""The softmax of few classes at a network's end, which torch takes number by number on cores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qexplore.evaluation.trace import Trace, itself
from qexplore.evaluation.written import described_in

_FEW_CLASSES = 128
"""Rows of fewer numbers than that are not taken many numbers at once by torch's own."""


def softmax_of_few(logits: Tensor) -> Tensor:
    """The softmax along the last axis in plain operations; rounding apart it is torch's."""
    powers = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(dim=-1, keepdim=True))


def log_softmax_of_few(logits: Tensor) -> Tensor:
    """Its logarithm."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(dim=-1, keepdim=True).log_())


def quicken_softmax(traced: Trace, device: torch.device) -> int:
    """Put `softmax_of_few` where a network on cores ends in a softmax of few classes; says how many (none or one)."""
    end = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    last = end.args[0] if isinstance(end, fx.Node) and end.target is itself else end
    if device.type != "cpu" or not isinstance(last, fx.Node) or len(last.users) != 1 or not _is_small(last):
        return 0
    function = _quick(last, traced)
    if function is None:
        return 0
    last.op, last.target, last.args, last.kwargs = "call_function", function, (last.args[0],), {}
    return 1


def _is_small(node: fx.Node) -> bool:
    gives = described_in(node)
    return (
        len(gives) == 1
        and gives[0].dtype == torch.float32
        and len(gives[0].shape) == 2
        and (gives[0].shape[1] < _FEW_CLASSES)
    )


def _quick(node: fx.Node, traced: Trace) -> Any:
    """What does the same as ``node``, a softmax over the second axis; None for any other."""
    kind: Any = node.target
    if node.op == "call_module":
        module = traced.root.get_submodule(str(node.target))
        kind, axis = type(module), getattr(module, "dim", None)
        if module._forward_hooks or module._forward_pre_hooks:
            return None
    else:
        axis = node.args[1] if len(node.args) == 2 else node.kwargs.get("dim")
    if axis not in (1, -1) or node.kwargs.get("dtype") is not None or len(node.all_input_nodes) != 1:
        return None
    if kind in (nn.Softmax, F.softmax, torch.softmax):
        return softmax_of_few
    return log_softmax_of_few if kind in (nn.LogSoftmax, F.log_softmax, torch.log_softmax) else None
