"""Callbacks that write down how a search goes, and what is entered and left with the search."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from problems import tiny_problem

import qexplore as qx
from qexplore.errors import MissingPackageError, ProblemError
from qexplore.exploration import logs


def explored(callback, **options):
    options = {"max_evaluations": 12, "seed": 1, **options}
    return qx.explore(tiny_problem(upper=8, min_accuracy=0.85), callbacks=[callback], **options)


def raising_at(count):
    calls = []

    def callback(snapshot):
        calls.append(snapshot)
        if len(calls) == count:
            raise ZeroDivisionError

    return callback


def test_figures_of_every_snapshot_go_to_the_function_with_the_passes_as_step():
    told = []
    exploration = explored(qx.log_to(lambda figures, step: told.append((figures, step))))
    assert [figures["hypervolume"] for figures, _ in told] == [one.hypervolume for one in exploration.history]
    assert [step for _, step in told] == [round(one.num_passes) for one in exploration.history]
    last = exploration.history[-1].front
    assert told[-1][0]["best_accuracy"] == last.accuracy.max()
    assert told[-1][0]["least_total_bits"] == last.total_bits.min()
    assert told[-1][0]["knee_total_bits"] == last.knee().total_bits
    assert {type(value) for figures, _ in told for value in figures.values()} == {float}


def test_a_front_without_a_point_has_no_figures_of_points():
    empty = qx.Front(num_bits=np.zeros((0, 1), int), accuracy=[], costs=np.zeros((0, 1)), point_names=("a",))
    figures = logs.figures_of(qx.Snapshot(empty, 3, 2.5, 0.1, 0.0, 1))
    assert set(figures) == {"hypervolume", "num_points", "num_evaluations", "num_passes", "seconds", "generation"}


def test_what_is_no_function_is_refused():
    with pytest.raises(ProblemError, match="log_to: must be given a function"):
        qx.log_to("run")


class Entered:
    """Notes when it is entered, called and left."""

    def __init__(self):
        self.noted = []

    def __enter__(self):
        self.noted.append("entered")
        return self

    def __call__(self, snapshot):
        self.noted.append("called")

    def __exit__(self, kind, error, trace):
        self.noted.append(kind)


def test_a_callback_that_is_a_context_manager_is_entered_and_left_with_the_search():
    one = Entered()

    explored(one)
    assert one.noted[0] == "entered"
    assert one.noted[-1] is None
    assert set(one.noted[1:-1]) == {"called"}


def test_it_is_left_also_when_the_search_raises():
    one = Entered()
    with pytest.raises(ZeroDivisionError):
        qx.explore(tiny_problem(), max_evaluations=8, seed=1, callbacks=[one, raising_at(2)])
    assert one.noted[-1] is ZeroDivisionError


class FakeMLflow:
    """As much of MLflow as the callback uses."""

    def __init__(self, active=None, fails=False):
        self.active, self.fails, self.batches, self.ended, self.texts = active, fails, [], [], {}
        self.entities = SimpleNamespace(Metric=lambda name, value, moment, step: (name, value, step))

    def active_run(self):
        return self.active

    def start_run(self, run_name=None):
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name or "new"))

    def end_run(self, status):
        self.ended.append(status)

    def MlflowClient(self):
        return self

    def log_batch(self, run, metrics):
        if self.fails:
            raise ConnectionError("no server")
        assert len(metrics) <= 1000
        self.batches.append((run, list(metrics)))

    def log_text(self, run, text, name):
        self.texts[name] = text


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_mlflow_gets_every_figure_and_the_front_in_a_run_that_is_finished(mlflow):
    exploration = explored(qx.log_to_mlflow("mine"))
    sent = [metric for _, metrics in mlflow.batches for metric in metrics if metric[0] == "hypervolume"]
    assert [value for _, value, _ in sent] == [one.hypervolume for one in exploration.history]
    assert {run for run, _ in mlflow.batches} == {"mine"}
    assert mlflow.ended == ["FINISHED"]
    assert mlflow.texts["front.txt"].startswith("Front of")


def test_a_run_that_is_active_stays_open(mlflow):
    mlflow.active = SimpleNamespace(info=SimpleNamespace(run_id="theirs"))
    explored(qx.log_to_mlflow())
    assert {run for run, _ in mlflow.batches} == {"theirs"}
    assert mlflow.ended == []


def test_a_search_that_raises_is_a_run_that_failed(mlflow):
    with pytest.raises(ZeroDivisionError):
        qx.explore(tiny_problem(), max_evaluations=8, seed=1, callbacks=[qx.log_to_mlflow(), raising_at(2)])
    assert mlflow.ended == ["FAILED"]
    assert mlflow.batches


def test_a_server_that_does_not_answer_is_warned_of_and_loses_no_exploration(mlflow):
    mlflow.fails = True
    with pytest.warns(UserWarning, match="lacks figures: no server") as warned:
        assert len(explored(qx.log_to_mlflow()).front)
    assert len(warned) == 1


def test_names_that_mlflow_refuses_are_written_otherwise(mlflow):
    problem = tiny_problem(qx.Metric(qx.top1_accuracy, name="top-1 (%)"), upper=8)
    qx.explore(problem, max_evaluations=6, seed=1, callbacks=[qx.log_to_mlflow()])
    assert "best_top-1 ___" in {name for _, metrics in mlflow.batches for name, _, _ in metrics}


def test_tensorboard_gets_every_figure_and_is_closed_also_after_an_error(monkeypatch):
    written, closed = [], []
    writer = SimpleNamespace(
        add_scalar=lambda *row: written.append(row),
        add_text=lambda *row: written.append(row),
        close=lambda: closed.append(True),
    )
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda folder: writer))
    exploration = explored(qx.log_to_tensorboard("runs/a"))
    volumes = [row[1:] for row in written if row[0] == "hypervolume"]
    assert volumes == [(one.hypervolume, logs.step_of(one)) for one in exploration.history]
    assert written[-1][0] == "front"
    with pytest.raises(ZeroDivisionError):
        qx.explore(
            tiny_problem(), max_evaluations=8, seed=1, callbacks=[qx.log_to_tensorboard("runs/b"), raising_at(2)]
        )
    assert closed == [True, True]


@pytest.mark.parametrize(
    "make", [lambda: qx.log_to_tensorboard("runs"), qx.log_to_mlflow], ids=["tensorboard", "mlflow"]
)
def test_a_package_that_is_missing_is_named_before_the_search(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'qexplore\[(tensorboard|mlflow)\]'"):
        make()
