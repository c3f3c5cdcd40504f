"""The additive front, against enumeration and an integer program."""

import itertools

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

import qexplore as qx
from qexplore.errors import ProblemError
from qexplore.search import SensitivityTable, additive_front


def table(values, num_bits=None):
    rows = tuple(tuple(float(value) for value in row) for row in values)
    widths = tuple(tuple(range(2, 2 + len(row))) for row in rows) if num_bits is None else num_bits
    return SensitivityTable(tuple(f"point{i}" for i in range(len(rows))), widths, rows, "made up", "", 1)


def falling(num_points, num_widths, seed):
    """Sensitivities as quantizers have them, with noise that breaks the order now and then.

    They fall more slowly than a quarter a bit: an integer program takes differences of a millionth for none.
    """
    rng = np.random.default_rng(seed)
    shape = num_points, num_widths
    return rng.lognormal(size=(num_points, 1)) * 1.5 ** -np.arange(num_widths) * rng.lognormal(sigma=0.3, size=shape)


def least_by_milp(values, costs, budget):
    """The least sum of sensitivities at no more than ``budget``."""
    value, cost = np.concatenate(values), np.concatenate(costs)
    one_each = np.zeros((len(values), len(value)))
    ends = np.cumsum([len(row) for row in values])
    for point, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        one_each[point, start:stop] = 1
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None], -np.inf, budget)]
    # Scaled, for the solver's tolerances are absolute; and solved to the end.
    solved = milp(
        value / value.max(),
        constraints=constraints,
        integrality=np.ones(len(value)),
        bounds=(0, 1),
        options={"mip_rel_gap": 0},
    )
    return solved.fun * value.max() if solved.success else None


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_front_of_all_candidates(seed):
    rng = np.random.default_rng(seed)
    values = falling(4, 5, seed) if seed % 2 else rng.integers(0, 4, size=(4, 5))  # ties in every other one
    front = additive_front(table(values))
    sums = {}
    for choice in itertools.product(range(5), repeat=4):
        cost = sum(choice) + 8
        total = sum(values[point][place] for point, place in enumerate(choice))
        sums[cost] = min(sums.get(cost, np.inf), total)
    expected, best = [], np.inf
    for cost in sorted(sums):
        if sums[cost] < best - 1e-12:
            best = sums[cost]
            expected.append((cost, best))
    assert front.cost.tolist() == [cost for cost, _ in expected]
    assert front.sensitivity == pytest.approx([total for _, total in expected])
    for row, cost, total in zip(front.num_bits, front.cost, front.sensitivity, strict=True):
        assert row.sum() == cost
        assert sum(values[point][width - 2] for point, width in enumerate(row)) == pytest.approx(total)


def test_sixty_points_of_fifteen_widths_equal_the_integer_program():
    values = falling(60, 15, seed=3)
    front = additive_front(table(values))
    assert front.step == 0
    costs = [np.arange(2, 17)] * 60
    for budget in np.random.default_rng(0).integers(120, 961, size=8):
        place = np.searchsorted(front.cost, budget, side="right") - 1
        assert front.sensitivity[place] == pytest.approx(least_by_milp(values, costs, budget), rel=1e-6)
        assert sum(front.within(budget)) <= budget


def test_points_may_have_different_widths_and_costs():
    num_bits = ((2, 3), (4,), (1, 5, 9))
    values = [[3.0, 1.0], [0.5], [9.0, 2.0, 0.0]]
    costs = [[20, 30], [7], [1, 5, 90]]
    front = additive_front(table(values, num_bits), costs)
    assert (
        front.num_bits.tolist()
        == [[2, 4, 1], [2, 4, 5], [3, 4, 5], [2, 4, 9], [3, 4, 9]][:1] + front.num_bits.tolist()[1:]
    )
    for row, cost, total in zip(front.num_bits.tolist(), front.cost, front.sensitivity, strict=True):
        places = [widths.index(width) for widths, width in zip(num_bits, row, strict=True)]
        assert cost == sum(costs[point][place] for point, place in enumerate(places))
        assert total == pytest.approx(
            least_by_milp([np.array(v) for v in values], [np.array(c, float) for c in costs], cost)
        )


