"""Studies put together hold what each held, and can be gone on with."""

from __future__ import annotations

import pytest
from problems import tiny_problem
from stored import AWKWARD, EVENTS, FINGERPRINT, PARTS, RECORDS, SNAPSHOTS, everything, fill, same

import qexplore as qx
from qexplore.errors import ExistingStudyError, MissingStudyError, StudyError, StudyMismatchError
from qexplore.study import Store


def explored(path, seed, max_evaluations=20, **options):
    problem = tiny_problem(**{"upper": 6, "min_accuracy": 0.85, **options})
    return qx.explore(problem, max_evaluations=max_evaluations, seed=seed, study=path, progress=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    found = [explored(folder / f"{name}.db", seed) for seed, name in enumerate("ab", 1)]
    with qx.merge(folder / "a.db", folder / "b.db", into=folder / "both.db") as both:
        yield folder, found, both


def test_runs_and_evaluations_of_all_are_there_and_each_run_has_its_front(two):
    folder, found, both = two
    assert [run.settings["seed"] for run in both.runs] == [1, 2]
    assert [both.front(number).to_json() for number in (1, 2)] == [one.front.to_json() for one in found]
    measured = set()
    for name in "ab":
        with qx.Study.open(folder / f"{name}.db") as study:
            measured |= set(map(tuple, study.evaluations().candidates.tolist()))
    assert set(map(tuple, both.evaluations().candidates.tolist())) == measured
    assert [run.words for run in both.runs] == ["ended by max_evaluations"] * 2


def test_an_exploration_goes_on_with_what_was_merged(two, tmp_path):
    folder, found, _ = two
    qx.merge(folder / "b.db", folder / "a.db", into=tmp_path / "c.db").close()
    again = explored(tmp_path / "c.db", seed=1)
    assert again.front.to_json() == found[0].front.to_json()
    assert " 0 evaluations written" in again.study


def test_a_study_merged_with_itself_is_itself_to_the_bit(tmp_path):
    records = [one for one in RECORDS if len(one.evaluation.candidate) == 3]
    with Store.create(tmp_path / "a.db", FINGERPRINT) as store:
        fill(store, records)
        before = everything(store)
    qx.merge(tmp_path / "a.db", tmp_path / "a.db", into=tmp_path / "new" / "b.db").close()
    with Store.open(tmp_path / "new" / "b.db", writes=True) as store:
        after = everything(store)
        assert same(after[:5], before[:5])
        assert len(records) == len(after[2]) and len(PARTS) == len(after[3]) and len(SNAPSHOTS) == len(after[4])
        assert {event.kind for event in after[5]} == {"began", AWKWARD} == {event.kind for event in EVENTS}
        assert store.evaluation("search", records[0].evaluation.candidate, None, "") is not None


def test_equal_runs_are_one_which_stands_as_the_farther_one_does_and_may_go_as_far(tmp_path):
    short, long = (explored(tmp_path / f"{count}.db", 1, max_evaluations=count) for count in (8, 20))
    for order in ((8, 20), (20, 8)):
        paths = [tmp_path / f"{count}.db" for count in order]
        with qx.merge(*paths, into=tmp_path / f"from {order[0]}.db") as both:
            [run] = both.runs
            assert run.budget["max_evaluations"] == 20
            assert run.front.to_json() == long.front.to_json() != short.front.to_json()


def test_studies_that_were_measured_otherwise_are_refused_file_by_file(two, tmp_path):
    folder, _, _ = two
    explored(tmp_path / "wider.db", 1, upper=5)
    with pytest.raises(StudyMismatchError) as refused:
        qx.merge(folder / "a.db", folder / "b.db", tmp_path / "wider.db", into=tmp_path / "c.db")
    told = str(refused.value)
    assert "got 1 difference:" in told and "space: 3 points" in told and "(other choices)" in told
    assert f"in '{folder / 'a.db'}'" in told and f"in '{tmp_path / 'wider.db'}'" in told and "b.db" not in told
    assert not (tmp_path / "c.db").exists()


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(two, tmp_path):
    folder, _, _ = two
    before = (folder / "b.db").read_bytes()
    with pytest.raises(ExistingStudyError):
        qx.merge(folder / "a.db", into=folder / "b.db")
    assert (folder / "b.db").read_bytes() == before
    with pytest.raises(MissingStudyError):
        qx.merge(folder / "a.db", folder / "none.db", into=tmp_path / "c.db")
    with pytest.raises(StudyError, match="one study at least"):
        qx.merge(into=tmp_path / "c.db")
    assert not list(tmp_path.glob("*.db"))
