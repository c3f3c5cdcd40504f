"""What a search is made of, pickled and brought back: the same answers, or a sentence that names what cannot be."""

import copy
import functools
import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from networks import batches, digits, trained
from problems import front_of_uniform, search_loader, tiny_model, tiny_network, tiny_problem, weighted_model
from pymoo.algorithms.moo.nsga2 import NSGA2
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import qexplore as qx
from qexplore import predicates
from qexplore.cost import COST_NAMES
from qexplore.errors import MetricError, ModelError, ProblemError


def brought_back(thing):
    return pickle.loads(pickle.dumps(thing))


def records(evaluations):
    return [(e.candidate, e.state, e.score, e.interval, e.further, e.num_samples) for e in evaluations]


def some_candidates(problem, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(2, 7, (12, problem.space.num_points))


@pytest.mark.parametrize("engine", ["prefix", "direct"])
@pytest.mark.parametrize("wrapped", [tiny_model, weighted_model])
def test_a_problem_comes_back_with_its_memory_and_the_same_answers(wrapped, engine):
    problem = qx.LayerwiseQuantizationProblem(
        wrapped(), search_loader(100), [qx.top1_accuracy, qx.perplexity], max_drop=[0.5, 5], costs=COST_NAMES,
        engine=engine, pinned={"relu2": 4},
    )  # fmt: skip
    list(problem.measure(problem.space.uniform()))
    known = problem.evaluations
    again = brought_back(problem)
    assert records(again.evaluations) == records(known)
    assert str(again.front()) == str(problem.front())
    assert (again.float_accuracy, again.min_accuracy) == (problem.float_accuracy, problem.min_accuracy)
    assert str(again.describe()) == str(problem.describe())
    rows = some_candidates(problem)
    assert records(again.measure(rows)) == records(problem.measure(rows))
    assert np.array_equal(again.costs_of(rows), problem.costs_of(rows))
    assert qx.sensitivity(again, num_samples=50) == qx.sensitivity(problem, num_samples=50)
    for one, other in zip(
        again.evaluate(problem.space.narrowest), problem.evaluate(problem.space.narrowest), strict=True
    ):
        assert np.array_equal(one, other)
    assert len(problem.evaluations) == len(again.evaluations) > len(known)


def test_a_problem_whose_network_has_changed_is_measured_anew_where_it_comes_back():
    problem = tiny_problem()
    list(problem.measure(problem.space.uniform()))
    problem.model.model.fc3.weight.zero_()
    again = brought_back(problem)
    assert again.evaluations == ()
    assert again.float_accuracy == problem.float_accuracy < 0.2
    problem = brought_back(tiny_problem())
    problem.model.model.fc3.weight.zero_()
    assert problem.float_accuracy < 0.2


def test_a_loader_that_can_be_read_once_is_not_missed():
    problem = tiny_problem(loader=iter(search_loader(100)))
    assert records(brought_back(problem).evaluations) == records(problem.evaluations)


@pytest.mark.parametrize("wrapped", [tiny_model, weighted_model])
def test_a_model_comes_back_whole_and_apart_from_the_one_that_stayed(wrapped):
    model, x = wrapped(), digits().search.x
    model.num_bits = [4] * len(model.points)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (brought_back(model), torch.load(file, weights_only=False)):
        assert torch.equal(again(x), model(x))
        assert str(again.describe()) == str(model.describe())
        expected = model(x)
        again.num_bits = [2] * len(model.points)
        assert not torch.equal(again(x), expected) and torch.equal(model(x), expected)
        again.calibrate([x])
        network = again.detach()
        assert torch.equal(network(x), tiny_network()(x)) and type(network.fc1) is nn.Linear
        assert torch.equal(model(x), expected)
        assert torch.equal(brought_back(brought_back(model))(x), expected)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_network_with_parametrizations_of_its_own_comes_back():
    network = tiny_network()
    spectral_norm(network.fc1)
    parametrize.register_parametrization(network.fc2, "weight", Doubled())
    model = tiny_model(network)
    again = brought_back(model)
    assert torch.equal(again(digits().search.x), model(digits().search.x))
    assert torch.equal(copy.deepcopy(model)(digits().search.x), model(digits().search.x))


def test_pymoos_algorithm_goes_on_from_a_checkpoint_as_if_nothing_had_been():
    def begun():
        algorithm = NSGA2(pop_size=6)
        problem = qx.LayerwiseQuantizationProblem(weighted_model(), search_loader())
        algorithm.setup(problem, seed=1, termination=("n_gen", 4))
        algorithm.next()
        return algorithm

    straight, stopped = begun(), brought_back(begun())
    for algorithm in (straight, stopped):
        while algorithm.has_next():
            algorithm.next()
    assert np.array_equal(straight.result().F, stopped.result().F)
    assert str(straight.problem.front()) == str(stopped.problem.front())


def test_what_a_search_hands_out_comes_back():
    problem = tiny_problem()
    exploration = qx.explore(problem, max_evaluations=15, seed=0)
    again = brought_back(exploration)
    assert str(again) == str(exploration)
    assert np.array_equal(again.front.num_bits, exploration.front.num_bits)
    assert brought_back(exploration.front[0]).num_bits == exploration.front[0].num_bits
    for thing in (qx.sensitivity(problem, num_samples=9), problem.describe(), problem.plan, problem.model.describe()):
        assert str(brought_back(thing)) == str(thing)


@pytest.mark.parametrize(
    "metric",
    [qx.top1_accuracy, qx.topk_accuracy(2), qx.negative_log_likelihood, qx.perplexity, qx.over_labels(qx.perplexity)],
    ids=lambda metric: metric.name,
)
def test_a_metric_comes_back_the_same(metric):
    (output, target), again = (torch.randn(6, 4), torch.arange(6) % 4), brought_back(metric)
    assert torch.equal(again(output, target), metric(output, target))
    assert (again.name, again.range, again.is_mean) == (metric.name, metric.range, metric.is_mean)


def in_a_function():
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu1 = nn.ReLU()

        def forward(self, x):
            return self.relu1(x.flatten(1)[:, :10])

    return Local


def hooked():
    network = tiny_network()
    network.fc1.register_forward_hook(lambda module, inputs, output: None)
    return network


def normed():
    network = tiny_network()
    weight_norm(network.fc1)
    return network


@functools.cache
def named_nowhere():
    accuracy = lambda output, target: (output.argmax(1) == target).float()  # noqa: E731
    return {
        "metric": (qx.Metric(accuracy, "mine"), MetricError, "the metric 'mine' .* function named_nowhere.*<lambda>"),
        "whole set": (qx.whole_set(lambda model, loader: 1.0, name="all"), MetricError, "the metric 'all' .*<lambda>"),
        "mean": (qx.Metric(len, "mine", of_mean=lambda mean: mean), MetricError, "the metric 'mine' .*<lambda>"),
        "problem's metric": (tiny_problem(accuracy), MetricError, "the metric '<lambda>' .*instead of a lambda"),
        "unpack": (tiny_problem(unpack=lambda batch: batch), ProblemError, "a problem with `unpack` .*<lambda>"),
        "cost": (tiny_problem(costs=(local_cost(),)), ProblemError, "the cost 'cost' .*local_cost.*pickle with dill"),
        "class": (tiny_model(in_a_function()()), ModelError, "the model .* class in_a_function.<locals>.Local"),
        "torch's own hook": (tiny_model(normed()), ModelError, "the model .* function weight_norm.<locals>"),
        "hook": (tiny_model(hooked()), ModelError, "the model .* function hooked.<locals>.<lambda>"),
    }  # fmt: skip


def local_cost():
    def cost(candidates):
        return candidates.sum(axis=1)

    return cost


@pytest.mark.parametrize("case", list(named_nowhere()))
def test_what_pickle_cannot_find_is_named_and_copies_are_still_made(case):
    thing, error, sentence = named_nowhere()[case]
    with pytest.raises(error, match=sentence):
        pickle.dumps(thing)
    copy.deepcopy(thing)
    copy.copy(thing)


def test_a_network_rebuilt_from_its_graph_comes_back_with_its_hooks():
    network = qx.optimize_graph(trained("small_cnn"), digits().report.x[:4]).network
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([digits().report.x])
    model.num_bits = [3] * len(model.points)
    for again in (brought_back(brought_back(model)), copy.deepcopy(copy.deepcopy(model))):
        assert torch.equal(again(digits().report.x), model(digits().report.x))
        assert again.num_bits.tolist() == model.num_bits.tolist() and list(again.points) == list(model.points)
    assert tiny_problem(model=again).evaluator.description.startswith("prefix: ")


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_front():
    problem = qx.LayerwiseQuantizationProblem(weighted_model(), batches(digits().search))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(front_of_uniform, problem).result()
    assert there == front_of_uniform(problem)
