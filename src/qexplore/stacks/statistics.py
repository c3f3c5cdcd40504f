"""BatchNorm statistics in training: which stay as they are from the start, and that all do from some step on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from qexplore.stacks.absent import NORMS
from qexplore.stacks.torch_ao import require


def frozen_norms(network: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm of ``network`` that have statistics, and weights of which none is to be trained, by name."""
    found: dict[str, Any] = {name: one for name, one in network.named_modules() if isinstance(one, NORMS)}
    return {
        name: one
        for name, one in found.items()
        if one.running_mean is not None and one.weight is not None and not is_trained(one)
    }


def is_trained(module: nn.Module) -> bool:
    """Whether a parameter of ``module`` itself asks for gradients."""
    return any(one.requires_grad for one in module.parameters(recurse=False))


def freeze(prepared: nn.Module) -> None:
    """Let ranges and BatchNorm statistics of what torch.ao prepared be what they are from here on.

    Where a BatchNorm is inside a fused layer, that one is told; the others compute with their statistics from now on.
    """
    prepared.apply(require("disable_observer"))
    for module in prepared.modules():
        if isinstance(module, NORMS):
            module.eval()
    prepared.apply(require("freeze_bn_stats"))


@contextmanager
def frozen_kept(prepared: nn.Module) -> Iterator[None]:
    """For a block, let BatchNorm whose weights are not to be trained keep their statistics in train mode too."""
    kept = list(frozen_norms(prepared).values())
    for module in prepared.modules():
        if any(one in kept for one in module.children()):
            require("freeze_bn_stats")(module)  # of a fused layer; others do not listen
    for module in kept:
        module.eval()
        object.__setattr__(module, "train", lambda mode=True, module=module: module)
    try:
        yield
    finally:
        for module in kept:
            object.__delattr__(module, "train")
