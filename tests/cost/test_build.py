"""Costs from names, tables, objects and functions; what is refused; and what can be reached."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from qexplore import predicates
from qexplore.cost import COST_NAMES, Cost, CostTable, TotalBits, build_costs, cheapest, marginal_costs, observe
from qexplore.errors import ProblemError
from qexplore.model import QuantizedActivationsModel, QuantizedModel

RELU = predicates.by_type(nn.ReLU)
CHOICES = ((2, 4, 8), (4, 1201, 403), (2, 8), (3, 0))


@pytest.fixture
def model() -> QuantizedModel:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    wrapped = QuantizedModel(network, RELU, predicates.by_type(nn.Linear))
    wrapped.describe(torch.ones(1, 4))
    return wrapped


def energy(candidates):
    return candidates.sum(axis=1) * 2.0


def test_names_tables_objects_and_functions_stand_side_by_side(model, tmp_path):
    class Squares:
        name, unit = "squares", "bits2"

        def cost(self, candidates):
            return (candidates**2).sum(axis=1)

    table = CostTable({("input", 8): 1.5, ("1", 8): 0.5, ("0.weight", 4): 1, ("2.weight", "off"): 2}, unit="ms")
    costs = build_costs(["total_bits", table, Squares(), energy], model)
    assert [(cost.name, cost.unit) for cost in costs] == [
        ("total_bits", "bits"),
        ("table", "ms"),
        ("squares", "bits2"),
        ("energy", ""),
    ]
    candidate = np.array([[8, 8, 4, 0]])
    assert [cost.cost(candidate).tolist() for cost in costs] == [[52.0], [5.0], [144.0], [40.0]]
    assert all(isinstance(cost, Cost) for cost in costs)


def test_one_cost_need_not_stand_in_a_list(model):
    assert [cost.name for cost in build_costs("mean_bits", model)] == ["mean_bits"]
    assert [cost.name for cost in build_costs(TotalBits(), model)] == ["total_bits"]
    assert build_costs((), model) == ()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            ["total_bitz"],
            "a cost must be one of 'activation_bytes', 'bops', .* got 'total_bitz': or give a qexplore.CostTable",
        ),
        (["bops", "total_bits", "bops"], "every cost must have a name of its own, got 'bops' 2 times"),
        ([TotalBits(), "total_bits"], "got 'total_bits' 2 times"),
        ([TotalBits], r"got <class .*TotalBits'>: make an object of the class, TotalBits\(...\)"),
        ([7], "a cost must be a name, a CostTable, an object .* got 7: the names are activation_bytes"),
    ],
)
def test_what_is_no_cost_is_refused(model, specs, message):
    with pytest.raises(ProblemError, match=message):
        build_costs(specs, model)


@pytest.mark.parametrize("name", ["weighted_bits", "mean_bits", "activation_bytes", "peak_activation_bytes", "bops"])
def test_cost_that_needs_a_forward_says_so(name):
    model = QuantizedActivationsModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), RELU)
    with pytest.raises(ProblemError, match=rf"the cost '{name}' must know .* call model.calibrate\(loader\) or"):
        build_costs(name, model)


@pytest.mark.parametrize("name", ["total_bits", "model_bits", "model_bytes"])
def test_cost_that_needs_no_forward_can_be_had_at_once(name):
    model = QuantizedActivationsModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), RELU)
    assert build_costs(name, model)[0].cost(np.array([[8, 8]])).shape == (1,)


def test_observation_without_a_forward_is_refused():
    model = QuantizedActivationsModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), RELU)
    with pytest.raises(ProblemError, match="must know what one forward does"):
        observe(model)


# A function that does not give costs


def nothing(candidates):
    return np.full(len(candidates), np.nan)


def endless(candidates):
    return [np.inf] * len(candidates)


def one_number(candidates):
    return 3.0


def a_matrix(candidates):
    return candidates


def words(candidates):
    return ["cheap"] * len(candidates)


def broken(candidates):
    raise KeyError("conv7")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing, r"the cost 'nothing' must be finite, got nan for the candidate \(2, 4, 2, 3\)"),
        (endless, "the cost 'endless' must be finite, got inf"),
        (
            one_number,
            r"the cost 'one_number' must give one number for each of 2 candidates, shape \(2,\), got shape \(\)",
        ),
        (a_matrix, r"the cost 'a_matrix' must give one number .* got shape \(2, 4\)"),
        (words, "the cost 'words' raised ValueError"),
        (broken, "the cost 'broken' raised KeyError: 'conv7'"),
    ],
)
def test_function_that_gives_no_costs_is_named(model, function, message):
    (cost,) = build_costs(function, model)
    with pytest.raises(ProblemError, match=message):
        cost.cost(np.array([[2, 4, 2, 3], [8, 8, 8, 8]]))


def test_function_cannot_change_the_candidates(model):
    def rude(candidates):
        candidates[:] = 0
        return np.zeros(len(candidates))

    candidates = np.array([[2, 4, 2, 3]])
    build_costs(rude, model)[0].cost(candidates)
    assert candidates.tolist() == [[2, 4, 2, 3]]


def test_object_may_refuse_choices_before_a_search(model):
    class Picky:
        name, unit = "picky", ""

        def cost(self, candidates):
            return np.zeros(len(candidates))

        def check(self, choices):
            raise ProblemError(f"no {choices[0]}")

    with pytest.raises(ProblemError, match=r"no \(2, 4, 8\)"):
        build_costs(Picky(), model)[0].check(CHOICES)


# What can be reached


def everything(choices):
    return np.array(list(itertools.product(*choices)), dtype=np.int64)


@pytest.mark.parametrize("name", COST_NAMES)
def test_cheapest_of_named_costs_is_that_of_all_candidates(model, name):
    (cost,) = build_costs(name, model)
    found = cheapest(cost, CHOICES)
    assert float(cost.cost(found[None])[0]) == cost.cost(everything(CHOICES)).min()
    assert all(code in row for code, row in zip(found.tolist(), CHOICES, strict=True))


def test_cheapest_of_a_table_need_not_be_the_narrowest(model):
    rows = {("input", 2): 5.0, ("input", 8): 1.0, ("1", 4): 2.0, ("1", "E4M3"): 2.5}
    rows |= {("0.weight", 8): 0.0, ("2.weight", 8): 0.0}
    (cost,) = build_costs(CostTable(rows), model)
    choices = ((2, 8), (4, 403), (8,), (8,))
    assert cheapest(cost, choices).tolist() == [8, 4, 8, 8]
    assert [row.tolist() for row in marginal_costs(cost, choices)] == [[4.0, 0.0], [0.0, 0.5], [0.0], [0.0]]


def test_cheapest_keeps_tied_points_alike(model):
    rows = {("input", 2): 5.0, ("input", 8): 1.0, ("1", 2): 2.0, ("1", 8): 2.5}
    rows |= {(name, bits): bits * 0.25 for name in ("0.weight", "2.weight") for bits in (2, 8)}
    (cost,) = build_costs(CostTable(rows), model)
    choices = ((2, 8),) * 4
    assert cheapest(cost, choices).tolist() == [8, 2, 2, 2]
    assert cheapest(cost, choices, tied=[(0, 1)]).tolist() == [8, 8, 2, 2]
    assert cheapest(cost, choices, tied=[(0, 1), (2, 3)]).tolist() == [8, 8, 2, 2]


def test_cheapest_of_a_function_is_the_best_that_was_tried(model):
    def prefers_eight(candidates):
        return np.abs(candidates - 8).sum(axis=1)

    (cost,) = build_costs(prefers_eight, model)
    assert cheapest(cost, ((2, 4, 8),) * 4).tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize("name", [name for name in COST_NAMES if name not in ("bops", "peak_activation_bytes")])
def test_marginal_costs_of_a_sum_over_points_add_up(model, name):
    (cost,) = build_costs(name, model)
    marginals = marginal_costs(cost, CHOICES)
    sums = [sum(row) for row in itertools.product(*(row.tolist() for row in marginals))]
    costs = cost.cost(everything(CHOICES))
    assert sums == pytest.approx((costs - costs.min()).tolist())


def test_marginal_costs_of_products_are_those_beside_the_narrowest(model):
    (bops,) = build_costs("bops", model)
    # 12 MACs of the input and 0.weight (2 bits), 6 of the ReLU and 2.weight (3 bits)
    assert marginal_costs(bops, CHOICES)[0].tolist() == [0.0, 12 * 2 * 2, 12 * 6 * 2]
    assert marginal_costs(bops, CHOICES)[1].tolist() == [0.0, 0.0, 6 * 4 * 3]
    assert marginal_costs(bops, CHOICES)[3].tolist() == [0.0, 6 * 29 * 4]
