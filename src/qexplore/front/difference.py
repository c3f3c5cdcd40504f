"""How one front differs from another: point by point, and layer by layer.

Shape letters: K members of the first front, J members of the other, L quantization points, C costs.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qexplore._choices import choice_name, stored_bits
from qexplore._table import Tabular, counted, text_table
from qexplore.errors import FrontError
from qexplore.front.arrays import FloatArray, FrontArrays
from qexplore.front.picking import num_dominated
from qexplore.front.point import FrontPoint
from qexplore.front.words import cost_text, difference_text, score_text

if TYPE_CHECKING:
    from qexplore.front.front import Front

_OWNER = "Front.diff"


@dataclass(frozen=True)
class PointDifference:
    """A point of the first front beside the one of the other that it is compared with.

    Attributes:
        point: of the first front.
        other: the same candidate where the other front has it, else the nearest by cost.
        is_same: whether both are one candidate.
        score: score of ``other`` less that of ``point``, in the metric's unit.
        costs: costs of ``other`` less those of ``point``, by name.
        relation: of the first point to the other: ``"better"``, ``"worse"`` (no worse in anything, and better in
            something), ``"equal"``, or ``"neither"``, by score and all costs.
    """

    point: FrontPoint
    other: FrontPoint
    is_same: bool
    score: float
    costs: dict[str, float] = field(hash=False)
    relation: str


@dataclass(frozen=True)
class LayerDifference:
    """What stands at a quantization point in both candidates, as codes; ``bits`` is the other's stored bits less."""

    name: str
    num_bits: int
    other_num_bits: int
    bits: float


@dataclass(frozen=True)
class FrontDifference(Tabular):
    """How another front differs from a first one; ``print`` shows it. All differences are the other less the first.

    Attributes:
        points: for each point of the first front its pair, K; none where one of the fronts is empty.
        compared: the two points whose layers are compared; None where one of the fronts is empty.
        layers: what they have at each quantization point, L.
        cost_name: the cost by which points are paired.
        num_points: of each front.
        num_dominated: how many points of the first are dominated by some point of the other, and the other way round.
        reference_point: (score, each cost) that hypervolumes are measured against; None where both fronts are empty.
        hypervolume: of the first front, of the other, and of both together.
        other_model: what differs between the models that the fronts were found on; empty where nothing does, or where
            one of them is unknown.
    """

    points: tuple[PointDifference, ...]
    compared: tuple[FrontPoint, FrontPoint] | None
    layers: tuple[LayerDifference, ...]
    cost_name: str
    num_points: tuple[int, int]
    num_dominated: tuple[int, int]
    reference_point: tuple[float, ...] | None
    hypervolume: tuple[float, float, float]
    other_model: str = ""

    @property
    def changed_layers(self) -> tuple[LayerDifference, ...]:
        """Those at which the two points differ."""
        return tuple(layer for layer in self.layers if layer.num_bits != layer.other_num_bits)

    def __str__(self) -> str:
        first, other = self.num_points
        counts = counted(first, "point"), counted(other, "point")
        head = "This front ({}) and the other one ({}), and what changes from here to there".format(*counts)
        lines = [
            head,
            *(["the other was found on a model that differs in " + self.other_model] * bool(self.other_model)),
        ]
        if self.compared is None:
            which = "Both fronts are" if not first and not other else "This front is" if not first else "The other is"
            return "\n".join([*lines, f"{which} empty: there are no points to compare.", *self._volume_lines()])
        return "\n".join([*lines, self._point_table(), *self._volume_lines(), *self._layer_lines(*self.compared)])

    def _point_table(self) -> str:
        name = self.cost_name
        rows = [
            (
                str(one.point.index),
                cost_text(one.point.costs[name]),
                score_text(one.point.accuracy),
                f"{one.other.index}{' (same)' if one.is_same else ''}",
                _signed(one.costs[name]),
                difference_text(one.score),
                one.relation,
            )
            for one in self.points
        ]
        shown, metric = name.replace("_", " "), self.points[0].point.metric_name
        header = ("#", shown, metric, "other", f"by {shown}", f"by {metric}", "this one is")
        return text_table(header, rows, numeric=(0, 1, 2, 4, 5))

    def _volume_lines(self) -> list[str]:
        if self.reference_point is None:
            return []
        score, *costs = self.reference_point
        at = ", ".join([score_text(score), *map(cost_text, costs)])
        volumes = "this {:.6g}, the other {:.6g}, both together {:.6g}".format(*self.hypervolume)
        mine, theirs = self.num_dominated
        first, other = self.num_points
        return [
            f"dominated: {mine} of {first} by the other front, {theirs} of {other} of the other by this one",
            f"hypervolume up to ({at}): {volumes}",
        ]

    def _layer_lines(self, point: FrontPoint, other: FrontPoint) -> list[str]:
        changed = self.changed_layers
        between = f"Point {point.index} of this front and point {other.index} of the other"
        if not changed:
            return [f"{between} have the same choice at all {len(self.layers)} quantization points."]
        rows = [
            (layer.name, choice_name(layer.num_bits), choice_name(layer.other_num_bits), _signed(layer.bits))
            for layer in changed
        ]
        total = _signed(sum(layer.bits for layer in changed))
        return [
            f"{between} differ at {len(changed)} of {len(self.layers)} quantization points, {total} bits in all:",
            text_table(("point", "this", "other", "bits"), rows, numeric=(1, 2, 3)),
        ]


