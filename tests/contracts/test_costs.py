"""What every cost promises, shown for each of them. A named cost is found by its name, another is a line in OTHERS."""

import numpy as np
import pytest
from problems import random_state, state_of, tiny_network, weighted_model

from qexplore._choices import FLOAT_FORMATS, stored_bits
from qexplore.cost import COST_NAMES, CostTable, build_costs
from qexplore.errors import NumBitsError, ProblemError

CODES = [*range(2, 17), *(known.code for known in FLOAT_FORMATS), 0]


def a_table(model):
    rows = {
        (point.name, code): float(stored_bits(np.array([code]))[0]) * 0.1 for point in model.points for code in CODES
    }
    return CostTable(rows, name="latency", unit="ms")


def a_function(model):
    def energy(candidates):
        return 1.5 * stored_bits(candidates).sum(axis=1)

    return energy


class AnObject:
    name, unit = "area", "mm2"

    def cost(self, candidates):
        return stored_bits(candidates).max(axis=1, initial=0.0)


OTHERS = {"a table": a_table, "a function": a_function, "an object": lambda model: AnObject()}
COSTS = {name: (lambda model, name=name: name) for name in COST_NAMES} | OTHERS


@pytest.fixture(scope="module")
def model(place):
    return weighted_model(tiny_network().to(place))


@pytest.fixture(params=COSTS.values(), ids=COSTS)
def cost(request, model):
    return build_costs(request.param(model), model)[0]


def mixed(model, count=40):
    """Widths, float formats and off, side by side."""
    return np.random.default_rng(5).choice(CODES, size=(count, len(model.points)))


class TestCost:
    def test_has_a_name_and_a_unit(self, cost):
        assert isinstance(cost.name, str)
        assert cost.name
        assert isinstance(cost.unit, str)

    def test_gives_one_finite_number_a_candidate_and_none_below_zero(self, cost, model):
        costs = cost.cost(mixed(model))
        assert costs.shape == (40,)
        assert costs.dtype == np.float64
        assert np.isfinite(costs).all()
        assert (costs >= 0).all()

    def test_no_candidates_have_no_costs(self, cost, model):
        assert cost.cost(np.zeros((0, len(model.points)), dtype=np.int64)).shape == (0,)

    def test_never_falls_when_a_width_rises(self, cost, model):
        candidates = np.random.default_rng(6).integers(2, 16, size=(30, len(model.points)))
        for point in range(len(model.points)):
            wider = candidates.copy()
            wider[:, point] += 1
            assert (cost.cost(wider) >= cost.cost(candidates)).all(), model.points[point].name

    def test_off_is_never_cheaper_than_the_widest_width(self, cost, model):
        widest = np.full((1, len(model.points)), 16)
        assert cost.cost(np.zeros_like(widest)) >= cost.cost(widest)

    def test_answers_do_not_depend_on_what_else_is_in_the_call(self, cost, model):
        candidates = mixed(model)
        together = cost.cost(candidates)
        assert [cost.cost(candidates[row : row + 1])[0] for row in range(40)] == together.tolist()
        assert cost.cost(candidates[::-1]).tolist() == together[::-1].tolist()
        assert cost.cost(np.repeat(candidates[:1], 3, axis=0)).tolist() == [together[0]] * 3

    def test_leaves_the_candidates_and_the_model_as_they_were(self, cost, model):
        candidates = mixed(model)
        before, given, drawn = state_of(model), candidates.copy(), random_state()
        cost.cost(candidates)
        assert np.array_equal(candidates, given)
        assert (state_of(model), random_state()) == (before, drawn)

    @pytest.mark.parametrize("code", [99, -1, 999])
    def test_codes_of_no_choice_are_refused(self, cost, model, code):
        candidates = mixed(model, 2)
        candidates[1, 0] = code
        with pytest.raises((NumBitsError, ProblemError), match=str(code)):
            cost.cost(candidates)


@pytest.mark.parametrize("name", COSTS)
def test_building_a_cost_leaves_the_model_as_it_was(name, model):
    before, drawn = state_of(model), random_state()
    build_costs(COSTS[name](model), model)
    assert (state_of(model), random_state()) == (before, drawn)
