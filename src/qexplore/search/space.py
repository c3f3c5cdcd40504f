"""The widths that a search may choose: limits per point, and candidates made of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.errors import ProblemError
from qexplore.model import Candidates, QuantizedActivationsModel
from qexplore.quant import MAX_NUM_BITS

_LISTABLE = 200_000
"""A space up to this size is listed to find what is left of it; a larger one is sampled."""


@dataclass(frozen=True)
class SearchSpace:
    """Integer limits of ``num_bits`` at every point, both included, shape ``[L]``.

    A quantizer that was disabled by hand has the limits 0 and 0: it stays off.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]

    @classmethod
    def of(cls, model: QuantizedActivationsModel, lower: Any, upper: Any) -> SearchSpace:
        """Limits for the points of ``model``: an int for all of them, or one per point.

        Raises:
            ProblemError: a limit is no int, of the wrong length, contradicts the other, or no quantizer can have it.
        """
        quantizers = model.activation_fake_quantizers
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
        is_on = np.array([not quantizer.disabled for quantizer in quantizers.values()])
        return cls(np.where(is_on, lows, 0), np.where(is_on, highs, 0))

    @property
    def num_points(self) -> int:
        """L, the length of a candidate."""
        return len(self.lower)

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return math.prod(int(choices) for choices in self.upper - self.lower + 1)

    @property
    def widest(self) -> Candidates:
        """The candidate of the widest choices, shape ``[1, L]``."""
        return self.upper[None]

    def decode(self, genes: Any) -> Candidates:
        """``genes`` of any numeric type, shape ``[N, L]``, rounded half to even and kept within the limits."""
        rounded = np.rint(np.asarray(genes, dtype=np.float64))
        return np.clip(rounded, self.lower, self.upper).astype(np.int64)

    def uniform(self) -> Candidates:
        """One candidate for each width between the limits, the same everywhere it is allowed, widest first."""
        widths = range(int(self.upper.max()), int(self.lower[self.upper > 0].min(initial=MAX_NUM_BITS)) - 1, -1)
        rows = [np.clip(np.full(self.num_points, width), self.lower, self.upper) for width in widths]
        return np.array(list(dict.fromkeys(map(tuple, rows))) or self.widest, dtype=np.int64)

    def random(self, count: int, rng: np.random.Generator) -> Candidates:
        """``count`` random candidates, each width equally likely."""
        return rng.integers(self.lower, self.upper + 1, size=(count, self.num_points))

    def unseen(self, count: int, seen: Collection[tuple[int, ...]], rng: np.random.Generator) -> Candidates:
        """Up to ``count`` different random candidates that are not in ``seen``; fewer only when no more are left."""
        if self.size <= _LISTABLE:
            ranges = (range(int(low), int(high) + 1) for low, high in zip(self.lower, self.upper, strict=True))
            left = [candidate for candidate in product(*ranges) if candidate not in seen]
            chosen = rng.permutation(len(left))[:count]
            return np.array([left[index] for index in chosen], dtype=np.int64).reshape(-1, self.num_points)
        found: dict[tuple[int, ...], None] = {}
        while len(found) < count:
            drawn = (tuple(map(int, row)) for row in self.random(count, rng))
            found.update((candidate, None) for candidate in drawn if candidate not in seen)
        return np.array(list(found)[:count], dtype=np.int64).reshape(-1, self.num_points)


def _limits(argument: str, value: Any, names: Sequence[str]) -> list[int]:
    per_point = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)
    values = list(value) if per_point else [value] * len(names)
    if len(values) != len(names):
        raise ProblemError(f"{argument} must be an int or one for each of {len(names)} points, got {len(values)}")
    for limit in values:
        if isinstance(limit, bool) or not isinstance(limit, numbers.Integral):
            raise ProblemError(f"{argument} must be an int, got {limit!r}")
    return [int(limit) for limit in values]
