"""What every algorithm promises, shown for each of them. A new one is in ALGORITHMS, or an object of pymoo."""

import numpy as np
import pytest
from problems import every_candidate, random_state, tiny_problem, weighted_model
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.sms import SMSEMOA

from qexplore.evaluation import DirectEvaluator, PrefixEvaluator
from qexplore.search import ALGORITHMS, Generations, SearchSettings, reference_point
from qexplore.search.settings import GUIDED

PROPOSERS = {
    **{name: name for name in ALGORITHMS},
    "an object of pymoo": NSGA2(pop_size=6),
    "another object": SMSEMOA(pop_size=6),
}
INFORMED = (*GUIDED, "greedy")


@pytest.fixture(params=PROPOSERS.values(), ids=PROPOSERS)
def algorithm(request):
    return request.param


@pytest.fixture
def is_informed(algorithm):
    """Whether the algorithm begins with uniform choices and takes a sensitivity table."""
    return isinstance(algorithm, str) and algorithm in INFORMED


def asked(problem, algorithm, *, seed=3, most=12, known=(), **options):
    """Generations, each told before the next is asked for."""
    settings = SearchSettings(seed, algorithm, population_size=6)
    generations = Generations(problem, settings, reference_point(problem, ()), **options)
    generations.know(known)
    found = []
    while len(found) < most and (generation := generations.ask()) is not None:
        found.append(generation)
        generations.tell(list(problem.measure(generation.candidates)))
    return found


def rows(generations):
    return [tuple(row) for generation in generations for row in generation.candidates.tolist()]


def of_weights(**options):
    return tiny_problem(model=weighted_model(), **{"upper": 5, **options})


class Count:
    """Calls of every evaluator's methods."""

    def __init__(self, monkeypatch):
        self.calls = dict.fromkeys(("evaluate", "scores_on_subset"), 0)
        for evaluator in (DirectEvaluator, PrefixEvaluator):
            for name in self.calls:
                monkeypatch.setattr(evaluator, name, self._counted(name, getattr(evaluator, name)))

    def _counted(self, name, inner):
        def call(*args, **kwargs):
            self.calls[name] += 1
            return inner(*args, **kwargs)

        return call


class TestProposer:
    def test_candidates_are_within_the_space_and_of_its_shape(self, algorithm):
        problem = of_weights(choices={"weights": (2, 4, "E4M3"), "activations": (3, 4, 5, "off")}, tied=["fc*.weight"])
        found = asked(problem, algorithm)
        assert len(found) > 1
        for number, generation in enumerate(found, start=1):
            assert generation.index == number
            assert generation.candidates.dtype == np.int64
            assert generation.candidates.shape == (len(generation.candidates), 6)
            assert len(problem.space.misfits(generation.candidates)) == 0
            assert (generation.candidates[:, 3:] == generation.candidates[:, 3:4]).all()

    def test_nothing_is_asked_for_twice(self, algorithm):
        found = rows(asked(of_weights(), algorithm, most=20))
        assert len(found) == len(set(found)) > 10

    def test_what_is_known_is_not_asked_for(self, algorithm, is_informed):
        problem = of_weights()
        known = list(problem.measure(problem.space.uniform()))
        found = asked(problem, algorithm, known=known)
        assert not {evaluation.candidate for evaluation in known} & set(rows(found))
        if is_informed:  # the first generation would have held nothing else
            assert len(found[0].candidates) == 0
            others = rows(asked(of_weights(), algorithm))
            assert rows(found) == others[len(known) :][: len(rows(found))]

    def test_it_ends_when_the_space_is_exhausted(self, algorithm, monkeypatch):
        monkeypatch.setattr("qexplore.search.algorithms._IDLE_GENERATIONS", 3)
        problem = tiny_problem(upper=3)
        found = asked(problem, algorithm, most=1000)
        assert len(found) < 1000
        assert set(rows(found)) <= set(every_candidate(problem))
        if algorithm in (*GUIDED, "random"):
            assert set(rows(found)) == set(every_candidate(problem))

    def test_a_space_of_one_candidate_is_a_space(self, algorithm):
        assert rows(asked(tiny_problem(lower=4), algorithm)) == [(4, 4, 4)]

    def test_the_same_seed_proposes_the_same_and_another_seed_something_else(self, algorithm):
        problem = of_weights()

        def run(seed):
            return [generation.candidates.tolist() for generation in asked(problem, algorithm, seed=seed, most=6)]

        assert run(1) == run(1)
        if algorithm != "greedy":  # it draws nothing
            assert run(1) != run(2)

    def test_no_global_random_state_is_touched(self, algorithm):
        problem = of_weights()
        before = random_state()
        asked(problem, algorithm, most=4)
        assert random_state() == before

    def test_the_model_is_left_as_it_was(self, algorithm):
        problem = of_weights()
        problem.model.num_bits = [5, 0, 7, 3, 4, 5]
        version, bits = problem.model.version(), problem.model.num_bits.tolist()
        asked(problem, algorithm, most=4)
        assert (problem.model.version(), problem.model.num_bits.tolist()) == (version, bits)

    @pytest.mark.parametrize("allowed", [0.0, 100.0])
    def test_it_measures_nothing_but_the_table_it_is_allowed(self, algorithm, is_informed, allowed, monkeypatch):
        problem = of_weights(lower=3, upper=4)
        list(problem.measure(every_candidate(problem)))  # so that `asked` need not measure either
        count, asks = Count(monkeypatch), []

        def allowance():
            asks.append(1)
            return allowed

        found = asked(problem, algorithm, most=6, allowance=allowance)
        assert count.calls["evaluate"] <= len(found)  # by `asked` itself, of no candidates
        assert count.calls["scores_on_subset"] == (is_informed and allowed > 0)
        assert bool(asks) == is_informed
        spent = sum(generation.num_passes for generation in found)
        assert 0 <= spent <= allowed
        assert (spent > 0) == (is_informed and allowed > 0)

    def test_failed_and_stopped_candidates_may_be_told(self, algorithm):
        problem = tiny_problem(upper=6, min_accuracy=0.8)
        broken = {tuple(row) for row in problem.space.random(60, np.random.default_rng(0)).tolist()} - {(6, 6, 6)}
        settings = SearchSettings(1, algorithm, population_size=6)
        generations = Generations(problem, settings, reference_point(problem, ()))
        told = []
        while len(told) < 60 and (generation := generations.ask()) is not None:
            limits = np.full(len(generation.candidates), 0.85)
            evaluations = [
                failed(evaluation) if evaluation.candidate in broken else evaluation
                for evaluation in problem.measure(generation.candidates, must_beat=limits)
            ]
            generations.tell(evaluations)
            told += evaluations
        assert len({evaluation.candidate for evaluation in told}) == len(told) > 6


def failed(evaluation):
    return type(evaluation)(evaluation.candidate, "failed", reason="broken", num_samples=0)
