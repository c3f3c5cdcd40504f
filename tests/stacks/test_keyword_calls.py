"""Networks that call their layers and functions by keyword are prepared and quantized as those that do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import DataError, WorkflowError


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = drawn(16, 1, 8, 8)
DATA = [(X, torch.arange(16) % 3)]


class Net(nn.Module):
    """Convolutions, norms, a sum and linear layers, called by place or by keyword."""

    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        self.by_keyword = by_keyword
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(64, 6), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.eye(64))

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_keyword:
            x = self.pool(F.relu(self.norm1(self.conv1(x))))
            x = torch.add(x, self.relu(self.norm2(self.conv2(x))))
            x = F.linear(torch.flatten(x, 1), self.weight)
            return self.fc2(self.relu(self.fc1(x)))
        x = self.pool(input=F.relu(input=self.norm1(input=self.conv1(input=x))))
        x = torch.add(input=x, other=self.relu(input=self.norm2(input=self.conv2(input=x))))
        x = F.linear(input=torch.flatten(input=x, start_dim=1), weight=self.weight)
        return self.fc2(input=self.relu(input=self.fc1(input=x)))


def network(by_keyword: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Net(by_keyword)
        nn.init.uniform_(net.norm1.running_mean)
        return net.eval()


def corrected(net: nn.Module) -> Any:
    model = qx.QuantizedModel(net, weights=predicates.weighted)
    model.calibrate(DATA)
    return qx.correct_biases(model, DATA)


def scores(net: nn.Module) -> Any:
    model = qx.QuantizedModel(net, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(DATA)
    problem = qx.LayerwiseQuantizationProblem(
        model, DATA, lambda output, target: -F.cross_entropy(output, target, reduction="none"), choices=[3, 8]
    )
    return np.round(problem.evaluate(np.zeros((1, len(model.points)), dtype=int), return_values_of=["F"]), 4).tolist()


@pytest.mark.parametrize(
    "prepare",
    [
        lambda net: qx.fold_batchnorm(net, X),
        lambda net: qx.equalize(net, X),
        lambda net: qx.optimize_graph(net, X).found,
        lambda net: qx.give_own_modules(net, X),
        corrected,
        scores,
    ],
    ids=["fold", "equalize", "optimize", "own modules", "biases", "engine"],
)
def test_preparing_finds_the_same_as_where_calls_are_by_place(prepare: Callable[[nn.Module], Any]) -> None:
    assert str(prepare(network(True))) == str(prepare(network(False)))


@pytest.mark.parametrize("stack", ["fx", "eager", "pt2e"])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_stack_quantizes_the_same_layers_to_the_same_numbers(stack: Any, method: str, tmp_path: Path) -> None:
    def quantized(net: nn.Module) -> Any:
        if method == "static":
            return qx.quantize_static(net, DATA, stack=stack)
        return qx.quantize_dynamic(net, X, stack=stack)

    found, expected = quantized(network(True)), quantized(network(False))
    assert [(row.name, row.weights) for row in found.report.strategy] == [
        (row.name, row.weights) for row in expected.report.strategy
    ]
    torch.testing.assert_close(found.model(X), expected.model(X))
    found.save(tmp_path / "model.pt")
    assert torch.equal(qx.load_quantized(tmp_path / "model.pt", network(True))(X), found.model(X))


class Functions(nn.Module):
    """A function that torch.ao lowers only with all its arguments, or without one of them."""

    def __init__(self, call: Callable[["Functions", Tensor], Tensor]) -> None:
        super().__init__()
        self.call, self.weight, self.fc = call, nn.Parameter(drawn(1, 1, 3, 3)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.fc(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: torch.add(x, net.fc(x), alpha=3),
        lambda net, x: F.conv2d(x, net.weight, padding=1),
        lambda net, x: F.conv1d(input=x[:, 0], weight=net.weight[0, 0, :1].expand(8, 8, 3), padding=(1,)),
    ],
    ids=["alpha of a sum", "convolution", "convolution of one axis"],
)
def test_fx_loses_no_argument_of_a_function(call: Callable[[Functions, Tensor], Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Functions(call).eval()
    found, expected = qx.quantize_static(net, DATA, stack="fx").model(X), net(X)
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 0.15


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor, scale: float = 2.0) -> Tensor:
        return self.fc(a + b * scale)


def test_an_exported_network_has_the_defaults_and_names_of_the_forward(tmp_path: Path) -> None:
    network = Scaled().eval()
    inputs = {"b": drawn(8, 8), "a": drawn(8, 8, seed=2)}
    result = qx.quantize_dynamic(network, inputs, stack="pt2e")
    result.save(tmp_path / "model.pt")
    for model in (result.model, qx.load_quantized(tmp_path / "model.pt", network)):
        torch.testing.assert_close(model(**inputs), network(**inputs), atol=0.05, rtol=0.05)
        assert torch.equal(model(inputs["a"], b=inputs["b"]), model(**inputs))
        with pytest.raises(WorkflowError, match=r"'scale' must be 2\.0, which torch.export settled, got 5"):
            model(**inputs, scale=5)
        with pytest.raises(DataError, match=r"got 2 arguments \(TypeError: missing a required argument: 'b'\)"):
            model(inputs["a"], scale=2.0)
