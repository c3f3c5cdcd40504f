"""One pass over a data loader: batches unpacked and placed, under a bar, and at least one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from qexplore._arguments import checked_int
from qexplore._progress import Progress
from qexplore.errors import DataError
from qexplore.model.inputs import Loader, Placement, Unpack, unpack_batch


class Pass:
    """Goes through a loader and gives pairs of inputs and target.

    Args:
        owner: what messages call the loader, such as "the calibration loader".
        loader: of batches.
        num_batches: stop after so many; None takes all.
        unpack: the user's, or None.
        placement: where inputs are copied and targets moved to; None leaves both as they are.
        bar: what stands beside the progress bar; empty for none.
        progress: show the bar; None shows it on a terminal.
        hint: what else a message about an empty loader says.

    Attributes:
        num_done: batches that were used up so far.

    Raises:
        DataError: the loader gives no batches or, in the pass, none at all; a batch cannot be unpacked; ``num_batches``
            is no positive int.
    """

    def __init__(
        self,
        owner: str,
        loader: Loader,
        *,
        num_batches: int | None = None,
        unpack: Unpack | None = None,
        placement: Placement | None = None,
        bar: str = "",
        progress: bool | None = None,
        hint: str = "",
    ) -> None:
        require_iterable(owner, loader)
        if num_batches is not None:
            checked_int("`num_batches`", num_batches, DataError, low=1, hint=": None takes all")
        self._owner, self._limit = owner, num_batches
        self._loader: Any = loader
        self._unpack, self._placement, self._hint = unpack, placement, hint
        self._bar, self._shown = bar, progress if bar else False
        self._figures: dict[str, Any] = {}
        self.num_done = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """The pass, from the start."""
        self.num_done = 0
        with Progress(self._length, description=self._bar, unit="batch", shown=self._shown) as bar:
            for batch in islice(self._loader, self._limit):
                yield self._placed(*unpack_batch(batch, self._unpack))
                self.num_done += 1
                bar.advance(**self._figures)
        if not self.num_done:
            raise no_batches(self._owner, self._hint)

    def show(self, **figures: object) -> None:
        """Show ``figures`` beside the bar."""
        self._figures = figures

    @property
    def _length(self) -> int | None:
        """How many batches there will be, where the loader tells."""
        try:
            return min(len(self._loader), self._limit or sys.maxsize)
        except TypeError:
            return self._limit

    def _placed(self, inputs: Any, target: Any) -> tuple[Any, Any]:
        if self._placement is None:
            return inputs, target
        return self._placement.copy_inputs(inputs), self._placement.move(target)


def first_batch(owner: str, loader: Loader) -> Any:
    """The first batch of ``loader``.

    Raises:
        DataError: it is no loader, or an empty one.
    """
    require_iterable(owner, loader)
    for batch in loader:
        return batch
    raise no_batches(owner)


def reusable(loader: Loader) -> Loader:
    """``loader``, or of an iterator the list of its batches, for several that read it."""
    return list(loader) if isinstance(loader, Iterator) else loader


def require_iterable(owner: str, loader: object) -> None:
    """Raise for what gives no batches.

    Raises:
        DataError: ``loader``, which the message calls ``owner``, cannot be iterated, or would give its samples one by
            one.
    """
    way_out = _way_out(loader)
    if way_out:
        raise DataError(f"{owner} must be a loader of batches, got a {type(loader).__name__}: {way_out}")
    if not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
        raise DataError(
            f"{owner} must be a loader of batches, got {type(loader).__name__}: give a DataLoader or another iterable"
        )


def _way_out(loader: object) -> str | None:
    """What to give in the place of a batch, or of samples, that was taken for a loader."""
    if isinstance(loader, (Tensor, np.ndarray)):
        return "give [x] for one batch, or x.split(32) for several"
    if isinstance(loader, Mapping):
        return "give [batch], a list of such"
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        return "its samples have no batch axis; give torch.utils.data.DataLoader(dataset, batch_size=32)"
    if isinstance(loader, (tuple, list)) and all(isinstance(item, Tensor) for item in loader):
        # Batches of a list may well differ in their lengths, as sentences do.
        alike = {(item.dtype, item.shape[1:] if isinstance(loader, tuple) else item.dim()) for item in loader}
        if len(alike) > 1:
            return "it looks like a batch; give [batch], a list of such"
    if callable(loader) and not isinstance(loader, (nn.Module, Iterable)) and not hasattr(loader, "__getitem__"):
        return "give what it returns, a loader"
    return None


def no_batches(owner: str, hint: str = "") -> DataError:
    """What to raise where a loader gave nothing."""
    return DataError(f"{owner} must hold at least one batch, got none{hint}")
