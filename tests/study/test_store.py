"""What is written comes back as it was; a key finds what is known; runs are found again."""

import dataclasses
import math
import threading

import numpy as np
import pytest
from stored import (
    AWKWARD,
    EVALUATIONS,
    EVENTS,
    FACTS,
    FINGERPRINT,
    PARTS,
    RECORDS,
    SNAPSHOTS,
    everything,
    fill,
    same,
    stored,
)

from qexplore.errors import StudyError, StudyWriteError
from qexplore.study import Store


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "runs" / "study.db", FINGERPRINT) as made:
        yield made


def test_everything_written_comes_back_to_the_bit_from_a_file_opened_again(store):
    fill(store)
    before = everything(store)
    store.close()

    with Store.open(store.path, writes=False) as again:
        assert again.fingerprint == FINGERPRINT
        assert same(list(again.evaluations()), RECORDS)
        assert same(list(again.parts()), PARTS)
        assert same(again.snapshots(), SNAPSHOTS)
        assert same(again.events(), EVENTS)
        assert same(everything(again), before)
        assert math.isnan(again.runs()[0].facts["float score"])


def test_a_long_text_and_a_wide_network_come_back(store):
    wide = dataclasses.replace(EVALUATIONS["failed"], candidate=tuple(range(5000)), reason="x\0" * 500_000)
    fill(store, [stored(wide)])

    assert same(list(store.evaluations()), [stored(wide)])


def test_scores_of_0_and_1_take_a_bit_each(store):
    bits = (np.arange(1024) % 3 == 0).astype(np.float32)
    fill(store, [stored(dataclasses.replace(EVALUATIONS["complete"], scores=bits))])

    [row] = store._database.select("evaluations", "id = ?", (1,))
    assert len(row[-1]) == 1 + 8 + 1024 / 8


@pytest.mark.parametrize("limit", [None, 0.0, -0.0, 0.25, math.nan, math.inf])
@pytest.mark.parametrize("order", ["", "ab12", AWKWARD])
def test_an_evaluation_is_found_by_its_key(store, limit, order):
    one = stored(EVALUATIONS["stopped"], limit=limit, order=order)
    fill(store, [stored(EVALUATIONS["stopped"], limit=0.75), one, stored(EVALUATIONS["stopped"], role="direct")])

    assert same(store.evaluation("search", [70000, 2, 2], limit, order), one)
    assert store.evaluation("search", [70000, 2, 2], limit, f"{order}c") is None
    assert store.evaluation("search 1", [70000, 2, 2], limit, order) is None
    assert store.evaluation("search", [70000, 2, 3], limit, order) is None


def test_a_complete_evaluation_answers_under_any_limit_but_the_exact_key_comes_first(store):
    complete = dataclasses.replace(EVALUATIONS["stopped"], state="complete", score=0.5, bound=None)
    fill(store, [stored(complete, limit=0.1), stored(EVALUATIONS["stopped"], limit=0.9)])

    assert store.evaluation("search", complete.candidate, 0.9, "").evaluation.state == "stopped"
    assert store.evaluation("search", complete.candidate, 0.8, "any").evaluation.score == 0.5


def test_a_part_is_found_by_its_key(store):
    fill(store)

    assert same(store.part("search", AWKWARD, 64, True, (8, 8, 8)), PARTS[0])
    assert same(store.part("search", AWKWARD, 64, False, np.array([8, 8, 8])), PARTS[1])
    assert store.part("search", AWKWARD, 65, False, (8, 8, 8)) is None


def test_what_is_there_already_is_left_as_it_is(store):
    fill(store)
    other = stored(dataclasses.replace(EVALUATIONS["complete"], score=0.9))
    new = stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(1, 1, 1)))
    store.write([other, new, new], PARTS, SNAPSHOTS)

    assert same(list(store.evaluations()), [*RECORDS, new])
    assert same(list(store.parts()), PARTS)
    assert same(store.snapshots(), SNAPSHOTS)


