"""Outputs of many candidates for one batch: each is scored by what it is, wherever its samples stand."""

import numpy as np
import pytest
import torch
from problems import prefix_evaluator
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates


class Ends(nn.Module):
    """Two layers, the last one quantized, and another module behind them."""

    def __init__(self, end):
        super().__init__()
        self.first, self.relu, self.last, self.end = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), end

    def forward(self, x):
        return self.end(self.last(self.relu(self.first(x))))


@pytest.mark.parametrize(
    ("end", "shape", "reduced"),
    [
        (nn.Identity(), (10, 5, 4), lambda output: output.mean(0)),  # the sequence comes first
        (nn.Identity(), (10, 5, 4), lambda output: output[0]),
        (nn.Softmax(-2), (6, 4), lambda output: output),  # over the samples
        (nn.LogSoftmax(-3), (5, 2, 4), lambda output: output[:, 0]),
    ],
    ids=["sequence first, mean", "sequence first, first", "over samples", "over samples, three axes"],
)
def test_all_widths_of_the_last_point_give_the_scores_that_each_gives_alone(end, shape, reduced):
    draw = torch.Generator().manual_seed(0)
    samples = shape[1] if isinstance(end, nn.Identity) else shape[0]
    loader = [(torch.randn(shape, generator=draw), torch.randint(0, 3, (samples,), generator=draw)) for _ in range(4)]
    torch.manual_seed(0)
    model = qx.QuantizedActivationsModel(Ends(end).eval(), predicates.by_type(nn.ReLU, nn.Linear))
    model.calibrate([x for x, _ in loader])
    metric = qx.Metric(lambda output, target: F.cross_entropy(reduced(output), target, reduction="none"), "loss", False)
    engine = prefix_evaluator(model, loader, metric, required=True)
    candidates = np.array([[8, 8, 8, width] for width in (2, 3, 4, 8, 3)])
    expected = [one.score for one in engine.direct.evaluate(candidates)]
    assert [one.score for one in engine.evaluate(candidates)] == pytest.approx(expected, rel=1e-5)
    assert len({round(score, 9) for score in expected}) == 4
