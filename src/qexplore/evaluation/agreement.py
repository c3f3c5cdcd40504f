"""How nearly two ways through a network agree, and how nearly they can: by the precision of its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qexplore._trees import map_tensors, tensors_of
from qexplore.evaluation.trace import CaptureError
from qexplore.evaluation.written import described_in

_TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output, that folding and another memory layout may make in float."""


@dataclass(frozen=True)
class Precision:
    """The coarsest floating dtype among a network's values, and how often it rounds.

    Attributes:
        dtype: float32 where nothing is coarser.
        depth: how many operations give values of that dtype.
        is_mixed: whether the network enters ``torch.autocast`` itself.
    """

    dtype: torch.dtype
    depth: int
    is_mixed: bool

    @classmethod
    def of(cls, graph: fx.Graph) -> Precision:
        """The precision of a graph whose nodes an earlier run has described."""
        operations = [node for node in graph.nodes if node.op.startswith("call")]
        dtypes = [{one.dtype for one in described_in(node)} for node in operations]
        floating = {dtype for found in dtypes for dtype in found if dtype.is_floating_point}
        coarsest = max(floating | {torch.float32}, key=lambda dtype: torch.finfo(dtype).eps)
        is_mixed = any(node.meta.get("autocast") for node in operations)
        return cls(coarsest, sum(coarsest in found for found in dtypes), is_mixed)

    @property
    def is_half(self) -> bool:
        """Whether values are rounded to less than float32."""
        return torch.finfo(self.dtype).eps > torch.finfo(torch.float32).eps

    @property
    def tolerance(self) -> float:
        """What another order of summation may do to outputs, as a share of the largest.

        Each operation may round the other way, by one unit in the last place; over ``depth`` operations these errors
        grow as a random walk does: ``eps * sqrt(depth)``.
        """
        return float(torch.finfo(self.dtype).eps) * math.sqrt(max(1, self.depth)) if self.is_half else _TOLERANCE

    @property
    def one_rounding(self) -> float:
        """What outputs may differ by where the same is computed the same way."""
        return max(_TOLERANCE, 2 * float(torch.finfo(self.dtype).eps))

    def note(self, difference: float, by_batch_size: float) -> str:
        """What a user is told about values of half precision."""
        name = str(self.dtype).removeprefix("torch.") + (" under torch.autocast" if self.is_mixed else "")
        return (
            f"{name}: float outputs within {difference:.0e} of the direct evaluator's on an example "
            f"(another batch size makes {by_batch_size:.0e}, allowed are {self.tolerance:.0e})"
        )


def equal(first: Any, second: Any) -> bool:
    """Whether all tensors are equal, NaN to NaN."""
    return _all_of(_same, first, second)


def is_close(first: Any, second: Any, tolerance: float = _TOLERANCE) -> bool:
    """Whether all numbers are close: within ``tolerance`` of the largest in their tensor, and of themselves."""

    def close(a: Tensor, b: Tensor) -> Tensor:
        if not a.is_floating_point():
            return (a == b).float().mean() > 1 - tolerance
        difference, scale = (a - b).abs(), _scale(a)
        return _same(a, b) | (difference.isfinite() & (difference <= tolerance * (scale + b.abs())))

    return _all_of(close, first, second)


def largest_difference(first: Any, second: Any) -> float:
    """The largest difference, as a share of the largest number in its tensor; of whole numbers, the share that differs.

    Infinite where the one is a number and the other is not.
    """

    def difference(a: Tensor, b: Tensor) -> Tensor:
        if not a.is_floating_point():
            return (a != b).double().mean()
        apart = torch.where(_same(a, b), 0.0, (a.double() - b.double()).abs() / _scale(a).double())
        return apart.nan_to_num(nan=math.inf, posinf=math.inf).max()

    found = [difference(a, b) for a, b in _pairs(first, second) if a.numel()]
    return float(torch.stack(_together(found)).max()) if found else 0.0


def as_one(parts: Sequence[Any]) -> Any:
    """Outputs for parts of a batch as one for the batch: tensors put behind each other."""
    others = [iter(tensors_of(part)) for part in parts[1:]]
    return map_tensors(lambda tensor: torch.cat([tensor, *map(next, others)]), parts[0])


def _scale(a: Tensor) -> Tensor:
    return a.abs().nan_to_num(posinf=0).max()


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | ((a != a) & (b != b))


def _all_of(judge: Callable[[Tensor, Tensor], Tensor], first: Any, second: Any) -> bool:
    # A device is waited for once, however many tensors there are.
    found = [judge(a, b).all() for a, b in _pairs(first, second) if a.numel()]
    return not found or bool(torch.stack(_together(found)).all())


def _together(found: Sequence[Tensor]) -> list[Tensor]:
    return [one.to(found[0].device) for one in found]


def _pairs(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    left, right = tensors_of(first), tensors_of(second)
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        raise CaptureError("the traced network gives another structure than the hooked one")
    return zip(left, right, strict=True)
