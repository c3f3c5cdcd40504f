"""The additive front of a large table: milliseconds on one thread, and equality with an integer program.

python benchmarks/additive_front.py
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp

import qexplore as qx

POINTS, WIDTHS = 60, 15


def main() -> None:
    """Time both, compare them at random budgets."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--budgets", type=int, default=100)
    options.add_argument("--repeats", type=int, default=101)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    values = (
        rng.lognormal(size=(POINTS, 1)) * 1.5 ** -np.arange(WIDTHS) * rng.lognormal(sigma=0.3, size=(POINTS, WIDTHS))
    )
    table = qx.SensitivityTable(
        tuple(f"point {point}" for point in range(POINTS)),
        (tuple(range(2, 2 + WIDTHS)),) * POINTS,
        tuple(map(tuple, values.tolist())),
        "made up",
        "",
        1,
    )
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        front = qx.additive_front(table)
        seconds.append(time.perf_counter() - start)
    print(
        f"{POINTS} points x {WIDTHS} widths: {len(front)} candidates in {1000 * median(seconds):.2f} ms (median of "
        f"{len(seconds)}, least {1000 * min(seconds):.2f})"
    )
    budgets = rng.integers(2 * POINTS, (1 + WIDTHS) * POINTS + 1, size=arguments.budgets)
    lots = []
    for budget in budgets:
        start = time.perf_counter()
        least = by_integer_program(values, int(budget))
        lots.append(time.perf_counter() - start)
        found = front.sensitivity[np.searchsorted(front.cost, budget, side="right") - 1]
        if not np.isclose(found, least, rtol=1e-6):
            raise SystemExit(f"at {budget} bits: {found}, the integer program {least}")
    print(f"equal to scipy.optimize.milp at {len(budgets)} budgets, {1000 * median(lots):.0f} ms each")


def by_integer_program(values: np.ndarray, budget: int) -> float:
    """The least sum of sensitivities at no more than ``budget`` bits."""
    num_points, num_widths = values.shape
    one_each = np.kron(np.eye(num_points), np.ones(num_widths))
    cost = np.tile(np.arange(2, 2 + num_widths), num_points)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None], -np.inf, budget)]
    scaled = values.ravel() / values.max()
    solved = milp(
        scaled,
        constraints=constraints,
        integrality=np.ones(values.size),
        bounds=(0, 1),
        options={"mip_rel_gap": 0},
    )
    return float(solved.fun * values.max())


if __name__ == "__main__":
    main()
