"""What a piece of memory holds while a forward is recorded, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from qexplore.cost.moments import Sources

Factors = tuple[str, Sources, Sources]
"""The operation that multiplied, and where its operands come from."""


@dataclass(frozen=True)
class Origin:
    """Where values come from.

    Attributes:
        sources: points that they come from unchanged; empty where an operation made them.
        summands: points that were added up to them, or their sources.
        is_constant: whether they were filled in, as zeros are: they need no bits beside others.
    """

    sources: Sources = ()
    summands: frozenset[int] = frozenset()
    is_constant: bool = False

    @classmethod
    def of_point(cls, point: int) -> Origin:
        """Of a tensor at a point."""
        return cls((point,), frozenset([point]))

    @classmethod
    def joined(cls, origins: Iterable[Origin]) -> Origin:
        """Of values of several tensors side by side: known where all of them are, constants apart."""
        every = list(origins)
        varying = [origin for origin in every if not origin.is_constant]
        is_known = all(origin.sources for origin in varying)
        sources = {point for origin in varying for point in origin.sources} if is_known else set()
        summands = frozenset[int]().union(*(origin.summands for origin in varying))
        return cls(tuple(sorted(sources)), summands, is_constant=bool(every) and not varying)


@dataclass(eq=False)
class Value:
    """What a piece of memory holds between two writes into it.

    Attributes:
        num_bytes: of the memory.
        num_elements: how many numbers it holds.
        origin: where they come from.
        is_marked: whether it was seen at a point itself.
        is_by_product: not the first result of its operation, such as the indices of a max pooling.
        is_read: whether a later operation reads it.
        read_at: points that modules read it at.
        is_read_elsewhere: whether an operation outside these modules reads it too.
        factors: what was multiplied, number by number, to make it, until a sum makes that a product to count.
    """

    num_bytes: int
    num_elements: int
    origin: Origin = field(default_factory=Origin)
    is_marked: bool = False
    is_by_product: bool = False
    is_read: bool = False
    read_at: set[int] = field(default_factory=set)
    is_read_elsewhere: bool = False
    factors: Factors | None = None
