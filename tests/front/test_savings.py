"""What a front claims to save: on the set that did not choose its points, where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qexplore.errors import FrontError
from qexplore.front import Front

WIDE = (-0.03, 0.01)  # an interval that holds 0
BELOW = (-0.05, -0.01)


def a_front(widths=(3, 4, 5), lower=False, **fields):
    """Two points, a width a row for the first; no row is uniform. Scores rise with it, as errors fall."""
    score = np.array([0.80 + width / 100 for width in widths])
    known = {
        "num_bits": [[width, width - 1] for width in widths],
        "accuracy": 1 - score if lower else score,
        "costs": [[width] for width in widths],
        "point_names": ("input", "relu"),
        "higher_is_better": not lower,
    }
    return Front(**known | fields)


def reported(scores, against, *, uniform=(0.86, 0.90), lower=False, **fields):
    """Members of 3, 4 and 5 bits beside uniform candidates of 6 and 8 bits; report scores and intervals as given.

    On the search set every member is as good as every uniform candidate.
    """
    floats = 0.09 if lower else 0.91
    turn = (lambda values: 1 - np.array(values)) if lower else np.array
    baseline = a_front(
        (6, 8),
        lower,
        accuracy=turn([0.80, 0.82]),
        report_accuracy=turn(uniform),
        report_float_accuracy=floats,
    )
    intervals = None if against is None else np.array(against)
    if lower and intervals is not None:
        intervals = -intervals[..., ::-1]
    return a_front(
        lower=lower, uniform=baseline, report_accuracy=turn(scores), report_float_accuracy=floats,
        report_from_uniform=intervals, **fields,
    )  # fmt: skip


def told(front, **options):
    return [(one.saved, one.point.num_bits[0], one.other_point.num_bits[0]) for one in front.bits_saved(**options)]


@pytest.mark.parametrize("lower", [False, True])
def test_a_saving_is_of_the_cheapest_point_that_is_not_significantly_worse_on_the_report_set(lower):
    against = [[WIDE, BELOW], [WIDE, BELOW], [WIDE, WIDE]]
    front = reported([0.85, 0.86, 0.89], against, lower=lower)

    assert told(front) == told(front, other=front.uniform) == [(3, 3, 6), (3, 5, 8)]
    (one, other) = front.bits_saved()
    sign = -1 if lower else 1
    assert (one.difference, other.difference) == pytest.approx((sign * -0.01, sign * -0.01))
    assert one.interval == ((-0.01, 0.03) if lower else WIDE)
    assert one.on_report_set
    better = "lower" if lower else "higher"
    assert str(front.uniform).startswith(f"Front of 2 points: accuracy ({better} is better), no min_accuracy")
    asked = replace(front.uniform, broken_limits=np.array(["", ""]), accuracy=np.full(2, 0.8))
    head = f"2 candidates, 1 of them not beaten by another one: accuracy ({better} is better), not verified"
    assert str(asked).splitlines()[0] == head


def test_a_saving_prints_as_a_line_with_its_interval():
    first, _ = reported([0.85, 0.86, 0.89], [[WIDE, BELOW], [WIDE, BELOW], [WIDE, WIDE]]).bits_saved()
    said = "accuracy -0.0100 (-0.0300 to +0.0100), against point 0 (5-6 bit), on the report set"
    assert repr(first) == f"<total bits saved: 3 (50%) by point 0, {said}>"


def test_a_point_that_was_worse_where_it_was_chosen_is_no_saving_by_the_luck_of_a_small_report_set():
    front = reported([0.85, 0.86, 0.89], [[WIDE, WIDE]] * 3)
    stricter = reported([0.85, 0.86, 0.89], [[WIDE, WIDE]] * 3, accuracy=[0.79, 0.81, 0.85])

    assert told(front) == [(3, 3, 6), (5, 3, 8)]
    assert told(stricter) == [(2, 4, 6), (3, 5, 8)]


def test_a_metric_without_scores_per_sample_has_to_be_no_worse_there():
    front = reported([0.85, 0.86, 0.90], None)

    assert told(front) == [(2, 4, 6), (3, 5, 8)]
    assert front.bits_saved()[0].interval is None
    assert "at no lower accuracy on the report set (no interval known)" in str(front)


@pytest.mark.parametrize("scores", [(0.85, np.nan, 0.89), (np.nan, 0.86, 0.89)])
def test_a_point_that_could_not_be_measured_there_saves_nothing(scores):
    saving = told(reported(scores, [[WIDE, BELOW], [(np.nan, np.nan)] * 2, [WIDE, WIDE]]))

    assert all(scores[width - 3] == scores[width - 3] for _, width, _ in saving)
    assert len(saving) == 2


def test_a_uniform_width_that_another_one_beats_on_the_report_set_is_no_baseline():
    assert told(reported([0.85, 0.86, 0.89], [[WIDE, WIDE]] * 3, uniform=(0.90, 0.86))) == [(3, 3, 6)]


def test_without_a_report_set_the_claim_is_on_the_search_set_and_says_so():
    baseline = a_front((6, 8), accuracy=[0.84, 0.86])
    front = a_front(uniform=baseline)

    assert told(front) == [(2, 4, 6)]
    assert not front.bits_saved()[0].on_report_set
    assert front.bits_saved()[0].difference == pytest.approx(0.0)
    assert "at no lower accuracy on the search set, which chose the points" in str(front)
    assert "2 (33%) by point 1, accuracy +0.0000, against 5-6 bit" in str(front)


@pytest.mark.parametrize("gone", ["report_accuracy", "report_float_accuracy"])
def test_what_was_measured_in_part_is_claimed_on_the_search_set(gone):
    whole = reported([0.85, 0.86, 0.89], [[WIDE, BELOW]] * 3)
    front = Front(**{**vars(whole), gone: None})

    assert [one.on_report_set for one in front.bits_saved()] == [False, False]
    assert "on the search set" in str(front)


def test_candidates_that_were_not_compared_sample_by_sample_are_compared_on_the_search_set():
    front = reported([0.85, 0.86, 0.89], [[WIDE, BELOW]] * 3)
    other = a_front((7,), accuracy=[0.83], report_accuracy=[0.99], report_float_accuracy=0.91)

    assert [one.on_report_set for one in front.bits_saved(other)] == [False]


def test_a_front_that_saves_nothing_says_so():
    assert str(reported([0.8, 0.8, 0.8], [[BELOW, BELOW]] * 3)).endswith("(95 %, paired): nothing")


def test_a_front_without_uniform_candidates_needs_others_to_compare_with():
    with pytest.raises(FrontError, match="knows no uniform candidates, so `other` must be given"):
        a_front().bits_saved()


def test_the_difference_from_float_stands_in_the_table_and_at_the_point():
    front = reported([0.85, 0.86, np.nan], None, report_from_float=[(-0.08, -0.04), (-0.07, -0.03), (np.nan, np.nan)])

    assert "-0.0600 (-0.0800 to -0.0400)" in str(front)
    assert "report set: float 0.9100" in str(front)
    assert "-0.0500 (-0.0700 to -0.0300) from float there" in str(front[1])
    assert front[0].report_from_float == pytest.approx(-0.06)
    assert front[2].report_from_float is front[2].report_from_float_interval is None


def test_the_report_sets_view_has_its_scores_and_leaves_out_what_was_not_measured():
    front = reported([0.85, np.nan, 0.89], None, report_interval=[(0.8, 0.9), (np.nan, np.nan), (0.85, 0.95)])
    view = front.on_report_set()

    assert (view.accuracy.tolist(), view.float_accuracy) == ([0.85, 0.89], 0.91)
    assert view.interval.tolist() == [[0.8, 0.9], [0.85, 0.95]]
    assert view.uniform.accuracy.tolist() == [0.86, 0.90]
    assert view.report_accuracy is None
    with pytest.raises(FrontError, match="Give `explore` a report_loader"):
        view.on_report_set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uniform": [1]}, "uniform must be a Front, got list"),
        ({"uniform": a_front(metric_name="loss")}, "uniform must have the front's points, costs and metric"),
        ({"report_from_float": [[0.2, 0.1]] * 3}, "report_from_float must hold low and high"),
        ({"uniform": a_front((6,)), "report_from_uniform": [[[1, 0]]] * 3}, r"got \[1.0, 0.0\] in row 0"),
        ({"report_from_uniform": [[WIDE]] * 3}, r"report_from_uniform must have the shape \[3, 0, 2\]"),
        ({"report_float_accuracy": np.inf}, "report_float_accuracy must be a finite number"),
    ],
)
def test_fields_of_the_report_set_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(FrontError, match=message):
        a_front(**fields)
