"""From a batch of a data loader to the arguments of a network."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import DataError

TARGET_KEYS = ("labels", "label", "targets", "target")
"""Keys of a dict batch that hold the target and are kept from the network."""

Unpack = Callable[[Any], tuple[Any, Any]]
"""A user's ``unpack(batch) -> (inputs, target)``; ``inputs`` is what `call` takes."""

Loader = Iterable[Any]


@dataclass(frozen=True)
class Placement:
    """Where a network wants its inputs: its device, and its floating dtype where all parameters share one.

    A network on one device has its inputs there. Of one that lies on several, which moves what passes between them
    itself, a tensor that lies on one of them already, the CPU apart, stays; all others go to the device of the module
    that a forward comes to first of those with parameters.

    Attributes:
        device: of the first parameter, or the first buffer; the CPU for a network without either.
        dtype: what floating inputs are cast to; None leaves them as they are.
        devices: all that the network's parameters and buffers lie on, the first one's first.
    """

    device: torch.device
    dtype: torch.dtype | None
    devices: tuple[torch.device, ...] = ()
    _network: nn.Module | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, network: nn.Module) -> Placement:
        """The placement of ``network`` as it lies now; a network can move, so ask anew rather than keep the answer."""
        devices = tuple(dict.fromkeys(tensor.device for tensor in (*network.parameters(), *network.buffers())))
        dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        return cls(devices[0] if devices else torch.device("cpu"), dtype, devices, network)

    @property
    def is_spread(self) -> bool:
        """Whether the network lies on several devices."""
        return len(self.devices) > 1

    def move_inputs(self, inputs: Any) -> Any:
        """``inputs`` on the device, floating tensors in the network's dtype."""
        return self._placed(inputs, copy=False)

    def copy_inputs(self, inputs: Any) -> Any:
        """Like `move_inputs`, but never the given tensors themselves: a network may change its input in place."""
        return self._placed(inputs, copy=True)

    def move(self, tree: Any) -> Any:
        """``tree`` on the device, dtypes as they are."""
        return map_tensors(lambda tensor: _moved(tensor, self.device), tree)

    def _placed(self, inputs: Any, *, copy: bool) -> Any:
        entry = self._entry(inputs)

        def place(tensor: Tensor) -> Tensor:
            stays = self.is_spread and tensor.device.type != "cpu" and tensor.device in self.devices
            dtype = self.dtype if tensor.is_floating_point() else None
            return _moved(tensor, tensor.device if stays else entry, dtype, copy=copy)

        return map_tensors(place, inputs)

    def _entry(self, inputs: Any) -> torch.device:
        if self._network is None or not self.is_spread:
            return self.device
        from qexplore.model.entering import entry_device  # that file needs this one

        return entry_device(self._network, Placement(self.device, self.dtype).copy_inputs(inputs)) or self.device


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None, *, copy: bool = False) -> Tensor:
    # Pinned memory is fetched while the device computes; its owner learns of that. Other copies have to be waited for.
    is_fetched = device.type != "cpu" and tensor.is_cpu and tensor.is_pinned()
    return tensor.to(device, dtype, non_blocking=is_fetched, copy=copy)


def device_text(device: torch.device) -> str:
    """A device as it decides the last bits of a sum: its kind and what it is called."""
    module = torch.get_device_module(device)
    if hasattr(module, "get_device_name"):
        return f"{device.type} ({module.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def unpack_batch(batch: Any, unpack: Unpack | None = None) -> tuple[Any, Any]:
    """Split ``batch`` into ``(inputs, target)``.

    A tensor is the inputs; ``(x, y, ...)`` is inputs and target; a mapping gives its `TARGET_KEYS` entry as target and
    the rest as keyword arguments. Anything else, or a network of several inputs, needs ``unpack``.

    Raises:
        DataError: the batch has none of these forms, or ``unpack`` does not return a pair.
    """
    if unpack is not None:
        result = unpack(batch)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise DataError(f"`unpack` must return a tuple (inputs, target), got {type(result).__name__}")
        return result
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        return {k: v for k, v in batch.items() if k != key}, None if key is None else batch[key]
    if isinstance(batch, (tuple, list)) and len(batch) > 0:
        return batch[0], batch[1] if len(batch) > 1 else None
    raise DataError(
        f"a batch must be a tensor, (x, y, ...) or a dict, got {'an empty ' if batch in ((), []) else ''}"
        f"{type(batch).__name__}: pass unpack=, a function of a batch that returns (inputs, target)"
    )


def call(network: nn.Module, inputs: Any) -> Any:
    """``network`` on ``inputs``: a mapping as keyword arguments, a tuple or list as positional ones."""
    args, kwargs = as_arguments(inputs)
    return network(*args, **kwargs)


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``inputs`` as the positional and the keyword arguments of `call`."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}


def num_samples(inputs: Any) -> int:
    """How many samples ``inputs`` hold, where all tensors agree on it; else 1."""
    sizes = _sizes(inputs)
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def first_samples(inputs: Any, count: int) -> Any:
    """The first ``count`` samples of ``inputs``; all of them where its tensors disagree on how many there are."""
    if len(_sizes(inputs)) != 1:
        return inputs
    return map_tensors(lambda tensor: tensor[:count] if tensor.dim() else tensor, inputs)


def _sizes(inputs: Any) -> set[int]:
    return {tensor.shape[0] for tensor in tensors_of(inputs) if tensor.dim()}
