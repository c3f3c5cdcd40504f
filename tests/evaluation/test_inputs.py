"""Networks of several inputs, in tuples, dicts and objects: both evaluators, costs, searches and ties."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from problems import prefix_evaluator
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs
from qexplore.metrics import as_metric

X, T = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(1, 9999, 24).reshape(24, 1)
Y = torch.arange(24) % 3


@dataclass
class Sample:
    x: Tensor
    t: Tensor


class Network(nn.Module):
    """Reads its two tensors from whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.head = nn.Linear(4, 8), nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 3)
        self.second.weight.data /= 1e4

    def body(self, x: Tensor, t: Tensor) -> Tensor:
        return self.head(self.relu(self.first(x) + self.second(t)))


class Apart(Network):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(x, t)


class InDict(Network):
    def forward(self, batch: Any) -> Tensor:
        return self.body(batch["x"], batch["t"])


class InTuple(Network):
    def forward(self, state: Any) -> Tensor:
        x, (t, _) = state
        return self.body(x, t)


class InObject(Network):
    def forward(self, sample: Sample) -> Tensor:
        return self.body(sample.x, sample.t)


FORMS = {
    "by position": (Apart, lambda x, t: (x, t)),
    "by keyword": (Apart, lambda x, t: {"t": t, "x": x}),
    "in a dict": (InDict, lambda x, t: ({"x": x, "t": t},)),
    "in a nested tuple": (InTuple, lambda x, t: ((x, (t, Y[: len(t)])),)),
    "in a dataclass": (InObject, lambda x, t: (Sample(x, t),)),
}


def closeness(output: Tensor, target: Tensor) -> Tensor:
    return -(output - target[:, None]).square().mean(dim=1)


def posed(form: str, **options: Any) -> Any:
    network, inputs = FORMS[form]
    torch.manual_seed(0)
    model = qx.QuantizedModel(network().eval(), predicates.by_type(nn.ReLU), predicates.weighted)
    loader = [(X[i : i + 8], T[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
    options["unpack"] = lambda batch: (inputs(*batch[:2]), batch[2])
    model.calibrate(loader, weight_method="max", unpack=options["unpack"])
    return model, loader, options


@pytest.mark.parametrize("form", FORMS)
def test_the_engine_takes_inputs_apart_as_the_hooks_do(form: str) -> None:
    model, loader, options = posed(form)
    assert len(model.num_bits) == 6
    fast = prefix_evaluator(model, loader, as_metric(closeness), required=True, **options)
    candidates = np.array([[8, 8, 4, 8, 8, 8], [2, 8, 4, 8, 8, 8], [8, 2, 4, 8, 8, 8], [0, 3, 2, 4, 0, 5]])
    expected = [one.score for one in fast.direct.evaluate(candidates)]
    assert len(set(expected)) == 4
    assert [one.score for one in fast.evaluate(candidates)] == pytest.approx(expected, rel=1e-5)


def test_costs_ties_and_words_know_each_input() -> None:
    model, loader, options = posed("in a dict")
    candidate = np.array([[8, 4, 8, 8, 8, 8]])
    by_hand = {"total_bits": 44, "activation_bytes": (4 * 8 + 1 * 4 + 8 * 8) / 8}
    by_hand["bops"] = 4 * 8 * 8 * 8 + 1 * 8 * 8 * 4 + 8 * 3 * 8 * 8
    costs = build_costs(tuple(by_hand), model)
    assert [float(cost.cost(candidate)[0]) for cost in costs] == list(by_hand.values())
    tied = qx.LayerwiseQuantizationProblem(model, loader, closeness, tied=["weights_with_activations"], **options)
    assert tied.n_var == 3  # each input goes with the weight that it feeds
    one = qx.LayerwiseQuantizationProblem(
        model, loader, closeness, choices={"*": [8], "input": [3, 4]}, tied=[("input",)], **options
    )
    assert one.n_var == 5  # the word "input" means both, here as one
