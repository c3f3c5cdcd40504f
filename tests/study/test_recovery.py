"""A study that was cut off: what its pages still hold is saved."""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from stored import EVALUATIONS, FINGERPRINT, fill, same, stored

from qexplore.errors import MissingStudyError, StudyFileError
from qexplore.study import Store, recover
from qexplore.study.pages import rows_of_pages
from qexplore.study.records import Stored
from qexplore.study.schema import TABLES


@pytest.fixture(scope="module", params=[(1304, 64), (150, 3000)], ids=["small rows", "rows over many pages"])
def written(request, tmp_path_factory):
    """A study, its evaluations, and how long its file was when it held one of everything."""
    count, num_samples = request.param
    path = tmp_path_factory.mktemp("whole") / "study.db"
    scores = np.random.default_rng(0).random((count, num_samples)).astype(np.float32)
    one = EVALUATIONS["complete"]
    with Store.create(path, FINGERPRINT) as store:
        fill(store)
        store.close()
    small = path.stat().st_size
    with Store.open(path, writes=True) as store:
        for begin in range(0, count, 30):  # as a search writes them
            chunk = enumerate(scores[begin : begin + 30], begin)
            store.write([stored(dataclasses.replace(one, candidate=(i, 200), scores=row)) for i, row in chunk])
    with Store.open(path, writes=False) as store:
        return path, list(store.evaluations()), small


def cut(path: Path, folder: Path, size: int) -> Path:
    short = folder / "short.db"
    short.write_bytes(path.read_bytes()[:size])
    return short


def key(one: Stored) -> tuple[object, ...]:
    return one.role, one.evaluation.candidate, repr(one.limit), one.order  # NaN equals nothing, not even itself


@pytest.mark.parametrize("share", [-10, -4096, 0.99, 0.95, 0.6, 0.3])
def test_of_a_study_that_was_cut_off_is_saved_what_is_there(written, tmp_path, share):
    path, before, small = written
    whole = path.stat().st_size
    size = whole + share if share < 0 else int(share * whole)
    found = recover(cut(path, tmp_path, size), tmp_path / "saved.db")

    with Store.open(found.path, writes=True) as store:
        saved = list(store.evaluations())
        assert store.fingerprint == FINGERPRINT
        assert store.runs()
    # Of the pages for evaluations and their index this share is there; the first ones hold what else is in a study.
    there = (size - small) / (whole - small)
    assert len(saved) == found.saved["evaluations"] >= (there - 0.02) * len(before)
    by_key = {key(one): one for one in before}
    assert all(same(one, by_key[key(one)]) for one in saved)


def test_rows_read_from_the_pages_are_those_that_sqlite_reads(written):
    path = written[0]
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    read = [row for table in TABLES for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    assert len(read) > 100
    assert set(read) <= {tuple(map(plain, row)) for row in rows_of_pages(path)}


def plain(cell: object) -> object:
    return bytes(cell) if isinstance(cell, bytes) else cell


def test_of_a_file_that_was_cut_off_the_log_beside_it_is_saved_too(written, tmp_path):
    path = Path(shutil.copy(written[0], tmp_path))
    with Store.open(path, writes=True) as store:
        fill(store, [stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(i, 201))) for i in range(99)])
        last = list(store.evaluations())[-99:]
        shutil.copy(f"{path}-wal", tmp_path / "short.db-wal")  # as a killed writer leaves it
    found = recover(cut(path, tmp_path, int(0.6 * path.stat().st_size)), tmp_path / "saved.db")

    with Store.open(found.path, writes=False) as store:
        saved = list(store.evaluations())
    assert same(saved[-99:], last)
    assert len(saved) + found.left["evaluations"] == len(written[1]) + 99


def test_a_file_without_its_first_page_is_saved_too(written, tmp_path):
    path = Path(shutil.copy(written[0], tmp_path))
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])
    found = recover(path, tmp_path / "saved.db")
    assert found.saved["evaluations"] == len(written[1])
    assert found.saved["fingerprint"] == len(FINGERPRINT)
    assert not any(found.left.values())


def test_where_nothing_can_be_saved_that_is_said(written, tmp_path):
    short = cut(written[0], tmp_path, 4096)
    with pytest.raises(StudyFileError, match=r"recover\(path, into\)"):
        Store.open(short, writes=False)
    with pytest.raises(StudyFileError, match=r"Nothing of .* can be saved.*malformed") as caught:
        recover(short, tmp_path / "new" / "saved.db")
    assert "recover(" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_missing_study_is_one_error_and_not_two(tmp_path):
    with pytest.raises(MissingStudyError) as caught:
        Store.open(tmp_path / "none.db", writes=False)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
