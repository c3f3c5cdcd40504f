"""The evaluation set: read once, held ready on the network's device, and the same in every pass."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._arguments import checked_number
from qexplore._random import drawn_apart, isolated
from qexplore._trees import leaves, map_tensors, num_bytes, tensors_of
from qexplore.errors import DataError, EvaluationError
from qexplore.evaluation.samples import Pair, Samples
from qexplore.model import (
    NO_MARKS,
    Loader,
    Marks,
    Placement,
    Unpack,
    bit_sum,
    no_batches,
    require_iterable,
    sample_marks,
    unpack_batch,
)

_FALLBACK_BYTES = 2 * 2**30
_SHARE_OF_FREE_MEMORY = 4
SHARE_OF_WEIGHTS = 2
"""Quantized weights may take a half of what data may."""


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


def checked_memory(name: str, asked: float | None) -> int | None:
    """``asked`` as whole bytes; None as it is.

    Raises:
        EvaluationError: it is no number of at least 0; ``name`` is what the message begins with.
    """
    return None if asked is None else int(checked_number(name, asked, EvaluationError, low=0, hint=": bytes, or None"))


class EvaluationSet:
    """Batches of a loader, unpacked and placed.

    Held as the loader gave them when they fit in ``hold_bytes``, else read from the loader again in every pass and
    compared with the first. What the network takes is made of held ones once, on its device, where that has room for
    it, else a batch at a time. A loader is read twice here: one that gives other samples the second time would make
    every score a draw.

    Args:
        loader: batches; read only once when it is an iterator.
        placement: the network's device and floating dtype.
        unpack: the user's, or None.
        hold_bytes: how much may be held; None takes a quarter of what is free, where the batches lie and on the device.

    Raises:
        DataError: the loader is empty, cannot be iterated, gives other samples in a second pass, writes into batches
            that it has given, or is an iterator too large to hold.
    """

    def __init__(
        self, loader: Loader, placement: Placement, *, unpack: Unpack | None = None, hold_bytes: int | None = None
    ) -> None:
        self._loader = loader
        self._unpack = unpack
        self._hold_bytes = hold_bytes
        self._given: list[Pair] | None = []
        self._ready: list[Pair] | None = None
        self._placement: Placement | None = None
        self._sums: list[tuple[int, ...]] = []
        self.marks: Marks = NO_MARKS
        """Of all samples, as `sample_marks` gives them."""
        self._read_first()
        if not isinstance(loader, Iterator):
            require_same_samples(loader, total(self._sums))
        elif self._given is None:
            raise DataError(
                "the loader can be read only once and is too large to hold in memory: pass a DataLoader or a list"
            )
        self.follow(placement)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_ready": None, "_placement": None}
        # What is held needs no loader any more, which may be an iterator or hold a lambda.
        return state if self._given is None else state | {"_loader": None, "_unpack": None}

    def _read_first(self) -> None:
        require_iterable(_OWNER, self._loader)
        size, limit = 0, 0
        with isolated(_CPU):
            held, marks = list[tuple[int, ...]](), [NO_MARKS]
            for batch in drawn_apart(self._loader):
                self._sums.append(_sums(batch))
                pair = unpack_batch(batch, self._unpack)
                marks.append(sample_marks(pair[0]))
                if self._given is None:
                    continue
                self._given.append(pair)
                held.append(_sums(self._given[-1]))
                if len(self._given) == 1:
                    first = next(iter(tensors_of(self._given)), None)
                    limit = memory_to_use(_CPU if first is None else first.device, self._hold_bytes)
                size += num_bytes(self._given[-1])
                if size > limit:
                    self._given = None
        if not self._sums:
            raise no_batches(_OWNER)
        self.marks = np.concatenate(marks)
        if self._given is not None and [_sums(pair) for pair in self._given] != held:
            raise DataError(_OVERWRITTEN)

    def follow(self, placement: Placement) -> None:
        """Give batches for a network that lies at ``placement`` from now on."""
        if placement != self._placement:
            self._placement, self._ready = placement, None
            self._make_ready()

    def _make_ready(self) -> None:
        """Have what the network takes at hand, where its device has room for what is not there yet."""
        assert self._placement is not None
        limit, size, ready = memory_to_use(self._placement.device, self._hold_bytes), 0, []
        for pair in self._given or ():
            ready.append(self.placed(pair))
            size += _bytes_beside(ready[-1], pair)
            if size > limit:
                ready.clear()
                self._given = self._given if self._placement.device.type == "cpu" else _pinned(self._given)
                return
        self._ready = None if self._given is None else ready

    def placed(self, pair: Pair) -> Pair:
        """Inputs and target as the network takes them, on its device."""
        assert self._placement is not None
        return self._placement.move_inputs(pair[0]), self._placement.move(pair[1])

    @property
    def is_held(self) -> bool:
        """Whether the batches are in memory."""
        return self._given is not None

    def samples(
        self, sizes: Sequence[int], references: Sequence[Any] = (), counted: NDArray[np.bool_] | None = None
    ) -> Samples:
        """All of them, where they are held; see `Samples.fetched` where they are not ready.

        Args:
            sizes: how many scores each batch gives.
            references: what the float network gives for each batch.
            counted: which samples count; None where all do.
        """
        assert self._given is not None, "a set that is read anew holds none"
        if self._ready is not None:
            return Samples(self._ready, sizes, None, references, counted)
        return Samples(self._given, sizes, self.placed, references, counted)

    @property
    def device(self) -> torch.device:
        """Where the network takes its inputs."""
        assert self._placement is not None
        return self._placement.device

    @property
    def is_ready(self) -> bool:
        """Whether they are in memory as the network takes them, on its device."""
        return self._ready is not None

    @property
    def moves(self) -> str:
        """What is to be said of batches that are moved to the network's device each time; empty where none are."""
        if self.is_ready or not self.is_held:
            return ""
        return f", batches moved to {self.device} one by one, which has no room for all"

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._sums)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Pairs of inputs and target, on the device."""
        if self._ready is not None:
            return iter(self._ready)
        return self._stream() if self._given is None else map(self.placed, self._given)

    def _stream(self) -> Iterator[tuple[Any, Any]]:
        count = 0
        # Seeded as in the first pass, so that a shuffled loader keeps its order, also under a network that draws.
        for batch in drawn_apart(self._loader):
            if count >= len(self._sums) or _sums(batch) != self._sums[count]:
                raise DataError(_CHANGED)
            count += 1
            yield self.placed(unpack_batch(batch, self._unpack))
        if count != len(self._sums):
            raise DataError(_CHANGED)


def _bytes_beside(placed: Pair, given: Pair) -> int:
    """What the tensors in ``placed`` take that are not the given ones themselves."""
    known = set(map(id, tensors_of(given)))
    return sum(tensor.nbytes for tensor in tensors_of(placed) if id(tensor) not in known)


def _pinned(pairs: list[Pair] | None) -> list[Pair] | None:
    """``pairs`` where a device can fetch them while it computes; as they are where that cannot be had."""
    try:
        pinned: list[Pair] | None = map_tensors(lambda one: one.pin_memory() if one.is_cpu else one, pairs)
    except (RuntimeError, NotImplementedError):
        return pairs
    return pinned


_CPU = torch.device("cpu")
_OWNER = "the evaluation loader"
_CHANGED = (
    f"{_OWNER} must give the same samples in every pass, but a second pass gave others: use shuffle=False, "
    "or drop_last=False, and no random transforms"
)
_OVERWRITTEN = (
    f"{_OWNER} must leave the tensors that it has given as they are, but later batches were written into the memory of "
    "earlier ones: give copies, [(x.clone(), y.clone()) for x, y in loader]"
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