def test_a_run_with_equal_settings_is_found_and_its_budget_grows(store):
    first, was_there = store.begin_run({"seed": 1, "limits": (1, None)}, {"max_evaluations": 5}, FACTS)
    assert (first.id, was_there, first.settings) == (1, False, {"seed": 1, "limits": [1, None]})

    other, was_there = store.begin_run({"seed": 2, "limits": (1, None)}, {}, {})
    assert (other.id, was_there) == (2, False)

    again, was_there = store.begin_run({"limits": [1, None], "seed": 1}, {"max_evaluations": 9}, {"a": AWKWARD})
    assert (again.id, was_there, again.budget, again.facts) == (1, True, {"max_evaluations": 9}, {"a": AWKWARD})
    assert store.runs() == [again, other]


def test_settings_that_are_no_json_are_refused_and_name_what_they_are(store):
    with pytest.raises(StudyError, match=r"`facts` of a run must hold texts, numbers.*Object of type object"):
        store.begin_run({}, {}, {"a": object()})
    assert store.runs() == []


def test_evaluations_are_chosen_by_run_role_and_moment(store):
    store.begin_run({"seed": 1}, {}, {})
    store.begin_run({"seed": 2}, {}, {})
    ones = [
        stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(i, 2)), run=1 + i % 2, role=role, at=float(i))
        for i, role in enumerate(["search", "search", "direct", AWKWARD, "search"])
    ]
    store.write(ones)

    assert same(list(store.evaluations(run=2)), [ones[1], ones[3]])
    assert same(list(store.evaluations(role=AWKWARD)), [ones[3]])
    assert same(list(store.evaluations(role="search", until=3.0)), ones[:2])
    assert store.columns(until=3.0).candidates.tolist() == [[0, 2], [1, 2]]


def test_columns_are_the_evaluations_as_arrays(store):
    three = [one for one in RECORDS if len(one.evaluation.candidate) == 3]
    fill(store, three)
    columns = store.columns(role=None, state=None)

    assert columns.candidates.tolist() == [list(one.evaluation.candidate) for one in three]
    assert columns.state.tolist() == [one.evaluation.state for one in three]
    for name in ("score", "divergence", "bound", "seconds"):
        values = [getattr(one.evaluation, name) for one in three]
        expected = np.array([math.nan if value is None else value for value in values])
        assert np.array_equal(getattr(columns, name), expected, equal_nan=True)
    assert columns.interval.tolist()[0] == [0.05, 0.2]
    assert len(columns) == len(three)
    assert len(store.columns(state="complete")) == 4


def test_columns_of_nothing_are_empty(store):
    assert len(store.columns()) == 0
    assert store.columns().interval.shape == (0, 2)


def test_a_write_is_all_or_nothing(store):
    fill(store)
    bad = stored(EVALUATIONS["complete"], role="newer", run=7)

    with pytest.raises(StudyError, match="has no such run"):
        store.write([stored(EVALUATIONS["complete"], role="new"), bad])
    assert same(list(store.evaluations()), RECORDS)
    store.write([stored(EVALUATIONS["complete"], role="new")])
    assert len(list(store.evaluations())) == len(RECORDS) + 1


def test_a_store_that_is_read_writes_nothing_and_a_closed_one_says_so(store):
    fill(store)
    with Store.open(store.path, writes=False) as reader:
        for write in (lambda: reader.write([RECORDS[0]]), lambda: reader.begin_run({}, {}, {})):
            with pytest.raises(StudyWriteError, match="may only be read"):
                write()
        later = stored(EVALUATIONS["complete"], role="later")
        store.write([later])
        assert same(reader.evaluation("later", (8, 0, 2), None, ""), later)

    store.close()
    store.close()
    with pytest.raises(StudyError, match="is closed"):
        store.runs()


def test_threads_write_to_one_store(store):
    store.begin_run({}, {}, {})

    def write(role):
        for i in range(10):
            store.write([stored(dataclasses.replace(EVALUATIONS["complete"], candidate=(i,)), role=role)])

    threads = [threading.Thread(target=write, args=(f"role {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.evaluations())) == 40
