"""The problem under pymoo's own algorithms."""

import copy

import numpy as np
import pytest
from networks import digits
from problems import (
    Watched,
    correct,
    every_candidate,
    raising,
    random_state,
    state_of,
    tiny_model,
    tiny_problem,
    true_front,
)
from pymoo.algorithms.moo.dnsga2 import DNSGA2
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.rnsga2 import RNSGA2
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.constraints.as_obj import ConstraintsAsObjective
from pymoo.constraints.as_penalty import ConstraintsAsPenalty
from pymoo.constraints.from_bounds import ConstraintsFromBounds
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from pymoo.problems.multi_to_single import MultiToSingleObjective
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

import qexplore as qx
from qexplore.errors import ProblemError


def default_operators(population=8):
    return NSGA2(pop_size=population)


def rounded_operators(population=8):
    return NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )


def arrays(result):
    order = np.lexsort(result.F.T)
    return np.rint(result.X[order]).tolist(), result.F[order].tolist()


@pytest.mark.parametrize("build", [default_operators, rounded_operators])
def test_minimize_twice_gives_the_same_front(build):
    def run(seed):
        return minimize(tiny_problem(upper=8, min_accuracy=0.8), build(), ("n_gen", 5), seed=seed)

    first, second = run(1), run(1)
    assert arrays(first) == arrays(second)
    assert np.array_equal(first.X, second.X)
    for genes, (minus_accuracy, bits) in zip(np.rint(first.X), first.F, strict=True):
        assert -minus_accuracy == correct(tiny_model(), genes.astype(int)) / 400 >= 0.8
        assert bits == genes.sum()
    assert (first.G <= 0).all()


@pytest.mark.parametrize("build", [default_operators, rounded_operators])
def test_another_seed_searches_elsewhere(build):
    problems = [tiny_problem(upper=8), tiny_problem(upper=8)]
    for seed, problem in enumerate(problems):
        minimize(problem, build(), ("n_gen", 3), seed=seed)
    first, second = ({e.candidate for e in problem.evaluations} for problem in problems)
    assert first != second


ALGORITHMS = {
    "SMS-EMOA": lambda: SMSEMOA(pop_size=6),
    "NSGA-III": lambda: NSGA3(get_reference_directions("uniform", 2, n_partitions=5), pop_size=6),
    "R-NSGA-II": lambda: RNSGA2(ref_points=np.array([[-0.9, 8.0], [-0.8, 6.0]]), pop_size=6),
}


@pytest.mark.parametrize("build", ALGORITHMS.values(), ids=ALGORITHMS)
def test_other_algorithms_search_the_problem_too(build):
    problem = tiny_problem(min_accuracy=0.75)
    result = minimize(problem, build(), ("n_gen", 6), seed=1)
    assert len(result.F) > 0
    assert (-result.F[:, 0] >= 0.75).all()
    for genes, f in zip(np.rint(result.X).astype(int), result.F, strict=True):
        assert -f[0] == correct(problem.model, genes) / 400


def test_a_whole_population_comes_in_one_call(monkeypatch):
    problem, shapes = tiny_problem(), []
    inner = problem._evaluate
    monkeypatch.setattr(problem, "_evaluate", lambda x, out, *args, **kw: (shapes.append(x.shape), inner(x, out)))
    minimize(problem, NSGA2(pop_size=7, eliminate_duplicates=False), ("n_gen", 3), seed=1)
    assert shapes == [(7, 3)] * 3


def test_the_front_of_what_was_seen_needs_no_exploration_of_ours():
    problem = tiny_problem(min_accuracy=0.8)
    minimize(problem, rounded_operators(), ("n_gen", 8), seed=1)
    front = problem.front()
    scored = [(e.score, sum(e.candidate)) for e in problem.evaluations if e.score >= 0.8]
    assert {(p.accuracy, p.total_bits) for p in front} == true_front(scored)
    assert not front.verified
    assert front.min_accuracy == 0.8
    assert front.float_accuracy == problem.float_accuracy == correct(problem.model, (0, 0, 0)) / 400
    assert front.point_names == ("input", "relu1", "relu2")


def test_the_objectives_of_every_candidate_are_those_of_a_plain_loop():
    problem = tiny_problem(min_accuracy=0.85)
    candidates = every_candidate(problem)
    out = problem.evaluate(np.array(candidates), return_as_dictionary=True)
    for candidate, f, g in zip(candidates, out["F"], out["G"], strict=True):
        accuracy = correct(problem.model, candidate) / 400
        assert f.tolist() == [-accuracy, sum(candidate)]
        assert g.tolist() == [0.85 - accuracy]


