"""Named seed streams and isolated random state. Nothing here, or in the package, leaves a global seed behind."""

from __future__ import annotations

import os
import pickle
import random
import threading
import zlib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator for the purpose ``name``, independent of every other name under the same ``seed``.

    Streams by name keep their numbers when another part of a search starts to draw more or fewer of its own.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


@contextmanager
def isolated(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Run a block under a fixed seed and give the user's random state back, also after an error.

    Covers Python's, numpy's and torch's global generators (the CPU's and that of every device of ``device``'s kind, for
    a network may lie on several), so that a network that draws random numbers in eval mode answers the same for the
    same candidate, and a data loader that draws its seed from torch leaves no trace. There is one of each generator in
    a process, so a block waits for those of other threads: each draws its own numbers, and the state that is given back
    is the user's and not that of another block.
    """
    with _turn, _given_back(device) as devices:
        random.seed(seed)
        # numpy's legacy generator is what a user's own transforms may draw from.
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        _seed(devices, seed)
        yield


_turn = threading.RLock()


def _make_turn() -> None:
    """In a forked process, where the thread that has the turn may not be."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_turn)


@contextmanager
def _given_back(device: torch.device) -> Iterator[_Devices]:
    """Give the random state of a block's beginning back, also after an error."""
    python_state, numpy_state, torch_state = _cpu_state()
    devices = _devices_like(device)
    on_devices = [(one, devices.module.get_rng_state(one)) for one in devices.each]
    try:
        yield devices
    finally:
        _set_cpu_state((python_state, numpy_state, torch_state))
        for one, state in on_devices:
            devices.module.set_rng_state(state, one)


def random_state(device: torch.device) -> Hashable:
    """The state of the generators that `isolated` covers: equal unless something was drawn."""
    python_state, numpy_state, torch_state = _cpu_state()
    devices = _devices_like(device)
    states = [torch_state, *(devices.module.get_rng_state(one) for one in devices.each)]
    return python_state, pickle.dumps(numpy_state), tuple(state.numpy().tobytes() for state in states)


class _Devices(NamedTuple):
    """Devices of one kind that draw numbers of their own, and torch's module of that kind."""

    each: list[torch.device]
    module: Any


def _devices_like(device: torch.device) -> _Devices:
    # torch has a module of the CPU as well, but the CPU's generator is torch's own; "meta" has neither.
    module = getattr(torch, device.type, None)
    if not hasattr(module, "set_rng_state"):
        return _Devices([], module)
    return _Devices([torch.device(device.type, index) for index in range(module.device_count())], module)  # type: ignore[union-attr]


def _seed(devices: _Devices, seed: int) -> None:
    """Seed each of ``devices``; none becomes the present one for it, which would claim memory on it."""
    if devices.each:
        devices.module.manual_seed(seed)
        present = devices.module.current_device() if hasattr(devices.module, "current_device") else 0
        state = devices.module.get_rng_state(devices.each[present])
        for one in devices.each:
            devices.module.set_rng_state(state, one)


def drawn_apart(items: Iterable[Any], seed: int = 0) -> Iterator[Any]:
    """``items``, taken one by one under a seed and a random state of their own (of the CPU).

    What is drawn between two items neither changes nor feels what taking them draws, such as a loader's order.
    """
    iterator: Iterator[Any] | None = None
    state: Any = None
    while True:
        with isolated(_CPU, seed):
            if iterator is None:
                iterator = iter(items)
            else:
                _set_cpu_state(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            state = _cpu_state()
        yield item


_CPU = torch.device("cpu")


def _cpu_state() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_cpu_state(state: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
