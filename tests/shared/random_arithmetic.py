"""Layers at which turn-key quantization may go wrong, to be drawn beside those of `random_networks`.

Functions whose range is known, sums and products with numbers, tensors of unlike ranges put together, one layer in two
roles, layers called as functions, and modules that are subclassed, replaced or assigned in the forward. Each keeps the
shape of what it is given, as those of `random_networks` do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from random_networks import CHANNELS, FEATURES, STEPS, Draft, RandomNetwork, layers_of
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional as F
from turn_key import METHODS, STACKS, runs, settled

Make = Callable[[], nn.Module]
TIMES_TOO_RARE = {("pt2e", "qat"): 1, ("onnxruntime", "dynamic"): 1, ("onnxruntime", "static"): 1}
"""What takes seconds a network is drawn less often; others three times as often."""


class Several(nn.Module):
    """A step with several modules, all of which ``way`` is given."""

    def __init__(self, way: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(modules)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x, *self.inner)


class OwnLinear(nn.Linear):
    """A subclass that changes nothing."""


class DoublingLinear(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class OwnConv(nn.Conv2d):
    """A subclass that changes nothing."""


class Assigning(nn.Module):
    """Keeps what it saw, and puts another name to its module, when it is called."""

    def __init__(self, inner: nn.Module, *, of_module: bool) -> None:
        super().__init__()
        self.first = inner
        self.of_module = of_module

    def forward(self, x: Tensor) -> Tensor:
        if self.of_module:
            self.current = self.first
            return self.current(x)
        self.seen = self.first(x)
        return self.seen + 0.5


class Scaled(nn.Module):
    """Multiplies by a parameter and adds a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("offset", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


def _function(way: Callable[[Tensor], Tensor]) -> Make:
    return lambda: Several(way)


def _with(make: Make, way: Callable[..., Tensor], *others: Make) -> Make:
    return lambda: Several(way, make(), *(other() for other in others))


def _increased(x: Tensor) -> Tensor:
    y = x * 1.0
    y += 3
    y *= 2
    return y


def _functionals(kind: str) -> Make:
    ways: dict[str, Callable[..., Tensor]] = {
        "add": lambda x, inner, own: own.add(inner(x), x),
        "mul": lambda x, inner, own: own.mul(inner(x), x),
        "add_relu": lambda x, inner, own: own.add_relu(inner(x), x),
        "cat": lambda x, inner, own: own.cat([inner(x), x], dim=1)[:, : x.shape[1]],
        "add_scalar": lambda x, inner, own: own.add_scalar(inner(x), 5.0),
        "mul_scalar": lambda x, inner, own: own.mul_scalar(inner(x), 20.0),
    }
    return lambda: Several(ways[kind], nn.ReLU(), FloatFunctional())


def _ways(core: Make) -> dict[str, Make]:
    """For whatever flows; ``core`` is a layer with a weight."""
    known_range = {
        "tanh": nn.Tanh,
        "hardsigmoid": nn.Hardsigmoid,
        "softmax": lambda: nn.Softmax(dim=1),
        "logsoftmax": lambda: nn.LogSoftmax(dim=1),
        "hardswish": nn.Hardswish,
        "elu": nn.ELU,
        "leaky_relu": lambda: nn.LeakyReLU(0.1),
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "tanh_called": _function(torch.tanh),
        "tanh_method": _function(lambda x: x.tanh()),
        "sigmoid_called": _function(torch.sigmoid),
        "softmax_called": _function(lambda x: F.softmax(x, dim=-1)),
        "hardtanh_called": _function(lambda x: F.hardtanh(x, -0.5, 0.5)),
        "relu_called": _function(F.relu),
        "clamped": _function(lambda x: torch.clamp(x, min=-1)),
    }
    with_numbers = {
        "times_100": _function(lambda x: x * 100),
        "plus_20": _function(lambda x: x + 20),
        "minus_3": _function(lambda x: x - 3),
        "divided": _function(lambda x: x / 50),
        "less_from": _function(lambda x: 1 - x),
        "negated": _function(lambda x: -x),
        "added_called": _function(lambda x: torch.add(x, 5)),
        "multiplied_called": _function(lambda x: torch.mul(x, 0.01)),
        "increased": _function(_increased),
        "core_plus": _with(core, lambda x, inner: inner(x) + 5),
        "core_times": _with(core, lambda x, inner: inner(x) * 100),
        "core_relu_plus": _with(core, lambda x, inner: F.relu(inner(x)) + 20),
        "scaled": Scaled,
        "squared": _function(lambda x: x**2),
    }
    unlike = {
        "cat_unlike": _with(core, lambda x, inner: torch.cat([inner(x), x * 10], dim=1)[:, ::2]),
        "cat_halves": _with(
            core, lambda x, inner: torch.cat([inner(x).chunk(2, dim=1)[0], 20 * x.chunk(2, dim=1)[1]], dim=1)
        ),
        "cat_of_cores": _with(core, lambda x, a, b: torch.cat([a(x), b(x) * 10], dim=1)[:, 1::2], core),
        "stack_unlike": _with(core, lambda x, inner: torch.stack([inner(x), x * 10], dim=1).sum(dim=1)),
        "stack_least": _with(core, lambda x, inner: torch.stack([inner(x), x * 10]).amin(dim=0)),
        "maximum": _with(core, lambda x, inner: torch.maximum(inner(x), x * 5)),
        "where": _with(core, lambda x, inner: torch.where(x > 0, inner(x), x * 5)),
        "sum_unlike": _with(core, lambda x, inner: inner(x) + x * 10),
        "product": _with(core, lambda x, inner: inner(x) * x),
        "difference": _with(core, lambda x, inner: inner(x) - x),
    }
    roles = {
        "own_relu_twice": _with(core, lambda x, inner, relu: relu(inner(relu(x))), nn.ReLU),
        "two_readers": _with(core, lambda x, inner, other: other(inner(x)) + inner(x), core),
        "both_returned": _with(core, lambda x, inner: (lambda y: F.relu(y) + y)(inner(x))),
        "assigned_tensor": lambda: Assigning(core(), of_module=False),
        "assigned_module": lambda: Assigning(core(), of_module=True),
        "frozen": lambda: core().requires_grad_(False),
        "in_list": _with(core, lambda x, inner: [inner(x), x][0]),
        "moved": _function(lambda x: x.flatten(1).reshape(x.shape).contiguous()),
        "flipped": _with(core, lambda x, inner: inner(x.flip(1)).flip(1)),
        "parallel": _with(core, lambda x, a, b: a(x) + b(x), core),
    }
    own = {
        f"functional_{kind}": _functionals(kind)
        for kind in ("add", "mul", "add_relu", "cat", "add_scalar", "mul_scalar")
    }
    return {**known_range, **with_numbers, **unlike, **roles, **own}


def _linear(kind: type[nn.Linear] = nn.Linear, **options: Any) -> Make:
    return lambda: kind(FEATURES, FEATURES, **options)


def _conv(kind: type[nn.Conv2d] = nn.Conv2d, **options: Any) -> Make:
    return lambda: kind(CHANNELS, CHANNELS, 3, **{"padding": 1, **options})


def _of_linear() -> dict[str, Make]:
    return {
        "subclass": _linear(OwnLinear),
        "other_subclass": _linear(DoublingLinear),
        "without_bias": _linear(bias=False),
        "linear_called": _with(_linear(), lambda x, inner: F.linear(x, inner.weight)),
        "linear_beside": _with(_linear(), lambda x, inner: inner(x) + F.linear(x, inner.weight)),
        "layernorm_called": _function(lambda x: F.layer_norm(x, (FEATURES,))),
        "dropout_called": _with(_linear(), lambda x, inner: F.dropout(inner(x), 0.5, inner.training)),
        "wide": lambda: nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, FEATURES)),
    }


