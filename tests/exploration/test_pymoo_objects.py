"""Algorithm objects of pymoo: each runs, the same for the same seed, or is refused in a sentence before it measures."""

from multiprocessing.pool import ThreadPool

import numpy as np
import pymoo.util
import pytest
from problems import Watched, random_state, tiny_problem
from pymoo.algorithms.moo.ctaea import CTAEA
from pymoo.algorithms.moo.dnsga2 import DNSGA2
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.rvea import RVEA
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.algorithms.moo.spea2 import SPEA2
from pymoo.algorithms.moo.unsga3 import UNSGA3
from pymoo.algorithms.soo.nonconvex.cmaes import CMAES
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.util.ref_dirs import get_reference_directions

import qexplore as qx
from qexplore.errors import ProblemError
from qexplore.search import pymoo_proposer

DIRECTIONS = get_reference_directions("das-dennis", 2, n_partitions=9)
RUN = {
    "MOEAD": (lambda: MOEAD(DIRECTIONS, n_neighbors=4), None),
    "CTAEA": (lambda: CTAEA(DIRECTIONS), 0.7),
    "SPEA2": (lambda: SPEA2(pop_size=10), 0.7),
    "RVEA": pytest.param(
        lambda: RVEA(DIRECTIONS, pop_size=10, termination=("n_gen", 30)),
        0.7,
        marks=pytest.mark.filterwarnings("ignore:invalid value encountered in arccos:RuntimeWarning"),  # its own
    ),
    # Where most candidates are infeasible alike, these two compare them by a draw.
    "NSGA3": (lambda: NSGA3(DIRECTIONS, pop_size=10), 0.92),
    "UNSGA3": (lambda: UNSGA3(DIRECTIONS, pop_size=10), 0.92),
}


@pytest.mark.parametrize(("build", "min_accuracy"), RUN.values(), ids=RUN)
def test_algorithm_objects_of_pymoo_search_and_repeat_themselves(build, min_accuracy):
    def run():
        problem = tiny_problem(upper=8, min_accuracy=min_accuracy)
        qx.explore(problem, max_evaluations=40, seed=1, algorithm=build(), progress=False)
        return [known.candidate for known in problem.evaluations]

    first = run()
    np.random.seed(7)  # noqa: NPY002 - what the user draws makes no difference
    assert len(first) > 30 and run() == first


@pytest.mark.parametrize("cls", [NSGA3, UNSGA3])
def test_comparisons_that_pymoo_leaves_without_a_generator_repeat_themselves(cls):
    def proposals():
        problem = tiny_problem(upper=8, min_accuracy=0.7)
        proposer = pymoo_proposer.PymooProposer(problem, cls(DIRECTIONS, pop_size=10), 1)
        asked = []
        for _ in range(4):
            asked.append(proposer.ask().tolist())
            # All alike in what they violate, so that every tournament is decided by a draw.
            proposer.tell_arrays(np.ones((len(asked[-1]), 2)), np.ones((len(asked[-1]), 1)))
        return asked

    assert proposals() == proposals()


@pytest.mark.parametrize(
    ("algorithm", "min_accuracy", "sentence"),
    [
        (DE(), None, "`algorithm` DE cannot search this problem: it is made for a single objective, and this problem "),
        (PSO(), None, "PSO cannot search this problem: it is made for a single objective"),
        (GA(pop_size=8), 0.7, "GA cannot search this problem: it is made for a single objective, .* qexplore.fit"),
        (CMAES(), None, "CMAES cannot search this problem: it is made for a single objective"),
        (
            MOEAD(DIRECTIONS),
            0.7,
            "MOEAD cannot .*: it takes no constraints, and this problem has 1. Instead, leave min",
        ),
        (DNSGA2(pop_size=8), None, "DNSGA2 cannot .*: it measures its candidates itself, .* problem.front"),
        (RVEA(DIRECTIONS), None, r'its number of generations. Instead, give it one, RVEA\(..., termination=\("n_gen"'),
        (NSGA3(np.eye(3)), None, "NSGA3 cannot .* reference directions, if it has any, must have one number an obj"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_algorithm_objects_that_cannot_search_the_problem_are_refused_before_anything_is_measured(
    algorithm, min_accuracy, sentence
):
    problem = tiny_problem(upper=8, min_accuracy=min_accuracy)
    with pytest.raises(ProblemError, match=sentence):
        qx.explore(problem, max_evaluations=40, seed=1, algorithm=algorithm, progress=False)
    assert {known.candidate for known in problem.evaluations} <= set(map(tuple, problem.space.uniform().tolist()))


@pytest.mark.parametrize("algorithm", ["nsga2", NSGA3(DIRECTIONS, pop_size=8)], ids=["name", "object"])
def test_callbacks_find_the_users_random_numbers(algorithm):
    found, before = [], random_state()
    qx.explore(
        tiny_problem(Watched()),
        max_evaluations=15,
        seed=1,
        algorithm=algorithm,
        progress=False,
        callbacks=[lambda _: found.append(random_state())],
    )
    assert found and all(state == before for state in found)
    assert random_state() == before


def test_pymoo_is_left_as_it_was_by_searches_in_several_threads():
    problem = tiny_problem(upper=8, min_accuracy=0.7)

    def proposals(seed):
        proposer = pymoo_proposer.PymooProposer(problem, NSGA3(DIRECTIONS, pop_size=8), seed)
        asked = []
        for _ in range(5):
            asked.append(proposer.ask().tolist())
            proposer.tell_arrays(np.ones((len(asked[-1]), 2)), np.ones((len(asked[-1]), 1)))
        return asked

    alone = [proposals(seed) for seed in (1, 2)]
    with ThreadPool(2) as pool:
        assert pool.map(proposals, (1, 2)) == alone
    assert pymoo.util.np is np


@pytest.mark.parametrize("cls", [NSGA2, SMSEMOA])
def test_objects_of_pymoo_that_find_nothing_new_end_the_search(cls):
    for upper, known in ((2, 1), (3, 8)):
        found = qx.explore(tiny_problem(upper=upper), max_evaluations=60, seed=1, algorithm=cls(pop_size=8))
        assert 1 <= found.num_evaluations <= known
        assert found.stopped_by in ("exhausted", "nothing new")
