"""Data that turn-key calls are shown holds numbers: a batch with NaN or an infinity is told by its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qexplore.errors import DataError
from qexplore.model import Loader, Unpack, floating_tensors, unpack_batch

_FAR = 2.0
"""How much larger than what was shown inputs may be: the largest of a few hundred samples is passed by a little."""


@dataclass
class Finite:
    """A loader whose inputs are looked at on their way.

    Attributes:
        owner: what messages call it, such as ``"calibration_loader"``.
        loader: gives the batches.
        unpack: of its batches.
        amax: the largest magnitude of the inputs so far.
    """

    owner: str
    loader: Any
    unpack: Unpack | None
    amax: float = 0.0

    def __iter__(self) -> Iterator[Any]:
        """The loader's own batches.

        Raises:
            DataError: the inputs of one hold NaN or an infinity.
        """
        for place, batch in enumerate(self.loader):
            inputs = unpack_batch(batch, self.unpack)[0]
            require_finite(f"batch {place} of {self.owner}", inputs)
            found = (float(one.abs().amax()) for one in floating_tensors(inputs) if one.numel() and not _is_mask(one))
            self.amax = max([self.amax, *found])
            yield batch


class _Sized(Finite):
    def __len__(self) -> int:
        return len(self.loader)


def finite(owner: str, loader: Loader | None, unpack: Unpack | None) -> Any:
    """`Finite` of ``loader``; None for None."""
    if loader is None:
        return None
    return (_Sized if hasattr(loader, "__len__") else Finite)(owner, loader, unpack)


def far_outside(shown: Any, report: Any) -> tuple[str, ...]:
    """A note where inputs of the loader ``report`` are far larger than those of ``shown``; both have been gone through.

    Either may be no `Finite`, of which nothing is known.
    """
    if not (isinstance(shown, Finite) and isinstance(report, Finite)) or report.amax <= _FAR * shown.amax:
        return ()
    return (
        f"inputs of {report.owner} reach {report.amax:.3g} and those of {shown.owner} {shown.amax:.3g}, of which "
        "ranges are taken: what lies outside is cut",
    )


def require_finite(owner: str, inputs: Any) -> None:
    """Refuse NaN and infinities, but for masks: tensors of zeros and minus infinity.

    Raises:
        DataError: ``inputs``, which the message calls ``owner``, hold one.
    """
    for tensor in floating_tensors(inputs):
        kept = torch.isfinite(tensor)
        if bool(kept.all()) or _is_mask(tensor):
            continue
        what = "NaN" if bool(tensor.isnan().any()) else "an infinity"
        raise DataError(
            f"{owner} must hold finite inputs, got {what} ({int((~kept).sum())} of {tensor.numel()} values of a tensor "
            f"of shape {tuple(tensor.shape)}): a range cannot be taken from it; look at how the data is made"
        )


def _is_mask(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == float("-inf"))).all())
