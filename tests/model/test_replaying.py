"""What comes before a point is remembered: the outputs, and the ranges chosen by them, are those of whole runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from called_networks import CALLED
from networks import AWKWARD, TRAINABLE, digits
from torch import Tensor, nn

from qexplore import predicates
from qexplore._random import isolated
from qexplore.errors import SelectionError
from qexplore.model import QuantizedModel, call, floating_tensors, in_eval_mode, replaying
from qexplore.model.replaying import SinglePointRuns

X = torch.linspace(-1, 1, 40).reshape(5, 8)
CPU = torch.device("cpu")


def wrapped(network: nn.Module, predicate: Any = predicates.leaves, **options: Any) -> QuantizedModel:
    try:
        return QuantizedModel(network, predicate, predicates.weighted, **options)
    except SelectionError:  # no weight is left in it
        return QuantizedModel(network, predicate, **options)


@contextmanager
def frozen(model: QuantizedModel) -> Iterator[None]:
    with in_eval_mode(model), torch.no_grad(), isolated(CPU), model.using([0] * len(model.points)):
        yield


def codes(model: QuantizedModel) -> list[tuple[str, int]]:
    return [(name, max(quantizer.min_num_bits, 3)) for name, quantizer in model.fake_quantizers.items()]


def plain_outputs(model: QuantizedModel, inputs: Any) -> list[list[Tensor]]:
    """Float first, then each point at 3 bits, all of the network run every time."""
    with frozen(model):
        found = []
        for chosen in [("", 0), *codes(model)]:
            with model.using([chosen[1] if name == chosen[0] else 0 for name in model.fake_quantizers]):
                found.append([one.clone() for one in floating_tensors(call(model, inputs()))])
        return found


def quick_outputs(model: QuantizedModel, inputs: Any, **options: Any) -> list[list[Tensor]]:
    with frozen(model):
        runs = SinglePointRuns(model, inputs(), **options)
        found = [runs.expected, *(runs.output(name, code) for name, code in codes(model))]
        return [[one.clone() for one in outputs] for outputs in found]


def assert_quick_equals_plain(model: QuantizedModel, inputs: Any, **options: Any) -> None:
    plain, quick = plain_outputs(model, inputs), quick_outputs(model, inputs, **options)
    assert len(plain) > 2
    for expected, got in zip(plain, quick, strict=True):
        assert all(map(torch.equal, expected, got)) and len(expected) == len(got) > 0
    assert not all("forward" in vars(module) for module in model.modules())


class Block(nn.Module):
    """A residual whose way in is written over by an activation, as in torchvision's networks."""

    def __init__(self, add: str = "new") -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.relu, self.drop = nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.second(self.relu(self.norm(self.first(x)))))
        if self.add == "into the argument":
            x += y
            return self.relu(x)
        y += x
        return self.relu(y)


