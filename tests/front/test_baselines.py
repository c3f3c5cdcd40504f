"""Which uniform candidates a saving may be claimed against: those that are themselves no waste, and no breach."""

from __future__ import annotations

from dataclasses import replace

import networks
import numpy as np
import problems
import pytest

import qexplore as qx
from qexplore.errors import FrontError
from qexplore.front import Front
from qexplore.report import pareto_front_record

TIE, WORSE = (-0.02, 0.02), (-0.06, -0.01)


def a_front(num_bits, scores, lower=False, **fields):
    """Scores and intervals are given as if higher were better; the report set has those of the search set."""
    score = 1 - np.array(scores) if lower else np.array(scores)
    for name in ("report_between", "report_from_uniform"):
        if fields.get(name) is not None:
            fields[name] = -np.array(fields[name])[..., ::-1] if lower else np.array(fields[name])
    known = {
        "num_bits": num_bits,
        "accuracy": score,
        "costs": np.sum(num_bits, axis=1)[:, None],
        "point_names": ("a", "b"),
        "higher_is_better": not lower,
    }
    return Front(**known | fields)


def claims(front, **options):
    return [(one.saved, one.point.num_bits, one.other_point.num_bits) for one in front.bits_saved(**options)]


def reported(between, member=(7, 8), scores=(0.90, 0.91, 0.92), lower=False):
    """A member that nobody can tell from 8 bit, beside uniform 6, 7 and 8 bits."""
    score = {"report_float_accuracy": 0.5}
    turn = (lambda values: 1 - np.array(values)) if lower else np.array
    baseline = a_front(
        [[6, 6], [7, 7], [8, 8]], scores, lower, report_accuracy=turn(scores), report_between=between, **score
    )
    against = [[TIE, TIE, TIE]]
    return a_front(
        [list(member)], [0.92], lower, report_accuracy=turn([0.915]), report_from_uniform=against, uniform=baseline,
        **score,
    )  # fmt: skip


def between(six_seven, six_eight, seven_eight):
    """[3, 3, 2] of the uniform candidates above; only a cheaper one is ever compared with a dearer one."""
    ends = np.zeros((3, 3, 2))
    ends[0, 1], ends[0, 2], ends[1, 2] = six_seven, six_eight, seven_eight
    return ends


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (between(WORSE, WORSE, WORSE), [(1, (7, 8), (8, 8))]),
        (between(WORSE, WORSE, TIE), []),  # 7 bit passes the member's own test against 8 bit, for less than the member
        (between(WORSE, TIE, WORSE), []),
    ],
)
def test_a_uniform_width_that_a_cheaper_one_replaces_by_the_members_own_test_is_no_baseline(lower, ends, expected):
    assert claims(reported(ends, lower=lower)) == expected


def test_the_baseline_is_the_cheaper_uniform_width_where_one_replaces_the_dearer():
    assert claims(reported(between(WORSE, WORSE, TIE), member=(6, 7))) == [(1, (6, 7), (7, 7))]


def test_no_saving_is_claimed_by_a_point_that_a_cheaper_uniform_width_beats_on_the_report_set():
    # 7 bit scores 0.916 there for 14 bits, the member 0.915 for 15, though only 7 bit is told from 8 bit.
    assert claims(reported(between(WORSE, WORSE, WORSE), scores=(0.90, 0.916, 0.92))) == []


def test_without_intervals_between_them_uniform_widths_are_compared_by_their_scores():
    assert claims(reported(None)) == [(1, (7, 8), (8, 8))]


@pytest.mark.parametrize("widths", [[2, 2], [3, 3]])
def test_a_point_that_is_uniform_itself_saves_nothing_against_another_uniform_width(widths):
    baseline = a_front([[3, 3], [4, 4]], [0.80, 0.81])
    front = a_front([widths, [2, 3]], [0.85, 0.85], uniform=baseline)
    assert claims(front) == claims(front, other=front.uniform) == [(1, (2, 3), (3, 3)), (3, (2, 3), (4, 4))]


def test_pinned_points_do_not_hide_that_a_point_is_uniform():
    baseline = a_front([[8, 3], [8, 4]], [0.80, 0.81])
    assert claims(a_front([[8, 2]], [0.85], uniform=baseline)) == []


def test_a_uniform_width_that_misses_a_further_minimum_is_no_baseline():
    further = (qx.FurtherMetric("loss", False, 0.5),)
    baseline = a_front([[3, 3], [4, 4]], [0.80, 0.82], further=further, further_scores=[[0.4], [0.6]])
    front = a_front([[2, 3]], [0.9], further=further, further_scores=[[0.4]], uniform=baseline)
    assert claims(front) == [(1, (2, 3), (3, 3))]


@pytest.mark.parametrize("reports", [False, True])
def test_savings_are_not_claimed_against_a_uniform_width_that_breaks_a_limit(tmp_path, reports):
    problem = problems.tiny_problem(upper=8, max_drop=0.5, limits={"model_bytes": 1e9}, max_total_bits=14)
    options = {"report_loader": networks.batches(networks.digits().report, 300)} if reports else {}
    found = qx.explore(problem, max_evaluations=20, seed=1, population_size=10, progress=False, **options)
    bits = found.uniform.total_bits
    assert [bool(name) for name in found.uniform.broken_limits] == (bits > 14).tolist()
    assert set(found.uniform.broken_limits) == {"", "total_bits"}
    assert all(one.other_point.total_bits <= 14 for one in found.front.bits_saved())
    assert "not compared: 5 bit, 6 bit, 7 bit, 8 bit (breaks the limit total_bits)" in str(found.front)
    found.front.save(tmp_path / "front.json")
    loaded = qx.Front.load(tmp_path / "front.json")
    assert str(loaded) == str(found.front)
    for source in (found, loaded):
        told = {one.label: (one.shown, one.text) for one in pareto_front_record(source).uniform}
        assert not told["8 bit"][0]
        assert told["8 bit"][1].endswith("breaks the limit total_bits")
        assert told["3 bit"][1][-1].isdigit()
    legend = qx.plot_pareto_front(found).axes[0].get_legend().get_texts()
    assert any("breaks the limit" in " ".join(text.get_text().split()) for text in legend)
    if reports:
        ends = found.uniform.report_between
        assert ends.shape == (7, 7, 2)
        assert np.allclose(ends, -ends.transpose(1, 0, 2)[..., ::-1])
        assert (found.uniform[2:4].report_between == ends[2:4, 2:4]).all()


@pytest.mark.parametrize("words", [3, "a", ["a"], [1, 2]])
def test_limits_that_are_no_text_for_each_row_are_refused(words):
    with pytest.raises(FrontError, match="broken_limits must be a text for each of the 2 rows"):
        replace(a_front([[3, 3], [4, 4]], [0.8, 0.9]), broken_limits=words)
