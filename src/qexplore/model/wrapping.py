"""Which models can be wrapped: taken as they are, unwrapped, or refused by name."""

from __future__ import annotations

from torch import jit, nn

from qexplore.errors import ModelError
from qexplore.model.biases import restore_biases
from qexplore.model.following import require_numbers
from qexplore.model.hooks import point_hooks, remove_frames, remove_point_hooks
from qexplore.model.weights import restore_weights, weight_quantizations

_SHELLS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: object) -> nn.Module:
    """The eager network inside ``model``: without ``torch.compile`` and data-parallel shells.

    Raises:
        ModelError: not a module, scripted or traced by ``torch.jit``, compiled inside, on the meta device, or wrapped
            already.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    network = model
    while True:
        if isinstance(network, _SHELLS):
            network = network.module
        elif _is_compiled_shell(network):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            break
    for name, module in network.named_modules():
        _refuse_without_hooks(name or "the model", module)
    require_numbers(network)
    if point_hooks(network) or any(True for _ in weight_quantizations(network)):
        raise ModelError(
            f"the model ({type(network).__name__}) is wrapped already: call detach() on the wrapper that holds it, or "
            "qexplore.detach(network) when that is out of reach"
        )
    return network


def detach(network: nn.Module) -> nn.Module:
    """Take the quantizers of any wrapper off ``network`` and return it, a float network again.

    For a network whose wrapper is out of reach; the wrapper's own ``detach()`` does the same.
    """
    for module in network.modules():
        remove_point_hooks(module)
    remove_frames(network)
    restore_biases(network)  # they refer to the weights' quantizers
    restore_weights(network)
    return network


def _is_compiled_shell(module: nn.Module) -> bool:
    # The class lives in torch._dynamo, which takes seconds to import.
    return type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")


def _refuse_without_hooks(name: str, module: nn.Module) -> None:
    if isinstance(module, jit.ScriptModule):
        raise ModelError(
            f"'{name}' is a torch.jit module ({type(module).__name__}), inside which hooks do not run: wrap the eager "
            "network it was made from"
        )
    if _is_compiled_shell(module) or getattr(module, "_compiled_call_impl", None) is not None:
        raise ModelError(
            f"'{name}' is compiled by torch.compile, which may pass over hooks added later: wrap the network before "
            "compiling it"
        )