class WritesBehind(nn.Module):
    """Keeps a view of what a module gave, and writes into it after others have run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.keep = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        view = self.keep(self.a(x))
        other = self.b(view)
        view.mul_(2)
        return self.c(other + view)


class Collector(nn.Module):
    """Hands its result on in a list that it was given."""

    def forward(self, x: Tensor, found: list[Tensor]) -> Tensor:
        found.append(x * 3)
        return x + 1


class GivenAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.collect, self.b = nn.Linear(8, 8), Collector(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        y = self.collect(self.a(x), found)
        return self.b(y + found[0])


class Counting(nn.Module):
    """Gives another output every time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.num_calls = nn.Linear(8, 8), nn.Linear(8, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls += 1
        return self.head(self.fc(x) * (1 + self.num_calls % 2))


class CountingInABuffer(Counting):
    def __init__(self) -> None:
        super().__init__()
        del self.num_calls
        self.register_buffer("num_calls", torch.zeros(()))


class ReadsFirst(nn.Module):
    """Reads the weight of its last module before it calls the others, and one module never."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spare = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.b.weight
        y = self.a(x * weight.sum())
        return self.b.forward(y) @ weight


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8))
    network[3].weight = network[0].weight
    return network


def hooked_inside() -> nn.Module:
    network = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 8), nn.Linear(8, 3))
    network[0][0].register_forward_hook(lambda module, args, output: output.mul_(2))
    return network


def blocks(add: str = "new") -> nn.Module:
    return nn.Sequential(Block(add), nn.Sequential(Block(add), Block(add)), nn.Linear(8, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "blocks": blocks,
    "written arguments": lambda: blocks("into the argument"),
    "written behind": WritesBehind,
    "a list to fill": GivenAList,
    "counting": Counting,
    "counting in a buffer": CountingInABuffer,
    "reads first": ReadsFirst,
    "tied": tied,
    "hooked inside": hooked_inside,
}


@pytest.mark.parametrize("name", AWKWARD)
def test_remembered_runs_equal_whole_ones_on_awkward_networks(name: str) -> None:
    case = AWKWARD[name]
    torch.manual_seed(0)
    assert_quick_equals_plain(wrapped(case.build(), case.predicate, **case.options), case.inputs)


@pytest.mark.parametrize("name", TRAINABLE)
def test_remembered_runs_equal_whole_ones_on_the_gallery(name: str) -> None:
    entry = TRAINABLE[name]
    torch.manual_seed(0)
    model = wrapped(entry.build(), entry.predicate, **entry.options)
    assert_quick_equals_plain(model, lambda: digits().calibration.x[:4].clone())


@pytest.mark.parametrize("name", CALLED)
def test_remembered_runs_equal_whole_ones_with_points_on_calls_and_on_what_modules_read(name: str) -> None:
    case = CALLED[name]
    torch.manual_seed(0)
    model = QuantizedModel(case.make(), **case.points | {"weights": predicates.weighted})
    inputs = tuple(digits().calibration.x[4 * place : 4 * place + 4] for place in range(case.num_inputs))
    model.calibrate([inputs], unpack=lambda batch: (batch, None))
    plain, quick = plain_outputs(model, lambda: inputs), quick_outputs(model, lambda: inputs)
    assert all(all(map(torch.equal, *both)) for both in zip(plain, quick, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kept_bytes", [1 << 29, 400, 0])
def test_remembered_runs_equal_whole_ones_where_modules_write_and_share(name: str, kept_bytes: int) -> None:
    torch.manual_seed(0)
    assert_quick_equals_plain(wrapped(NETWORKS[name]()), X.clone, kept_bytes=kept_bytes)


class Told(nn.Linear):
    """Says in a list of others' when it runs."""

    def __init__(self, runs: list[int], place: int) -> None:
        super().__init__(8, 8)
        self._runs, self._place = runs, place

    def forward(self, x: Tensor) -> Tensor:
        self._runs.append(self._place)
        return super().forward(x)


@pytest.mark.parametrize(
    ("kept_bytes", "again"), [(1 << 20, [3]), (0, [0, 1, 2, 3]), (8 * 5 * 4, [2, 3]), (2 * 8 * 5 * 4, [3])]
)
def test_what_is_through_before_a_point_is_not_run_again_within_the_memory(kept_bytes: int, again: list[int]) -> None:
    ran: list[int] = []
    inner = nn.Sequential(Told(ran, 0), Told(ran, 1))
    model = QuantizedModel(nn.Sequential(inner, Told(ran, 2), Told(ran, 3)), weights=predicates.weighted)
    with frozen(model):
        runs = SinglePointRuns(model, X, kept_bytes)
        runs.output("2.weight", 3)
        ran.clear()
        runs.output("2.weight", 4)
    assert ran == again


def test_a_network_that_draws_or_counts_is_run_whole_each_time() -> None:
    for network, repeats in ((AWKWARD["noisy"].build(), False), (Counting(), False), (blocks(), True)):
        model = wrapped(network)
        with frozen(model):
            assert SinglePointRuns(model, X).repeat == repeats


@pytest.mark.parametrize("name", ["small_cnn", "lstm", "shared_relu"])
def test_calibration_chooses_the_ranges_that_whole_runs_choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for is_quick in (True, False):
        monkeypatch.setattr(replaying, "can_be_noted", lambda network, quick=is_quick: quick)
        torch.manual_seed(0)
        model = QuantizedModel(TRAINABLE[name].build(), weights=predicates.weighted)
        model.calibrate([digits().calibration.x[:4]], weight_method="auto")
        found.append(model.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][key], found[1][key], equal_nan=True) for key in found[0])


def test_ranges_that_are_alike_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(SinglePointRuns, "output", lambda runs, name, code: asked.append(name) or runs.expected)
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False))
    nn.init.constant_(network[0].weight, 0.5)
    QuantizedModel(network, weights=predicates.weighted).calibrate([X])
    assert set(asked) == {"1.weight"}
