"""Which way a score is better: the one place that knows what that means for numbers."""

from __future__ import annotations

from typing import Any, TypeVar

Number = TypeVar("Number", float, Any)


class Directed:
    """Compares scores; for classes that have ``higher_is_better``.

    >>> class Loss(Directed):
    ...     higher_is_better = False
    >>> Loss().is_better(0.1, 0.2), Loss().meets(0.3, 0.2), Loss().gain(0.3)
    (True, False, -0.3)
    """

    higher_is_better: bool

    def gain(self, scores: Number) -> Number:
        """``scores``, a number or an array, turned so that more is better; the same again turns them back."""
        return scores if self.higher_is_better else -scores

    def is_better(self, score: float, other: float) -> bool:
        """Whether ``score`` is better than ``other``; False where one is NaN."""
        return bool(self.gain(score) > self.gain(other))

    def meets(self, scores: Any, bound: float | None) -> Any:
        """Whether ``scores``, a number or an array, are at least as good as ``bound``; all are where that is None."""
        return scores == scores if bound is None else self.gain(scores) >= self.gain(bound)

    @property
    def better(self) -> str:
        """The direction in words: ``"higher"`` or ``"lower"``."""
        return "higher" if self.higher_is_better else "lower"
