"""Networks that the tests of layer control share, and what these ask of a plan."""

from __future__ import annotations

import pytest
import torch
from networks import SmallCNN, batches, digits
from torch import Tensor, nn

from qexplore import predicates
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel
from qexplore.search.control import ChoicePlan, plan_choices

ACTIVATIONS = ["input", "relu1", "relu2", "relu3", "fc2"]
WEIGHTS = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
"""Points of `small_cnn`."""


class Attention(nn.Module):
    """One head over the eight rows of an image, in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 8)
        self.k_proj = nn.Linear(8, 8)
        self.v_proj = nn.Linear(8, 8)
        self.out_proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.q_proj(x) @ self.k_proj(x).mT, dim=-1)
        return x + self.out_proj(weights @ self.v_proj(x))


class TwoHeads(nn.Module):
    """Two blocks of attention, each with projections of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.blocks = nn.Sequential(Attention(), Attention())
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x[:, 0])).mean(dim=1))


class TiedEmbedding(nn.Module):
    """Tokens in, their embedding's weight also that of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 4)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(self.embed(tokens))))


def small_cnn(**options) -> QuantizedModel:
    """Points: input, relu1, relu2, relu3, fc2 (5 activations, unsigned but the last), and four weights, signed."""
    chosen = predicates.by_type(nn.ReLU) | predicates.by_name("fc2")
    model = QuantizedModel(SmallCNN().eval(), chosen, predicates.weighted, **options)
    model.calibrate(batches(digits().calibration)[:1])
    return model


def two_heads() -> QuantizedModel:
    """Every Linear layer, output and weight."""
    linear = predicates.by_type(nn.Linear)
    model = QuantizedModel(TwoHeads().eval(), linear, linear)
    model.calibrate(batches(digits().calibration)[:1])
    return model


def by_name(plan: ChoicePlan) -> dict[str, tuple[int, ...]]:
    """Codes of every point."""
    return {point.name: codes for point, codes in zip(plan.points, plan.choices, strict=True)}


def refusal(model: QuantizedModel, *arguments, **options) -> str:
    """What is said of rules that are refused."""
    with pytest.raises(ProblemError) as caught:
        plan_choices(model, *arguments, **options)
    return str(caught.value)
