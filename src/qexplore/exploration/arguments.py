"""What `explore` was given, checked before anything runs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from qexplore._choices import choice_code, choice_name
from qexplore.errors import ProblemError
from qexplore.model import Candidates
from qexplore.search import ALGORITHMS, PLAIN, LayerwiseQuantizationProblem, choices_text, is_pymoo_algorithm


def check_search(
    problem: object,
    seed: object,
    algorithm: object,
    population_size: object,
    racing: object,
    screening: object,
    callbacks: Any,
) -> None:
    """Raise for what no search can be run with.

    Raises:
        ProblemError: names the argument.
    """
    if not isinstance(problem, LayerwiseQuantizationProblem):
        raise ProblemError(f"explore takes a LayerwiseQuantizationProblem, got {type(problem).__name__}")
    _check_int("seed", seed, 0)
    _check_int("population_size", population_size, 2)
    if algorithm not in ALGORITHMS if isinstance(algorithm, str) else not is_pymoo_algorithm(algorithm):
        known = ", ".join(map(repr, ALGORITHMS))
        raise ProblemError(f"`algorithm` must be one of {known} or an algorithm object of pymoo, got {algorithm!r}")
    for name, switch in (("racing", racing), ("screening", screening)):
        if not isinstance(switch, bool):
            raise ProblemError(f"`{name}` must be True or False, got {switch!r}")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        hint = ": put it into a list" if callable(callbacks) else ""
        raise ProblemError(f"`callbacks` must be a sequence of functions of a Snapshot, got {callbacks!r}{hint}")


def check_budget(max_evaluations: object, max_seconds: object, patience: object) -> None:
    """Raise unless a search would end.

    Raises:
        ProblemError: names the limit.
    """
    if max_evaluations is None and max_seconds is None and patience is None:
        raise ProblemError("a search needs an end: give `max_evaluations`, `max_seconds` or `patience`")
    for name, value in (("max_evaluations", max_evaluations), ("patience", patience)):
        if value is not None:
            _check_int(name, value, 1)
    if max_seconds is not None:
        is_number = isinstance(max_seconds, numbers.Real) and not isinstance(max_seconds, bool)
        if not is_number or not 0 < float(max_seconds) < math.inf:  # type: ignore[arg-type]
            raise ProblemError(f"`max_seconds` must be a positive number, got {max_seconds!r}")


def checked_initial(initial: Any, problem: LayerwiseQuantizationProblem, algorithm: Any) -> Candidates | None:
    """The user's own candidates, shape ``[N, L]``; None where there are none.

    Raises:
        ProblemError: of another shape, no whole numbers, or outside the limits; for an algorithm that would not measure
            them.
    """
    if initial is None:
        return None
    if not isinstance(algorithm, str) or algorithm in PLAIN:
        name = repr(algorithm) if isinstance(algorithm, str) else type(algorithm).__name__
        raise ProblemError(
            f"`initial` is for guided algorithms and the ladder, but {name} begins with its own candidates"
        )
    rows = problem.effective(_as_candidates(initial, problem))
    for row, point in problem.space.misfits(rows):
        raise ProblemError(
            f"`initial` must keep to the search's choices, but candidate {row} has {choice_name(rows[row, point])} "
            f"at '{problem.model.points[point].name}', which may have {choices_text(problem.space.choices[point])}"
        )
    for group in problem.space.groups:
        apart = np.flatnonzero((rows[:, list(group)] != rows[:, group[:1]]).any(axis=1))
        if apart.size:
            names = ", ".join(problem.model.points[point].name for point in group)
            raise ProblemError(f"`initial` must give tied points one choice; candidate {apart[0]} does not: {names}")
    return rows


def _as_candidates(initial: Any, problem: LayerwiseQuantizationProblem) -> Candidates:
    """Codes, shape ``[N, L]``, from one vector of choices or several."""
    wanted = problem.space.num_points
    given = initial.tolist() if hasattr(initial, "tolist") else initial
    is_list = isinstance(given, (list, tuple))
    is_one = is_list and len(given) == wanted and all(choice_code(choice) is not None for choice in given)
    rows = [given] if is_one else given
    if not is_list or not all(isinstance(row, (list, tuple)) and len(row) == wanted for row in rows):
        raise ProblemError(
            f"`initial` must be candidates of {wanted} choices each, shape [N, {wanted}], got {initial!r}"
        )
    codes = np.zeros((len(rows), wanted), dtype=np.int64)
    for row, point in np.ndindex(codes.shape):
        code = choice_code(rows[row][point])
        if code is None:
            raise ProblemError(
                f"`initial` must hold whole numbers or formats, got {rows[row][point]!r} in candidate {row} at "
                f"'{problem.model.points[point].name}'"
            )
        codes[row, point] = code
    return codes


def _check_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ProblemError(f"`{name}` must be an int of at least {least}, got {value!r}")
