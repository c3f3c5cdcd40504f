"""Processes that are killed, that share a study, or that find no room: nothing acknowledged is lost."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stored import EVALUATIONS, FINGERPRINT, fill, same, stored

from qexplore.errors import StudyLockedError, StudyWriteError
from qexplore.study import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path):
    """The path of a study that is written and closed."""
    path = tmp_path / "study.db"
    with Store.create(path, FINGERPRINT) as store:
        fill(store)
    return path


def long_one(i):
    scores = np.random.default_rng(i).random(2000).astype(np.float32)
    return stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(i,), scores=scores))


def write_until_refused(store: Store) -> list[object]:
    """What lies in the store when a write was refused."""
    fine = [*store.evaluations()]
    begin = len(fine)
    with pytest.raises(StudyWriteError, match="the disk may be full; what was written before stays. Make room"):
        for i in range(begin, begin + 1000):
            store.write([long_one(i)])
            fine.append(long_one(i))
    assert begin < len(fine)
    return fine


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk may not be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_on_a_full_disk_what_was_written_stays_and_the_store_goes_on_when_there_is_room(small_disk):
    path, ballast = small_disk / "study.db", small_disk / "ballast"
    with Store.create(path, {}) as store:
        fill(store)
        ballast.write_bytes(b"x" * 500_000)
        fine = write_until_refused(store)
        assert same(list(store.evaluations()), fine)
        ballast.unlink()
        fine = write_until_refused(store)
        with pytest.raises(StudyWriteError, match="the disk may be full"):
            Store.create(small_disk / "new.db", {})
    for writes in (False, True):
        with Store.open(path, writes=writes) as store:
            assert same(list(store.evaluations()), fine)


LIMITED = """
import resource, sys
from test_full_disks_and_kills import Store, fill, long_one, same, write_until_refused
with Store.create(sys.argv[1], {}) as store:
    fill(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    fine = write_until_refused(store)
    assert same(list(store.evaluations()), fine)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.write([long_one(9999)])
with Store.open(sys.argv[1], writes=False) as store:
    assert same(list(store.evaluations()), [*fine, long_one(9999)])
"""


def environment():
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "shared"), str(Path(__file__).parent)])
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit to a file's size")
def test_where_a_file_may_grow_no_more_what_was_written_stays_and_the_store_goes_on(tmp_path):
    call = [sys.executable, "-c", LIMITED, str(tmp_path / "study.db")]
    done = subprocess.run(call, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


WRITER = """
import dataclasses, itertools, sys
from stored import EVALUATIONS, stored
from qexplore.study import Store
with Store.open(sys.argv[1], writes=True) as store:
    store.begin_run({}, {}, {})
    begin = 1 + max((one.evaluation.candidate[0] for one in store.evaluations(role="kill")), default=-1)
    one = EVALUATIONS["complete"]
    for chunk in itertools.count(begin):
        store.write([stored(dataclasses.replace(one, candidate=(chunk, i)), role="kill") for i in range(64)])
        print(chunk, flush=True)
"""


@pytest.mark.slow
def test_after_a_kill_every_acknowledged_row_is_there_and_none_of_a_torn_transaction(study):
    draw = np.random.default_rng(0)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(study)], stdout=subprocess.PIPE, text=True, env=environment()
        ) as writer:
            said = [writer.stdout.readline() for _ in range(int(draw.integers(1, 20)))]
            with pytest.raises(StudyLockedError, match=f"process {writer.pid} is writing to it"):
                Store.open(study, writes=True)
            writer.send_signal(signal.SIGKILL)
            said += writer.stdout.readlines()
        acknowledged = int(said[-1])
        with Store.open(study, writes=False) as store:
            found = [one.evaluation.candidate for one in store.evaluations(role="kill")]
        chunks = len(found) // 64
        assert chunks in (acknowledged + 1, acknowledged + 2)
        assert found == [(chunk, i) for chunk in range(chunks) for i in range(64)]


SHARER = """
import dataclasses, sys
from stored import EVALUATIONS, stored
from qexplore.study import Store
path, own = sys.argv[1:]
with Store.open(path, writes=True, share=True) as store:
    run, _ = store.begin_run({"seed": own}, {}, {})
    for i in range(100):
        for one in ((i, 0), (i, int(own))):
            one = dataclasses.replace(EVALUATIONS["complete"], candidate=one)
            store.write([stored(one, role="share", run=run.id)])
"""


@pytest.mark.slow
def test_three_processes_share_a_study_and_lose_nothing(study):
    call = [sys.executable, "-c", SHARER, str(study)]
    sharers = [subprocess.Popen([*call, str(own)], env=environment()) for own in (1, 2, 3)]
    assert [sharer.wait() for sharer in sharers] == [0, 0, 0]
    with Store.open(study, writes=True) as store:
        found = [(one.run, one.evaluation.candidate) for one in store.evaluations(role="share")]
        assert {run.settings["seed"] for run in store.runs()} == {1, "1", "2", "3"}
    candidates = [candidate for _, candidate in found]
    assert sorted(candidates) == sorted((i, own) for i in range(100) for own in range(4))
    assert len({run for run, _ in found}) == 3
