"""Values that later operations write into, by what depends on other points: candidates share none of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended_graph import PretendedGraph, pretended_graphs
from problems import search_loader, tiny_model
from torch import Tensor, nn

import qexplore as qx
from qexplore.evaluation import PrefixEvaluator

SOFT = qx.Metric(lambda output, target: output[:, 3].sigmoid() + 0 * target, name="soft", range=(0.0, 1.0))


class Writes(nn.Module):
    """Adds what one point gives to what an earlier one gave, in place."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.first, self.relu1 = nn.Linear(64, 8), nn.ReLU()
        self.second, self.relu2 = nn.Linear(64, 8), nn.ReLU()
        self.last, self.relu3 = nn.Linear(8, 10), nn.ReLU()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        a, b = self.relu1(self.first(x)), self.relu2(self.second(x))
        if self.name == "one after the other":
            total = torch.zeros_like(a)
            total.add_(a)
            total.add_(b)
            return self.last(self.relu3(total))
        a = a.add_(b) if self.name == "method" else torch.add(a, b, out=a) if self.name == "out" else a.mul_(b).add_(b)
        return self.last(self.relu3(a))


@pytest.mark.parametrize("name", ["method", "out", "twice", "one after the other"])
@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_written_into_is_made_anew_for_each_candidate(
    accelerator: torch.device, recorded: bool, name: str
) -> None:
    with pretended_graphs() as graphs:
        assert graphs is PretendedGraph
        network = Writes(name).eval().to(accelerator if recorded else "cpu")
        evaluator = PrefixEvaluator(qx.DirectEvaluator(tiny_model(network), search_loader(), SOFT), required=True)
        points = [point.name for point in evaluator.direct.model.points]
        rows = np.full((24, len(points)), 8)
        rows[:, points.index("relu2")] = np.arange(24) % 5 + 2
        expected = [each.score for each in evaluator.direct.evaluate(rows)]
        for _ in range(2):
            found = [each.score for each in evaluator.evaluate(rows)]
            assert found == pytest.approx(expected, rel=1e-5)
        assert bool(graphs.captures) == recorded
