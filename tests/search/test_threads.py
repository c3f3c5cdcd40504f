"""What sets a model's state is one thread's at a time: answers are those of one thread, the model stays as it was."""

import copy
import pickle
import sys
import threading
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from problems import random_state, search_loader, state_of, tiny_network, tiny_problem, weighted_model
from pymoo.core.problem import ElementwiseProblem
from pymoo.parallelization.starmap import StarmapParallelization
from torch import nn
from torch.nn.utils import parametrize

import qexplore as qx
from qexplore import predicates

ROUNDS = 3


def whole_accuracy(model, loader):
    return float(sum((model(x).argmax(1) == y).float().sum() for x, y in loader) / 400)


def opaque_model():
    """Falls back to the direct evaluator."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x):
            return self.inner(x) if x.sum() > -1 else self.inner(-x)

    model = qx.QuantizedModel(Branching(), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([search_loader()[0][0]], weight_method="max")
    return model


PROBLEMS = {
    "direct": lambda: tiny_problem(model=weighted_model(), loader=search_loader(100), engine="direct"),
    "steps": lambda: tiny_problem(model=weighted_model(), loader=search_loader(100)),
    "fallback": lambda: tiny_problem(model=opaque_model(), loader=search_loader(100)),
    "whole set": lambda: tiny_problem(qx.whole_set(whole_accuracy), model=weighted_model(), loader=search_loader(100)),
}


def candidates(count=12, seed=0):
    return np.random.default_rng(seed).integers(2, 5, size=(count, 6))


def in_threads(*functions):
    """What each returns, all at once; none may hang."""
    with ThreadPool(len(functions)) as pool:
        waiting = [pool.apply_async(function) for function in functions]
        return [one.get(timeout=60) for one in waiting]


@pytest.mark.parametrize("kind", PROBLEMS)
def test_rows_evaluated_in_threads_have_the_scores_of_one_thread(kind):
    expected = PROBLEMS[kind]()
    X = candidates()
    F = [expected.evaluate(row[None], return_values_of=["F"])[0].tolist() for row in X]
    problem = PROBLEMS[kind]()
    problem.model.num_bits = [8, 5, 0, 7, 3, 2]
    before = state_of(problem.model)
    known = dict(problem._memory._known)
    for _ in range(ROUNDS):
        problem._memory._known = dict(known)
        with ThreadPool(3) as pool:
            found = pool.map(lambda row: problem.evaluate(row[None], return_values_of=["F"])[0].tolist(), X)
        assert found == F
        assert state_of(problem.model) == before
        front, right = problem.front(), expected.front()
        assert front.num_bits.tolist() == right.num_bits.tolist()
        assert front.accuracy.tolist() == right.accuracy.tolist()


def test_starmap_parallelization_of_pymoo_gives_the_scores_of_one_thread():
    problem, plain = PROBLEMS["direct"](), PROBLEMS["direct"]()

    class Elementwise(ElementwiseProblem):
        def _evaluate(self, x, out):
            out["F"] = problem.evaluate(x[None], return_values_of=["F"])[0]

    with ThreadPool(3) as pool:
        own = {"n_var": 6, "n_obj": 2, "xl": 2, "xu": 4}
        parallel = Elementwise(**own, elementwise_runner=StarmapParallelization(pool.starmap))
        np.testing.assert_array_equal(
            parallel.evaluate(candidates(), return_values_of=["F"]),
            plain.evaluate(candidates(), return_values_of=["F"]),
        )


@pytest.mark.parametrize("engine", ["direct", "auto"])
def test_two_problems_on_one_model_and_its_other_users_do_not_disturb_each_other(engine):
    def both(run):
        model = weighted_model()
        first = tiny_problem(model=model, loader=search_loader(100), engine=engine)
        second = tiny_problem(qx.negative_log_likelihood, model=model, loader=search_loader(50), engine=engine)
        x, L = search_loader(64)[0][0], len(model.points)
        model.num_bits = [3] * L

        def outputs():
            with model.using([2] * L), torch.no_grad():
                return model(x).tolist()

        return run(
            lambda: [e.score for e in first.measure(candidates())],
            lambda: [e.score for e in second.measure(candidates(seed=1))],
            lambda: [e.score for e in second.measure_directly(candidates(3, seed=2))],
            lambda: [outputs() for _ in range(10)],
            lambda: [model.num_bits.tolist() for _ in range(50)],
            lambda: [str(qx.analyze(model, [x], 4)) for _ in range(2)],
            lambda: [str(model.describe(x)) for _ in range(5)],
            lambda: qx.sensitivity(first, "mse").values,
        )

    assert both(in_threads) == both(lambda *functions: [function() for function in functions])


def test_training_and_calibrating_wait_for_evaluations_and_they_for_them():
    def run(start):
        model = weighted_model(tiny_network().requires_grad_(True))
        problem = tiny_problem(model=model, loader=search_loader(100), engine="direct")
        F = torch.nn.functional.cross_entropy
        list(problem.measure(candidates()))
        start(
            lambda: qx.fine_tune(model, [3] * 6, search_loader(200), F, epochs=1, metric=qx.top1_accuracy),
            lambda: [list(problem.measure(candidates(seed=seed))) for seed in (3, 4)],
        )
        known = {e.candidate: e.score for e in problem.evaluations}
        direct = {e.candidate: e.score for e in problem.measure_directly(np.array(list(known)))} if known else {}
        return known, direct, [parameter.tolist() for parameter in model.model.parameters()]

    known, direct, weights = run(in_threads)
    assert known == direct  # nothing of the model as it was before is remembered
    assert weights == run(lambda *functions: [function() for function in functions])[2]


def test_a_thread_waits_for_the_block_that_uses_the_model_and_an_error_sets_it_free():
    model, order = weighted_model(), []

    def other():
        order.append(model.num_bits.tolist())

    thread = threading.Thread(target=other)
    with pytest.raises(ZeroDivisionError), model.using([2] * 6):
        thread.start()
        thread.join(timeout=0.2)
        order.append("using")
        raise ZeroDivisionError
    thread.join(timeout=20)
    assert order == ["using", [8] * 6]


def test_copies_of_a_model_are_free_while_it_is_used():
    model = weighted_model()
    with model.using([3] * 6):
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert in_threads(lambda copied=copied: copied.num_bits.tolist()) == [[3] * 6]


COPIES = {
    "itself": lambda model: model,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_weights_are_not_taken_from_a_cache_that_others_opened(copied):
    problem = tiny_problem(model=copied(weighted_model(tiny_network())), loader=search_loader(100), engine="direct")
    expected = [e.score for e in problem.measure_directly(candidates())]
    with parametrize.cached():
        assert [e.score for e in problem.measure_directly(candidates())] == expected


class Drawing(nn.Module):
    """The trained network, whose outputs depend on random numbers."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x) + 3 * torch.rand(len(x), 10)


@pytest.mark.parametrize("network", [tiny_network, Drawing])
def test_explorations_in_threads_go_as_one_after_the_other_and_leave_the_random_state(network):
    def both(run):
        model = qx.QuantizedActivationsModel(network(), predicates.by_type(nn.ReLU))
        model.calibrate([search_loader()[0][0]])
        problems = [tiny_problem(model=copy.deepcopy(model), loader=search_loader(100)) for _ in range(2)]

        def explored(problem, seed):
            found = qx.explore(problem, max_evaluations=12, seed=seed)
            history = [(one.num_evaluations, one.hypervolume) for one in found.history]
            return found.front.num_bits.tolist(), found.front.accuracy.tolist(), found.engine, history

        return run(*(lambda one=one, seed=seed: explored(one, seed) for seed, one in enumerate(problems)))

    expected, before = both(lambda *functions: [function() for function in functions]), random_state()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        assert both(in_threads) == expected
    finally:
        sys.setswitchinterval(interval)
    assert random_state() == before
