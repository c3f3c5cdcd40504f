"""Quantized weights, each made once per choice and kept within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor


class WeightStore:
    """Quantized weights by weight and choice; those that were not asked for the longest go first.

    Whoever has one forgets what it holds when a weight or a range changes. A copy, a pickled one too, is empty.

    Args:
        budget: bytes that may be held; None for no limit.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightStore, (self.budget,)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._nbytes

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is held for ``key``, else what ``make`` gives, which is then held where it fits."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()
        with self._lock:
            self._put(key, made)
        return made

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._held.clear()
            self._nbytes = 0

    def _put(self, key: Hashable, made: Tensor) -> None:
        if key in self._held or (self.budget is not None and made.nbytes > self.budget):
            return
        self._held[key] = made
        self._nbytes += made.nbytes
        while self.budget is not None and self._nbytes > self.budget:
            self._nbytes -= self._held.popitem(last=False)[1].nbytes
