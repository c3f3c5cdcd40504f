"""A study in pandas and in Optuna says what it says here. Both are extras: without one its tests are skipped."""

from __future__ import annotations

import numpy as np
import pytest
from problems import tiny_problem

import qexplore as qx
from qexplore.errors import MissingPackageError, StudyError

FURTHER = {"metric": [qx.top1_accuracy, qx.negative_log_likelihood], "min_accuracy": [0.85, 0.6]}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "digits.db"
    problem = tiny_problem(upper=6, **FURTHER, costs=("total_bits", "bops"), limits={"total_bits": 16})
    found = qx.explore(problem, max_evaluations=40, seed=1, study=path, progress=False)
    with qx.Study.open(path) as study:
        yield problem, found, study


@pytest.fixture
def optuna():
    package = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def test_a_frame_has_a_column_for_each_point(done):
    pandas = pytest.importorskip("pandas", reason="the extra 'frames' is not installed")
    _, found, study = done
    frame = study.evaluations().to_frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == found.num_evaluations
    points = frame[list(found.front.point_names)].to_numpy()
    np.testing.assert_array_equal(points, study.evaluations().candidates)
    best = frame[frame.state == "complete"].set_index(list(found.front.point_names)).score
    assert [best[point.num_bits] for point in found.front] == found.front.accuracy.tolist()


def test_what_is_not_installed_is_named_with_its_extra(done, monkeypatch):
    _, _, study = done
    for package, extra, ask in (
        ("pandas", "frames", study.evaluations().to_frame),
        ("optuna", "optuna", lambda: study.to_optuna(None)),
    ):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(MissingPackageError, match=rf"'{package}'.*qexplore\[{extra}\]"):
            ask()


def test_optuna_loads_the_study_with_its_directions_trials_and_front(done, optuna, tmp_path):
    _, found, study = done
    url = f"sqlite:///{tmp_path}/optuna.db"
    study.to_optuna(url)

    loaded = optuna.load_study(study_name="digits", storage=url)

    assert [one.name for one in loaded.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert loaded.metric_names == ["accuracy", "total_bits", "bops"]
    assert loaded.user_attrs["weights"] == study.fingerprint["weights"]
    table = study.evaluations()
    assert len(loaded.trials) == len({tuple(row) for row in table.candidates.tolist()})
    counts = {state: sum(trial.state.name == name for trial in loaded.trials) for state, name in STATES.items()}
    assert counts == {state: int((table.state == state).sum()) for state in STATES}
    names = found.front.point_names
    front = {tuple(trial.params[name] for name in names): trial.values for trial in loaded.best_trials}
    by_score = study.front(1, judge="accuracy")
    assert front == {point.num_bits: [point.accuracy, *point.costs.values()] for point in by_score}
    stopped = [trial for trial in loaded.trials if trial.state.name == "PRUNED"]
    assert stopped and all("bound" in trial.user_attrs for trial in stopped)
    assert all(trial.datetime_complete >= trial.datetime_start for trial in loaded.trials)


STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


def test_constraints_are_those_of_the_problem(done, optuna):
    problem, _, study = done
    exported = study.to_optuna(optuna.storages.InMemoryStorage(), "mine")
    known = {one.candidate: one for one in problem.evaluations}
    for trial in exported.trials:
        if trial.state.name == "COMPLETE":
            one = known[tuple(trial.params[point.name] for point in problem.model.points)]
            told, wanted = trial.system_attrs["constraints"], problem.constraints([one])[0]
            assert (np.array(told) <= 0).tolist()[::2] == (wanted <= 0).tolist()[::2]
            assert all(value <= 0 for value in told) == problem.is_feasible(one)


def test_a_name_that_is_taken_is_refused_and_left_as_it_is(done, optuna):
    _, _, study = done
    storage = optuna.storages.InMemoryStorage()
    count = len(study.to_optuna(storage).trials)
    with pytest.raises(StudyError, match=r"no study of the name 'digits'.*name="):
        study.to_optuna(storage)
    assert len(optuna.load_study(study_name="digits", storage=storage).trials) == count


def test_choices_that_are_no_range_are_names(optuna, tmp_path):
    problem = qx.LayerwiseQuantizationProblem(
        tiny_problem().model, tiny_problem().direct.loader, choices=(2, 4, "E4M3", "off"), min_accuracy=0.5
    )
    qx.explore(problem, max_evaluations=8, seed=1, study=tmp_path / "a.db", progress=False)
    with qx.Study.open(tmp_path / "a.db") as study:
        trials = study.to_optuna(optuna.storages.InMemoryStorage()).trials
    assert {type(one).__name__ for one in trials[0].distributions.values()} == {"CategoricalDistribution"}
    assert {value for trial in trials for value in trial.params.values()} <= {"2", "4", "E4M3", "off"}
