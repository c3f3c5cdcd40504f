"""A study loses nothing: whatever stops an exploration, the same call ends with the result of one that was not."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import search_loader, tiny_model, tiny_network, tiny_problem, weighted_model
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.util.ref_dirs import get_reference_directions

import qexplore as qx
from qexplore.errors import QExploreError, StudyError, StudyMismatchError
from qexplore.study import Store


class Killed(BaseException):
    """As near to SIGKILL as one process can come to: nobody catches it."""


def whole(model, loader):
    with_labels = [(model(x).argmax(1) == y).float() for x, y in loader]
    return float(sum(map(sum, with_labels))) / sum(map(len, with_labels))


def posed(**options):
    return tiny_problem(**({"upper": 8, "min_accuracy": 0.85} | options))


def weighted():
    return qx.LayerwiseQuantizationProblem(
        weighted_model(), search_loader(), min_accuracy=0.85, costs=("total_bits", "model_bytes")
    )


def decomposed():
    return MOEAD(get_reference_directions("uniform", 2, n_partitions=9), n_neighbors=5)


def of_several():
    loader, model = search_loader(), tiny_model()
    metrics = [qx.top1_accuracy, qx.negative_log_likelihood]
    return qx.LayerwiseQuantizationProblem(model, loader, metrics, min_accuracy=[0.85, 0.8])


CASES = {
    "racing": (posed, {}),
    "no racing": (posed, {"racing": False}),
    "report set": (posed, {"report_loader": batches(digits().report)}),
    "no minimum": (lambda: posed(min_accuracy=None), {}),
    "screening": (
        lambda: posed(loader=[batch for _ in range(21) for batch in search_loader()]),
        {"max_evaluations": 12},
    ),
    "several costs, weights": (weighted, {}),
    "further metric": (of_several, {}),
    "graded metric": (lambda: posed(metric=qx.negative_log_likelihood, min_accuracy=0.7), {}),
    "whole-set metric": (lambda: posed(metric=qx.whole_set(whole)), {"max_evaluations": 25}),
    "sms-emoa": (posed, {"algorithm": "sms-emoa"}),
    "greedy": (posed, {"algorithm": "greedy"}),
    "nsga2-plain": (posed, {"algorithm": "nsga2-plain"}),
    "an object of pymoo": (lambda: posed(min_accuracy=None), {"algorithm": decomposed}),
}


def explored(case, study=None, callbacks=(), **more):
    pose, options = CASES[case]
    options = {"max_evaluations": 45, "seed": 1, "progress": False} | options | more
    if callable(options.get("algorithm")):
        options["algorithm"] = options["algorithm"]()
    return qx.explore(pose(), study=study, callbacks=callbacks, **options)


def rows_of(path):
    """All that lies in a study, times apart."""
    with Store.open(path, writes=False) as store:
        evaluations = [
            (one.role, one.limit, one.order, one.evaluation.candidate, one.evaluation.state, one.evaluation.score)
            + (one.evaluation.bound, one.evaluation.num_samples, one.evaluation.reason, one.evaluation.divergence)
            + (None if one.evaluation.scores is None else one.evaluation.scores.tobytes(),)
            for one in store.evaluations()
        ]
        parts = [(one.role, one.metric, one.candidate, one.values.tobytes()) for one in store.parts()]
        snapshots = [
            (one.num_evaluations, one.num_passes, one.hypervolume, one.candidates) for one in store.snapshots()
        ]
        return repr(evaluations), repr(parts), repr(snapshots)


def killing(monkeypatch, after):
    """Have the store's ``after``-th write fail in its middle, or just after it was acknowledged."""
    write, count = Store.write, iter(range(10_000))

    def spoiled(store, *rows):
        number = next(count)
        if number == after and number % 2:
            raise Killed
        write(store, *rows)
        if number == after:
            raise Killed

    monkeypatch.setattr(Store, "write", spoiled)


