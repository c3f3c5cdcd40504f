"""A candidate is measured once, and forgotten when what it was measured on has changed."""

import copy

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import correct, every_candidate, raising, tiny_model, tiny_network, tiny_problem
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize


class Forwards:
    """Counts forwards of the network; one evaluation is one, as the search set is one batch."""

    def __init__(self, network):
        self.count = 0
        network.fc1.register_forward_hook(self)

    def __call__(self, module, args, output):
        self.count += 1

    def during(self, action):
        before = self.count
        action()
        return self.count - before


@pytest.fixture
def counted():
    network = tiny_network()
    model = tiny_model(network)
    forwards = Forwards(network)
    return tiny_problem(model=model, engine="direct"), model, forwards


def test_a_candidate_is_measured_once(counted):
    problem, _, forwards = counted
    assert forwards.count == 2  # the float network and the widest candidate
    candidates = every_candidate(problem)
    assert forwards.during(lambda: problem.evaluate(np.array(candidates))) == 26
    assert forwards.during(lambda: problem.evaluate(np.array(candidates[::-1]))) == 0
    assert forwards.during(lambda: list(problem.measure(np.array(candidates, dtype=float)))) == 0
    assert forwards.during(lambda: problem.front()) == 0
    assert len(problem.evaluations) == 27


def test_a_search_measures_what_it_has_not_seen_only(counted):
    problem, _, forwards = counted
    searched = forwards.during(lambda: minimize(problem, NSGA2(pop_size=10), ("n_gen", 8), seed=1))
    assert searched == len(problem.evaluations) - 1 <= 26


def test_a_failed_candidate_is_remembered_too(counted):
    problem, model, forwards = counted
    handle = model.model.fc2.register_forward_hook(lambda *_: raising(RuntimeError("broken"))(None))
    (failed,) = problem.measure([(2, 2, 2)])
    handle.remove()
    assert failed.state == "failed"
    assert forwards.during(lambda: list(problem.measure([(2, 2, 2)]))) == 0


def scale_weight(model):
    model.model.fc2.weight.mul_(1.25)


def scale_data(model):
    model.model.fc2.weight.data *= 1.25


def flip_data(model):
    model.model.fc2.weight.data.copy_(model.model.fc2.weight.data.flip(0))


def negate_data(model):
    model.model.fc2.weight.data.neg_()


def replace_parameter(model):
    model.model.fc2.bias = torch.nn.Parameter(model.model.fc2.bias + 1)


def replace_module(model):
    model.model.fc2 = torch.nn.Linear(16, 12)


def load_state(model):
    other = tiny_network()
    other.fc1.weight.mul_(0.75)
    model.model.load_state_dict(other.state_dict())


def train_a_step(model):
    network = model.model.requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    x, y = digits().train
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def set_amax(model):
    model.activation_fake_quantizers["relu1"].amax = 2.0


def fill_amax(model):
    model.activation_fake_quantizers["relu1"].amax.fill_(2.0)


def disable(model):
    model.activation_fake_quantizers["relu1"].disable()


def calibrate_again(model):
    model.calibrate([digits().calibration.x[:20] / 2])


def change_sign(model):
    model.activation_fake_quantizers["relu1"].unsigned = False


def narrow_range(model):
    model.activation_fake_quantizers["input"].unsigned = False
    model.activation_fake_quantizers["input"].narrow_range = True


CHANGES = [
    scale_weight,
    scale_data,
    flip_data,
    negate_data,
    replace_parameter,
    replace_module,
    load_state,
    train_a_step,
    set_amax,
    fill_amax,
    disable,
    calibrate_again,
    change_sign,
    narrow_range,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_by_hand_makes_the_problem_forget(counted, change):
    problem, model, _ = counted
    candidates = [(3, 3, 3), (4, 2, 3)]
    list(problem.measure(candidates))
    change(model)
    fresh = [correct(model, candidate) / 400 for candidate in candidates]
    assert [e.score for e in problem.measure(candidates)] == fresh
    assert len(problem.evaluations) == 2
    assert problem.float_accuracy == correct(model, (0, 0, 0)) / 400
    assert problem.front().float_accuracy == problem.float_accuracy


def test_enabling_a_quantizer_again_makes_the_problem_forget(counted):
    problem, model, _ = counted
    quantizer = model.activation_fake_quantizers["relu2"]
    quantizer.disable()
    (off,) = problem.measure([(3, 3, 2)])
    assert off.candidate == (3, 3, 0)
    quantizer.enable()
    (on,) = problem.measure([(3, 3, 2)])
    assert (on.candidate, on.score) == ((3, 3, 2), correct(model, (3, 3, 2)) / 400)


@pytest.mark.parametrize("widths", [[2, 2, 2], [8, 0, 3], [None, 0, 0], [16, 16, 16]])
def test_widths_set_by_hand_do_not_make_the_problem_forget(counted, widths):
    problem, model, forwards = counted
    expected = [e.score for e in problem.measure(every_candidate(problem))]
    model.num_bits = widths
    assert forwards.during(lambda: problem.evaluations) == 0
    assert [e.score for e in problem.measure(every_candidate(problem))] == expected
    assert forwards.count == 28
    model.activation_fake_quantizers["relu1"].num_bits = 7
    assert forwards.during(lambda: list(problem.measure(every_candidate(problem)))) == 0


def test_using_or_moving_or_copying_the_model_does_not_make_the_problem_forget(counted):
    problem, model, forwards = counted
    list(problem.measure([(2, 3, 2)]))
    model.train()
    model.eval()
    copy.deepcopy(model)
    model.cpu()
    model(digits().report.x)
    model.describe()
    model.load_state_dict(model.state_dict())
    assert forwards.during(lambda: list(problem.measure([(2, 3, 2)]))) in (0, 2)
    again = forwards.during(lambda: list(problem.measure([(2, 3, 2)])))
    assert again == 0


def test_a_disabled_quantizer_counts_as_a_float(counted):
    problem, model, _ = counted
    model.activation_fake_quantizers["relu1"].disable()
    (evaluation,) = problem.measure([(3, 3, 3)])
    assert problem.objectives([evaluation]).tolist() == [[-evaluation.score, 3 + 32 + 3]]


def test_a_quantizer_disabled_before_stays_out_of_the_space():
    model = tiny_model()
    model.activation_fake_quantizers["relu1"].disable()
    problem = tiny_problem(model=model)
    assert problem.space.size == 9
    assert (problem.xl.tolist(), problem.xu.tolist()) == ([2, 0, 2], [4, 0, 4])
    (evaluation,) = problem.measure([(3, 3, 3)])
    assert (evaluation.candidate, evaluation.score) == ((3, 0, 3), correct(model, (3, 0, 3)) / 400)


def test_one_calibration_set_or_another_makes_a_difference():
    model = tiny_model()
    problem = tiny_problem(model=model)
    before = [e.score for e in problem.measure([(3, 3, 3)])]
    model.calibrate(batches(digits().train))
    assert [e.score for e in problem.measure([(3, 3, 3)])] == [correct(model, (3, 3, 3)) / 400]
    model.calibrate(batches(digits().calibration))
    assert [e.score for e in problem.measure([(3, 3, 3)])] == before