def test_float_genes_are_rounded_half_to_even_and_kept_within_the_limits():
    problem = tiny_problem()
    genes = np.array([[2.4, 2.6, 3.49], [2.5, 3.5, 4.4999], [-7.0, 99.0, 3.0], [1.51, 4.49, 2.0]])
    expected = np.array([[2, 3, 3], [2, 4, 4], [2, 4, 3], [2, 4, 2]])
    assert np.array_equal(problem.evaluate(genes)[0], problem.evaluate(expected)[0])
    assert {e.candidate for e in problem.evaluations} == {(4, 4, 4), *map(tuple, expected.tolist())}


@pytest.mark.parametrize("metric", [qx.negative_log_likelihood, qx.perplexity], ids=lambda metric: metric.name)
def test_where_lower_is_better_the_score_itself_is_minimised(metric):
    problem = tiny_problem(metric, min_accuracy=2.0)
    out = problem.evaluate(np.array([(4, 4, 4), (2, 2, 2)]), return_as_dictionary=True)
    good, bad = problem.measure([(4, 4, 4), (2, 2, 2)])
    assert good.score < bad.score
    assert out["F"].tolist() == [[good.score, 12], [bad.score, 6]]
    assert out["G"].tolist() == [[good.score - 2.0], [bad.score - 2.0]]
    assert problem.is_feasible(good)


def test_without_a_min_accuracy_every_score_is_acceptable():
    out = tiny_problem().evaluate(np.array([(4, 4, 4), (2, 2, 2)]), return_as_dictionary=True)
    assert out["G"].tolist() == [[], []]


UNBOUNDED = qx.Metric(lambda output, target: 50 * qx.top1_accuracy(output, target), "points")
FAILING = {
    "bounded, constrained": (qx.top1_accuracy, 0.8),
    "bounded, free": (qx.top1_accuracy, None),
    "unbounded, constrained": (UNBOUNDED, 40.0),
    "unbounded, free": (UNBOUNDED, None),
    "lower is better, constrained": (qx.negative_log_likelihood, 3.0),
    "lower is better, free": (qx.negative_log_likelihood, None),
}


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING)
def test_a_failed_candidate_is_finitely_worse_than_every_other_and_never_feasible(case):
    metric, min_accuracy = case
    calls = []

    def failing(output, target):
        calls.append(1)
        if len(calls) == 3:  # the first two measure the float network and the widest candidate
            raise RuntimeError("out of luck")
        return metric(output, target)

    problem = tiny_problem(
        qx.Metric(failing, metric.name, metric.higher_is_better, metric.range),
        min_accuracy=min_accuracy,
        engine="direct",
    )
    candidates = np.array(every_candidate(problem))
    out = problem.evaluate(candidates, return_as_dictionary=True)
    assert np.isfinite(out["F"]).all() and np.isfinite(out["G"]).all()
    assert out["G"].shape == (27, problem.n_ieq_constr) == (27, min_accuracy is not None)
    assert (out["G"][0] > 0).all()
    assert (out["G"][0] >= out["G"]).all()
    assert (out["F"][0] >= out["F"]).all()
    assert (out["F"][0, 0] > out["F"][1:, 0]).all()
    assert [e.candidate for e in problem.evaluations if e.state == "failed"] == [(2, 2, 2)]
    assert (2, 2, 2) not in set(map(tuple, problem.front().num_bits.tolist()))
    result = minimize(problem, rounded_operators(), ("n_gen", 6), seed=1)
    assert (2, 2, 2) not in set(map(tuple, np.rint(result.X).astype(int).tolist()))


def test_a_search_in_which_nothing_works_is_empty_and_not_a_crash():
    metric = Watched(at=range(3, 1000), do=raising(RuntimeError("never again")))
    problem = tiny_problem(metric, min_accuracy=0.1, engine="direct")
    # Only the widest candidate works: it was measured when the problem was built.
    minimize(problem, rounded_operators(), ("n_gen", 3), seed=1)
    assert [point.num_bits for point in problem.front()] == [(4, 4, 4)]


def test_no_candidates_have_no_objectives():
    problem = tiny_problem()
    assert problem.objectives([]).shape == (0, 2)
    assert problem.constraints([]).shape == (0, 0)
    assert list(problem.measure(np.empty((0, 3)))) == []


def test_a_copy_of_the_problem_is_one_of_its_own_that_shares_network_data_and_memory():
    problem = tiny_problem()
    copied = copy.deepcopy(problem)
    copied.n_obj = 5
    assert (type(copied), problem.n_obj) == (type(problem), 2)
    assert (copied.model, copied.direct, copied.evaluator) == (problem.model, problem.direct, problem.evaluator)
    list(copied.measure([(2, 3, 4)]))
    assert (2, 3, 4) in {known.candidate for known in problem.evaluations}
    algorithm = default_operators()
    algorithm.setup(problem, seed=1)
    assert copy.deepcopy(algorithm).problem.model is problem.model


