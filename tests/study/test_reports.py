"""A front that is asked of a study says on which set its scores were made, however it is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import digits, search_loader, tiny_model, tiny_problem

import qexplore as qx


def report_set(start=0):
    return [(digits().train.x[start : start + 150], digits().train.y[start : start + 150])]


def explored(path, seed, report_loader=None, max_evaluations=25, **options):
    problem = tiny_problem(model=tiny_model(), loader=search_loader(200), upper=6, **({"min_accuracy": 0.6} | options))
    return qx.explore(
        problem,
        max_evaluations=max_evaluations,
        seed=seed,
        study=path,
        report_loader=report_loader,
        progress=False,
        racing=False,
    ).front


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A study of a short run, a long one and one without a report set, and the fronts of the first two."""
    path = tmp_path_factory.mktemp("studies") / "several.db"
    fronts = [explored(path, 1, report_set(), 12), explored(path, 2, report_set(), 30)]
    explored(path, 3)
    with qx.Study.open(path) as study:
        yield study, fronts


ARRAYS = ("report_accuracy", "report_interval", "report_from_float", "report_from_uniform")


def rows_of(front):
    return {tuple(codes): row for row, codes in enumerate(front.num_bits.tolist())}


@pytest.mark.parametrize("question", [{}, {"min_accuracy": 0.8}, {"limits": {"total_bits": 13}}, {"judge": "accuracy"}])
@pytest.mark.parametrize("run", [None, 1, 2])
def test_points_have_the_report_scores_of_the_runs_that_measured_them(asked, run, question):
    study, fronts = asked
    front, told = study.front(run, **question), 0
    assert front.report_float_accuracy == fronts[0].report_float_accuracy
    for codes, row in rows_of(front).items():
        sources = [one for number, one in enumerate(fronts, 1) if run in (None, number) and codes in rows_of(one)]
        told += bool(sources)
        for name in ARRAYS[:3] if sources else ():
            np.testing.assert_array_equal(
                getattr(front, name)[row], getattr(sources[0], name)[rows_of(sources[0])[codes]]
            )
    assert told
    assert "the report set" in str(front)


def test_a_claim_of_several_runs_is_one_that_a_run_could_have_made(asked):
    study, fronts = asked
    claims = [{(one.point.num_bits, one.other_point.num_bits, one.interval) for one in f.bits_saved()} for f in fronts]
    front = study.front()
    for one in front.bits_saved():
        assert one.on_report_set
        assert one.interval is None or (one.point.num_bits, one.other_point.num_bits) in {
            (tuple(point), tuple(other))
            for f in fronts
            for point in f.num_bits.tolist() + f.uniform.num_bits.tolist()
            for other in f.uniform.num_bits.tolist()
        }
    assert any(claims)


def test_a_run_without_a_report_set_says_that_its_scores_are_of_the_search_set(asked):
    study, _ = asked
    for front in (study.front(3), study.front(3, min_accuracy=0.8), study.front(1, at=0.5), study.front(first=12)):
        assert front.report_accuracy is None
        assert not len(front) or "the search set, which chose the points" in str(front)


def test_points_that_were_not_measured_there_are_counted_and_nothing_is_claimed_of_them(asked, tmp_path):
    path = tmp_path / "two.db"
    reported = explored(path, 1, report_set(), 6)
    explored(path, 2, None, 40)
    with qx.Study.open(path) as study:
        front = study.front()
    unknown = np.isnan(front.report_accuracy)
    assert unknown.sum() == sum(
        codes not in {**rows_of(reported), **rows_of(reported.uniform)} for codes in rows_of(front)
    )
    assert f"not measured there: {unknown.sum()} of {len(front)} points" in str(front)
    assert all(not unknown[one.point.index] for one in front.bits_saved())


def test_scores_of_two_report_sets_are_not_put_into_one_front(tmp_path):
    path = tmp_path / "sets.db"
    for seed in (1, 2):
        explored(path, seed, report_set(150 * seed), 12)
    with qx.Study.open(path) as study:
        assert study.front().report_accuracy is None
        assert "the search set, which chose the points" in str(study.front())
        assert study.front(2).is_reported


def test_without_uniform_widths_the_table_says_so_too(asked):
    front = replace(asked[0].front(3, min_accuracy=0.7), uniform=None)
    assert "scores are of the search set, which chose the points" in str(front)


def test_the_size_of_a_study_counts_the_log_beside_it(tmp_path):
    path = tmp_path / "size.db"
    explored(path, 1, None, 6)
    with qx.Study.open(path) as study:
        (tmp_path / "size.db-wal").write_bytes(b"\0" * 3_000_000)
        assert "(3." in str(study)
        (tmp_path / "size.db-wal").unlink()
