"""Fronts: which candidates they keep, how one picks from them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.indicators.hv import Hypervolume
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from qexplore._choices import FloatFormat
from qexplore.errors import FrontError
from qexplore.front import Front

REPEATABLE = settings(deadline=None, derandomize=True, max_examples=60)
SCORES = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
CANDIDATES = st.lists(st.tuples(SCORES, st.integers(4, 16)), min_size=0, max_size=25)


def costly_front(accuracy, costs, cost_names=("total_bits", "model_bytes"), **fields):
    """A front of several costs over one point; rows are kept as they are."""
    return Front(
        num_bits=[[1 + row] for row in range(len(accuracy))],
        accuracy=accuracy,
        costs=costs,
        point_names=("input",),
        cost_names=cost_names,
        **fields,
    )


def front_of(candidates, **fields):
    """A front over two points; the widths say which candidate a row was."""
    accuracy = [score for score, _ in candidates]
    bits = [[cost] for _, cost in candidates]
    return Front.from_candidates(
        num_bits=np.array([[2 + n // 14, 2 + n % 14] for n in range(len(candidates))], dtype=int).reshape(-1, 2),
        accuracy=np.array(accuracy, dtype=float),
        costs=np.array(bits, dtype=float).reshape(-1, 1),
        point_names=("input", "relu"),
        **fields,
    )


def kept(front):
    return [14 * (int(row[0]) - 2) + int(row[1]) - 2 for row in front.num_bits]


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


@pytest.mark.parametrize(
    "rows", [slice(1, 3), slice(None, None, 2), slice(-1, None), slice(5, 9), slice(None, None, -1)]
)
def test_a_slice_is_a_front_of_these_rows(rows):
    front = front_of(STEEP, min_accuracy=0.1, verified=True)
    part = front[rows]
    assert isinstance(part, Front)
    assert part.accuracy.tolist() == front.accuracy.tolist()[rows]
    assert part.num_bits.tolist() == front.num_bits.tolist()[rows]
    assert [point.num_bits for point in part] == [point.num_bits for point in list(front)[rows]]
    assert (part.min_accuracy, part.verified, part.point_names) == (0.1, True, front.point_names)


def test_a_column_of_mean_bits_is_there_once():
    own = costly_front([0.5, 0.6], [[3.25], [4.5]], cost_names=("mean_bits",))
    assert own.table().count("mean bits") == 1
    assert front_of(STEEP).table().count("mean bits") == 1


def test_nothing_is_not_called_verified():
    assert "verified" not in front_of([(0.5, 10)], min_accuracy=0.9, verified=True).table()
    assert ", verified" in front_of(STEEP, verified=True).table()


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
    rounded = front_of([(0.9688888888888889, 10)])
    with pytest.raises(FrontError, match=r"offers is accuracy 0.9688 \(point 0\)"):  # 0.9689 would not be met
        rounded.cheapest(min_accuracy=0.97)
    with pytest.raises(
        FrontError, match=r"total_bits of 5 or less; the least that this front offers is 10 \(point 0\)"
    ):
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


def plain_knee(front):
    """Nearest to (best accuracy, least cost of each), each axis scaled over the front, in plain loops."""
    axes = [[-value for value in front.accuracy], *front.costs.T.tolist()]
    distances = []
    for row in range(len(front)):
        scaled = [(axis[row] - min(axis)) / (max(axis) - min(axis)) for axis in axes]
        distances.append(sum(value**2 for value in scaled) ** 0.5)
    return distances.index(min(distances))


@pytest.mark.parametrize("num_costs", [2, 3])
def test_knee_with_several_costs_is_the_point_nearest_to_the_ideal(num_costs):
    random = np.random.default_rng(num_costs)
    accuracy, costs = random.random(30), random.random((30, num_costs)) * [10.0**place for place in range(num_costs)]
    front = costly_front(accuracy[:16], costs[:16], tuple("abc"[:num_costs]))

    assert front.knee().index == plain_knee(front)


def test_knee_does_not_mind_units_or_costs_that_are_the_same_everywhere():
    one = front_of(STEEP)
    two = costly_front(one.accuracy, np.column_stack([one.total_bits, np.full(4, 7.0)]))
    scaled = costly_front([0.8, 0.93, 0.94], [[1, 3e9], [2, 1e9], [9, 5e9]])

    assert two.knee().index == one.knee().index
    assert scaled.knee().index == costly_front([0.8, 0.93, 0.94], [[1, 3], [2, 1], [9, 5]]).knee().index == 1


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


TWO_COSTS = ([0.80, 0.90, 0.93, 0.94], [[10, 900], [12, 500], [20, 700], [30, 800]])


def test_one_picks_by_any_cost_and_within_limits_of_several():
    front = costly_front(*TWO_COSTS)

    assert front.cheapest().costs["total_bits"] == 10
    assert front.cheapest(cost="model_bytes").costs["model_bytes"] == 500
    assert front.cheapest(0.91, "model_bytes").accuracy == 0.93
    assert front.cheapest(limits={"model_bytes": 800}).costs["total_bits"] == 12
    assert front.most_accurate(limits={"model_bytes": 750}).accuracy == 0.93
    assert front.most_accurate(19, limits={"model_bytes": 750}).accuracy == 0.90
    assert front.most_accurate(25, limits={"total_bits": 15}).accuracy == 0.90
    assert front.cost("model_bytes").tolist() == [900, 500, 700, 800]


def test_equals_are_decided_by_the_other_objectives():
    front = costly_front([0.8, 0.9, 0.9, 0.9], [[5, 9], [5, 9], [5, 7], [6, 1]])

    assert front.cheapest().index == 2
    assert front.most_accurate().index == 2
    assert front.cheapest(cost="model_bytes").index == 3


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda front: front.cheapest(cost="bops"), "cost must be among 'total_bits', 'model_bytes', got 'bops'"),
        (lambda front: front.cost("bops"), "got 'bops'"),
        (lambda front: front.nondominated(["bops"]), "must be among 'accuracy', 'total_bits', 'model_bytes'"),
        (lambda front: front.most_accurate(limits={"model_byte": 3}), "limits must be .* did you mean 'model_bytes'"),
        (lambda front: front.most_accurate(limits={"model_bytes": "few"}), "limit of model_bytes must be a finite"),
        (lambda front: front.most_accurate(limits={"model_bytes": 100}), r"the least .* is 500 \(point 1\)"),
        (lambda front: front.most_accurate(10, limits={"model_bytes": 600}), "though each alone is met"),
        (lambda front: front.cheapest(0.92, limits={"model_bytes": 600}), "within these limits is accuracy 0.9000 "),
    ],
)
def test_what_cannot_be_picked_is_explained(pick, message):
    with pytest.raises(FrontError, match=message):
        pick(costly_front(*TWO_COSTS))


def test_a_front_without_total_bits_is_picked_from_by_its_first_cost():
    front = costly_front(*TWO_COSTS, cost_names=("energy", "latency"))

    assert front.cheapest().index == 0
    assert front.most_accurate().index == 3
    assert "energy 10" in str(front[0])
    assert front.bits_saved(front) == ()
    with pytest.raises(FrontError, match="must hold 'total_bits'"):
        front.most_accurate(max_total_bits=20)
    for one in (front, front[0]):
        with pytest.raises(FrontError, match="must hold 'total_bits'"):
            _ = one.total_bits


def test_nondominated_counts_only_the_objectives_asked_for():
    front = costly_front(*TWO_COSTS)

    assert front.nondominated().tolist() == [True] * 4
    assert front.nondominated(["accuracy", "model_bytes"]).tolist() == [False, True, True, True]
    assert front.nondominated(["total_bits", "model_bytes"]).tolist() == [True, True, False, False]
    assert front.nondominated(["model_bytes"]).tolist() == [False, True, False, False]


def test_hypervolume_of_three_objectives_agrees_with_pymoo():
    random = np.random.default_rng(0)
    front = costly_front(random.random(16), random.random((16, 2)))
    expected = Hypervolume(ref_point=np.array([-0.1, 0.9, 0.8])).do(np.column_stack([-front.accuracy, front.costs]))

    assert front.hypervolume((0.1, 0.9, 0.8)) == pytest.approx(expected)


def test_savings_are_of_the_cost_asked_for():
    front = costly_front(*TWO_COSTS)
    uniform = costly_front([0.85, 0.93], [[16, 600], [28, 1000]])

    (first, second) = front.bits_saved(uniform, cost="model_bytes")

    assert (first.saved, first.point.index, first.cost_name) == (100, 1, "model_bytes")
    assert (second.saved, second.share) == (300, 0.3)
    assert [saving.saved for saving in front.bits_saved(uniform)] == [4, 8]
    with pytest.raises(FrontError, match="the other front's costs"):
        front.bits_saved(front_of(STEEP), cost="model_bytes")


def test_formats_are_codes_in_the_vector_and_formats_by_name():
    front = Front(num_bits=[[403, 0, 1201, 4]], accuracy=[0.9], costs=[[48.25]], point_names=tuple("abcd"))

    assert front[0].num_bits == (403, 0, 1201, 4)
    assert front[0].widths == {"a": FloatFormat(4, 3), "b": 0, "c": FloatFormat(2, 1, 32), "d": 4}
    assert str(front[0]).endswith("num_bits: a E4M3, b off, c MXE2M1, d 4")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_bits": [[2]]}, "num_bits"),
        ({"num_bits": [[2, -1]]}, "num_bits must be 0"),
        ({"num_bits": [[2, 17]]}, "a width of 1 to 16 .* got 17 at point 'relu' in row 0"),
        ({"num_bits": [[404, 3]]}, "got 404 at point 'input'"),
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
