"""What a user is told where a stack stops: the layer where it can be told, and ways out that were tried."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import DataError, StackError, TraceError
from qexplore.stacks import Data, Settings, is_of_user, of_user, stack_error
from qexplore.workflows import ways_out


class Functional(nn.Module):
    """As torchvision's quantizable networks add and concatenate."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 1)
        self.add, self.cat = FloatFunctional(), FloatFunctional()

    def forward(self, x):
        a = self.a(x)
        return self.c(self.cat.cat([self.add.add_relu(a, self.b(x)), a], 1))


class OneSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)).reshape(1, -1))


class State(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LSTM(8, 8), nn.Linear(8, 4)

    def forward(self, x, state):
        x, state = self.a(x, state)
        return self.b(x), state


class Unbiased(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.own = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4, 4, 3, 3) / 6)

    def forward(self, x):
        return F.conv2d(torch.relu(self.a(x)), self.own)


class Assigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        self.now = self.act
        return self.now(self.a(x))


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.a(x) + 1


def between(kind, **options):
    return lambda: nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.ReLU(), kind(), nn.Conv2d(4, 4, 3))


def states():
    return torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)


class Telling(nn.Module):
    """Returns what it does not compute, beside its output."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        return self.a(x).relu(), {"number": 3, "others": ["word", None, (True, 2.5)]}


class Between(nn.Module):
    """Two layers with a function between them, of what the first gives and of the input."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b, self.way = nn.Linear(8, 8), nn.Linear(8, 8), way

    def forward(self, x):
        return self.b(self.way(self.a(x), x))


TYPES = {
    "the type of integers": lambda y, x: (x > 0).to(y.dtype) + y,
    "zeros of the type of integers": lambda y, x: y + torch.zeros(8, dtype=y.dtype),
}
NUMBERS = {
    "a power of a size": lambda y, x: y * y.shape[1] ** -0.5,
    "a number of axes": lambda y, x: torch.mul(y, y.dim()),
    "a share of elements": lambda y, x: y + y.numel() / x.shape[0],
    "an item": lambda y, x: y + x.abs().max().item(),
    "a truth": lambda y, x: y + torch.is_floating_point(y),
}
IMAGES = (4, 3, 8, 8)
NETWORKS = {
    **{name: (lambda way=way: Between(way), lambda: torch.randn(16, 8)) for name, way in {**TYPES, **NUMBERS}.items()},
    "padding='same'": (between(nn.Identity, padding="same"), lambda: torch.randn(IMAGES)),
    "circular padding": (between(nn.Identity, padding=1, padding_mode="circular"), lambda: torch.randn(IMAGES)),
    "FloatFunctional": (Functional, lambda: torch.randn(IMAGES)),
    "a batch of one": (OneSample, lambda: torch.randn(1, 3, 8, 8)),
    "a tuple of states": (State, lambda: (torch.randn(5, 4, 8), states())),
    "F.conv2d without bias": (Unbiased, lambda: torch.randn(IMAGES)),
    "a module assigned in forward": (Assigning, lambda: torch.randn(IMAGES)),
    "numbers returned": (Telling, lambda: torch.randn(8, 6)),
}


