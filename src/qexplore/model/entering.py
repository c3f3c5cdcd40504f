"""Where a network that lies on several devices takes its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qexplore.model.arithmetic import measuring
from qexplore.model.doors import Doors, Forward
from qexplore.model.inputs import Placement, as_arguments
from qexplore.model.state import in_eval_mode


class _Reached(BaseException):
    """A forward has come to a module; no handler of the network's own is meant."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def entry_device(network: nn.Module, inputs: Any) -> torch.device | None:
    """The device of the first module with parameters of its own that a forward comes to; it is run no further.

    None where the forward comes to none, or fails before: whoever runs it to its end says it better.
    """
    inside = [
        one for one in network.modules() if one is not network and any(True for _ in one.parameters(recurse=False))
    ]
    args, kwargs = as_arguments(inputs)
    with Doors(inside).lead_to(_stop), in_eval_mode(network), torch.no_grad(), measuring(Placement.of(network).device):
        try:
            network.forward(*args, **kwargs)
        except _Reached as reached:
            return next(reached.module.parameters(recurse=False)).device
        except Exception:
            return None
    return None


def _stop(module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
    raise _Reached(module)
