"""Options of a search are objects that check themselves."""

import dataclasses
import json

import numpy as np
import pytest
from problems import tiny_problem
from pymoo.algorithms.moo.nsga2 import NSGA2

from qexplore.errors import ProblemError
from qexplore.evaluation import Evaluation
from qexplore.exploration.budget import Budget
from qexplore.search import ALGORITHMS, Archive, SearchSettings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": -1}, "`seed` must be an int of at least 0, got -1"),
        ({"seed": True}, "`seed` must be an int of at least 0, got True"),
        ({"population_size": 1}, "`population_size` must be an int of at least 2, got 1"),
        ({"algorithm": "nsga4"}, "`algorithm` must be one of 'nsga2', 'sms-emoa', 'nsga3', 'greedy', 'nsga2-plain'"),
        ({"algorithm": None}, "or an algorithm object of pymoo, got None"),
        ({"racing": 1}, "`racing` must be True or False, got 1"),
        ({"screening": "yes"}, "`screening` must be True or False, got 'yes'"),
    ],
)
def test_settings_that_no_search_can_have_are_refused(options, sentence):
    with pytest.raises(ProblemError) as raised:
        SearchSettings(**{"seed": 1, **options})
    assert sentence in str(raised.value)


def test_settings_say_which_algorithms_know_nothing_but_scores():
    plain = {name for name in ALGORITHMS if SearchSettings(1, name).is_plain}
    assert plain == {"nsga2-plain", "random"}
    ours = SearchSettings(1, NSGA2(pop_size=4))
    assert (ours.is_plain, ours.algorithm_name) == (True, "NSGA2")
    assert SearchSettings(1).algorithm_name == "nsga2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.seed = 2


def test_a_budget_counts_from_when_it_was_made():
    budget = Budget(10)
    assert (budget.num_left, budget.num_affordable, budget.spent_by) == (10.0, 10, "")
    budget.spend(9.5, 1.0)
    assert (budget.num_affordable, budget.spent_by) == (0, "max_evaluations")
    assert 0 <= budget.seconds < 60


def test_the_hypervolume_of_an_archive_is_computed_anew_only_when_it_has_grown(monkeypatch):
    problem = tiny_problem()
    archive, computed = Archive(problem), []
    inner = archive._hypervolume
    monkeypatch.setattr(archive, "_hypervolume", lambda reference: computed.append(reference) or inner(reference))
    reference, other = (0.0, 12.0), (0.1, 12.0)
    for score, candidate, volumes in (
        (0.5, (3, 3, 3), (0.5 * 3, 0.4 * 3)),
        (0.4, (3, 3, 4), (0.5 * 3, 0.4 * 3)),  # dominated
        (0.6, (3, 4, 4), (0.5 * 3 + 0.1, 0.4 * 3 + 0.1)),
    ):
        archive.add(Evaluation(candidate, "complete", score=score))
        for _ in range(3):
            assert archive.hypervolume(reference) == pytest.approx(volumes[0])
            assert archive.hypervolume(other) == pytest.approx(volumes[1])
    assert computed == [reference, other] * 2


def test_numbers_of_numpy_become_those_of_python_which_a_study_can_hold():
    settings = SearchSettings(np.int64(1), population_size=np.int32(4), generation_size=np.int8(3))
    limits = Budget(np.int64(5), np.float32(2.5), np.int16(3), np.uint8(2)).limits
    limits["max_seconds_each"] = tiny_problem(max_seconds_each=np.float32(60)).direct.max_seconds_each
    assert json.loads(json.dumps([dataclasses.asdict(settings), limits])) == [dataclasses.asdict(settings), limits]
