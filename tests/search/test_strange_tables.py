"""Sensitivity tables that say nothing, or too much: a search goes on by what is left of them."""

import numpy as np
import pytest
import torch
from problems import search_loader, tiny_model, tiny_problem
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.search import ladder, sensitivities
from qexplore.search.sensitivity import SensitivityTable

FALLING = 4.0 ** -np.arange(2, 9)
TABLES = {
    "zeros": np.zeros((3, 7)),
    "constants": np.full((3, 7), 0.3),
    "infinite": np.full((3, 7), np.inf),
    "not a number": np.full((3, 7), np.nan),
    "one point infinite": np.stack([FALLING, np.full(7, np.inf), FALLING]),
    "one width infinite, one not a number": np.stack([[np.inf, np.nan, *FALLING[2:]]] * 3),
    "one point nothing": np.stack([FALLING, np.zeros(7), FALLING]),
    "scales apart": np.stack([FALLING * 1e-30, FALLING, FALLING * 1e30]),
    "very small": np.stack([FALLING * 1e-300] * 3),
    "very large": np.full((3, 7), 1.7e308),
    "below nothing by rounding": np.stack([-1e-9 * FALLING] * 3),
}


@pytest.fixture(params=TABLES.values(), ids=TABLES)
def strange(request, monkeypatch):
    def quick(problem, *_):
        values = tuple(tuple(row.tolist()) for row in request.param)
        return SensitivityTable(tuple(problem.model.fake_quantizers), problem.space.choices, values, "kl", "", 1), 0.0

    for module in (sensitivities, ladder):
        monkeypatch.setattr(module, "quick_table", quick)


@pytest.mark.parametrize("algorithm", ["nsga2", "greedy"])
def test_a_search_goes_on_whatever_its_sensitivity_table_says(strange, algorithm):
    problem = tiny_problem(upper=8, min_accuracy=0.7, costs=("total_bits", "activation_bytes"))
    found = qx.explore(problem, max_evaluations=20, seed=1, algorithm=algorithm, progress=False)
    assert found.num_evaluations > 7  # more than the uniform widths
    assert found.front.verified


def test_one_point_is_found_whatever_the_sensitivity_table_says(strange):
    assert qx.fit(tiny_model(), search_loader(), max_total_bits=9, max_evaluations=15, progress=False).total_bits <= 9


def test_a_network_whose_outputs_hardly_move_is_searched():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    with torch.no_grad():
        network[2].bias[0] += 1000
    data = [(torch.randn(64, 8), torch.zeros(64, dtype=torch.long))]
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(data)
    problem = qx.LayerwiseQuantizationProblem(model, data)
    assert max(max(row) for row in qx.sensitivity(problem).values) == 0
    assert [point.num_bits for point in qx.explore(problem, max_evaluations=30, seed=1, progress=False).front] == [
        (2, 2, 2, 2)
    ]
    assert qx.fit(model, data, max_drop=0.1, max_evaluations=30, progress=False).num_bits == (2, 2, 2, 2)


def test_a_width_whose_sensitivity_is_not_finite_is_never_chosen_by_the_additive_front():
    table = SensitivityTable(("a", "b"), ((2, 3), (2, 3)), ((np.nan, 0.5), (-np.inf, 1.7e308)), "mse", "", 1)
    assert qx.additive_front(table).num_bits.tolist() == [[3, 3]]
