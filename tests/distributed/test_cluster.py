"""What a cluster is found by, and what doctor says of it."""

import socket

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


@pytest.fixture
def dead_port(monkeypatch):
    """A port of this machine at which nothing listens, and no patience with it."""
    monkeypatch.setattr(found, "_PATIENCE", 0.1)
    monkeypatch.setattr(found, "_PAUSE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return port


def test_a_cluster_that_does_not_answer_is_said(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert told() == "nowhere does not answer: ConnectionError: nobody answers"


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::ffff:127.0.0.1]:{}"])
def test_an_address_where_nothing_listens_is_said_before_ray_is_asked(ray, monkeypatch, dead_port, form):
    address = form.format(dead_port)
    with pytest.raises(WorkersError, match=f"127.0.0.1, port {dead_port} .*Start one there, or leave `address` out"):
        found.join(qx.RayWorkers(2, address=address), 0)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"{address} does not answer: ConnectionError: nothing listens at" in told()
    assert ray.inits == []


def test_a_cluster_that_begins_to_listen_a_moment_later_is_joined(monkeypatch, dead_port):
    monkeypatch.setattr(found, "_PATIENCE", 5.0)
    servers = []
    monkeypatch.setattr(found.time, "sleep", lambda _: servers.append(socket.create_server(("127.0.0.1", dead_port))))
    found._await_listener(f"127.0.0.1:{dead_port}")
    [server] = servers
    server.close()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("ray://head", ("head", 10001)),
        ("head:6379", ("head", 6379)),
        ("auto", None),
        ("head", None),
        ("anyscale://mine", None),
        ("head:port", None),
    ],
)
def test_what_is_no_host_and_port_is_left_to_ray(address, place):
    assert found._listener(address) == place


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
