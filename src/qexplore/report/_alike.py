"""Whether fronts answer one question, so that one may be held against another; said where they do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qexplore.errors import ReportError
from qexplore.front import Front, cost_text, score_text, uniform_labels
from qexplore.report._wording import cost_words

_NAMED = 3
_MEANINGS = {"structure": "other layers", "weights": "other weights", "ranges": "other ranges of quantizers"}


def require_one_metric(owner: str, fronts: Sequence[Front], labels: Sequence[str]) -> None:
    """ReportError unless all have one metric in one direction."""
    first = fronts[0].metric_name, fronts[0].better
    for front, label in zip(fronts, labels, strict=True):
        if (front.metric_name, front.better) != first:
            raise ReportError(
                f"{owner}: all fronts must have one metric in one direction, got {first[0]!r} ({first[1]} is better) "
                f"of {labels[0]!r} and {front.metric_name!r} ({front.better} is better) of {label!r}."
            )


class Compared(NamedTuple):
    """A front with its name, and the uniform candidates beside it, where they are known."""

    label: str
    front: Front
    uniform: Front | None


def unlike_lines(fronts: Sequence[Compared], cost: str) -> tuple[str, ...]:
    """A line for each front that is unlike the first, empty ones apart; one for all that are so in the same way.

    Points, network, weights, ranges, uniform widths, sets (by the float network's scores on them), and the cost (by
    what candidates cost that both know) are compared, as far as fronts know them.
    """
    known = [one for one in fronts if len(one.front)]
    if not known:
        return ()
    first, *others = known
    found: dict[str, dict[str, None]] = {}
    for other in others:
        if other.label != first.label and (what := ", ".join(_differences(first, other, cost))):
            found.setdefault(what, {})[other.label] = None
    lines = [f"Not alike: {_listed(list(named))} against {first.label}: {what}" for what, named in found.items()]
    more = [f"Not alike either: {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
    return (*lines[:_NAMED], *more)


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:_NAMED]) + (f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else "")


def _differences(first: Compared, other: Compared, cost: str) -> Iterator[str]:
    mine, its = first.front, other.front
    if its.point_names != mine.point_names:
        yield _of_points(mine, its)
    yield from _of_networks(mine, its)
    for where, score, known in (
        ("search", its.float_accuracy, mine.float_accuracy),
        ("report", its.report_float_accuracy, mine.report_float_accuracy),
    ):
        if score is not None and known is not None and not math.isclose(score, known, rel_tol=1e-6):
            yield f"float network {score_text(score)} on the {where} set, not {score_text(known)}"
    if its.point_names == mine.point_names:
        yield from _of_uniform(first, other)
        yield from _of_costs(first, other, cost)


def _of_points(first: Front, other: Front) -> str:
    counts = len(other.point_names), len(first.point_names)
    if counts[0] != counts[1]:
        return f"{counts[0]} quantization points, not {counts[1]}"
    return "other quantization points"


def _of_networks(first: Front, other: Front) -> Iterator[str]:
    known = first.fingerprint, other.fingerprint
    if known[0] is None or known[1] is None:
        return
    if known[0].network != known[1].network:
        yield f"network {known[1].network}, not {known[0].network}"
        return
    kinds = [kind for kind in known[0].differences(known[1]) if kind in _MEANINGS]
    # Ranges go by point; with other points, or after other weights, they are others of course.
    kinds = [kind for kind in kinds if kind != "ranges" or other.point_names == first.point_names]
    yield from (_MEANINGS[kind] for kind in kinds[:1])


def _of_uniform(first: Compared, other: Compared) -> Iterator[str]:
    """Among what was chosen stands in the uniform candidates, as far as they were measured."""
    if not first.uniform or not other.uniform:
        return
    mine, its = (_by_cost(one.uniform) for one in (first, other) if one.uniform)
    if set(mine) != set(its):
        yield f"uniform widths {its[0]} to {its[-1]}, not {mine[0]} to {mine[-1]}"


def _by_cost(uniform: Front) -> list[str]:
    labels = uniform_labels(uniform.num_bits)
    return [labels[place] for place in uniform.costs[:, 0].argsort(kind="stable").tolist()]


def _of_costs(first: Compared, other: Compared, cost: str) -> Iterator[str]:
    mine, its = _costs(first, cost), _costs(other, cost)
    for candidate in mine.keys() & its.keys():
        if not math.isclose(mine[candidate], its[candidate], rel_tol=1e-6):
            words = f"{cost_text(its[candidate])}, not {cost_text(mine[candidate])}"
            yield f"another cost of that name ({cost_words(cost)} of one candidate are {words})"
            return


def _costs(one: Compared, cost: str) -> dict[tuple[int, ...], float]:
    fronts = [front for front in (one.front, one.uniform) if front is not None and cost in front.cost_names]
    return {point.num_bits: point.costs[cost] for front in fronts for point in front}
