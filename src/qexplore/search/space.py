"""The choices that a search may make: a few per point, some points tied together, and candidates made of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qexplore._arguments import checked_int, checked_rows
from qexplore._choices import MAX_NUM_BITS, stored_bits
from qexplore.errors import ProblemError
from qexplore.model import Candidates, QuantizedModel

Places = NDArray[np.int64]
"""Positions in the lists of choices, shape ``[N, G]``: one a gene."""

_LISTABLE = 200_000
"""A space up to this size is listed to find what is left of it; a larger one is sampled."""
_KEPT_WITHIN = ": sampling and operators of the algorithm must keep to the problem's limits, xl and xu"
_IDLE_DRAWS = 50
"""Of a larger one, draws in a row with nothing new, after which hardly anything is allowed that is not known."""


def _all_allowed(candidates: Candidates) -> NDArray[np.bool_]:
    return np.ones(len(candidates), dtype=bool)


@dataclass(frozen=True)
class SearchSpace:
    """Choices of every point, and groups of points that make the same one.

    A gene stands for a group, or for a point alone; genes come in the order of their first points. Where the choices of
    every point are whole ranges of widths, genes are the widths themselves; otherwise they are places in the lists of
    choices.

    Attributes:
        choices: codes for each of L points (see `qexplore._choices`), the cheapest first.
        groups: indices of points that share one choice; a point in none has a gene of its own.
    """

    choices: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def between(cls, lower: Sequence[int], upper: Sequence[int]) -> SearchSpace:
        """All widths from ``lower`` to ``upper``, both included, one limit a point."""
        return cls(tuple(tuple(range(int(low), int(high) + 1)) for low, high in zip(lower, upper, strict=True)))

    @functools.cached_property
    def gene_of(self) -> NDArray[np.int64]:
        """The gene of each point, shape ``[L]``."""
        first = {point: group[0] for group in map(sorted, self.groups) for point in group}
        owners = [first.get(point, point) for point in range(self.num_points)]
        order = {owner: gene for gene, owner in enumerate(dict.fromkeys(owners))}
        return np.array([order[owner] for owner in owners], dtype=np.int64)

    @functools.cached_property
    def gene_points(self) -> NDArray[np.int64]:
        """The first point of each gene, shape ``[G]``."""
        return np.unique(self.gene_of, return_index=True)[1]

    @functools.cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many choices each gene has, shape ``[G]``."""
        return np.array([len(self.choices[point]) for point in self.gene_points], dtype=np.int64)

    @functools.cached_property
    def has_widths(self) -> bool:
        """Whether genes are widths: the choices of every point are consecutive integers."""
        return all(row == tuple(range(row[0], row[0] + len(row))) and row[-1] <= MAX_NUM_BITS for row in self.choices)

    @functools.cached_property
    def lower(self) -> NDArray[np.int64]:
        """Least genes, shape ``[G]``."""
        first = [self.choices[point][0] if self.has_widths else 0 for point in self.gene_points]
        return np.array(first, dtype=np.int64)

    @property
    def upper(self) -> NDArray[np.int64]:
        """Greatest genes, shape ``[G]``."""
        return self.lower + self.sizes - 1

    @property
    def num_points(self) -> int:
        """L, the length of a candidate."""
        return len(self.choices)

    @property
    def num_genes(self) -> int:
        """G, how many choices there are to make."""
        return len(self.gene_points)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return math.prod(self.sizes.tolist())

    @property
    def widest(self) -> Candidates:
        """The candidate of the dearest choices, shape ``[1, L]``."""
        return self.at(self.sizes[None] - 1)

    @property
    def narrowest(self) -> Candidates:
        """The candidate of the cheapest choices, shape ``[1, L]``."""
        return self.at(np.zeros((1, self.num_genes), dtype=np.int64))

    @functools.cached_property
    def _table(self) -> NDArray[np.int64]:
        table = np.zeros((self.num_points, max(map(len, self.choices))), dtype=np.int64)
        for row, codes in zip(table, self.choices, strict=True):
            row[: len(codes)] = codes
        return table

    def at(self, places: Places) -> Candidates:
        """Candidates, shape ``[N, L]``, from places, shape ``[N, G]``."""
        return np.asarray(self._table[np.arange(self.num_points), places[:, self.gene_of]])

    def misfits(self, candidates: Candidates) -> NDArray[np.int64]:
        """Rows and points of ``candidates [N, L]`` whose choice the point may not have, shape ``[M, 2]``."""
        return np.argwhere(~self._matches(candidates).any(axis=2))

    def places(self, candidates: Candidates) -> NDArray[np.int64]:
        """Where the choices of ``candidates``, shape ``[N, L]``, stand in the lists of their points; the same shape.

        What a point may not have, such as the 0 of a quantizer that was disabled since, stands at its first choice.
        """
        if self.has_widths:  # many candidates of many points: no need to look for what can be counted
            return np.asarray(np.clip(candidates - self._table[:, 0], 0, self.sizes[self.gene_of] - 1))
        return np.asarray(self._matches(candidates).argmax(axis=2), dtype=np.int64)

    def _matches(self, candidates: Candidates) -> NDArray[np.bool_]:
        is_choice = np.arange(self._table.shape[1]) < np.array([len(row) for row in self.choices])[:, None]
        return np.asarray((candidates[:, :, None] == self._table) & is_choice)

    def gene_places(self, candidates: Candidates) -> Places:
        """Places of ``candidates``, shape ``[N, L]``, by gene: shape ``[N, G]``.

        Of tied points one that is on tells, for others may have been disabled since.
        """
        places = self.places(candidates)
        genes = places[:, self.gene_points]
        for group in map(sorted, self.groups):
            telling = np.array(group)[candidates[:, group].argmax(axis=1)]
            genes[:, self.gene_of[group[0]]] = places[np.arange(len(places)), telling]
        return genes

    def by_gene(self, rows: Iterable[ArrayLike]) -> list[NDArray[np.float64]]:
        """Sums over the points of each gene; ``rows`` hold a number for each choice of a point, one row a point."""
        summed = [np.zeros(size) for size in self.sizes.tolist()]
        for gene, row in zip(self.gene_of.tolist(), rows, strict=True):
            summed[gene] = summed[gene] + np.asarray(row)
        return summed

    def decode(self, genes: Any) -> Candidates:
        """``genes`` of any numeric type, shape ``[N, G]``, rounded half to even and kept within the limits.

        Raises:
            ProblemError: of another shape, or not finite.
        """
        rounded = np.rint(checked_rows("genes", genes, self.num_genes, ProblemError, hint=_KEPT_WITHIN))
        return self.at(np.clip(rounded - self.lower, 0, self.sizes - 1).astype(np.int64))

    def encode(self, candidates: Candidates) -> NDArray[np.int64]:
        """The genes of ``candidates``, shape ``[N, L]``."""
        return self.gene_places(candidates) + self.lower

    def uniform(self) -> Candidates:
        """A candidate for each choice that any point has: the same everywhere, or what comes nearest; dearest first."""
        codes = sorted({code for row in self.choices for code in row if len(row) > 1}, key=_dearest_first)
        bits = [stored_bits(np.array(row)) for row in self.choices]
        rows = []
        for code in codes:
            wanted = float(stored_bits(np.array([code]))[0])
            nearest = [
                row.index(code) if code in row else int(np.abs(of_row - wanted).argmin())
                for row, of_row in zip(self.choices, bits, strict=True)
            ]
            rows.append(tuple(np.array(nearest)[self.gene_points].tolist()))
        return self.at(np.array(list(dict.fromkeys(rows)), dtype=np.int64)) if rows else self.widest

    def random(self, count: int, rng: np.random.Generator) -> Candidates:
        """``count`` random candidates, each choice equally likely."""
        return self.at(rng.integers(0, self.sizes, size=(count, self.num_genes)))

    @property
    def is_listable(self) -> bool:
        """Whether `unseen` is sure of what is left."""
        return self.size <= _LISTABLE

    def unseen(
        self,
        count: int,
        seen: Collection[tuple[int, ...]],
        rng: np.random.Generator,
        are_allowed: Callable[[Candidates], NDArray[np.bool_]] = _all_allowed,
    ) -> Candidates:
        """Up to ``count`` different random candidates, allowed and not in ``seen``; fewer only when no more are left.

        Of a space that is not listable also where hardly one in so many is allowed.
        """
        if self.is_listable:
            places = np.array(list(product(*map(range, self.sizes.tolist()))), dtype=np.int64)
            listed = self.at(places)
            listed = listed[are_allowed(listed)]
            left = [candidate for candidate in map(tuple, listed.tolist()) if candidate not in seen]
            chosen = rng.permutation(len(left))[:count]
            return np.array([left[index] for index in chosen], dtype=np.int64).reshape(-1, self.num_points)
        found: dict[tuple[int, ...], None] = {}
        idle = 0
        while len(found) < count and idle < _IDLE_DRAWS:
            drawn, before = self.random(count, rng), len(found)
            allowed = map(tuple, drawn[are_allowed(drawn)].tolist())
            found.update((candidate, None) for candidate in allowed if candidate not in seen)
            idle = idle + 1 if len(found) == before else 0
        return np.array(list(found)[:count], dtype=np.int64).reshape(-1, self.num_points)


