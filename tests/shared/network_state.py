"""What a test compares to say that a network is as it was."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import nn

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def flags(network: nn.Module) -> dict[str, bool]:
    """Every module's own train/eval flag."""
    return {name: module.training for name, module in network.named_modules()}


def hooks(network: nn.Module) -> dict[str, dict[int, Any]]:
    """Every hook table that is not empty."""
    tables = {
        f"{name}.{table}": dict(getattr(module, table))
        for name, module in network.named_modules()
        for table in _HOOK_TABLES
    }
    return {name: table for name, table in tables.items() if table}


def weights(network: nn.Module) -> dict[str, list[Any]]:
    """Parameters and buffers as plain numbers."""
    return {name: tensor.detach().flatten().tolist() for name, tensor in network.state_dict().items()}


def network_state(network: nn.Module) -> tuple[Any, ...]:
    """Flags, hooks and weights together."""
    return flags(network), hooks(network), weights(network)


def ranges(model: Any) -> dict[str, Any]:
    """Range and sign of every point."""
    return {
        name: (None if q.amax is None else q.amax.tolist(), q.unsigned)
        for name, q in model.activation_fake_quantizers.items()
    }


def random_state() -> Hashable:
    """Where Python's, numpy's and torch's global generators stand."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), str(numpy_state), tuple(torch.get_rng_state().tolist())
