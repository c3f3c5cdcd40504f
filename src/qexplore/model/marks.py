"""A short mark of every sample, by which two sets of data tell what they have in common."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._trees import tensors_of

Marks = NDArray[np.uint64]
"""One for each sample, in the order of the samples."""

NO_MARKS: Marks = np.empty(0, dtype=np.uint64)

_LOOKED_AT = 1024
"""Elements of a tensor's row that are looked at, evenly spaced, so that marking costs little beside a forward."""


def sample_marks(inputs: Any) -> Marks:
    """Of the samples in a batch's ``inputs``, along the first axis: equal for equal content, whatever the batch.

    None where no tensor tells them. Floating numbers count as float32, so that a network's dtype seldom matters.
    """
    tensors = [one for one in tensors_of(inputs) if one.layout == torch.strided and not one.is_nested and one.dim()]
    tensors = [one for one in tensors if len(one) == len(tensors[0]) and one.numel() and not one.is_meta]
    if not tensors:
        return NO_MARKS
    rows = np.ascontiguousarray(np.concatenate(list(map(_row_bytes, tensors)), axis=1))
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype=np.uint64)


def num_shared(samples: Marks, others: Marks) -> int:
    """How many of ``samples`` are among ``others``.

    Of two sets that are not equal only those count that each holds once: where features have few values, samples of
    the same content are no sign that data was given twice.
    """
    if np.array_equal(np.sort(samples), np.sort(others)):
        return len(samples)
    return len(np.intersect1d(_single(samples), _single(others), assume_unique=True))


def _single(marks: Marks) -> Marks:
    """Those that stand once among ``marks``."""
    values, counts = np.unique(marks, return_counts=True)
    single: Marks = values[counts == 1]
    return single


def _row_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """What of each row of ``tensor`` is looked at, [B, bytes]."""
    tensor = tensor.detach() if tensor.dim() > 1 else tensor.detach()[:, None]
    every = -(-tensor[0].numel() // _LOOKED_AT)
    places = torch.arange(0, tensor[0].numel(), every, device=tensor.device)
    index: tuple[slice | Tensor, ...] = (slice(None), *torch.unravel_index(places, tensor.shape[1:]))
    rows = tensor[index]
    rows = torch.view_as_real(rows.resolve_conj()).flatten(1) if rows.is_complex() else rows
    rows = rows.float() if rows.is_floating_point() else rows
    array: NDArray[np.uint8] = rows.cpu().resolve_neg().contiguous().numpy().view(np.uint8)
    return array
