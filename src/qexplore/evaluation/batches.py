"""The evaluation set: read once, held ready on the network's device, and the same in every pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexplore._random import drawn_apart, isolated
from qexplore._trees import leaves, num_bytes
from qexplore.errors import DataError
from qexplore.model import Loader, Placement, Unpack, bit_sum, no_batches, require_iterable, unpack_batch

_FALLBACK_BYTES = 2 * 2**30
_SHARE_OF_FREE_MEMORY = 4


def free_memory(device: torch.device) -> int:
    """Bytes free on ``device``; the machine's where the device does not say, a cautious guess where neither does.

    What torch holds there without using it is free to us.
    """
    if device.type != "cpu":
        try:
            module = torch.get_device_module(device)
            unused = module.memory_reserved(device) - module.memory_allocated(device)
            return int(module.mem_get_info(device)[0]) + int(unused)
        except (AttributeError, RuntimeError):
            pass  # a device that shares the machine's memory, or one that cannot be asked
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _FALLBACK_BYTES * _SHARE_OF_FREE_MEMORY


def memory_to_use(device: torch.device, asked: int | None) -> int:
    """``asked``, bytes; a quarter of what is free on ``device`` where that is None."""
    return free_memory(device) // _SHARE_OF_FREE_MEMORY if asked is None else asked


class EvaluationSet:
    """Batches of a loader, unpacked and placed.

    Held in memory when they fit in ``hold_bytes``, else read from the loader again in every pass and compared with the
    first. A loader is read twice here: one that gives other samples the second time would make every score a draw.

    Args:
        loader: batches; read only once when it is an iterator.
        placement: the network's device and floating dtype.
        unpack: the user's, or None.
        hold_bytes: how much may be held; None takes a quarter of the device's free memory.

    Raises:
        DataError: the loader is empty, cannot be iterated, gives other samples in a second pass, or is an iterator too
            large to hold.
    """

    def __init__(
        self, loader: Loader, placement: Placement, *, unpack: Unpack | None = None, hold_bytes: int | None = None
    ) -> None:
        self._loader = loader
        self._placement = placement
        self._unpack = unpack
        self._held: list[tuple[Any, Any]] | None = []
        self._sums: list[tuple[int, ...]] = []
        self._read_first(memory_to_use(placement.device, hold_bytes))
        if not isinstance(loader, Iterator):
            require_same_samples(loader, total(self._sums))
        elif self._held is None:
            raise DataError(
                "the loader can be read only once and is too large to hold in memory: pass a DataLoader or a list"
            )

    def __getstate__(self) -> dict[str, Any]:
        # What is held needs no loader any more, which may be an iterator or hold a lambda.
        return self.__dict__ | ({} if self._held is None else {"_loader": None, "_unpack": None})

    def _read_first(self, limit: int) -> None:
        require_iterable(_OWNER, self._loader)
        size = 0
        with isolated(_CPU):
            for batch in drawn_apart(self._loader):
                self._sums.append(_sums(batch))
                if self._held is None:
                    continue
                placed = self._place(batch)
                size += num_bytes(placed)
                self._held.append(placed)
                if size > limit:
                    self._held = None
        if not self._sums:
            raise no_batches(_OWNER)

    def _place(self, batch: Any) -> tuple[Any, Any]:
        inputs, target = unpack_batch(batch, self._unpack)
        return self._placement.move_inputs(inputs), self._placement.move(target)

    @property
    def is_held(self) -> bool:
        """Whether the batches are in memory."""
        return self._held is not None

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._sums)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Pairs of inputs and target, on the device."""
        return iter(self._held) if self._held is not None else self._stream()

    def _stream(self) -> Iterator[tuple[Any, Any]]:
        count = 0
        # Seeded as in the first pass, so that a shuffled loader keeps its order, also under a network that draws.
        for batch in drawn_apart(self._loader):
            if count >= len(self._sums) or _sums(batch) != self._sums[count]:
                raise DataError(_CHANGED)
            count += 1
            yield self._place(batch)
        if count != len(self._sums):
            raise DataError(_CHANGED)


_CPU = torch.device("cpu")
_OWNER = "the evaluation loader"
_CHANGED = (
    f"{_OWNER} must give the same samples in every pass, but a second pass gave others: use shuffle=False, "
    "or drop_last=False, and no random transforms"
)


def require_same_samples(loader: Loader, expected: tuple[int, ...] | None = None) -> None:
    """Read ``loader`` under another seed and compare its samples, in any order, with an earlier pass.

    Raises:
        DataError: it gives other samples, or none.
    """
    first = _samples(loader, seed=0) if expected is None else expected
    if _samples(loader, seed=1) != first:
        raise DataError(_CHANGED)


def _samples(loader: Loader, seed: int) -> tuple[int, ...]:
    sums = [_sums(batch) for batch in drawn_apart(loader, seed)]
    if not sums:
        raise no_batches(_OWNER) if seed == 0 else DataError(_CHANGED)
    return total(sums)


def _sums(batch: Any) -> tuple[int, ...]:
    # Elements are counted too: a dropped sample of zeros leaves the sum of bits as it was.
    return tuple(number for leaf in leaves(batch) for number in _size_and_sum(leaf))


def _size_and_sum(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, Tensor):
        return leaf.numel(), bit_sum(leaf)
    if isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
        return leaf.size, int(np.ascontiguousarray(leaf).view(np.uint8).sum(dtype=np.int64))
    return ()


def total(sums: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Sums over all batches, tensor by tensor."""
    return tuple(map(sum, zip(*sums, strict=False)))
