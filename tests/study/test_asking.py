"""What a study answers without measuring equals what the exploration found, and what its problem would say."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
from problems import Scaled, SpoiledFor, every_candidate, raising, tiny_model, tiny_problem, true_front

import qexplore as qx
from qexplore.cost import Bops
from qexplore.errors import MissingStudyError, ProblemError, StudyError, StudyFileError
from qexplore.study import Store, StoredSnapshot
from qexplore.study.runs import history_of, place_of


def explored(path, *, seed=1, max_evaluations=40, settings=None, **options):
    problem = tiny_problem(**({"upper": 6, "min_accuracy": 0.85} | options))
    found = qx.explore(
        problem, max_evaluations=max_evaluations, seed=seed, study=path, progress=False, **(settings or {})
    )
    return problem, found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An exploration of two costs, one of which only the model could tell, and its study."""
    path = tmp_path_factory.mktemp("studies") / "done.db"
    problem, found = explored(path, costs=("total_bits", "bops"), limits={"peak_activation_bytes": 90})
    with qx.Study.open(path) as study:
        yield problem, found, study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every candidate of a small space, measured to its end."""
    path = tmp_path_factory.mktemp("studies") / "whole.db"
    problem, found = explored(path, upper=4, max_evaluations=60, min_accuracy=0.5, settings={"racing": False})
    with qx.Study.open(path) as study:
        yield problem, found, study


def assert_same(front, other):
    for name in ("num_bits", "accuracy", "costs", "interval", "further_scores"):
        np.testing.assert_array_equal(getattr(front, name), getattr(other, name), err_msg=name)
    assert (front.verified, front.cost_names, front.metric_name) == (
        other.verified,
        other.cost_names,
        other.metric_name,
    )
    assert (front.min_accuracy, front.float_accuracy) == (other.min_accuracy, other.float_accuracy)
    assert (front.fingerprint, front.arithmetic) == (other.fingerprint, other.arithmetic)


FURTHER = {"metric": [qx.top1_accuracy, qx.negative_log_likelihood], "min_accuracy": [0.85, 0.6]}


@pytest.mark.parametrize(
    "options, settings",
    [
        ({}, {}),
        ({"costs": ("mean_bits", "bops"), "limits": {"total_bits": 14}}, {}),
        (FURTHER, {}),
        ({"metric": qx.negative_log_likelihood, "min_accuracy": 0.5}, {}),
        ({"min_accuracy": None}, {"judge": "accuracy"}),
        ({}, {"algorithm": "sms-emoa"}),
        ({"metric": qx.whole_set(lambda model, loader: float(next(model.parameters()).sum() > -1e9))}, {}),
    ],
    ids=["plain", "costs", "further", "loss", "judged by accuracy", "another algorithm", "whole set"],
)
def test_what_was_measured_gives_the_front_of_the_exploration_again(tmp_path, options, settings):
    _, found = explored(tmp_path / "a.db", settings=settings, **options)
    with qx.Study.open(tmp_path / "a.db") as study:
        assert study.front().to_json() == found.front.to_json()
        judge = settings.get("judge", "divergence")
        again = study.front(judge=judge)  # asked in words, and so answered from the evaluations
        assert_same(again, found.front)
        assert_same(again.uniform, found.front.uniform)


def test_the_front_at_an_earlier_moment_is_that_of_its_snapshot(whole):
    _, found, study = whole
    known = {kept.num_evaluations: kept for kept in study.history(1)}
    assert len(known) > 5
    for snapshot in found.history:
        kept = known[snapshot.num_evaluations]
        first = study.front(first=snapshot.num_evaluations, judge="accuracy")
        assert first.num_bits.tolist() == snapshot.front.num_bits.tolist() == list(map(list, kept.candidates))
        assert not first.verified
        then = study.front(1, at=kept.seconds, judge="accuracy")
        assert then.hypervolume(found.reference_point) >= snapshot.hypervolume
    assert len(study.front(1, at=0)) <= 1


@pytest.mark.parametrize("least, limits", [(None, None), (0.9, None), (0.8, {"total_bits": 9}), (0.99, {})])
def test_another_minimum_and_another_limit_give_what_enumeration_gives(whole, least, limits):
    problem, _, study = whole
    known = {one.candidate: one for one in problem.measure(np.array(every_candidate(problem)))}
    rows = [(one.score, sum(candidate)) for candidate, one in known.items()]
    wanted = [row for row in rows if row[0] >= (least or 0) and row[1] <= (limits or {}).get("total_bits", 99)]

    front = study.front(min_accuracy=least, limits=limits, judge="accuracy")

    assert set(zip(front.accuracy.tolist(), front.total_bits.tolist(), strict=True)) == true_front(wanted)
    assert bool(wanted) is not bool(front.empty_because)


@pytest.mark.parametrize("judge", ["divergence", "accuracy"])
def test_a_limit_that_takes_dearer_points_away_leaves_the_others_as_they_are(tmp_path, judge):
    """Divergence misleads here: with few candidates left nobody could say so, and it would judge."""
    model = None if judge == "divergence" else tiny_model(Scaled().eval())
    options = {"model": model, "upper": 8, "min_accuracy": 0.5}
    _, found = explored(tmp_path / "a.db", max_evaluations=100, settings={"racing": False}, **options)
    with qx.Study.open(tmp_path / "a.db") as study:
        assert study.front().judge == found.judge and found.judge.startswith(judge)
        assert f"\njudge: {found.judge}\n" in str(study.front())
        for least in range(int(found.front.total_bits.min()), int(found.front.total_bits.max()) + 2):
            front = study.front(1, limits={"total_bits": least})
            wanted = found.front.total_bits <= least
            assert front.num_bits.tolist() == found.front.num_bits[wanted].tolist()
            assert front.judge.split(":")[0] == judge
        assert study.front(1, judge="accuracy").judge == "accuracy"


def test_the_history_of_a_run_is_the_way_that_it_went_last(tmp_path):
    def moment(count, passes, generation, run=1):
        return StoredSnapshot(run, count, passes, float(count), 0.1 * count, generation, ((count,),))

    first = [moment(1, 1.0, 0), moment(5, 4.5, 1), moment(5, 4.5, 2), moment(9, 310.0, 3)]
    second = [moment(6, 4.75, 2), moment(7, 99.0, 3)]
    other = moment(3, 2.0, 1, run=2)
    with Store.create(tmp_path / "a.db", {}) as store:
        for seed in (1, 2):
            store.begin_run({"seed": seed}, {}, {})
        store.write(snapshots=first)
        assert history_of(store, 1) == first
        store.write(snapshots=[*first[:3], other, *second])  # what both ways share is not written again
        assert history_of(store, 1) == [*first[:3], *second]
        assert history_of(store, None) == [*first[:3], *second, other]
    with qx.Study.open(tmp_path / "a.db") as study:
        assert study.runs[0].hypervolume == pytest.approx(0.7)


def test_a_run_that_took_another_way_shows_the_last_one(tmp_path):
    path, found = tmp_path / "a.db", None
    for budget in (12, 60, 12):  # of which the last leaves the run as it was
        _, answered = explored(path, max_evaluations=budget, upper=8, min_accuracy=0.5)
        found = answered if found is None or budget > 12 else found
        passes = [place[0] for place in dict.fromkeys(map(place_of, found.history))]  # equal ones are kept once
        with qx.Study.open(path) as study:
            assert [one.num_passes for one in study.history(1)] == passes
            assert [one.num_passes for one in study.progress(1).snapshots] == passes
            assert study.runs[0].hypervolume == max(one.hypervolume for one in found.history)


def test_what_is_no_answer_to_a_question_is_refused(whole):
    _, _, study = whole
    for ask, sentence in (
        (lambda: study.evaluations(1, state="done"), r"`state` must be one of 'complete', 'stopped', 'failed', got"),
        (lambda: study.evaluations(role="serch"), r"`role` must be one of 'search', 'direct', got 'serch'"),
        (lambda: study.front(min_accuracy=92), r"`min_accuracy` .* range of the metric 'accuracy', \[0, 1\], got 92"),
        (lambda: study.front(first=0), "`first` must be an int of at least 1, got 0"),
        (lambda: study.front(first=-1), "`first` must be an int of at least 1, got -1"),
        (lambda: study.front(9), "`run` must be the number of a run of the study: 1, got 9$"),
        (lambda: study.history(9), "got 9$"),
        (lambda: study.failures(9), "got 9$"),
    ):
        with pytest.raises(StudyError, match=sentence):
            ask()


def test_what_is_printed_is_a_short_table(whole, tmp_path):
    _, found, study = whole
    for told, what, count in (
        (study.evaluations(), "evaluation", found.num_evaluations),
        (study.history(1), "snapshot", len(study.history(1))),
    ):
        lines = str(told).splitlines()
        assert repr(told) == str(told)
        assert lines[0] == f"{count} {what}s" and lines[1].startswith("run  ") and len(lines) == 3 + 5 + 1 + 5
        assert lines[8].split()[0] == "…"
        assert told._repr_html_().count("<tr>") == 12
    assert str(study.failures()) == "no failures" and str(study.evaluations(role="search")) != ""
    assert str(study.evaluations(state="failed")) == "no evaluations"


def test_other_costs_are_those_that_the_model_would_tell(whole):
    problem, _, study = whole
    model = problem.model
    names = ("weighted_bits", "activation_bytes", "model_bytes")
    asked = qx.LayerwiseQuantizationProblem(
        model, problem.direct.loader, num_bits_upper_limit=4, costs=names, min_accuracy=0.5
    )
    list(asked.measure(np.array(every_candidate(problem))))
    front = study.front(costs=names, judge="accuracy")
    assert_same(front, replace(asked.front(), verified=front.verified))
    table = qx.CostTable({(point, width): width**2 for point in model.fake_quantizers for width in range(2, 5)})

    def squared(candidates):
        return (candidates**2).sum(axis=1)

    for cost in (table, squared):
        front = study.front(costs=["total_bits", cost], judge="accuracy")
        assert front.costs[:, 1].tolist() == (front.num_bits**2).sum(axis=1).tolist()
    assert study.front(limits={squared: 30}, judge="accuracy").num_bits.max() <= 5


def test_a_cost_that_only_the_model_tells_is_known_of_what_was_measured_for_it(done, whole):
    problem, found, study = done
    front = study.front(costs="bops")
    [bops] = [cost for cost in problem.costs if isinstance(cost, Bops)]
    np.testing.assert_array_equal(front.costs[:, 0], bops.cost(front.num_bits))
    with pytest.raises(StudyError, match=r"'bops' cannot be told without the model.*tell activation_bytes"):
        whole[2].front(costs="bops")
    with pytest.raises(ProblemError, match="raised KeyError"):
        whole[2].front(costs=_failing)


def _failing(candidates):
    raise KeyError("no")


def test_candidates_that_were_stopped_and_might_count_are_told(done):
    _, found, study = done
    assert study.runs[0].num_evaluations["stopped"] > 0
    with pytest.warns(UserWarning, match=r"might be on this front, but were measured only as far as"):
        study.front(min_accuracy=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.front(min_accuracy=float(found.front.accuracy.max()))


def test_runs_of_one_study_are_asked_together_and_one_by_one(tmp_path):
    path = tmp_path / "two.db"
    fronts = [explored(path, seed=seed, max_evaluations=25)[1].front for seed in (1, 2)]
    explored(path, seed=1, min_accuracy=0.9, max_evaluations=25)
    with qx.Study.open(path) as study:
        assert [run.id for run in study.runs] == [1, 2, 3]
        for number, front in enumerate(fronts, 1):
            assert study.front(number).to_json() == front.to_json()
            assert set(map(tuple, study.front(number, judge="accuracy").num_bits)) <= set(
                map(tuple, study.evaluations(state="complete").candidates)
            )
        with pytest.raises(StudyError, match=r"one min_accuracy, got \[0.85, 0.85, 0.9\].*min_accuracy=.*run="):
            study.front()
        with pytest.warns(UserWarning, match="might be on this front"):  # the third stopped what missed 0.9
            together = study.front(min_accuracy=0.85, judge="accuracy")
        reference = (0.85, 18)
        assert together.hypervolume(reference) >= max(front.hypervolume(reference) for front in fronts)
        for wrong in ({"run": 4}, {"run": None, "at": 1.0, "min_accuracy": None}, {"run": 1, "at": 1.0, "first": 2}):
            with pytest.raises(StudyError, match="run"):
                study.front(**wrong)
        with pytest.raises(StudyError, match="judge"):
            study.front(1, judge="dice")


def test_a_run_prices_what_it_takes_over_and_a_cost_that_others_lack_is_refused(tmp_path):
    path = tmp_path / "two.db"
    explored(path, max_evaluations=15)
    _, found = explored(path, max_evaluations=15, costs=("total_bits", "bops"))
    with qx.Study.open(path) as study:
        again = study.front(2, judge="divergence")
        assert set(map(tuple, again.num_bits)) <= set(map(tuple, found.front.num_bits))
        with pytest.raises(StudyError, match=r"one costs, got .*costs=.*run="):
            study.front()
        with pytest.raises(StudyError, match=r"'bops' must be known for every candidate, and \d+ of \d+ were measured"):
            study.front(costs="bops")


def test_a_study_is_read_while_it_is_written_and_says_that_it_runs(tmp_path):
    path, states = tmp_path / "busy.db", []

    def look(snapshot):
        with qx.Study.open(path) as study:
            states.append((study.runs[-1].state, len(study.evaluations()), str(study)))

    problem = tiny_problem(upper=6, min_accuracy=0.85)
    qx.explore(problem, max_evaluations=10, seed=1, study=path, callbacks=[look], progress=False)
    counts = [count for _, count, _ in states]
    assert counts == sorted(counts) and counts[-1] > counts[0]
    assert {state for state, _, _ in states} == {"running"}
    with qx.Study.open(path) as study:
        assert study.runs[0].words == "ended by max_evaluations"
        assert study.runs[0].seconds >= max(study.evaluations().at)


def test_a_run_that_was_cut_off_is_interrupted_and_has_the_front_of_what_it_wrote(tmp_path):
    path = tmp_path / "cut.db"

    class Killed(Exception):
        pass

    def kill(snapshot):
        if snapshot.num_evaluations > 10:
            raise Killed

    problem = tiny_problem(upper=6, min_accuracy=0.85)
    with pytest.raises(Killed):
        qx.explore(problem, max_evaluations=30, seed=1, study=path, callbacks=[kill], progress=False)
    with qx.Study.open(path) as study:
        [run] = study.runs
        assert (run.state, run.stopped_by, run.front) == ("interrupted", "", None)
        front = study.front(judge="accuracy")
        assert len(front) and not front.verified
        assert front.num_bits.tolist() == problem.front().num_bits.tolist()


def test_print_is_a_table_of_runs(done):
    _, _, study = done
    header, metric, names, _, row, *_ = str(study).splitlines()
    assert f"'{study.path}'" in header and study.fingerprint["weights"] in header
    assert metric.startswith("3 points; accuracy (higher is better), float 0.9")
    assert names.split()[:3] == ["run", "algorithm", "seed"]
    assert row.split()[:5] == ["1", "nsga2", "1", "max_evaluations", "40"] and row.endswith("ended by exhausted")
    with qx.Study.open(study.path) as closed:
        pass
    closed.close()


def test_evaluations_are_frozen_arrays_and_failures_have_their_reasons(done):
    _, found, study = done
    table = study.evaluations()
    assert len(table) == found.num_evaluations
    assert table.point_names == found.front.point_names
    with pytest.raises(ValueError, match="read-only"):
        table.score[0] = 1
    complete = study.evaluations(1, state="complete")
    assert not np.isnan(complete.score).any() and set(complete.state) == {"complete"}
    assert len(study.evaluations(role="direct")) == found.num_verifications
    assert study.failures() == ()


def test_failures_are_told(tmp_path):
    spoiled = SpoiledFor((3, 3, 3), raising(RuntimeError("too bad")))
    _, found = explored(tmp_path / "bad.db", metric=spoiled, min_accuracy=None)
    with qx.Study.open(tmp_path / "bad.db") as study:
        told = {one.evaluation.candidate: one.evaluation.reason for one in study.failures()}
        assert told == {one.candidate: one.reason for one in found.failures}
        assert str(study.failures()).splitlines()[0].startswith(f"{len(told)} failure")
        assert "too bad" in str(study.failures())
        assert study.runs[0].num_evaluations["failed"] == len(told) > 0


def test_sensitivities_are_those_of_the_problem(tmp_path):
    problem, _ = explored(tmp_path / "a.db")
    with qx.Study.open(tmp_path / "a.db") as study:
        table = study.sensitivities()
    again = qx.sensitivity(problem, num_samples=table.num_samples)
    assert (table.point_names, table.num_bits, table.metric_name) == (
        again.point_names,
        again.num_bits,
        again.metric_name,
    )
    np.testing.assert_allclose(table.values, again.values, rtol=1e-5)


def test_what_is_no_study_and_what_has_no_runs_is_refused(tmp_path):
    with pytest.raises(MissingStudyError):
        qx.Study.open(tmp_path / "none.db")
    (tmp_path / "other.db").write_bytes(b"something else, long enough for a header")
    with pytest.raises(StudyFileError):
        qx.Study.open(tmp_path / "other.db")
    Store.create(tmp_path / "empty.db", {}).close()
    with qx.Study.open(tmp_path / "empty.db") as study:
        assert str(study).endswith("no run has begun")
        for ask in (study.front, study.evaluations, study.sensitivities):
            with pytest.raises(StudyError, match="Explore with study= first"):
                ask()


def test_threads_may_ask_one_study(done):
    _, found, study = done
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(study.front(judge="divergence"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [front.to_json() for front in answers] == [answers[0].to_json()] * 3


def test_a_forged_score_is_found_out_and_gives_no_front(tmp_path):
    path = tmp_path / "a.db"
    explored(path, max_evaluations=10)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE evaluations SET score = 1.0 WHERE state = 'complete' AND role = 'search'")
    connection.commit()
    connection.close()
    with pytest.raises(StudyFileError, match="checksum"):
        qx.Study.open(path)
