"""Two fronts compared: points, dominance, hypervolume, layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import moocore
import numpy as np
import pytest

from qexplore._fingerprint import Fingerprint
from qexplore.errors import FrontError
from qexplore.front import Front

PAGE = Path(__file__).parents[2] / "docs" / "fronts.md"


def a_front(rows, accuracy, **fields):
    num_bits = np.array(rows).reshape(-1, 3)
    known = {"costs": num_bits.sum(axis=1, keepdims=True), "point_names": ("input", "relu1", "relu2")}
    return Front(num_bits=num_bits, accuracy=accuracy, **known | fields)


FIRST = a_front([[2, 2, 2], [4, 4, 4], [8, 8, 8]], [0.5, 0.9, 0.95])
OTHER = a_front([[2, 2, 3], [4, 4, 4], [6, 7, 8]], [0.55, 0.9, 0.96])


def test_points_are_paired_by_candidate_then_by_cost():
    found = FIRST.diff(OTHER)

    assert [(one.other.index, one.is_same) for one in found.points] == [(0, False), (1, True), (2, False)]
    assert [one.costs["total_bits"] for one in found.points] == [1, 0, -3]
    np.testing.assert_allclose([one.score for one in found.points], [0.05, 0.0, 0.01])
    assert [one.relation for one in found.points] == ["neither", "equal", "worse"]


def test_the_same_candidate_goes_before_a_nearer_cost():
    moved = replace(OTHER, costs=OTHER.costs + [[0], [30], [0]])

    assert [one.other.index for one in FIRST.diff(moved).points] == [0, 1, 2]


def test_dominance_and_hypervolume_are_moocores():
    found = FIRST.diff(OTHER, reference_point=(0.4, 30))

    points = [np.column_stack([-front.accuracy, front.costs]) for front in (FIRST, OTHER)]
    wanted = [moocore.hypervolume(rows, ref=[-0.4, 30]) for rows in (*points, np.concatenate(points))]
    np.testing.assert_allclose(found.hypervolume, wanted)
    # A row that is dominated in its own front would count too: none is, here.
    both = ~moocore.is_nondominated(np.concatenate(points), keep_weakly=True)
    assert found.num_dominated == (both[:3].sum(), both[3:].sum()) == (1, 0)


@pytest.mark.parametrize(("at", "points"), [(None, (1, 1)), (0, (0, 0)), (-1, (2, 2)), ((0, 2), (0, 2))])
def test_layers_are_those_of_the_knees_or_of_the_points_asked_for(at, points):
    found = FIRST.diff(OTHER, at=at)

    assert tuple(one.index for one in found.compared) == points
    mine, theirs = FIRST.num_bits[points[0]], OTHER.num_bits[points[1]]
    assert [(one.num_bits, one.other_num_bits, one.bits) for one in found.layers] == [
        (a, b, b - a) for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)
    ]


def test_stored_bits_of_formats_and_off_count():
    first, other = a_front([[403, 0, 4]], [0.9]), a_front([[8, 8, 4]], [0.9])

    found = first.diff(other)

    assert [(one.name, one.bits) for one in found.changed_layers] == [("input", 0.0), ("relu1", -24.0)]
    assert "E4M3" in str(found) and "off" in str(found)


TEXT = """\
This front (3 points) and the other one (3 points), and what changes from here to there
#  total bits  accuracy  other     by total bits  by accuracy  this one is
-  ----------  --------  --------  -------------  -----------  -----------
0           6    0.5000  0                    +1      +0.0500  neither
1          12    0.9000  1 (same)              0      +0.0000  equal
2          24    0.9500  2                    -3      +0.0100  worse
dominated: 1 of 3 by the other front, 0 of 3 of the other by this one
hypervolume up to (0.5000, 24): this 4.8, the other 5.23, both together 5.23
Point 2 of this front and point 2 of the other differ at 2 of 3 quantization points, -3 bits in all:
point  this  other  bits
-----  ----  -----  ----
input     8      6    -2
relu1     8      7    -1"""


def test_text_is_a_table_of_points_and_one_of_layers():
    assert str(FIRST.diff(OTHER, at=2)) == TEXT
    assert TEXT in PAGE.read_text()
    assert "have the same choice at all 3 quantization points" in str(FIRST.diff(OTHER, at=1))


def test_lower_is_better():
    fields = {"metric_name": "error", "higher_is_better": False}
    first, other = a_front([[4, 4, 4]], [0.2], **fields), a_front([[4, 4, 3]], [0.1], **fields, min_accuracy=0.3)

    found = first.diff(other)

    assert found.points[0].relation == "worse"
    assert found.num_dominated == (1, 0)
    assert found.reference_point == (0.3, 12.0)
    assert found.hypervolume[1] == pytest.approx((0.3 - 0.1) * 1)


def test_several_costs_decide_together():
    fields = {"cost_names": ("total_bits", "bops")}
    first = a_front([[4, 4, 4]], [0.9], costs=[[12, 5]], **fields)
    other = a_front([[4, 4, 3]], [0.9], costs=[[11, 6]], **fields)

    found = first.diff(other, cost="bops")

    assert found.points[0].relation == "neither"
    assert found.points[0].costs == {"total_bits": -1, "bops": 1}
    assert found.cost_name == "bops" and "by bops" in str(found)


EMPTY = a_front(np.zeros((0, 3), dtype=int), [])


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [(EMPTY, FIRST, "This front is empty"), (FIRST, EMPTY, "The other is empty"), (EMPTY, EMPTY, "Both fronts are")],
)
def test_empty_fronts_are_an_answer(first, other, words):
    found = first.diff(other)

    assert found.points == () and found.compared is None and found.layers == ()
    assert words in str(found)
    assert found.hypervolume[2] == max(found.hypervolume)


def test_one_point_against_itself():
    one = FIRST[1:2]

    found = one.diff(one)

    assert found.points[0].relation == "equal" and found.num_dominated == (0, 0)
    assert found.changed_layers == ()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (FIRST[0], "must be a Front, .*, got FrontPoint"),
        (replace(FIRST, metric_name="mIoU"), "same metric, got 'accuracy' here and 'mIoU' there"),
        (replace(FIRST, higher_is_better=False), "same metric, got 'higher' here and 'lower' there"),
        (replace(FIRST, cost_names=("bops",)), "same costs, got 'total_bits' here and 'bops' there"),
        (replace(FIRST, point_names=("input", "relu1", "gelu")), "points, got 'relu2' here and 'gelu' there"),
        (replace(FIRST, point_names=("relu1", "input", "relu2")), "points, got 'input', 'relu1', .* there"),
    ],
)
def test_fronts_that_cannot_be_compared_are_refused_by_name(other, words):
    with pytest.raises(FrontError, match=words):
        FIRST.diff(other)


@pytest.mark.parametrize("at", [7, (0, 9), "0", (1,), 0.5])
def test_what_is_no_index_is_refused(at):
    with pytest.raises(FrontError, match="at must be the index"):
        FIRST.diff(OTHER, at=at)


def test_fronts_of_other_weights_say_so():
    mine, theirs = Fingerprint("Net", "a", "b", "c" * 16, "d"), Fingerprint("Net", "a", "b", "e" * 16, "d")

    assert "differs in weights" in str(replace(FIRST, fingerprint=mine).diff(replace(OTHER, fingerprint=theirs)))
    assert FIRST.diff(replace(OTHER, fingerprint=theirs)).other_model == ""
