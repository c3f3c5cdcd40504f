"""What a cluster is found by, and what doctor says of it."""

import pytest
from problems import tiny_problem

import qexplore as qx
from qexplore.cli import doctor
from qexplore.distributed import cluster as found
from qexplore.errors import WorkersError

pytest.importorskip("ray")
from pretended_ray import PretendedRay


@pytest.fixture
def ray(monkeypatch, tmp_path):
    """A `PretendedRay` with two nodes, one of them dead, and no address noted."""
    pretended = PretendedRay()
    pretended.nodes = lambda: [{"Alive": True}, {"Alive": False}]
    monkeypatch.setattr(found, "ray_module", lambda: pretended)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return pretended


def told():
    [finding] = doctor._cluster()
    return finding.value


def test_no_cluster_is_looked_for_where_none_is_known(ray):
    assert told() == "none known here: RayWorkers starts Ray on this machine"
    assert ray.inits == []


def test_a_cluster_that_ray_start_noted_is_seen_and_left(ray, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("there\n")
    assert told() == "there: 1 node, 2 CPU"
    assert not ray.is_up


def test_a_cluster_that_does_not_answer_is_said(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert told() == "10.0.0.1:6379 does not answer: ConnectionError: nobody answers"


def test_what_is_behind_a_cluster_that_cannot_be_joined_is_said(ray, monkeypatch):
    def refuse(**_):
        raise ConnectionError("Failed to connect") from ValueError("no token: set RAY_AUTH_MODE\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "there")
    said = "ConnectionError: Failed to connect, for ValueError: no token: set RAY_AUTH_MODE"
    assert told() == f"there does not answer: {said}"
    with pytest.raises(WorkersError) as raised:
        found.join(qx.RayWorkers(2), 0)
    assert f"got 'there': {said}. Start one there" in str(raised.value)


def test_progress_tells_of_workers_without_a_terminal(ray, monkeypatch, capsys):
    from crews import CrewHere

    from qexplore import _progress
    from qexplore.distributed import evaluator

    monkeypatch.setattr(_progress, "RHYTHM", 0.0)
    monkeypatch.setattr(evaluator, "RayCrew", lambda *_: CrewHere(2))
    qx.explore(tiny_problem(upper=8), max_evaluations=9, seed=1, workers=qx.RayWorkers(2))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("explore:")]
    assert "workers=0 of 2, idle=0%, measured=" in lines[-1]
