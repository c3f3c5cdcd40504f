"""The evaluation set cut anew: batches of a size that suits the machine, samples in an order that suits the search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._random import stream
from qexplore._trees import leaves, map_leaves, map_tensors, structure

Pair = tuple[Any, Any]
"""Inputs and target of a batch."""


@dataclass(frozen=True)
class Batch:
    """Samples that go through the network together.

    Attributes:
        inputs: as `qexplore.model.call` takes them.
        target: for the metric.
        samples: their places in the evaluation set as the loader gave it.
        reference: what the float network gives for them; None where that is not known.
    """

    inputs: Any
    target: Any
    samples: NDArray[np.int64]
    reference: Any = None

    def __len__(self) -> int:
        return len(self.samples)


class Samples:
    """All samples of an evaluation set.

    Args:
        batches: inputs and target of each.
        sizes: how many scores each of them gives.
        fetch: from inputs and target of a batch to those on the network's device; None where all lie there.
        references: what the float network gives for each of ``batches``, on its device.
        counted: which samples count, shape ``[num_samples]``; None where all do.
    """

    def __init__(
        self,
        batches: Sequence[Pair],
        sizes: Sequence[int],
        fetch: Callable[[Pair], Pair] | None = None,
        references: Sequence[Any] = (),
        counted: NDArray[np.bool_] | None = None,
    ) -> None:
        self._batches = list(batches)
        self._sizes = list(sizes)
        self._num_samples = sum(sizes)
        self._together = _together(self._batches, self._sizes)
        self._references = list(references)
        joined = _together([(one, None) for one in references], self._sizes) if references else None
        self._reference = None if joined is None else joined[0]
        self._order: NDArray[np.int64] = np.arange(self._num_samples)
        self._fetch = fetch
        self.counted = np.ones(self._num_samples, dtype=bool) if counted is None else counted
        """Which samples count, shape ``[num_samples]``, in the order of the loader."""

    @property
    def are_here(self) -> bool:
        """Whether all samples lie on the network's device; else a batch is to be `fetched` before it is run."""
        return self._fetch is None

    def fetched(self, batch: Batch) -> Batch:
        """``batch`` on the network's device."""
        if self._fetch is None:
            return batch
        inputs, target = self._fetch((batch.inputs, batch.target))
        return replace(batch, inputs=inputs, target=target)

    @property
    def has_references(self) -> bool:
        """Whether batches come with what the float network gives for them."""
        return self._reference is not None if self.can_be_cut else bool(self._references)

    def __len__(self) -> int:
        return self._num_samples

    @property
    def targets(self) -> list[Any]:
        """Targets of the loader's batches."""
        return [target for _, target in self._batches]

    @property
    def can_be_cut(self) -> bool:
        """Whether every tensor counts samples on its first axis and batches differ in nothing else."""
        return self._together is not None

    def keep_batches(self) -> None:
        """Leave the loader's batches as they are from now on."""
        self._together = None
        self._order = np.arange(self._num_samples)

    def reorder(self, order: NDArray[np.int64] | None) -> bool:
        """Take samples in this order from now on, places in the set as the loader gave it; says if it is another."""
        order = np.arange(self._num_samples) if order is None else order
        if np.array_equal(order, self._order):
            return False
        inputs, target, self._reference = self._taken(order)
        self._together = inputs, target
        self._order = order
        return True

    def cut(self, size: int) -> list[Batch]:
        """Batches of ``size`` samples, as even as can be; the loader's own where they cannot be cut."""
        if self._together is None:
            return self._as_given()
        count = -(-self._num_samples // size)
        limits = np.linspace(0, self._num_samples, count + 1).round().astype(int).tolist()
        return [self.part(start, stop) for start, stop in zip(limits, limits[1:], strict=False)]

    def part(self, start: int, stop: int) -> Batch:
        """The samples from ``start`` to ``stop`` of the present order, in one batch."""
        inputs, target, reference = map_tensors(lambda tensor: tensor[start:stop], self._whole)
        return Batch(inputs, target, self._order[start:stop], reference)

    def part_at_random(self, count: int) -> list[Batch]:
        """About ``count`` samples that count, drawn at random, always the same ones, and part of any larger part.

        One batch of them, of each class its share where targets are class indices; whole batches where they cannot be
        cut, in which some may not count.
        """
        if self._together is None:
            given = self._as_given()
            return [given[place] for place in drawn_whole(num_counted(self.counted, self._sizes), count)]
        samples = np.sort(self._ranking[:count])
        inputs, target, reference = self._taken(samples)
        return [Batch(inputs, target, samples, reference)]

    def part_size(self, count: int) -> int:
        """How many samples `part_at_random` gives when asked for ``count``."""
        if self._together is not None:
            return min(count, len(self._ranking))
        return sum(self._sizes[place] for place in drawn_whole(num_counted(self.counted, self._sizes), count))

    @functools.cached_property
    def _ranking(self) -> NDArray[np.int64]:
        """Places of samples that count, in the set as the loader gave it, in the order in which a part takes them.

        The k-th of the n samples of a class comes after a share of ``(k - 0.5) / n``, as Sainte-Lague divides seats: a
        part of any size has of each class its share, rounded to the nearest. Which samples these are, and which class
        comes first where several would, is drawn.
        """
        every = _permuted(self._num_samples)
        order: NDArray[np.int64] = every[self.counted[every]]
        classes = _classes(self.targets, self._num_samples)
        if classes is None:
            return order
        drawn = classes[order]
        places = np.argsort(drawn, kind="stable")
        counts = np.bincount(drawn)
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[places] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        return order[np.argsort((ranks + 0.5) / counts[drawn], kind="stable")]

    @property
    def _whole(self) -> tuple[Any, Any, Any]:
        """Inputs, targets and references of all samples, in the present order."""
        assert self._together is not None
        return *self._together, self._reference

    def _taken(self, samples: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """Inputs, target and reference of these places in the set as the loader gave it."""
        rows = torch.from_numpy(np.argsort(self._order)[samples])
        taken: tuple[Any, Any, Any] = map_tensors(lambda tensor: tensor[rows.to(tensor.device)], self._whole)
        return taken

    def _as_given(self) -> list[Batch]:
        ends = np.cumsum(np.array(self._sizes, dtype=np.int64))
        references = self._references or [None] * len(self._sizes)
        return [
            Batch(inputs, target, np.arange(end - size, end), reference)
            for (inputs, target), reference, size, end in zip(
                self._batches, references, self._sizes, ends.tolist(), strict=True
            )
        ]


def num_counted(counted: NDArray[np.bool_], sizes: Sequence[int]) -> list[int]:
    """How many samples of each batch, of ``sizes``, count."""
    return [int(part.sum()) for part in np.split(counted, np.cumsum(sizes)[:-1])]


def drawn_whole(sizes: Sequence[int], count: int) -> NDArray[np.int64]:
    """Places of the whole batches that are drawn for ``count`` samples or more."""
    places = _permuted(len(sizes))
    needed = 1 + int(np.searchsorted(np.cumsum(np.asarray(sizes)[places]), count))
    return np.sort(places[:needed])


def _permuted(count: int) -> NDArray[np.int64]:
    """All places below ``count``, in an order that was drawn once and for all."""
    return stream(0, "part of the set").permutation(count)


def _classes(targets: Sequence[Any], num_samples: int) -> NDArray[np.int64] | None:
    """Each sample's class as a number from 0; None where targets are no class indices."""
    if not all(isinstance(one, Tensor) and one.dim() == 1 and not one.is_floating_point() for one in targets):
        return None
    labels = torch.cat([target.to(torch.int64) for target in targets]).cpu().numpy()
    return np.unique(labels, return_inverse=True)[1].reshape(-1) if len(labels) == num_samples else None


def _together(batches: Sequence[tuple[Any, Any]], sizes: Sequence[int]) -> tuple[Any, Any] | None:
    """All batches as one; None where that would not be the same samples."""
    structures = [structure(batch) for batch in batches]
    if any(one != structures[0] for one in structures):
        return None
    columns = list(zip(*map(leaves, batches), strict=True))
    joined = []
    for column in columns:
        if not all(isinstance(leaf, Tensor) for leaf in column):
            if any(isinstance(leaf, Tensor) or not _is_same(leaf, column[0]) for leaf in column):
                return None
            joined.append(column[0])
            continue
        first = column[0]
        alike = all(leaf.dim() and leaf.shape[1:] == first.shape[1:] and leaf.dtype == first.dtype for leaf in column)
        if not alike or [leaf.shape[0] for leaf in column] != list(sizes):
            return None
        joined.append(first if len(column) == 1 else torch.cat(column))
    rest = iter(joined)
    together: tuple[Any, Any] = map_leaves(lambda _: next(rest), batches[0])
    return together


def _is_same(first: Any, second: Any) -> bool:
    """Whether two leaves that are no tensors are equal; arrays are not asked."""
    return first is second or (not isinstance(first, np.ndarray) and bool(first == second))
