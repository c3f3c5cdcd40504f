"""When a search ends."""

from __future__ import annotations

import math

from qexplore._arguments import checked_int, checked_number
from qexplore._clock import now
from qexplore.errors import ProblemError

_ROUNDING = 1e-9
_UNLIMITED = 2**31
_PACE, _MOST_RESERVED = 0.5, 0.5
MAX_FAILURES = 10
_LEAST_GROWTH = 1e-3
"""A hypervolume that has grown by less than this share within ``patience`` passes stands still."""


class Budget:
    """Passes over the search set, seconds from now on, and patience; each may be without a limit, not all of them.

    Failures end a search too, when too many come in a row.

    Args:
        max_evaluations: most full passes.
        max_seconds: most seconds.
        patience: most full passes without growth of the hypervolume by 0.1 %.
        max_failures: most candidates in a row that fail; None bears any number.

    Raises:
        ProblemError: no limit at all, or one that is no positive number.
    """

    def __init__(
        self,
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        patience: int | None = None,
        max_failures: int | None = MAX_FAILURES,
    ) -> None:
        if max_evaluations is None and max_seconds is None and patience is None:
            raise ProblemError("a search needs an end: give `max_evaluations`, `max_seconds` or `patience`")
        self._max_evaluations = _checked_count("max_evaluations", max_evaluations)
        self._patience = _checked_count("patience", patience)
        self._max_failures = _checked_count("max_failures", max_failures)
        self._max_seconds = math.inf
        if max_seconds is not None:
            self._max_seconds = checked_number("`max_seconds`", max_seconds, ProblemError, above=0)
        self._failures_in_a_row = 0
        self._start = now()
        self._hypervolume = 0.0
        self._grown_at = 0.0
        self._is_late = False
        self.num_passes = 0.0
        self.most_for_one = 1.0
        """What a candidate may cost at most; more than a pass where a part of the set is looked at first."""
        self.reserved = 0.0
        """Seconds that the last word on the front will take; at most half of all are kept back for it."""

    @property
    def limits(self) -> dict[str, float | None]:
        """As they were given, by name."""
        given = {
            "max_evaluations": self._max_evaluations,
            "max_seconds": self._max_seconds,
            "patience": self._patience,
            "max_failures": self._max_failures,
        }
        return {name: None if value == math.inf else value for name, value in given.items()}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return now() - self._start

    @property
    def limits_passes(self) -> bool:
        """Whether there is a limit on passes."""
        return self._max_evaluations < math.inf

    @property
    def num_left(self) -> float:
        """Full passes that are left; infinite where they are not limited."""
        return max(0.0, self._max_evaluations - self.num_passes)

    @property
    def num_affordable(self) -> int:
        """How many candidates the budget allows should none of them be stopped."""
        return math.floor(min(self.num_left / self.most_for_one + _ROUNDING, _UNLIMITED))

    @property
    def seconds_left(self) -> float:
        """For the search; infinite where they are not limited."""
        return self._max_seconds - min(self.reserved, self._max_seconds * _MOST_RESERVED) - self.seconds

    @property
    def is_late(self) -> bool:
        """Whether the seconds are up; they stay so when less has to be kept back afterwards."""
        self._is_late = self._is_late or self.seconds_left <= 0
        return self._is_late

    def num_in_time(self, seconds_each: float) -> int:
        """How many candidates to measure before the clock is looked at again: for half of the seconds left, or one."""
        return max(1, math.floor(min(_PACE * self.seconds_left / max(seconds_each, _ROUNDING), _UNLIMITED)))

    @property
    def spent_by(self) -> str:
        """What limit is reached; empty while there is something left."""
        if self.is_failing:
            return "failures"
        if not self.num_affordable:
            return "max_evaluations"
        if self.is_late:
            return "max_seconds"
        return "stagnation" if self.num_passes - self._grown_at >= self._patience else ""

    @property
    def is_failing(self) -> bool:
        """Whether so many candidates in a row have failed that the next one is expected to fail too."""
        return self._failures_in_a_row >= self._max_failures

    def note(self, *, has_failed: bool) -> None:
        """Note how a candidate has gone."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if has_failed else 0

    def prepare(self, num_passes: float) -> None:
        """Count passes in which no candidate was measured: patience waits for them."""
        self.num_passes += num_passes
        self._grown_at += num_passes

    def spend(self, num_passes: float, hypervolume: float) -> None:
        """Count passes, and note what they brought."""
        self.num_passes += num_passes
        if hypervolume > self._hypervolume * (1 + _LEAST_GROWTH):
            self._hypervolume, self._grown_at = hypervolume, self.num_passes


def _checked_count(name: str, value: int | None) -> float:
    """A limit as an int of Python, which a study can hold; infinite for None."""
    return math.inf if value is None else checked_int(f"`{name}`", value, ProblemError, low=1)
