"""What `explore` was given, checked before anything runs."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from qexplore._choices import choice_code, choice_name
from qexplore.errors import ProblemError
from qexplore.model import Candidates
from qexplore.search import LayerwiseQuantizationProblem, SearchSettings, choices_text


def check_search(problem: object, callbacks: Any) -> None:
    """Raise for what no search can be run on or with.

    Raises:
        ProblemError: names the argument.
    """
    if not isinstance(problem, LayerwiseQuantizationProblem):
        raise ProblemError(
            f"explore takes a LayerwiseQuantizationProblem, got {type(problem).__name__}: make one of a calibrated "
            "QuantizedModel and a search set, LayerwiseQuantizationProblem(model, loader)"
        )
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        hint = ": put it into a list" if callable(callbacks) else ""
        raise ProblemError(f"`callbacks` must be a sequence of functions of a Snapshot, got {callbacks!r}{hint}")


def checked_initial(initial: Any, problem: LayerwiseQuantizationProblem, settings: SearchSettings) -> Candidates | None:
    """The user's own candidates, shape ``[N, L]``; None where there are none.

    Raises:
        ProblemError: of another shape, no whole numbers, or outside the limits; for an algorithm that would not measure
            them.
    """
    if initial is None:
        return None
    if settings.is_plain:
        is_named = isinstance(settings.algorithm, str)
        name = repr(settings.algorithm) if is_named else settings.algorithm_name
        raise ProblemError(
            f"`initial` is for guided algorithms and the ladder, but {name} begins with its own candidates"
        )
    rows = problem.effective(_as_candidates(initial, problem))
    is_on = problem.effective(np.ones((1, rows.shape[1]), dtype=np.int64))[0] > 0  # others were disabled by hand
    for row, point in problem.space.misfits(rows):
        if not is_on[point]:
            continue
        raise ProblemError(
            f"`initial` must keep to the search's choices, but candidate {row} has {choice_name(rows[row, point])} "
            f"at '{problem.model.points[point].name}', which may have {choices_text(problem.space.choices[point])}"
        )
    for group in ([point for point in group if is_on[point]] for group in problem.space.groups):
        apart = np.flatnonzero((rows[:, group] != rows[:, group[:1]]).any(axis=1))
        if apart.size:
            names = ", ".join(problem.model.points[point].name for point in group)
            raise ProblemError(f"`initial` must give tied points one choice; candidate {apart[0]} does not: {names}")
    return rows


def _as_candidates(initial: Any, problem: LayerwiseQuantizationProblem) -> Candidates:
    """Codes, shape ``[N, L]``, from one vector of choices or several, points and fronts of an exploration included."""
    wanted = problem.space.num_points
    initial = getattr(initial, "front", initial)
    names = tuple(point.name for point in problem.model.points)
    if getattr(initial, "point_names", names) != names:
        raise ProblemError(
            f"`initial` must be a front of the same points, {', '.join(names)}, got one of "
            f"{', '.join(initial.point_names)}: wrap the network as it was wrapped for that search"
        )
    given = _plain(initial)
    is_list = isinstance(given, (list, tuple))
    is_one = is_list and len(given) == wanted and all(choice_code(choice) is not None for choice in given)
    rows = [given] if is_one else [_plain(row) for row in given] if is_list else []
    if not is_list or not all(isinstance(row, (list, tuple)) and len(row) == wanted for row in rows):
        raise ProblemError(
            f"`initial` must be candidates of {wanted} choices each, shape [N, {wanted}], got {reprlib.repr(initial)}: "
            "a front or points of the same network will do too"
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


def _plain(given: Any) -> Any:
    """Choices as a list: of an array, a front or a point."""
    choices = getattr(given, "num_bits", given)
    return choices.tolist() if hasattr(choices, "tolist") else choices
