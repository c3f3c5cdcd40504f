"""Fronts: which candidates they keep, how one picks from them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.indicators.hv import Hypervolume
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from qexplore.errors import FrontError
from qexplore.front import Front

REPEATABLE = settings(deadline=None, derandomize=True, max_examples=60)
SCORES = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
CANDIDATES = st.lists(st.tuples(SCORES, st.integers(4, 16)), min_size=0, max_size=25)


def front_of(candidates, **fields):
    """A front over two points; the widths say which candidate a row was."""
    accuracy = [score for score, _ in candidates]
    bits = [[cost] for _, cost in candidates]
    return Front.from_candidates(
        num_bits=np.array([[2, 2 + index] for index in range(len(candidates))], dtype=int).reshape(-1, 2),
        accuracy=np.array(accuracy, dtype=float),
        costs=np.array(bits, dtype=float).reshape(-1, 1),
        point_names=("input", "relu"),
        **fields,
    )


def kept(front):
    return [int(row[1]) - 2 for row in front.num_bits]


def brute_force(candidates, *, min_accuracy=None, higher_is_better=True):
    sign = 1 if higher_is_better else -1
    gains = [(sign * score, cost) for score, cost in candidates]
    feasible = [index for index, (gain, _) in enumerate(gains) if min_accuracy is None or gain >= sign * min_accuracy]
    best = []
    for i in feasible:
        gain, cost = gains[i]
        beaten = any(
            (gains[j][0] >= gain and gains[j][1] <= cost and gains[j] != gains[i]) or (gains[j] == gains[i] and j < i)
            for j in feasible
        )
        if not beaten:
            best.append(i)
    return sorted(best, key=lambda index: gains[index][1])


STEEP = [(0.80, 10), (0.90, 12), (0.93, 20), (0.94, 30)]


@REPEATABLE
@given(CANDIDATES, st.one_of(st.none(), SCORES), st.booleans())
def test_keeps_exactly_the_feasible_candidates_that_no_other_beats(candidates, min_accuracy, higher_is_better):
    front = front_of(candidates, min_accuracy=min_accuracy, higher_is_better=higher_is_better)

    assert kept(front) == brute_force(candidates, min_accuracy=min_accuracy, higher_is_better=higher_is_better)


@REPEATABLE
@given(CANDIDATES.filter(len))
def test_agrees_with_pymoo_on_what_is_not_dominated(candidates):
    objectives = np.array([(-score, cost) for score, cost in candidates])
    best = NonDominatedSorting().do(objectives, only_non_dominated_front=True)

    front = front_of(candidates)

    assert set(zip(-front.accuracy, front.total_bits, strict=True)) == {tuple(objectives[index]) for index in best}


@REPEATABLE
@given(CANDIDATES)
def test_hypervolume_agrees_with_pymoo(candidates):
    front = front_of(candidates)
    objectives = np.column_stack([-front.accuracy, front.total_bits])
    expected = Hypervolume(ref_point=np.array([-0.25, 14.0])).do(objectives) if len(front) else 0.0

    assert front.hypervolume((0.25, 14)) == pytest.approx(expected, abs=1e-12)


def test_rows_of_every_field_stay_together():
    front = front_of(
        [(0.9, 12), (0.5, 30), (0.8, 10)],
        interval=[(0.89, 0.91), (0.49, 0.51), (0.79, 0.81)],
        report_accuracy=[0.88, 0.48, 0.78],
    )

    assert kept(front) == [2, 0]
    assert front.interval.tolist() == [[0.79, 0.81], [0.89, 0.91]]
    assert front.report_accuracy.tolist() == [0.78, 0.88]


def test_arrays_are_copies_that_cannot_be_written_to():
    accuracy = np.array([0.9])
    front = Front(num_bits=[[2, 3]], accuracy=accuracy, costs=[[5]], point_names=("input", "relu"))
    accuracy[0] = 0.1

    assert front.accuracy.tolist() == [0.9]
    with pytest.raises(ValueError, match="read-only"):
        front.num_bits[0, 0] = 8


def test_points_know_their_widths_by_name():
    point = front_of(STEEP)[1]

    assert point.widths == {"input": 2, "relu": 3}
    assert (point.index, point.accuracy, point.total_bits) == (1, 0.9, 12)
    assert "accuracy 0.9" in str(point)


def test_index_counts_from_the_end_and_refuses_what_is_not_there():
    front = front_of(STEEP)

    assert front[-1].total_bits == 30
    assert [point.index for point in front] == [0, 1, 2, 3]
    with pytest.raises(IndexError, match="no point 4, this front has the points 0 to 3"):
        front[4]


def test_cheapest_and_most_accurate_keep_to_their_limits():
    front = front_of(STEEP)

    assert front.cheapest().total_bits == 10
    assert front.cheapest(min_accuracy=0.91).total_bits == 20
    assert front.most_accurate().accuracy == 0.94
    assert front.most_accurate(max_total_bits=19).accuracy == 0.90


def test_picking_goes_the_other_way_where_lower_is_better():
    front = front_of([(9.0, 10), (4.0, 12), (3.0, 30)], higher_is_better=False, metric_name="perplexity")

    assert front.cheapest(min_accuracy=5.0).total_bits == 12
    assert front.most_accurate().accuracy == 3.0


def test_limits_that_no_point_meets_name_the_best_on_offer():
    front = front_of(STEEP)

    with pytest.raises(FrontError, match=r"min_accuracy=0.99; the best that this front offers is accuracy 0.94"):
        front.cheapest(min_accuracy=0.99)
    with pytest.raises(FrontError, match=r"max_total_bits=5 or less; the fewest that this front offers is 10 bits"):
        front.most_accurate(max_total_bits=5)


def test_knee_is_the_point_farthest_from_the_line_between_the_ends():
    front = front_of(STEEP)
    bits = (front.total_bits - 10) / 20
    gain = (front.accuracy - 0.80) / 0.14
    distances = np.abs(gain - bits) / np.sqrt(2)

    assert front.knee().index == int(distances.argmax()) == 1


@pytest.mark.parametrize("candidates", [STEEP[:1], STEEP[:2]])
def test_knee_of_one_or_two_points_is_the_most_accurate(candidates):
    assert front_of(candidates).knee().accuracy == max(score for score, _ in candidates)


@pytest.mark.parametrize("pick", ["cheapest", "most_accurate", "knee"])
def test_an_empty_front_says_why_it_is_empty(pick):
    front = front_of([(0.5, 10)], min_accuracy=0.9)

    assert len(front) == 0
    with pytest.raises(FrontError, match="no evaluated candidate has accuracy of at least 0.9000"):
        getattr(front, pick)()


def test_savings_compare_each_uniform_width_with_the_cheapest_point_as_accurate():
    front = front_of(STEEP, min_accuracy=0.5)
    uniform = Front(
        num_bits=[[2, 2], [3, 3], [4, 4], [5, 5]],
        accuracy=[0.40, 0.85, 0.93, 0.92],
        costs=[[8], [16], [28], [40]],
        point_names=front.point_names,
    )

    savings = front.bits_saved(uniform)

    # 2 bits is below min_accuracy and 5 bits is beaten by 4: neither is a baseline.
    assert [(saving.other_point.index, saving.point.index, saving.saved) for saving in savings] == [
        (1, 1, 4),
        (2, 2, 8),
    ]
    assert savings[1].share == pytest.approx(8 / 28)


def test_savings_against_another_metric_are_refused():
    with pytest.raises(FrontError, match="both fronts must hold the same metric"):
        front_of(STEEP).bits_saved(front_of(STEEP, metric_name="loss", higher_is_better=False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_bits": [[2]]}, "num_bits"),
        ({"num_bits": [[2, -1]]}, "num_bits must be 0"),
        ({"num_bits": [[2.5, 3.0]]}, "num_bits"),
        ({"accuracy": [0.9, 0.8]}, "accuracy"),
        ({"accuracy": [float("nan")]}, "accuracy"),
        ({"costs": [[1, 2]]}, "costs"),
        ({"costs": [[float("inf")]]}, "costs"),
        ({"interval": [[0.1, 0.2, 0.3]]}, "interval"),
        ({"point_names": ("a", "a")}, "point_names"),
        ({"metric_name": 3}, "metric_name"),
        ({"min_accuracy": "high"}, "min_accuracy"),
    ],
)
def test_fields_that_do_not_fit_are_refused_by_name(fields, message):
    good = {"num_bits": [[2, 3]], "accuracy": [0.9], "costs": [[5]], "point_names": ("input", "relu")}

    with pytest.raises(FrontError, match=message):
        Front(**good | fields)
