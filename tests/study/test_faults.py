"""Each fault for real: a sentence that says what to do, nothing overwritten, nothing lost that was written."""

import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from stored import EVALUATIONS, FINGERPRINT, RECORDS, everything, fill, same, stored

from qexplore.errors import (
    ExistingStudyError,
    MissingStudyError,
    StudyError,
    StudyFileError,
    StudyLockedError,
    StudyWriteError,
)
from qexplore.study import Store, files, opened_for
from qexplore.study.database import create


@pytest.fixture
def study(tmp_path):
    """The path of a study that is written and closed."""
    path = tmp_path / "study.db"
    with Store.create(path, FINGERPRINT) as store:
        fill(store)
    return path


@contextlib.contextmanager
def ordinary_user():
    """The rights of an ordinary user, also where the tests have all."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


@pytest.fixture
def for_all(study):
    """A study in a folder that anybody may enter, which those of the tests are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(study, folder))
        path.chmod(0o666)
        path.parent.chmod(0o755)
        yield path


def sqlite_file(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE evaluations (id)")
    connection.commit()
    connection.close()


def newer(path):
    Store.create(path, {}).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def with_trigger(path):
    Store.create(path, {}).close()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END")
    connection.commit()
    connection.close()


OTHERS = {
    "nothing": (lambda path: None, MissingStudyError, "does not exist"),
    "folder": (Path.mkdir, StudyFileError, "is a folder"),
    "empty": (Path.touch, StudyFileError, "got an empty file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), StudyFileError, r"begins with b'\\x80"),
    "json": (
        lambda path: path.write_text(json.dumps({"format": "qexplore-front"}) * 99),
        StudyFileError,
        "begins with",
    ),
    "torn": (lambda path: path.write_bytes(b"SQLite format 3\0\x10\0\x01"), StudyFileError, "begins with b'SQLite"),
    "garbage": (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000), StudyFileError, "study.db"),
    "other": (sqlite_file, StudyFileError, "an SQLite file of something else"),
    "newer": (newer, StudyFileError, "schema 1 or older, got 99: it was written by a newer qexplore"),
    "trigger": (with_trigger, StudyFileError, "its tables, they are not those of schema 1"),
}


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_study_is_refused_and_left_as_it_is(tmp_path, kind, writes):
    make, error, sentence = OTHERS[kind]
    path = tmp_path / "study.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None

    with pytest.raises(error, match=sentence):
        Store.open(path, writes=writes)
    assert (path.read_bytes() if path.is_file() else None) == before
    if path.exists():
        with pytest.raises(ExistingStudyError, match="left as it is"):
            Store.create(path, {})


def test_a_pickle_named_as_a_study_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "study.db").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(StudyFileError):
        Store.open(tmp_path / "study.db", writes=True)
    assert not (tmp_path / "executed").exists()


def test_an_interrupted_creation_leaves_no_file(tmp_path):
    def interrupted(connection):
        assert len(list(tmp_path.iterdir())) > 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(tmp_path / "study.db", interrupted, share=False)
    assert [path.name for path in tmp_path.iterdir()] == ["study.db.lock"]
    Store.create(tmp_path / "study.db", {}).close()


def test_the_folder_is_made_and_a_missing_one_above_it_named(tmp_path):
    Store.create(tmp_path / "runs" / "study.db", {}).close()
    with pytest.raises(StudyWriteError, match="its folder .* is not there and cannot be made"):
        Store.create(tmp_path / "a" / "b" / "study.db", {})


@pytest.mark.skipif(sys.platform == "win32", reason="rights as on POSIX")
def test_a_read_only_file_can_be_read_and_says_so_when_written_to(for_all):
    for_all.chmod(0o444)
    for_all.parent.chmod(0o777)

    with ordinary_user():
        with pytest.raises(StudyWriteError, match="may only be read. Give the right to write"):
            Store.open(for_all, writes=True)
        with Store.open(for_all, writes=False) as store:
            assert same(list(store.evaluations()), RECORDS)


@pytest.mark.skipif(sys.platform == "win32", reason="rights as on POSIX")
def test_a_study_in_a_read_only_folder_can_be_read_and_not_written(for_all):
    for_all.parent.chmod(0o555)

    with ordinary_user():
        with Store.open(for_all, writes=False) as store:
            assert same(list(store.evaluations()), RECORDS)
        with pytest.raises(StudyWriteError, match=r"Permission denied.*study.db.lock"):
            Store.open(for_all, writes=True)
        with pytest.raises(StudyWriteError, match="Permission denied"):
            Store.create(for_all.with_name("new.db"), {})
    assert [path.name for path in for_all.parent.iterdir()] == ["study.db"]