def floating(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_work_by_hand_are_quantized_and_come_back(name, stack, tmp_path):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    network, x = build().eval(), inputs()
    result = qx.quantize_static(network, [(x, None)], stack=stack)
    args = x if isinstance(x, tuple) else (x,)
    with torch.no_grad():
        given, expected = floating(result.model(*args)), floating(network(*args))
        assert float((given - expected).norm()) < 0.1 * float(expected.norm())
        result.save(tmp_path / "file")
        assert torch.equal(floating(qx.load_quantized(tmp_path / "file", network)(*args)), given)
    assert any(row.is_quantized for row in result.report.strategy)


@pytest.mark.parametrize("name", ["a power of a size", "a number of axes"])
def test_numbers_that_a_network_computes_are_no_tensors_in_training(name):
    batches = [(torch.randn(16, 8), torch.zeros(16, 8))] * 2
    result = qx.quantize_qat(Between(NUMBERS[name]), batches, F.mse_loss, stack="fx")
    assert result.report.error < 0.1
    assert [row.state for row in result.report.strategy] == ["integers", "float", "integers"]


def test_what_is_advised_was_tried():
    with pytest.raises(TraceError, match='control flow.*Tried on the example, this works: stack="eager"$'):
        qx.quantize_dynamic(Deciding(), torch.ones(4, 8), stack="fx")
    assert qx.quantize_dynamic(Deciding(), torch.ones(4, 8), stack="eager").report.strategy[0].is_quantized
    with pytest.raises(TraceError, match='stack="eager" with qexplore.quantize_dynamic, without activations=$'):
        qx.quantize_static(Deciding(), [torch.ones(4, 8)], stack="fx", activations="symmetric")


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        (Settings("static", "fx", engine="qnnpack"), 'stack="pt2e", without engine='),
        (Settings("static", "fx", engine="x86", activations="symmetric"), 'stack="pt2e", without engine='),
        (Settings("static", "fx", activation_observer="histogram"), 'stack="pt2e"'),
        (
            Settings("qat", "fx", engine="x86", activation_observer="minmax", activations="symmetric"),
            'stack="pt2e" with qexplore.quantize_dynamic, without engine= and activation_observer= and activations=',
        ),
        (Settings("static", "float8", float_format="E4M3"), 'qexplore.quantize_static(..., stack="pt2e")'),
    ],
    ids=["engine", "of several", "observer kept", "all", "float8"],
)
def test_what_is_advised_names_every_setting_that_was_not_tried(settings, way, monkeypatch):
    only = "dynamic" if settings.method == "qat" else "static"
    monkeypatch.setattr(ways_out, "_is_done", lambda _, row, other, data: (row.name, other.method) == ("pt2e", only))

    def stop(asked):
        raise StackError("stops")

    with pytest.raises(StackError, match=f"works: {re.escape(way)}$"):
        resolved = replace(settings, engine=settings.engine or "x86")
        ways_out.with_way_out(stop, nn.Linear(8, 8), resolved, Data((torch.randn(2, 8),)), settings)


def test_nothing_is_advised_where_nothing_works(monkeypatch):
    monkeypatch.setattr(ways_out, "_is_done", lambda *_: False)
    with pytest.raises(StackError, match=r"Nothing else was found to work on the example \(tried: .*fx dynamic"):
        qx.quantize_dynamic(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(IMAGES), stack="eager")


def test_inputs_that_the_network_does_not_take_are_named():
    with pytest.raises(DataError, match=r"must be able to run on `example_input`, .* \(4, 7\)"):
        qx.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), torch.randn(4, 7))


def test_any_error_of_a_stack_is_a_sentence_that_names_the_layer():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def stop(settings):
        def convert(module):
            raise KeyError("no such kernel")

        convert(network[1])

    with pytest.raises(StackError, match=r"torchao at '1' \(KeyError: 'no such kernel'\)\. Nothing|stack=.*at '1'"):
        data = Data((torch.randn(2, 8),))
        ways_out.with_way_out(stop, network, Settings("dynamic", "pt2e", linear_num_bits=8), data)


def test_errors_of_the_users_own_loss_pass_as_they_are():
    def loss(output, target):
        raise ZeroDivisionError("mine")

    batches = [(torch.randn(4, 8), torch.zeros(4))]
    with pytest.raises(ZeroDivisionError, match="mine"):
        qx.quantize_qat(nn.Sequential(nn.Linear(8, 8)), batches, loss)


def test_errors_of_the_prepared_network_are_the_stacks():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no kernel")

    prepared = nn.Sequential(Broken())
    with pytest.raises(StackError, match=r"does not run at '0' \(RuntimeError: no kernel\)"):
        of_user(lambda network: network(1))(prepared)
    with pytest.raises(ZeroDivisionError) as caught:
        of_user(lambda network: 1 / 0)(prepared)
    assert is_of_user(caught.value)
    assert not is_of_user(stack_error("x", RuntimeError()))


def test_a_network_that_asks_for_the_type_of_an_input_is_sent_to_the_stack_that_exports_it():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x["x"] if isinstance(x, dict) else x)

    with pytest.raises(TraceError, match='asks for the type of an input.*works: stack="pt2e"$'):
        qx.quantize_static(Asking(), [{"x": {"x": torch.randn(8, 8)}}], stack="fx")
