"""Which functions of torch a network calls, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qexplore._functions import function_name, is_of_torch
from qexplore.model.inputs import Loader, Placement, Unpack, call
from qexplore.model.passes import Pass
from qexplore.model.unpacking import unpacking


def functions_called(network: nn.Module, loader: Loader, unpack: Unpack | None = None) -> list[str]:
    """Names of the functions that one batch's forward calls, those in torch's layers too; none where it fails."""
    names = _Names()
    try:
        with torch.no_grad():
            for inputs, _ in Pass("the data", loader, num_batches=1, unpack=unpacking(network, unpack), progress=False):
                with names:
                    call(network, Placement.of(network).copy_inputs(inputs))
    except Exception:  # who asks wants a hint, not an error
        return []
    return list(names.seen)


class _Names(TorchFunctionMode):
    """Notes what is called in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for each of its functions."""
        if is_of_torch(func):
            self.seen[function_name(func)] = None
        return func(*args, **(kwargs or {}))
