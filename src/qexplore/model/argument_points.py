"""What modules read, as quantization points: found by identity in one forward, quantized before each of its readers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import CalibrationError, ModelError, SelectionError
from qexplore.model.frames import aside
from qexplore.model.input_points import INPUT, ArgumentNames, floating_inputs, is_mask, with_input
from qexplore.model.point_hook import PointHook
from qexplore.model.points import FoundPoint
from qexplore.quant import TensorQuantizer


class ArgumentHook(PointHook):
    """A tensor that is read, or several of one range: each reader gets it quantized, a listener hears of it once."""

    def __init__(self, name: str, quantizer: TensorQuantizer) -> None:
        super().__init__(name, quantizer)
        self._told: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_told": None}  # references that die with their tensors

    def read(self, tensor: Tensor) -> Tensor:
        """``tensor`` as its reader gets it."""
        if self.listener is not None and shows_a_mask(tensor):
            raise CalibrationError(
                f"point '{self.name}' must see no additive mask (0, and -inf or very negative), got one in a batch "
                "after the first: let the first batch be one that shows it, and the argument stays float, or leave "
                "the module out of `inputs`"
            )
        read = self._quantize(tensor) if self.quantizes else tensor
        if not self._is_known(tensor):
            self._heard(read)
        return read

    def begin(self) -> None:
        """Forget what was read: a tensor may outlive a forward, as a learned query does."""
        self._told = None

    def _is_known(self, tensor: Tensor) -> bool:
        """Whether a listener has been told of ``tensor`` as it is; it is known afterwards."""
        if self.listener is None and self.onlooker is None and self.surveyor is None:
            return False
        self._told = WeakTensorKeyDictionary() if self._told is None else self._told
        before = self._told.get(tensor)
        self._told[tensor] = version_of(tensor)
        return bool(before == version_of(tensor))


def shows_a_mask(tensor: Tensor) -> bool:
    """Whether it is a mask, asked so that whoever follows the network's operations sees no reading of it."""
    with _disable_current_modes():
        return is_mask(tensor)


class ReadingHook:
    """Forward pre-hook of a module whose inputs are quantized.

    Args:
        name: of the module.
        hooks: the points by the arguments that they are on; of every floating one under the name "".
        left: arguments that stay as they are.
    """

    def __init__(self, name: str, hooks: Mapping[str, ArgumentHook], left: Iterable[str], names: ArgumentNames) -> None:
        self.name = name
        self.hooks = dict(hooks)
        self.num_calls = 0
        self.rests = False
        self._left = frozenset(left)
        self._names = names
        self._handed: dict[int, list[tuple[Tensor, Tensor, int]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handed": {}}  # a copy is not amid a call

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls before the module's forward."""
        self.num_calls += 1
        if self.rests:
            return None
        self._handed[threading.get_ident()] = []
        with aside():
            return self._read(args, kwargs)

    def _read(self, args: Any, kwargs: dict[str, Any]) -> Any:
        found = floating_inputs(self._names, args, kwargs)
        if "" in self.hooks:
            if not found:
                raise SelectionError(no_number(self.name, args, kwargs))
            return map_tensors(partial(self._handed_on, self.hooks[""]), (args, kwargs))
        for argument in found:
            if argument not in self.hooks and argument not in self._left:
                raise SelectionError(
                    f"the module '{self.name}' must be given the floating arguments that it was given when its points "
                    f"were found, got '{argument}' too: let the first batch of the calibration be one that has it"
                )
            if argument in self.hooks:
                hand_on = partial(self._handed_on, self.hooks[argument])
                args, kwargs = with_input(self._names, argument, args, kwargs, hand_on)
        return args, kwargs

    def _handed_on(self, hook: ArgumentHook, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        read = hook.read(tensor)
        if read is not tensor:
            self._handed[threading.get_ident()].append((tensor, read, version_of(read)))
        return read

    def finish(self, output: Any) -> Any:
        """The output: what the module wrote into its argument, the caller finds in his own."""
        for original, read, version in self._handed.pop(threading.get_ident(), []):
            if version_of(read) == version:
                continue
            if torch.is_grad_enabled() and original.requires_grad and original.is_leaf:
                raise ModelError(
                    f"'{self.name}' writes into its argument, a parameter, where training cannot quantize it: leave "
                    f"the module out of `inputs`, & ~predicates.by_name({self.name!r})"
                )
            with aside():
                is_result = isinstance(output, Tensor) and output.shape == original.shape
                original.copy_(output if is_result else read)
            output = original if is_result else output
        return output


class FinishReading:
    """Forward hook beside a `ReadingHook`."""

    def __init__(self, reading: ReadingHook) -> None:
        self.reading = reading

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What torch calls after the module's forward."""
        return self.reading.finish(output)


def no_number(module: str, args: Any, kwargs: dict[str, Any]) -> str:
    """Why a module has no input that can be quantized."""
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors_of((args, kwargs))})
    return (
        f"a module chosen by `inputs` must be given a floating tensor, but '{module}' gets {', '.join(kinds) or 'none'}"
        f": leave it out, & ~predicates.by_name({module!r})"
    )


def unseen(modules: Iterable[str]) -> tuple[FoundPoint, ...]:
    """A point for all that each of ``modules`` reads, until data tell more."""
    return tuple(FoundPoint(f"{name}.{INPUT}", "argument", ((name, ""),)) for name in modules)


def version_of(tensor: Tensor) -> int:
    """How often it was written, where torch counts that."""
    return 0 if tensor.is_inference() else tensor._version
