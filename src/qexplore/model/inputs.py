"""From a batch of a data loader to the arguments of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    """Where a network wants its inputs: its device, and its floating dtype where all parameters share one."""

    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, network: nn.Module) -> Placement:
        """The placement of ``network``; CPU and no cast for one without parameters."""
        tensors = [*network.parameters(), *network.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
        return cls(device, dtypes.pop() if len(dtypes) == 1 else None)

    def move_inputs(self, inputs: Any) -> Any:
        """``inputs`` on the device, floating tensors in the network's dtype."""
        return map_tensors(self._place, inputs)

    def copy_inputs(self, inputs: Any) -> Any:
        """Like `move_inputs`, but never the given tensors themselves: a network may change its input in place."""
        return map_tensors(lambda tensor: self._place(tensor, copy=True), inputs)

    def move(self, tree: Any) -> Any:
        """``tree`` on the device, dtypes as they are."""
        return map_tensors(lambda tensor: tensor.to(self.device), tree)

    def _place(self, tensor: Tensor, copy: bool = False) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None, copy=copy)


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
