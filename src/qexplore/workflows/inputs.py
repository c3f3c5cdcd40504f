"""What is shown to networks in a workflow: arguments of one call, and of a few calls, from an example or a loader."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import DataError
from qexplore.model import Loader, Placement, Unpack, first_batch, first_samples, num_samples, unpack_batch, unpacking
from qexplore.preparation import check_example

_CPU = torch.device("cpu")
_BATCHES, _SAMPLES = 4, 32
"""A network is held against float on so many batches of calibration data at most, of so many samples together."""


def example_arguments(network: nn.Module, inputs: Any) -> tuple[Any, ...]:
    """Positional arguments of one call, a batch of at least two: exporters take a batch of one for a constant."""
    inputs = Placement(_CPU, torch.float32).copy_inputs(inputs)
    if isinstance(inputs, Mapping):
        try:
            bound = inspect.signature(network.forward).bind(**inputs)
            bound.apply_defaults()
        except TypeError as error:
            raise DataError(
                f"forward of {type(network).__name__} does not take the inputs {[*inputs]}: {error}"
            ) from error
        if bound.kwargs:
            raise DataError(
                f"a network to be quantized must take its inputs by position, but {', '.join(bound.kwargs)} of "
                f"{type(network).__name__} can be given by name only"
            )
        inputs = bound.args
    example = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    tensors = tensors_of(example)
    if not tensors:
        raise DataError(f"inputs of a network to be quantized must hold a tensor, got {type(inputs).__name__}")
    if any(one.dim() and len(one) != 1 for one in tensors):
        return _that_runs(network, example)
    try:
        return _that_runs(network, map_tensors(lambda one: torch.cat([one, one]) if one.dim() else one, example))
    except DataError:  # a network that takes one sample a call
        return _that_runs(network, example)


def _that_runs(network: nn.Module, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """``example``, which ``network`` takes.

    Raises:
        DataError: it does not.
    """
    check_example(network, example)
    return example


def few_samples(network: nn.Module, example: tuple[Any, ...], count: int = _SAMPLES) -> tuple[Any, ...]:
    """The first ``count`` samples of ``example``; all of them where the network does not run on these alone."""
    few: tuple[Any, ...] = first_samples(example, count)
    try:
        return _that_runs(network, few)
    except DataError:
        return example


def shown(
    network: nn.Module,
    loader: Loader,
    unpack: Unpack | None,
    *,
    batches: int | None = _BATCHES,
    samples: int = _SAMPLES,
) -> Iterator[tuple[Any, ...]]:
    """Arguments of a few calls, from the first ``batches`` of ``loader``, of which None takes all up to ``samples``."""
    unpack, left = unpacking(network, unpack), samples
    for batch in itertools.islice(loader, batches):
        args = example_arguments(network, unpack_batch(batch, unpack)[0])
        args = few_samples(network, args, left) if num_samples(args) > left else args
        yield args
        left -= num_samples(args)
        if left < 2:
            return


def calls(network: nn.Module, loader: Any, unpack: Unpack | None) -> Iterator[tuple[Any, ...]]:
    """Positional arguments of a call for every batch of ``loader``."""
    unpack = unpacking(network, unpack)
    return (example_arguments(network, unpack_batch(batch, unpack)[0]) for batch in loader)


def first_inputs(network: nn.Module, loader: Any, name: str, unpack: Unpack | None) -> Any:
    """Inputs for ``network`` of the first batch of ``loader``, which messages call ``name``.

    Raises:
        DataError: it is empty, no loader, or can be gone through only once.
    """
    batch = first_batch(name, loader)
    require_again(name, loader)
    return unpack_batch(batch, unpacking(network, unpack))[0]


def require_again(name: str, loader: Any) -> None:
    """Raise `DataError` for a loader that can be gone through only once."""
    if isinstance(loader, Iterator):
        raise DataError(f"{name} must be gone through more than once, got an iterator: give a DataLoader or a list")