def difference(
    front: Front, other: Front, at: int | tuple[int, int] | None, name: str, reference_point: Sequence[float] | None
) -> FrontDifference:
    """As `Front.diff`, with points paired by the cost ``name``."""
    pairs = _pairs(front, other, front.cost_names.index(name))
    compared = _compared(front, other, at, pairs)
    reference = _reference(front, other) if reference_point is None else tuple(map(float, reference_point))
    both = _together(front, other)
    volumes = (
        (0.0, 0.0, 0.0) if reference is None else tuple(one.hypervolume(reference) for one in (front, other, both))
    )
    known = front.fingerprint is not None and other.fingerprint is not None
    return FrontDifference(
        points=tuple(_point_difference(front[row], other[pair], front) for row, pair in enumerate(pairs)),
        compared=compared,
        layers=() if compared is None else _layers(front.point_names, *compared),
        cost_name=name,
        num_points=(len(front), len(other)),
        num_dominated=(
            num_dominated(front.minimised, other.minimised),
            num_dominated(other.minimised, front.minimised),
        ),
        reference_point=reference,
        hypervolume=volumes,  # type: ignore[arg-type]
        other_model=front.fingerprint.difference_text(other.fingerprint) if known else "",  # type: ignore[union-attr, arg-type]
    )


def require_comparable(front: FrontArrays, other: Any) -> None:
    """Raise FrontError, which names what differs, where ``other`` is no front of the same points, metric and costs."""
    if not isinstance(other, FrontArrays):
        raise FrontError(f"{_OWNER}: other must be a Front, such as `exploration.front`, got {type(other).__name__}.")
    for what, mine, theirs in (
        ("metric", (front.metric_name, front.better), (other.metric_name, other.better)),
        ("costs", front.cost_names, other.cost_names),
        ("quantization points", front.point_names, other.point_names),
    ):
        if mine != theirs:
            raise FrontError(
                f"{_OWNER}: both fronts must have the same {what}, got {_told(mine, theirs)} here and "
                f"{_told(theirs, mine)} there. Compare fronts of one network and one kind of problem."
            )


def _told(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Names that the other has not; all of them where only their order differs."""
    own = [name for name in names if name not in others] or list(names)
    return ", ".join(map(repr, own[:8])) + (f" and {len(own) - 8} more" if len(own) > 8 else "")


def _pairs(front: Front, other: Front, column: int) -> list[int]:
    """For each row of ``front`` the row of ``other`` with the same candidate, else the nearest by cost, then score."""
    if not len(other):
        return []
    same = {codes: row for row, codes in reversed(list(enumerate(map(tuple, other.num_bits.tolist()))))}
    pairs = []
    for row, codes in enumerate(map(tuple, front.num_bits.tolist())):
        distance = np.abs(other.costs[:, column] - front.costs[row, column])
        score = np.abs(other.accuracy - front.accuracy[row])
        pairs.append(same.get(codes, int(np.lexsort((score, distance))[0])))
    return pairs


def _point_difference(point: FrontPoint, other: FrontPoint, front: Front) -> PointDifference:
    costs = {name: other.costs[name] - cost for name, cost in point.costs.items()}
    score = other.accuracy - point.accuracy
    better = [-float(front.gain(score)), *costs.values()]  # positive where the first is better
    signs = {bool(value > 0) for value in better if value}
    relation = "equal" if not signs else "neither" if len(signs) > 1 else "better" if True in signs else "worse"
    return PointDifference(point, other, point.num_bits == other.num_bits, score, costs, relation)


def _compared(
    front: Front, other: Front, at: int | tuple[int, int] | None, pairs: list[int]
) -> tuple[FrontPoint, FrontPoint] | None:
    if not len(front) or not len(other):
        return None
    if at is None:
        return front.knee(), other.knee()
    try:
        if isinstance(at, Sequence) and not isinstance(at, str):
            mine, theirs = map(operator.index, at)
            return front[mine], other[theirs]
        point = front[operator.index(at)]
    except (TypeError, ValueError) as error:
        raise FrontError(
            f"{_OWNER}: at must be the index of a point of this front, or a pair of indices, one of each front, got "
            f"{at!r}."
        ) from error
    except IndexError as error:
        raise FrontError(f"{_OWNER}: at must be the index of a point, got {at!r}. {error}") from error
    return point, other[pairs[point.index]]


def _layers(names: tuple[str, ...], point: FrontPoint, other: FrontPoint) -> tuple[LayerDifference, ...]:
    codes = np.array([point.num_bits, other.num_bits], dtype=np.int64)
    before, after = stored_bits(codes).tolist()
    pairs = zip(names, *codes.tolist(), before, after, strict=True)
    return tuple(LayerDifference(name, mine, theirs, late - early) for name, mine, theirs, early, late in pairs)


def _reference(front: Front, other: Front) -> tuple[float, ...] | None:
    """The worst score that is there or allowed, and the most of each cost, uniform candidates included."""
    fronts = [one for one in (front, other, front.uniform, other.uniform) if one is not None]
    scores = [*front.accuracy.tolist(), *other.accuracy.tolist()]
    if not scores:
        return None
    scores += [one.min_accuracy for one in (front, other) if one.min_accuracy is not None]
    costs: FloatArray = np.concatenate([one.costs for one in fronts]).max(axis=0)
    return (min(scores, key=front.gain), *costs.tolist())


def _together(front: Front, other: Front) -> Front:
    return type(front)(
        num_bits=np.concatenate([front.num_bits, other.num_bits]),
        accuracy=np.concatenate([front.accuracy, other.accuracy]),
        costs=np.concatenate([front.costs, other.costs]),
        point_names=front.point_names,
        cost_names=front.cost_names,
        metric_name=front.metric_name,
        higher_is_better=front.higher_is_better,
    )


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+' if value > 0 else ''}{cost_text(abs(value))}"
