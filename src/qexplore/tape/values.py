"""What a piece of memory holds while a forward is recorded, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from qexplore.tape.reading import Given, Read, Region

Sources = tuple[int, ...]
"""Points that values come from, by rising index; empty where they come from none."""

Reader = str | tuple[str, str]
"""What reads tensors at points: a module by its name, or a call as its module and its own name."""

Factors = tuple[str, tuple[Sources, Sources], tuple[bool, bool]]
"""The operation that multiplied, where its operands come from, and which of them are weights."""


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
        reads: what operations compute with, by the part of the memory.
        copy_of: what holds the same numbers, and which part of it they are.
        made_by: the call or module that made it.
        given_by: the call or module that gave it first, and what kind that is; None before.
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
    reads: dict[Region, Read] = field(default_factory=dict)
    copy_of: tuple[Value, Region] | None = None
    made_by: str = ""
    given_by: tuple[Given, str] | None = None

    def part(self, region: Region) -> tuple[Value, Region]:
        """Whose numbers a part of it has: of a whole copy the original's."""
        return self.copy_of if self.copy_of is not None and region[1] == self.num_elements else (self, region)

    @property
    def is_float(self) -> bool:
        """Whether it has numbers of its own that are at no point, where they are made or where they are read."""
        read_at_points = bool(self.reads) and all(read.is_quantized for read in self.reads.values())
        return not (self.copy_of or self.origin.sources or self.origin.is_constant or read_at_points)