@pytest.mark.skipif(sys.platform == "win32", reason="rights as on POSIX")
def test_what_a_killed_writer_left_in_a_read_only_folder_is_not_overlooked(study, for_all):
    with Store.open(study, writes=True) as store:
        store.write([stored(EVALUATIONS["complete"], role="later")])
        shutil.copy(f"{study}-wal", for_all.parent)
    for_all.parent.chmod(0o555)

    with ordinary_user(), pytest.raises(StudyWriteError, match="copy it to another one, with the files beside it"):
        Store.open(for_all, writes=False)
    for_all.parent.chmod(0o755)
    with Store.open(for_all, writes=False) as store:
        assert store.evaluation("later", (8, 0, 2), None, "") is not None


@pytest.mark.parametrize("name", ["a b?c=d#e%41.db", "no ending", "caf\u00e9 \U0001f600.db"])
def test_a_file_of_any_name_holds_a_study(tmp_path, name):
    with Store.create(tmp_path / name, FINGERPRINT) as store:
        fill(store)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.lock"}
    with Store.open(tmp_path / name, writes=False) as store:
        assert same(list(store.evaluations()), RECORDS)


@pytest.mark.skipif(sys.platform == "win32", reason="links as on POSIX")
def test_another_name_of_the_file_is_no_way_past_the_lock(study, tmp_path):
    (tmp_path / "link.db").symlink_to(study)
    with Store.open(study, writes=True), pytest.raises(StudyLockedError):
        Store.open(tmp_path / "link.db", writes=True)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_two_write_only_when_both_share(study, first, second):
    with Store.open(study, writes=True, share=first) as one:
        if not (first and second):
            with pytest.raises(StudyLockedError, match=r"something else in this process.*share=True"):
                Store.open(study, writes=True, share=second)
            return
        with Store.open(study, writes=True, share=True) as two:
            new = [stored(EVALUATIONS["complete"], role=f"new {i}") for i in range(4)]
            for i, record in enumerate(new):
                (one, two)[i % 2].write([record])
                assert same((two, one)[i % 2].evaluation(record.role, (8, 0, 2), None, ""), record)
            two.write(new)
        assert same(list(one.evaluations()), [*RECORDS, *new])


def test_who_comes_second_in_making_a_shared_study_opens_it(study, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was a moment before

    with opened_for(FINGERPRINT, study, share=True, on_mismatch="refuse") as store:
        assert same(list(store.evaluations()), RECORDS)


def test_the_lock_is_let_go_of_when_opening_fails_and_when_closed(study):
    study.write_bytes(study.read_bytes()[:5000])
    for _ in range(2):
        with pytest.raises(StudyFileError):
            Store.open(study, writes=True)


def test_a_reader_in_the_same_process_does_not_take_the_writers_locks(study):
    """Closing any handle of a file drops a process's locks on it: then another one would tidy up under the writer."""
    with Store.open(study, writes=True, share=True) as writer:
        Store.open(study, writes=False).close()
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version'); c.close()"
        subprocess.run([sys.executable, "-c", other, str(study)], check=True)
        assert Path(f"{study}-wal").exists()
        writer.write([stored(EVALUATIONS["complete"], role="later")])
    with Store.open(study, writes=False) as store:
        assert store.evaluation("later", (8, 0, 2), None, "") is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_worker_neither_holds_the_lock_nor_uses_the_connection(study):
    store = Store.open(study, writes=True)
    asked, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.runs()
        except StudyError as error:
            os.write(told[1], str(error).encode())
        store.close()
        os.read(asked[0], 1)
        os._exit(0)
    said = os.read(told[0], 1000).decode()
    assert re.search(r"was opened by process \d+ and must be used there", said)
    fine = stored(EVALUATIONS["complete"], role="later")
    store.write([fine])
    store.close()
    with Store.open(study, writes=True) as again:  # while the child still lives
        assert same(again.evaluation("later", (8, 0, 2), None, ""), fine)
    os.write(asked[1], b"x")
    os.waitpid(child, 0)


def test_on_a_network_file_system_there_is_no_log_no_sharing_and_a_note(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(files, "MOUNTS", mounts)
    path = tmp_path / "study.db"

    with Store.create(path, FINGERPRINT) as store:
        fill(store)
        [note] = store.notes
        assert "network file system (nfs4)" in note
        assert not Path(f"{path}-wal").exists()
        with Store.open(path, writes=False) as reader:
            assert same(everything(reader), everything(store))
    with pytest.raises(StudyError, match="must lie on a disk of this machine to be shared.*nfs4"):
        Store.open(path, writes=True, share=True)
    with pytest.raises(StudyError, match="must lie on a disk of this machine"):
        Store.create(tmp_path / "other.db", {}, share=True)
    assert not (tmp_path / "other.db").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="locks as on POSIX")
def test_where_there_are_no_locks_it_is_said(study, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with Store.open(study, writes=True) as store:
        [note] = store.notes
    assert "nothing keeps a second process from writing" in note


def test_a_disk_of_this_machine_needs_no_note(study):
    with Store.open(study, writes=True) as store:
        assert store.notes == ()