MORE: dict[str, dict[str, Make]] = {
    "rows": {
        **_ways(_linear()),
        **_of_linear(),
        "batchnorm_stays": _with(
            _linear(), lambda x, inner, norm: norm(inner(x)) + inner(x), lambda: nn.BatchNorm1d(FEATURES)
        ),
        "linear_batchnorm": lambda: nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES)),
    },
    "images": {
        **_ways(_conv()),
        "subclass": _conv(OwnConv),
        "padding_same": _conv(padding="same"),
        "circular": _conv(padding_mode="circular"),
        "reflect": _conv(padding_mode="reflect"),
        "dilated": _conv(dilation=2, padding=2),
        "grouped": _conv(groups=2),
        "grouped_transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1, groups=2),
        "transposed_batchnorm": lambda: nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        ),
        "conv_called": _with(_conv(), lambda x, inner: F.conv2d(x, inner.weight, padding=1)),
        "conv_keywords": _with(
            _conv(), lambda x, inner: F.conv2d(input=x, weight=inner.weight, bias=inner.bias, stride=1, padding=1)
        ),
        "conv_beside": _with(_conv(), lambda x, inner: inner(x) + F.conv2d(x, inner.weight, padding=1)),
        "conv_batchnorm": lambda: nn.Sequential(_conv()(), nn.BatchNorm2d(CHANNELS)),
        "batchnorm_stays": _with(
            _conv(), lambda x, inner, norm: norm(inner(x)) + inner(x), lambda: nn.BatchNorm2d(CHANNELS)
        ),
        "two_batchnorms": _with(
            _conv(),
            lambda x, inner, one, two: one(inner(x)) + two(inner(x)),
            lambda: nn.BatchNorm2d(CHANNELS),
            lambda: nn.BatchNorm2d(CHANNELS),
        ),
        "batchnorm_plain": lambda: nn.Sequential(_conv()(), nn.BatchNorm2d(CHANNELS, affine=False)),
        "batchnorm_of_batch": lambda: nn.Sequential(_conv()(), nn.BatchNorm2d(CHANNELS, track_running_stats=False)),
        "instancenorm": lambda: nn.InstanceNorm2d(CHANNELS),
        "groupnorms": lambda: nn.Sequential(nn.GroupNorm(2, CHANNELS), nn.GroupNorm(1, CHANNELS)),
        "padded": _with(_conv(padding=0), lambda x, inner: inner(F.pad(x, (1, 1, 1, 1), value=5.0))),
        "pool_called": _function(lambda x: F.max_pool2d(x, 3, 1, padding=1)),
        "interpolated": _with(
            _conv(), lambda x, inner: F.interpolate(F.avg_pool2d(inner(x), 2), scale_factor=2, mode="nearest")
        ),
        "squeeze_excite": _with(_conv(), lambda x, inner: inner(x) * F.adaptive_avg_pool2d(x, 1).sigmoid()),
        "channel_parameter": lambda: Several(lambda x, bn: bn(x) * 4, nn.BatchNorm2d(CHANNELS)),
    },
    "sequence": {
        **_ways(_linear()),
        **_of_linear(),
        "rnn": lambda: Several(lambda x, inner: inner(x)[0], nn.RNN(FEATURES, FEATURES, batch_first=True)),
        "lstm_of_state": lambda: Several(_with_state, nn.LSTM(FEATURES, FEATURES, batch_first=True)),
        "matmul_scores": _with(_linear(), lambda x, inner: torch.matmul(inner(x), x.transpose(1, 2)) @ x / STEPS),
    },
}
"""More kinds of layers of each family, beside those of `random_networks.LAYERS`."""


