"""A problem takes a ready plan of choices in the place of the arguments that make one."""

import numpy as np
import pytest
from problems import search_loader, tiny_model, tiny_network, weighted_model
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ModelError, ProblemError

ASKED = {"pinned": {"input": 8}, "tied": [("fc1.weight", "fc2.weight")], "first_last": 6}


def test_a_problem_with_a_ready_plan_is_the_problem_with_what_made_it():
    model = weighted_model()
    plan = qx.plan_choices(model, {"weights": (2, 4, "E4M3")}, **ASKED)
    ready = qx.LayerwiseQuantizationProblem(model, search_loader(), choices=plan, max_drop=0.1)
    made = qx.LayerwiseQuantizationProblem(
        model, search_loader(), choices={"weights": (2, 4, "E4M3")}, max_drop=0.1, **ASKED
    )
    assert ready.plan is plan
    assert (ready.space, ready.plan) == (made.space, made.plan)
    fronts = [
        qx.explore(problem, max_evaluations=30, seed=1, progress=False, population_size=8).front
        for problem in (ready, made)
    ]
    assert np.array_equal(fronts[0].num_bits, fronts[1].num_bits)
    assert np.array_equal(fronts[0].accuracy, fronts[1].accuracy)


def test_limits_of_a_plans_target_count():
    model = tiny_model()
    plan = qx.plan_choices(model, target={"activations": [2, 4, 8], "limits": {"total_bits": 12}})
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), choices=plan)
    assert problem.limits.by_name["total_bits"] == 12
    assert problem.space.choices == ((2, 4, 8),) * 3


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        *(({name: value}, name) for name, value in ASKED.items()),
        ({"target": {"weights": [8]}}, "target"),
        ({"num_bits_lower_limit": 3}, "num_bits_lower_limit"),
        ({"num_bits_upper_limit": [8] * 6}, "num_bits_upper_limit"),
        ({"pinned": {"input": 8}, "first_last": 8}, "pinned and first_last"),
    ],
)
def test_a_plan_and_what_makes_one_are_not_taken_together(beside, named):
    model = weighted_model()
    with pytest.raises(ProblemError, match=f"`choices` is a plan already, so leave {named} out, and make the plan"):
        qx.LayerwiseQuantizationProblem(model, search_loader(), choices=qx.plan_choices(model), **beside)


def test_limits_are_for_points_that_choices_are_not_about():
    model = tiny_model()
    problem = qx.LayerwiseQuantizationProblem(
        model, search_loader(), choices={"input": (4, 16)}, num_bits_upper_limit=[8, 3, 4]
    )
    assert problem.space.choices == ((4, 16), (2, 3), (2, 3, 4))
    for choices in ((4, 8), {"input": (4,), "relu*": (4, 8)}):
        with pytest.raises(ProblemError, match="num_bits_upper_limit=4 must be left out .* gives 8 to '(input|relu1)'"):
            qx.LayerwiseQuantizationProblem(model, search_loader(), choices=choices, num_bits_upper_limit=4)
    qx.LayerwiseQuantizationProblem(model, search_loader(), choices=(4, 16), num_bits_lower_limit=3)


def test_a_plan_of_another_network_is_refused():
    other = qx.QuantizedActivationsModel(tiny_network(), predicates.by_type(nn.Linear))
    with pytest.raises(ProblemError, match="is a plan for other points than this model's"):
        qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(), choices=qx.plan_choices(other))
    same = qx.plan_choices(tiny_model())
    assert qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(), choices=same).space.size == 7**3


def test_fit_takes_a_plan_too():
    model = tiny_model()
    plan = qx.plan_choices(model, (3, 5))
    point = qx.fit(model, search_loader(), max_drop=0.1, choices=plan, max_evaluations=20, progress=False)
    assert set(point.num_bits) <= {3, 5}


@pytest.mark.parametrize("given", ["network", "detached"])
def test_a_plan_is_made_for_a_wrapped_network_only(given):
    model = qx.QuantizedActivationsModel(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), predicates.by_type(nn.ReLU))
    network = model.detach()
    with pytest.raises(ModelError, match="plan_choices takes a QuantizedModel, got Sequential|detached"):
        qx.plan_choices(network if given == "network" else model, (2, 4))
