"""Named seed streams and isolated random state. Nothing here, or in the package, leaves a global seed behind."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

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
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