def _with_state(x: Tensor, inner: nn.Module) -> Tensor:
    zeros = torch.zeros(1, x.shape[0], FEATURES)
    return inner(x, (zeros, zeros))[0]


def all_layers_of(family: str) -> dict[str, Make]:
    """Every kind of layer for what flows in ``family``."""
    return {**layers_of(family), **MORE["sequence" if family == "tokens" else family]}


@dataclass(frozen=True)
class TurnKeyDraft:
    """A random network, and how it is quantized.

    Attributes:
        network: what it is built from.
        stack: who quantizes it.
        method: and how.
    """

    network: Draft
    stack: str
    method: str

    def build(self, seed: int) -> nn.Module:
        """The network as after training on its inputs; other weights for another ``seed``."""
        draft = replace(self.network, seed=self.network.seed + seed)
        return settled(draft.build(lambda draft: RandomNetwork(draft, all_layers_of(draft.family))), self.inputs())

    def inputs(self) -> Any:
        """One batch of 16, as positional or keyword arguments."""
        return self.network.unpack(self.network.batches(1, size=16)[0])[0]


@st.composite
def turn_key_drafts(draw: st.DrawFn, *stacks: str) -> TurnKeyDraft:
    """Float32 networks of one to four layers, each with a stack and a method."""
    family = draw(st.sampled_from(["rows", "images", "images", "sequence", "tokens"]))
    kinds = sorted(all_layers_of(family))
    layers = draw(st.lists(st.sampled_from([*kinds, "again", "weight"]), min_size=1, max_size=4))
    ways = [(stack, method) for stack in stacks or STACKS for method in METHODS if runs(stack, method)]
    ways = [way for way in ways for _ in range(TIMES_TOO_RARE.get(way, 3))]
    # Hypothesis dwells on what is first in a list and on what it drew before.
    stack, method = random.Random(draw(st.integers(0, 2**16))).choice(ways)
    network = Draft(
        family=family,
        layers=tuple(layers),
        head=draw(st.sampled_from(["tensor", "tensor", "tensor", "tuple", "dict", "number"])),
        extra=draw(st.sampled_from([None, None, None, "added", "scaled", "integer"])),
        feed=draw(st.sampled_from(["tuple", "tuple", "dict"])),
        dtype="float32",
        seed=draw(st.integers(0, 2**16)),
    )
    return TurnKeyDraft(network, stack, method)
