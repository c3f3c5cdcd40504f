"""Damaged and forged files: every row read is the one that was written, or a StudyFileError says which is not."""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from stored import EVALUATIONS, FINGERPRINT, PARTS, RECORDS, everything, fill, same, stored

from qexplore.errors import ExistingStudyError, MissingStudyError, StudyFileError
from qexplore.study import Store, recover
from qexplore.study.schema import checksum

ASSET = Path(__file__).parent / "assets" / "schema_1.db"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a study of many pages, and all that is in it."""
    path = tmp_path_factory.mktemp("whole") / "study.db"
    draw = np.random.default_rng(0)
    one = EVALUATIONS["complete"]
    scores = draw.random((150, 300)).astype(np.float32)
    ones = [stored(dataclasses.replace(one, candidate=(i, 2), scores=row)) for i, row in enumerate(scores)]
    with Store.create(path, FINGERPRINT) as store:
        fill(store, ones)
    with Store.open(path, writes=False) as store:
        return path, everything(store)


def change(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("evaluations", "UPDATE evaluations SET score = 0.99 WHERE id = 3"),
        ("evaluations", "UPDATE evaluations SET state = 'complete', score = 0.99, bound = NULL WHERE id = 3"),
        ("evaluations", "UPDATE evaluations SET (score, checksum) = (SELECT score, checksum FROM evaluations LIMIT 1)"),
        ("evaluations", "UPDATE evaluations SET scores = x'00' WHERE id = 3"),
        ("evaluations", "UPDATE evaluations SET checksum = NULL WHERE id = 3"),
        ("evaluations", "DELETE FROM evaluations WHERE id = 3"),
        ("parts", "UPDATE parts SET against_float = 1 - against_float, role = role || ' ' WHERE id = 2"),
        ("snapshots", "UPDATE snapshots SET hypervolume = 1e9"),
        ("events", "UPDATE events SET text = 'all is well' WHERE id = 1"),
        ("runs", "UPDATE runs SET settings = '{}'"),
        ("fingerprint", "UPDATE fingerprint SET value = 'mine' WHERE name = 'weights'"),
    ],
)
def test_a_forged_row_is_found_out_and_named(written, tmp_path, table, statement):
    path = Path(shutil.copy(written[0], tmp_path))
    change(path, statement)

    with pytest.raises(StudyFileError, match=rf"is damaged: .*table '{table}'.*recover\(path, into\)"):  # noqa: SIM117
        with Store.open(path, writes=False) as store:
            everything(store)


def test_rows_that_changed_places_are_found_out(written, tmp_path):
    path = Path(shutil.copy(written[0], tmp_path))
    for new, old in ((9999, 1), (1, 2), (2, 9999)):
        change(path, "UPDATE evaluations SET id = ? WHERE id = ?", new, old)

    with Store.open(path, writes=False) as store, pytest.raises(StudyFileError, match="row 1 of table 'evaluations'"):
        store.columns()
    with Store.open(path, writes=False) as store, pytest.raises(StudyFileError, match="row 2 of table 'evaluations'"):
        store.evaluation("search", (0, 2), None, "")


@pytest.mark.parametrize("column", ["candidate", "state", "score", "scores", "num_samples", "further", "run"])
def test_a_row_that_was_forged_with_its_checksum_but_is_none_is_refused(written, tmp_path, column):
    path = Path(shutil.copy(written[0], tmp_path))
    connection = sqlite3.connect(path)
    names = [row[1] for row in connection.execute("PRAGMA table_info(evaluations)")]
    row = list(connection.execute("SELECT * FROM evaluations WHERE id = 3").fetchone())
    row[names.index(column)] = b"fnonsense"
    row[-1] = checksum("evaluations", row[:-1])
    connection.execute("DELETE FROM evaluations WHERE id = 3")
    connection.execute(f"INSERT INTO evaluations VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()

    with Store.open(path, writes=False) as store, pytest.raises(StudyFileError, match="row 3 of table 'evaluations'"):
        list(store.evaluations())


def damage(path: Path, draw: np.random.Generator) -> None:
    """Cut the file off, or overwrite up to 64 bytes of it, at a random place."""
    data = bytearray(path.read_bytes())
    place = int(draw.integers(len(data)))
    if draw.random() < 0.2:
        del data[place:]
    else:
        size = int(draw.choice([1, 4, 64]))
        data[place : place + size] = draw.bytes(len(data[place : place + size]))
    path.write_bytes(data)


def check_damaged(written, folder: Path, count: int, seed: int, ending: str) -> dict[str, int]:
    """Damage copies of a study: each is refused, or all that is read is what was written."""
    path, before = written
    draw = np.random.default_rng(seed)
    seen = {"refused": 0, "whole": 0, "saved": 0}
    for i in range(count):
        for file in path.parent.glob("study.db*"):
            shutil.copy(file, folder)
        here = folder / "study.db"
        damage(Path(f"{here}{ending}"), draw)
        try:
            with Store.open(here, writes=bool(draw.random() < 0.5)) as store:
                now = everything(store)
        except StudyFileError:
            seen["refused"] += 1
            seen["saved"] += saved_rows(here, folder / f"saved{i}.db", before)
        else:
            # What lies in the log beside the file has checksums of SQLite, which ends it where one is wrong.
            assert same(now, before) or (ending and is_beginning(now, before))
            seen["whole"] += 1
        for file in folder.iterdir():
            file.unlink()
    return seen


def is_beginning(now: list, before: list) -> bool:
    return all(same(part, whole[: len(part)]) for part, whole in zip(now, before, strict=True))


def saved_rows(path: Path, into: Path, before: list) -> int:
    """How many evaluations `recover` saves; each must be one of those that were written."""
    try:
        found = recover(path, into)
    except StudyFileError:
        return 0
    with Store.open(into, writes=False) as store:
        saved = list(store.evaluations())
    whole = {one.evaluation.candidate: one for one in before[2]}
    assert len(saved) == found.saved["evaluations"]
    assert all(same(one, dataclasses.replace(whole[one.evaluation.candidate], run=one.run)) for one in saved)
    return len(saved)


def test_bytes_overwritten_at_random_places_never_give_a_wrong_number(written, tmp_path):
    seen = check_damaged(written, tmp_path, 20, 0, "")
    assert seen["refused"] > 10
    assert seen["saved"] > 1000


@pytest.mark.slow
def test_bytes_overwritten_at_200_random_places_never_give_a_wrong_number(written, tmp_path):
    seen = check_damaged(written, tmp_path, 200, 1, "")
    print(seen)
    assert seen["refused"] > 100


def test_a_damaged_log_beside_the_file_gives_what_was_written_before_it(written, tmp_path):
    """As a killed writer leaves it: the last writes lie in the log."""
    path, before = written
    crashed, copies = tmp_path / "crashed", tmp_path / "copies"
    crashed.mkdir(), copies.mkdir()
    shutil.copy(path, crashed)
    with Store.open(crashed / "study.db", writes=True) as store:
        for i in range(20):
            store.write([stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(i, 3)))])
        before = everything(store)
        for file in crashed.iterdir():
            shutil.copy(file, copies)
    (copies / "study.db-shm").unlink()
    there = tmp_path / "there"
    there.mkdir()
    seen = check_damaged((copies / "study.db", before), there, 20, 2, "-wal")
    assert seen["whole"] == 20


def test_recover_saves_the_rows_that_are_whole_and_says_how_many_were_left(written, tmp_path):
    path = Path(shutil.copy(written[0], tmp_path))
    change(path, "UPDATE evaluations SET score = 0.99 WHERE id IN (3, 150)")
    change(path, "DELETE FROM evaluations WHERE id = 7")
    change(path, "UPDATE runs SET budget = '{}'")
    found = recover(path, tmp_path / "new" / "saved.db")

    assert (found.saved["evaluations"], found.left["evaluations"]) == (147, 3)
    assert (found.saved["runs"], found.left["runs"]) == (0, 1)
    assert "evaluations: 147 saved, 3 left" in str(found)
    with Store.open(found.path, writes=True) as store:
        kept = [one for i, one in enumerate(written[1][2], 1) if i not in (3, 7, 150)]
        assert same(list(store.evaluations()), kept)
        assert store.fingerprint == FINGERPRINT
        assert store.runs()[0].settings == {"lost": 1}
        assert store.begin_run({"seed": 1}, {}, {})[0].id == 2


def test_recover_overwrites_nothing_and_names_what_is_missing(written, tmp_path):
    with pytest.raises(MissingStudyError, match="does not exist"):
        recover(tmp_path / "none.db", tmp_path / "new.db")
    with pytest.raises(ExistingStudyError):
        recover(written[0], written[0])
    (tmp_path / "other").write_text("other")
    with pytest.raises(StudyFileError, match="not a database"):
        recover(tmp_path / "other", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_a_study_of_schema_1_loads(tmp_path):
    """Written by the first version, with everything that is hard to keep; a Python that checks otherwise fails here."""
    with Store.open(shutil.copy(ASSET, tmp_path), writes=True) as store:
        before = everything(store)
        fill(store)  # all but the events is there already
        now = everything(store)
    assert same(before[:5], now[:5])
    assert len(now[5]) == len(before[5]) + 3


def test_what_was_saved_is_found_again_by_its_key(tmp_path):
    with Store.create(tmp_path / "a.db", FINGERPRINT) as store:
        fill(store)
    recover(tmp_path / "a.db", tmp_path / "b.db")
    with Store.open(tmp_path / "b.db", writes=True) as store:
        for one in RECORDS:
            found = store.evaluation(one.role, one.evaluation.candidate, one.limit, one.order)
            assert found is not None and same(found.evaluation, one.evaluation)
        assert store.part(PARTS[0].role, PARTS[0].metric, 64, True, PARTS[0].candidate) is not None