QUICK = ("screening", "several costs, weights", "whole-set metric")
"""The others are tried with the slow tests."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]
)
def test_a_killed_exploration_goes_on_to_the_result_of_one_that_was_not(case, tmp_path, monkeypatch):
    plain, whole = explored(case), explored(case, tmp_path / "whole.db")
    assert whole.front.to_json() == plain.front.to_json()
    for after in (1, 6, 13):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killing(patched, after)
            explored(case, tmp_path / "killed.db")
            raise Killed  # it had not so many writes to make
    again = explored(case, tmp_path / "killed.db")
    assert again.front.to_json() == whole.front.to_json()
    assert again.num_passes == whole.num_passes
    assert [one.hypervolume for one in again.history] == [one.hypervolume for one in whole.history]
    assert rows_of(tmp_path / "killed.db") == rows_of(tmp_path / "whole.db")
    assert "were there already" in again.study


def test_a_finished_study_measures_nothing_again(tmp_path):
    first = explored("report set", tmp_path / "a.db")
    again = explored("report set", tmp_path / "a.db")
    assert again.front.to_json() == first.front.to_json()
    assert "0 evaluations written" in again.study
    assert str(tmp_path / "a.db") in str(again)


def test_more_budget_ends_where_it_would_have_ended_at_once(tmp_path):
    explored("racing", tmp_path / "a.db", max_evaluations=20)
    more = explored("racing", tmp_path / "a.db", max_evaluations=40)
    assert more.front.to_json() == explored("racing", max_evaluations=40).front.to_json()
    with Store.open(tmp_path / "a.db", writes=False) as store:
        (run,) = store.runs()
        assert run.budget["max_evaluations"] == 40
        assert [one.text for one in store.events() if one.kind == "ended"] == ["max_evaluations"] * 2


def test_another_seed_or_minimum_makes_use_of_what_was_measured(tmp_path):
    explored("no racing", tmp_path / "a.db")
    other = explored("no racing", tmp_path / "a.db", seed=2)
    known = int(other.study.split("included, ")[1].split()[0])
    assert known > 20
    tighter = qx.explore(
        posed(min_accuracy=0.9), max_evaluations=45, seed=1, progress=False, study=tmp_path / "a.db", racing=False
    )
    assert tighter.front.accuracy.min() >= 0.9 and "were there already" in tighter.study
    with Store.open(tmp_path / "a.db", writes=False) as store:
        assert [run.id for run in store.runs()] == [1, 2, 3]


@pytest.mark.slow
def test_resume_takes_the_settings_of_the_run(tmp_path):
    study = tmp_path / "a.db"
    whole = explored("sms-emoa")
    with pytest.raises(Killed):
        explored("sms-emoa", study, callbacks=[raising_at(4)])
    resumed = qx.resume(study, posed(), progress=False)
    assert resumed.front.to_json() == whole.front.to_json()
    assert resumed.algorithm == "sms-emoa"
    more = qx.resume(study, posed(), max_evaluations=60, progress=False)
    assert more.front.to_json() == explored("sms-emoa", max_evaluations=60).front.to_json()


def raising_at(count):
    seen = []

    def callback(snapshot):
        seen.append(snapshot)
        if len(seen) == count:
            raise Killed

    return callback


def test_resume_asks_for_the_object_of_pymoo_that_no_file_holds(tmp_path):
    case = "an object of pymoo"
    with pytest.raises(Killed):
        explored(case, tmp_path / "a.db", callbacks=[raising_at(2)])
    with pytest.raises(StudyError, match=r"MOEAD, which no file holds: give it again"):
        qx.resume(tmp_path / "a.db", CASES[case][0](), progress=False)
    resumed = qx.resume(tmp_path / "a.db", CASES[case][0](), progress=False, algorithm=decomposed())
    assert resumed.front.to_json() == explored(case).front.to_json()


def test_resume_refuses_what_was_not_asked(tmp_path):
    explored("racing", tmp_path / "a.db", max_evaluations=12)
    for wrong, match in (
        (lambda: qx.resume(tmp_path / "none.db", posed()), "none.db"),
        (lambda: qx.resume(tmp_path / "a.db", posed(), run=7), r"must be one of .*got 7: it has the runs 1"),
        (lambda: qx.resume(tmp_path / "a.db", posed(), run=[1]), r"must be one of .*got \[1\]: it has the runs 1"),
        (lambda: qx.resume(tmp_path / "a.db", posed(min_accuracy=0.9)), "min_accuracy 0.85 then, 0.9 now"),
        (lambda: qx.resume(tmp_path / "a.db", posed(), algorithm="nsga3"), "must be that of run 1, 'nsga2'"),
        (lambda: qx.explore(posed(), max_evaluations=5, seed=1, study=7), "`study` must be the path of a file"),
        (lambda: qx.explore(posed(), max_evaluations=5, seed=1, study="a.db", on_mismatch="ask"), "on_mismatch"),
    ):
        with pytest.raises(StudyError, match=match):
            wrong()


def test_a_study_of_other_weights_is_refused_or_left_beside(tmp_path):
    explored("racing", tmp_path / "a.db", max_evaluations=12)
    network = tiny_network()
    network.fc1.weight.data[0, 0] += 0.5
    model = tiny_model(network)
    problem = qx.LayerwiseQuantizationProblem(
        model, search_loader(), num_bits_upper_limit=8, num_bits_lower_limit=2, min_accuracy=0.8
    )
    with pytest.raises(StudyMismatchError, match=r"(?s)weights: \w+ in the study, \w+ now.*on_mismatch=\"new\""):
        qx.explore(problem, max_evaluations=12, seed=1, progress=False, study=tmp_path / "a.db")
    beside = qx.explore(problem, max_evaluations=12, seed=1, progress=False, study=tmp_path / "a.db", on_mismatch="new")
    assert "a-2.db" in beside.study
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["a-2.db", "a.db"]


def test_a_model_that_changes_under_a_study_is_refused_and_what_was_measured_stays(tmp_path):
    problem = posed()

    def meddle(snapshot):
        if snapshot.num_evaluations > 12:
            problem.model.model.fc1.weight.data[0, 0] += 1.0

    with pytest.raises(StudyError, match=r"must stay as it is while it is explored, but .*weights.* changed"):
        qx.explore(problem, max_evaluations=45, seed=1, progress=False, study=tmp_path / "a.db", callbacks=[meddle])
    again = explored("racing", tmp_path / "a.db")
    assert again.front.to_json() == explored("racing").front.to_json()


def test_the_problem_remembers_what_a_study_measured(tmp_path):
    problem = posed()
    exploration = qx.explore(problem, max_evaluations=20, seed=1, progress=False, study=tmp_path / "a.db")
    assert {tuple(row) for row in exploration.front.num_bits.tolist()} <= {one.candidate for one in problem.evaluations}


def test_fit_goes_on_too(tmp_path):
    options = {"min_accuracy": 0.9, "max_evaluations": 25, "progress": False, "num_bits_upper_limit": 8}
    plain = qx.fit(tiny_model(), search_loader(), **options)
    first = qx.fit(tiny_model(), search_loader(), study=tmp_path / "a.db", **options)
    again = qx.fit(tiny_model(), search_loader(), study=tmp_path / "a.db", **options)
    assert plain.num_bits == first.num_bits == again.num_bits
    problem = qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(), min_accuracy=0.9, num_bits_upper_limit=8)
    with pytest.raises(StudyError, match="looked for one point"):
        qx.resume(tmp_path / "a.db", problem)


def test_time_that_was_spent_before_counts(tmp_path):
    def slow(output, target):
        import time

        time.sleep(0.002)
        return (output.argmax(1) == target).float()

    metric = qx.Metric(slow, "slow", range=(0.0, 1.0))
    options = {"max_seconds": 1.0, "seed": 1, "progress": False, "algorithm": "random", "study": tmp_path / "a.db"}
    first = qx.explore(posed(metric=metric), **options)
    again = qx.explore(posed(metric=metric), **options)
    assert again.seconds > 0.5 * first.seconds
    assert again.num_evaluations < 1.5 * first.num_evaluations
    assert np.isfinite(again.seconds)


@pytest.mark.slow
def test_explorations_that_are_killed_at_random_moments_lose_nothing():
    """SIGKILL, ten times, in processes of their own."""
    script = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    cases = ["several costs and weights", "whole-set metric"]
    command = [sys.executable, str(script), "--kills", "10", "--window", "4", "--cases", *cases]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills, nothing lost, nothing measured twice" in done.stdout


def test_what_failed_is_not_tried_again_by_its_run_but_by_another(tmp_path):
    left = tmp_path / "left"

    def spoiled(output, target):
        calls = int(left.read_text())
        left.write_text(str(calls - 1))
        if calls in (3, 2, 0):
            raise ValueError("no")
        return qx.top1_accuracy(output, target)

    def run(calls, **more):
        left.write_text(str(calls))
        problem = posed(metric=qx.Metric(spoiled, "spoiled", range=(0.0, 1.0)), engine="direct")
        study = tmp_path / "a.db"
        return qx.explore(problem, max_evaluations=25, progress=False, study=study, max_failures=None, **more)

    first = run(12, seed=1)
    assert len(first.failures) == 3
    again = run(-1, seed=1)
    assert [one.candidate for one in again.failures] == [one.candidate for one in first.failures]
    for _ in range(2):
        other = run(-1, seed=2)
        assert not other.failures
    assert "0 evaluations written" in other.study


def test_sigterm_leaves_a_study_that_goes_on(tmp_path):
    def terminate(snapshot):
        if snapshot.num_evaluations > 20:
            signal.raise_signal(signal.SIGTERM)

    ended = explored("racing", tmp_path / "a.db", callbacks=[terminate])
    assert ended.stopped_by == "SIGTERM" and not ended.front.verified
    assert "the same call goes on with it" in str(ended)
    assert explored("racing", tmp_path / "a.db").front.to_json() == explored("racing").front.to_json()


def test_a_problem_in_the_place_of_the_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"resume\(study, problem\), got LayerwiseQuantizationProblem, then .*Path"):
        qx.resume(tiny_problem(), tmp_path / "a.db")


def test_a_smaller_budget_leaves_the_run_as_it_was(tmp_path):
    explored("racing", tmp_path / "a.db", max_evaluations=60)
    before = rows_of(tmp_path / "a.db")[2]
    less = explored("racing", tmp_path / "a.db", max_evaluations=20)
    assert less.front.to_json() == explored("racing", max_evaluations=20).front.to_json()
    assert "its run had gone further before, and its history and end stay as they were" in less.study
    assert "had gone further" in qx.resume(tmp_path / "a.db", posed(), max_seconds=0.01, progress=False).study
    with Store.open(tmp_path / "a.db", writes=False) as store:
        assert store.runs()[0].budget["max_evaluations"] == 60
    assert rows_of(tmp_path / "a.db")[2] == before


def test_the_same_call_again_ends_a_run_that_overran_its_limits(tmp_path):
    def stop(snapshot):
        if snapshot.num_evaluations > 20:
            raise Killed

    with pytest.raises(Killed):
        explored("racing", tmp_path / "a.db", callbacks=[stop])
    with Store.open(tmp_path / "a.db", writes=True) as store:
        store.write(snapshots=[replace(store.snapshots()[-1], num_passes=45.0 + 1e-12)])
    assert "gone further" not in explored("racing", tmp_path / "a.db").study
    with qx.Study.open(tmp_path / "a.db") as study:
        assert study.runs[0].state == "ended"


def test_what_is_refused_before_anything_was_measured_is_no_run(tmp_path):
    refused = [(torch.full((2, 1, 28, 28), torch.nan), torch.zeros(2, dtype=torch.long))]
    explored("racing", tmp_path / "old.db", max_evaluations=12)
    before = rows_of(tmp_path / "old.db")
    for name, runs in (("new.db", 0), ("old.db", 1)):
        with pytest.raises(QExploreError):
            explored("racing", tmp_path / name, seed=2, report_loader=refused)
        with qx.Study.open(tmp_path / name) as study:
            assert len(study.runs) == runs
    assert rows_of(tmp_path / "old.db") == before
    again = explored("racing", tmp_path / "new.db", max_evaluations=12)
    assert again.front.to_json() == explored("racing", max_evaluations=12).front.to_json()
    assert rows_of(tmp_path / "new.db") == before


@pytest.mark.parametrize("spoiled", [2, 10**6])
def test_points_that_cannot_be_measured_again_are_named_and_lost_only_if_others_can(spoiled, tmp_path):
    """The metric raises once the search is over: at two points, or at all of them."""
    gone = tmp_path / "gone"

    def metric(output, target):
        if gone.exists() and gone.stat().st_size < spoiled:
            gone.write_text(gone.read_text() + "x")
            raise OSError("gone")
        return qx.top1_accuracy(output, target)

    def explore(**more):
        problem = posed(metric=qx.Metric(metric, "metric", range=(0.0, 1.0)), engine="direct")
        return qx.explore(
            problem, max_evaluations=25, seed=1, progress=False, study=tmp_path / "a.db", racing=False, **more
        )

    def spoil(snapshot):
        if snapshot.num_passes > 24:
            gone.touch()

    found = explore(callbacks=[spoil])
    first = found.unverified[0]
    assert f"{first.candidate} with: " in str(found) and "gone" in first.reason
    assert len(found.front) and found.front.verified == (spoiled == 2)
    assert not found.failures
    gone.unlink()
    again = explore()
    assert again.front.verified and not again.unverified
    assert len(again.front) >= len(found.front)
