"""Whoever goes on with a study and stops before it is where it was takes nothing from it."""

import os
import signal

import numpy as np
import pytest
from problems import tiny_problem

import qexplore as qx


def explored(study, stop_after=None, stop=lambda: os.kill(os.getpid(), signal.SIGINT)):
    """Stopped at the snapshot of that number, counted from 1."""
    seen = []

    def watch(snapshot):
        seen.append(snapshot)
        if len(seen) == stop_after:
            stop()

    problem = tiny_problem(upper=8, min_accuracy=0.5)
    return qx.explore(problem, max_evaluations=40, seed=1, progress=False, study=study, callbacks=[watch])


def raise_an_error():
    raise RuntimeError("of a callback")


def told(path):
    """All that a study says of its run."""
    study = qx.Study.open(path)
    [run], front = study.runs, study.front()
    return {
        "front": (front.num_bits.tolist(), front.accuracy.tolist()),
        "state": run.state,
        "stopped by": run.stopped_by,
        "hypervolume": run.hypervolume,
        "notes": run.notes,
        "history": [(one.num_evaluations, one.hypervolume) for one in study.history()],
    }


@pytest.mark.parametrize(("earlier", "way"), [(None, "interrupt"), (12, "callback")], ids=["ended", "stopped"])
def test_a_run_keeps_its_front_its_history_and_its_end(tmp_path, earlier, way):
    def stop():
        if way == "callback":
            raise qx.StopExploration
        os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "a.db"
    explored(path, earlier)
    before = told(path)
    again = explored(path, 3, stop)
    assert again.stopped_by == way and len(again.front) < len(before["front"][0])
    assert "its run had gone further before, and its history and end stay as they were" in again.study
    assert told(path) == before
    whole = explored(path)
    assert "gone further" not in whole.study
    assert told(path)["front"] == (whole.front.num_bits.tolist(), whole.front.accuracy.tolist())


def test_a_run_that_was_killed_keeps_what_it_had_and_one_that_goes_further_ends_anew(tmp_path):
    path = tmp_path / "a.db"
    with pytest.raises(RuntimeError, match="of a callback"):
        explored(path, 12, raise_an_error)
    before = told(path)
    assert before["state"] == "interrupted"
    explored(path, 3)
    after = told(path)
    assert (after["state"], after["stopped by"]) == ("ended", "interrupt")
    assert {name: after[name] for name in ("front", "history")} == {name: before[name] for name in ("front", "history")}
    further = explored(path, 20)
    assert "gone further" not in further.study
    assert np.array_equal(qx.Study.open(path).front().num_bits, further.front.num_bits)
