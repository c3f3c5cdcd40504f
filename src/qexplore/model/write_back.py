"""Modules that write their result into an argument: what is quantized is written back there, for all who read it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import ModelError
from qexplore.model.frames import aside


@dataclass(frozen=True)
class Given:
    """A tensor among the arguments of a call.

    Attributes:
        original: the caller's.
        handed: what the module got: the same, or a copy.
        version: torch's count of writes into it before the call; None where torch does not count.
    """

    original: Tensor
    handed: Tensor
    version: int | None

    @property
    def was_written(self) -> bool | None:
        """Whether something was written into it since; None where it is not known."""
        return None if self.version is None else self.handed._version != self.version


class Arguments:
    """Forward pre-hook of a selected module: remembers what a call is given, until its result is there.

    With gradients a module that writes into its argument gets a copy: what is saved for them, such as the result of a
    ReLU, must not be written into a second time.

    Args:
        name: of the point.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._writes = False
        self._given: dict[int, list[Given]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_given": {}}  # a copy is not amid a call

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls before the module's forward."""
        tensors = {id(tensor): tensor for tensor in tensors_of((args, kwargs)) if tensor.is_floating_point()}
        is_copied = torch.is_grad_enabled() and (self._writes or _is_declared(module))
        with aside():
            handed = {key: tensor.clone() if is_copied else tensor for key, tensor in tensors.items()}
        self._given[threading.get_ident()] = [
            Given(tensor, handed[key], None if tensor.is_inference() else handed[key]._version)
            for key, tensor in tensors.items()
        ]
        if not is_copied:
            return None
        return map_tensors(lambda tensor: handed.get(id(tensor), tensor), (args, kwargs))

    def written(self, module: nn.Module) -> list[Given]:
        """Those tensors of the call that has just ended that ``module`` wrote into, or says that it does."""
        given = self._given.pop(threading.get_ident(), [])
        own = getattr(module, "inplace", False) is True  # Dropout in eval mode does not write, but hands its input on
        found = [one for one in given if own or one.was_written or (one.was_written is None and self._writes)]
        self._writes = self._writes or (bool(found) and not own)
        if any(one.was_written is None for one in given) and _is_declared(module):
            return given
        return found

    def write_back(self, output: Tensor, quantized: Tensor, written: list[Given]) -> Tensor:
        """Give the caller ``quantized`` for ``output``: in the tensor that the module wrote into, where it did.

        Raises:
            ModelError: gradients do not allow it.
        """
        one = next((one for one in written if _share_memory(output, one.handed)), None)
        if one is None:
            return quantized
        if one.handed is one.original:
            return output if quantized is output else self._overwritten(output, quantized)
        if output is not one.handed:
            raise self._refusal("returns a view of it")
        one.original.copy_(quantized)
        return one.original

    def _overwritten(self, output: Tensor, quantized: Tensor) -> Tensor:
        if torch.is_grad_enabled() and quantized.requires_grad:
            raise self._refusal("was not seen to do so before: run the model once without gradients, by calibrate()")
        return output.copy_(quantized)

    def _refusal(self, why: str) -> ModelError:
        return ModelError(
            f"'{self._name}' writes its result into its argument and {why}; training cannot quantize it there. Let it "
            "return a tensor of its own, or leave it out of the predicate"
        )


def _is_declared(module: nn.Module) -> bool:
    return any(getattr(inner, "inplace", False) is True for inner in module.modules())


def _share_memory(tensor: Tensor, other: Tensor) -> bool:
    if tensor is other:
        return True
    try:
        return bool(tensor.untyped_storage()._cdata == other.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a tensor without memory of its own kind, such as a sparse one
        return False