def _dearest_first(code: int) -> tuple[float, int]:
    return -float(stored_bits(np.array([code]))[0]), code


def width_limits(model: QuantizedModel, lower: Any, upper: Any) -> tuple[tuple[int, ...], ...]:
    """The choices between limits of widths: an int for all points of ``model``, or one per point.

    A quantizer that was disabled by hand has the one choice 0: it stays off.

    Raises:
        ProblemError: a limit is no int, of the wrong length, contradicts the other, or no quantizer can have it.
    """
    quantizers = model.fake_quantizers
    names = list(quantizers)
    lows = _limits("num_bits_lower_limit", lower, names)
    highs = _limits("num_bits_upper_limit", upper, names)
    for name, low, high in zip(names, lows, highs, strict=True):
        least = quantizers[name].min_num_bits
        if low > high:
            raise ProblemError(f"num_bits_lower_limit ({low}) must not be above num_bits_upper_limit ({high})")
        if low < least:
            raise ProblemError(
                f"num_bits_lower_limit must be at least {least} at '{name}', which is "
                f"{'unsigned' if least == 1 else 'signed'}, got {low}; give one limit per point for others"
            )
        if high > MAX_NUM_BITS:
            raise ProblemError(f"num_bits_upper_limit must be at most {MAX_NUM_BITS}, got {high} at '{name}'")
    return tuple(tuple(range(low, high + 1)) for low, high in zip(lows, highs, strict=True))


def _limits(argument: str, value: Any, names: Sequence[str]) -> list[int]:
    per_point = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and np.shape(value) != ()
    values = list(value) if per_point else [value] * len(names)
    if len(values) != len(names):
        raise ProblemError(f"{argument} must be an int or one for each of {len(names)} points, got {len(values)}")
    return [checked_int(argument, limit, ProblemError) for limit in values]
