"""Values of the first layers, kept from one call to the next."""

from __future__ import annotations

import math
import threading
from typing import Any

from qexplore._trees import num_bytes
from qexplore.evaluation.graph import Steps
from qexplore.evaluation.schedule import Key
from qexplore.model import Candidates

_MOST_VARIANTS = 512
"""More than so many are no longer met again soon."""


class Variants:
    """Values by batch, step and widths, within a budget of bytes.

    Kept is what stands between the first few points and the rest of the network, as deep as all variants of it fit: the
    deeper, the more widths there are to multiply.

    Args:
        steps: the network.
        budget: bytes that may be kept.
    """

    def __init__(self, steps: Steps, budget: int) -> None:
        self._steps = steps
        self._budget = budget
        self._values: dict[tuple[int, Key], Any] = {}
        self._nbytes = 0
        self._lock = threading.Lock()
        self._widths: list[set[int]] = [set() for _ in steps.order]
        self._rank = {point: rank for rank, point in enumerate(steps.order)}
        self.kept_steps: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._nbytes

    def expect(self, candidates: Candidates, scale: float) -> None:
        """Choose what to keep for widths like those of ``candidates`` and all before them.

        Args:
            candidates: shape ``[N, L]``.
            scale: samples of the whole set, over those that the steps' sizes stand for.
        """
        for widths, point in zip(self._widths, self._steps.order, strict=True):
            widths.update(candidates[:, point].tolist())
        before, self.kept_steps = self.kept_steps, frozenset()
        self._choose(scale)
        if before != self.kept_steps:
            self.clear()

    def _choose(self, scale: float) -> None:
        for depth in range(1, len(self._steps.order)):
            frontier = self._frontier(depth)
            if max(map(self._num_variants, frontier), default=0) > _MOST_VARIANTS:
                return
            if (
                sum(self._num_variants(step) * self._steps.steps[step].nbytes * scale for step in frontier)
                > self._budget
            ):
                return
            self.kept_steps = frontier

    def _frontier(self, depth: int) -> frozenset[int]:
        """Steps behind at most ``depth`` points whose values the steps behind more of them read."""
        steps = self._steps.steps
        is_early = [all(self._rank[point] < depth for point in step.upstream) for step in steps]
        return frozenset(
            source
            for index, step in enumerate(steps)
            if not is_early[index]
            for source in step.inputs
            if is_early[source] and steps[source].inputs  # neither an argument nor a weight
        )

    def _num_variants(self, step: int) -> int:
        return math.prod(len(self._widths[self._rank[point]]) for point in self._steps.steps[step].upstream)

    def has(self, batch: int, key: Key) -> bool:
        """Whether the value is there for this batch."""
        return (batch, key) in self._values

    def get(self, batch: int, key: Key) -> Any:
        """The value for this batch."""
        return self._values[batch, key]

    def put(self, batch: int, key: Key, value: Any) -> None:
        """Keep ``value``, if the budget allows."""
        size = num_bytes(value)
        with self._lock:
            if self._nbytes + size <= self._budget and (batch, key) not in self._values:
                self._values[batch, key] = value
                self._nbytes += size

    def clear(self) -> None:
        """Forget all values: batches have changed."""
        self._values.clear()
        self._nbytes = 0
