"""Named seed streams and isolated random state. Nothing here, or in the package, leaves a global seed behind."""

from __future__ import annotations

import pickle
import random
import zlib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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

    Covers Python's, numpy's and torch's global generators (the CPU's and that of ``device``), so that a network that
    draws random numbers in eval mode answers the same for the same candidate, and a data loader that draws its seed
    from torch leaves no trace.
    """
    # numpy's legacy generator is what a user's own transforms may draw from.
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            if devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def random_state(device: torch.device) -> Hashable:
    """The state of the generators that `isolated` covers: equal unless something was drawn."""
    numpy_state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    on_device = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    return random.getstate(), numpy_state, torch.get_rng_state().numpy().tobytes(), on_device


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