class Decomposed:
    """The sum of both objectives, as a decomposition of pymoo."""

    def do(self, objectives):
        return objectives.sum(axis=1)


META = {
    "ConstraintsAsObjective": (ConstraintsAsObjective, 3),
    "ConstraintsFromBounds": (ConstraintsFromBounds, 2),
    "MultiToSingleObjective": (lambda problem: MultiToSingleObjective(problem, Decomposed(), {}), 1),
    "ConstraintsAsPenalty": (lambda p: ConstraintsAsPenalty(MultiToSingleObjective(p, Decomposed(), {})), 1),
    "StaticProblem": (lambda problem: StaticProblem(problem, F=np.zeros((1, 2)), G=np.zeros((1, 1))), 2),
    "a copy": (lambda problem: copy.deepcopy(MultiToSingleObjective(problem, Decomposed(), {})), 1),
}


@pytest.mark.parametrize(("wrap", "num_objectives"), META.values(), ids=META)
def test_pymoos_meta_problems_leave_the_problem_that_they_wrap_as_it_was(wrap, num_objectives):
    problem = tiny_problem(min_accuracy=0.8)
    candidates = np.array([(4, 4, 4), (2, 2, 2)])
    before = problem.evaluate(candidates, return_as_dictionary=True)
    held = dict(vars(problem))
    wrapped = wrap(problem)
    assert wrapped.evaluate(candidates[:1], return_values_of=["F", "G", "H"], return_as_dictionary=True)["F"].size
    assert wrapped.n_obj == num_objectives
    assert vars(problem) == held and problem.n_obj == 2
    after = problem.evaluate(candidates, return_as_dictionary=True)
    assert (before["F"].tolist(), before["G"].tolist()) == (after["F"].tolist(), after["G"].tolist())
    assert len(explored_front(problem)) > 0


def explored_front(problem):
    return qx.explore(problem, max_evaluations=20, seed=1, progress=False).front


def test_where_nothing_is_required_algorithms_without_constraints_search_the_problem():
    directions = get_reference_directions("das-dennis", 2, n_partitions=5)
    for algorithm in (MOEAD(directions, n_neighbors=3), DNSGA2(pop_size=6)):
        problem = tiny_problem()
        assert len(minimize(problem, algorithm, ("n_gen", 3), seed=1).F) > 0
        assert len(problem.evaluations) > 5


@pytest.mark.parametrize(
    ("genes", "sentence"),
    [
        ([[2, 3, np.nan]], r"genes must be finite, got nan in row 0 at place 2"),
        ([[2, 3, 4], [2, np.inf, 4]], r"genes must be finite, got inf in row 1 at place 1"),
        ([[2, 3]], r"genes must have shape \[N, 3\], one number a choice to make, got \(1, 2\)"),
        ([[[2, 3, 4]]], r"got \(1, 1, 3\)"),
        ([["a", "b", "c"]], "genes must be numbers"),
    ],
)
def test_genes_that_are_no_candidates_are_refused_in_a_sentence(genes, sentence):
    problem = tiny_problem()
    with pytest.raises(ProblemError, match=sentence):
        problem._evaluate(np.array(genes), {})
    with pytest.raises(ProblemError, match=sentence.replace("genes", "candidates")):
        list(problem.measure(genes))


def test_candidates_between_two_choices_are_refused():
    with pytest.raises(ProblemError, match="candidates must hold whole numbers"):
        list(tiny_problem().measure([[2, 3, 3.7]]))


def test_a_search_leaves_model_and_random_state_as_they_were():
    model = tiny_model().train()
    model.num_bits = [5, 0, 7]
    before = state_of(model)
    problem = tiny_problem(model=model)
    drawn = random_state()
    problem.evaluate(np.array(every_candidate(problem)))
    assert state_of(model) == before
    assert random_state() == drawn


def test_limits_may_differ_between_points():
    problem = tiny_problem(lower=[2, 3, 4], upper=[2, 4, 8])
    assert (problem.xl.tolist(), problem.xu.tolist()) == ([2, 3, 4], [2, 4, 8])
    assert (problem.n_var, problem.n_obj, problem.n_ieq_constr) == (3, 2, 0)
    result = minimize(problem, rounded_operators(), ("n_gen", 4), seed=1)
    assert ((np.rint(result.X) >= problem.xl) & (np.rint(result.X) <= problem.xu)).all()


def test_an_unsigned_point_may_have_one_bit():
    problem = tiny_problem(lower=1)
    (one,) = problem.measure([(1, 1, 1)])
    assert one.score == correct(problem.model, (1, 1, 1)) / 400
    assert digits().calibration.x.min() >= 0