def test_real_costs_are_never_underrated_and_near_the_integer_program():
    rng = np.random.default_rng(5)
    values = falling(12, 7, seed=5)
    costs = np.cumsum(rng.random((12, 7)), axis=1) * 1e5
    front = additive_front(table(values), costs.tolist(), resolution=2000)
    assert front.step == pytest.approx(sum(row.max() - row.min() for row in costs) / 2000)
    for row, cost in zip(front.num_bits, front.cost, strict=True):
        assert cost == pytest.approx(sum(costs[point][width - 2] for point, width in enumerate(row)))
    for budget in rng.uniform(costs[:, 0].sum() + 13 * front.step, costs[:, -1].sum(), size=5):
        found = front.sensitivity[np.searchsorted(front.cost, budget, side="right") - 1]
        assert found >= least_by_milp(values, costs, budget) * (1 - 1e-6)
        assert found <= least_by_milp(values, costs, budget - 12 * front.step) * (1 + 1e-6)


def test_a_width_whose_output_is_not_finite_is_never_chosen():
    front = additive_front(table([[np.inf, 1.0, 0.5], [2.0, 1.0, np.inf]]))
    assert set(front.num_bits[:, 0]) <= {3, 4}
    assert set(front.num_bits[:, 1]) <= {2, 3}
    assert front.within(4) is None
    assert front.within(5) == (3, 2)
    assert front.within(np.inf) == tuple(front.num_bits[-1])
    for wrong in (np.nan, "5", None):
        with pytest.raises(ProblemError, match="`max_cost` must be a number, in the unit of the front's costs, got"):
            front.within(wrong)


def test_choices_that_all_cost_the_same_leave_the_least_sensitive_ones():
    front = additive_front(table([[2.0, 1.0], [1.0, 3.0]]), [[0.5, 0.5], [0.25, 0.25]])
    assert (front.num_bits.tolist(), front.cost.tolist(), front.step) == ([[3, 2]], [0.75], 0.0)


@pytest.mark.parametrize(
    ("costs", "options", "sentence"),
    [
        ([[1, 2]], {}, "`costs` must have the shape of the sensitivity table"),
        ([[1, 2], [1, -2]], {}, "`costs` must be finite and not negative, got .* at 'point1'"),
        ([[1, 2], [1, float("nan")]], {}, "`costs` must be finite"),
        ([[1, 2], ["a", "b"]], {}, "`costs` must hold one number for every width"),
        (None, {"resolution": 0}, "`resolution` must be a positive int, got 0"),
        (None, {"resolution": True}, "`resolution` must be a positive int, got True"),
    ],
)
def test_bad_costs_are_refused(costs, options, sentence):
    with pytest.raises(ProblemError, match=sentence):
        additive_front(table([[2.0, 1.0], [3.0, 1.0]]), costs, **options)


def test_a_point_without_any_finite_width_is_named():
    with pytest.raises(ProblemError, match="sensitivity of 'point1' is not finite"):
        qx.additive_front(table([[2.0, 1.0], [np.inf, np.inf]]))


def test_it_is_a_table_of_about_twenty_rows():
    front = additive_front(table(falling(12, 7, 0)))
    lines = str(front).splitlines()
    assert lines[0] == f"Additive front of {len(front)} candidates, predicted and not measured, 20 of them shown"
    assert lines[1].split() == ["#", "cost", "sensitivity", "num_bits"]
    rows = [int(line.split()[0]) for line in lines[3:]]
    assert (len(rows), rows[0], rows[-1]) == (20, 0, len(front) - 1)
    for row, line in zip(rows, lines[3:], strict=True):
        _, cost, sensitivity, choices = line.split(maxsplit=3)
        assert float(cost) == front.cost[row]
        assert float(sensitivity) == pytest.approx(front.sensitivity[row], rel=1e-3)
        assert [int(width) for width in choices.split()] == front.num_bits[row].tolist()


def test_a_table_names_formats_and_is_short_for_many_points():
    front = additive_front(table([[1.0, 0.5]], ((4, 403),)))
    assert str(front).splitlines()[0] == "Additive front of 2 candidates, predicted and not measured"
    assert str(front).splitlines()[-1].split() == ["1", "8", "0.5", "E4M3"]
    assert max(map(len, str(additive_front(table(falling(200, 15, 0)))).splitlines())) <= 120


def test_what_is_no_table_is_refused():
    with pytest.raises(ProblemError, match="`table` must be a SensitivityTable, got list: measure one with"):
        additive_front([[1.0, 0.5]])
