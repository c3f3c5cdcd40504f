"""Networks whose forwards call functions, each with the same forward written by hand: ``q(name, tensor)`` at points."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore import QuantizedModel, predicates, unroll_recurrent

Q = Callable[[str, Tensor], Tensor]


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn(self.conv1(x))))
        y = y + x
        y += 0.5 * x
        return F.relu(torch.add(y, x), inplace=True)

    def by_hand(self, x: Tensor, q: Q, name: str) -> Tensor:
        y = self.conv2(q(f"{name}.relu", F.relu(self.bn(self.conv1(x)))))
        y = q(f"{name}.add", y + x)
        y = q(f"{name}.add_1", y + 0.5 * x)
        return q(f"{name}.relu_1", F.relu(q(f"{name}.add_2", y + x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(), ResidualBlock())
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        x = q("relu", torch.relu(self.stem(x)))
        for place, block in enumerate(self.blocks):
            x = block.by_hand(x, q, f"blocks.{place}")
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """With dense connections on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.two = nn.Conv2d(5, 4, 3, padding=1)
        self.low = nn.Conv2d(9, 8, 3, padding=1)
        self.up = nn.Conv2d(17, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.cat([x, F.relu(self.one(x))], dim=1)
        b = torch.concat((a, self.two(a).relu()), 1)
        low = F.relu(self.low(F.max_pool2d(b, 2)))
        wide = F.interpolate(low, scale_factor=2.0)
        return self.head(self.up(torch.cat([wide, b], 1)).flatten(1))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        a = q("cat", torch.cat([x, q("relu", F.relu(self.one(x)))], dim=1))
        b = q("cat_1", torch.cat((a, q("relu_1", self.two(a).relu())), 1))
        low = q("relu_2", F.relu(self.low(F.max_pool2d(b, 2))))
        wide = F.interpolate(low, scale_factor=2.0)
        return self.head(self.up(q("cat_2", torch.cat([wide, b], 1))).flatten(1))


class WrittenAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 8)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        weights = F.softmax(query @ key.transpose(-2, -1) / 2.0, dim=-1)
        return self.out(torch.matmul(weights, value).transpose(1, 2).reshape(x.shape))

    def by_hand(self, x: Tensor, q: Q, name: str) -> Tensor:
        x = q(f"{name}.q_proj.input", x)
        query, key, value = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        scores = q(f"{name}.matmul", query @ key.transpose(-2, -1)) / 2.0
        weights = q(f"{name}.softmax", F.softmax(scores, dim=-1))
        mixed = q(f"{name}.matmul_1", torch.matmul(weights, value)).transpose(1, 2).reshape(x.shape)
        return self.out(q(f"{name}.out.input", mixed))


class FusedAttention(WrittenAttention):
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def by_hand(self, x: Tensor, q: Q, name: str) -> Tensor:
        x = q(f"{name}.q_proj.input", x)
        inside = f"{name}.scaled_dot_product_attention"
        query, key, value = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        scores = q(f"{inside}.matmul", query @ key.transpose(-2, -1)) * (1 / math.sqrt(4))
        scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -math.inf)
        weights = q(f"{inside}.softmax", F.softmax(scores, dim=-1))
        mixed = q(f"{inside}.matmul_1", torch.matmul(weights, value)).transpose(1, 2).reshape(x.shape)
        return self.out(q(f"{name}.out.input", mixed))


class Encoder(nn.Module):
    """A Transformer written out over the rows of an image."""

    def __init__(self, attention: type[WrittenAttention]) -> None:
        super().__init__()
        self.attention = attention()
        self.norm = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        x = x + self.attention(self.norm(x))
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        x = x.squeeze(1)
        x = q("add", x + self.attention.by_hand(self.norm(x), q, "attention"))
        x = q("add_1", x + self.narrow(q("gelu", F.gelu(self.wide(x)))))
        return self.head(q("head.input", x.mean(1)))


class TorchAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 10)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        return self.head((x + self.attention(x, x, x, **self.options)[0]).mean(1))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        x, own = x.squeeze(1), self.attention
        given = q("attention.input.query", x)
        parts = F.linear(given, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (one.view(*x.shape[:2], 2, 4).transpose(1, 2) for one in parts)
        fused = not self.options.get("need_weights", True)
        inside = "attention.scaled_dot_product_attention." if fused else "attention."
        first, last = ("matmul", "matmul_1") if fused else ("bmm", "bmm_1")
        if fused:
            scores = q(inside + first, query @ key.transpose(-2, -1)) * (1 / math.sqrt(4))
        else:
            scores = q(inside + first, (query * (1 / math.sqrt(4))) @ key.transpose(-2, -1))
        weights = q(inside + "softmax", F.softmax(scores, dim=-1))
        mixed = q(inside + last, weights @ value).transpose(1, 2).reshape(x.shape)
        return self.head((q("add", x + own.out_proj(mixed))).mean(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(64, 8), nn.Linear(64, 8)
        self.mix = nn.Bilinear(8, 8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = F.relu(self.left(x.flatten(1))), torch.tanh(self.right(y.flatten(1)))
        return self.head(self.mix(a, b) * a)

    def by_hand(self, x: Tensor, y: Tensor, q: Q) -> Tensor:
        a = F.relu(self.left(q("left.input", x.flatten(1))))
        b = torch.tanh(self.right(q("right.input", y.flatten(1))))
        mixed = self.mix(q("mix.input.input1", a), q("mix.input.input2", b))
        return self.head(q("mul", mixed * a))


class SharedReads(nn.Module):
    """A layer, a sum in place and two products read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        y = self.conv(x)
        y += x
        return self.head((y * x + x @ x.transpose(-2, -1)).flatten(1))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        x = torch.tanh(self.stem(q("stem.input", x)))
        read = q("conv.input", x)
        y = q("add.input", self.conv(read)) + read
        z = read @ q("matmul.input_1", x.transpose(-2, -1))
        return self.head((q("add_1.input", q("mul.input", y) * read) + q("add_1.input_1", z)).flatten(1))


class Recurrent(nn.Module):
    """A classifier of sequences, the rows of an image; by hand step by step, with gates that points are at or not."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(8, 4, batch_first=True)
        self.head = nn.Linear(4, 10)
        self.step = _lstm_step if kind is nn.LSTM else _gru_step

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.squeeze(1))[0][:, -1])

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        if isinstance(self.rnn, nn.RNNBase):
            given, is_open = q("rnn.input", x.squeeze(1)), False
            weights = [q(f"rnn.weight_{way}_l0", getattr(self.rnn, f"weight_{way}_l0")) for way in ("ih", "hh")]
            biases = [self.rnn.bias_ih_l0, self.rnn.bias_hh_l0]
        else:
            given, cell, is_open = q("input", x).squeeze(1), self.rnn.cells["l0"], True
            weights = [q(f"rnn.cells.l0.{way}.weight", getattr(cell, way).weight) for way in ("input", "hidden")]
            biases = [cell.input.bias, cell.hidden.bias]
        states = [torch.zeros(len(x), 4), torch.zeros(len(x), 4)]
        for step in range(given.shape[1]):
            products = F.linear(given[:, step], weights[0], biases[0]), F.linear(states[0], weights[1], biases[1])
            states = self.step(*products, states, lambda name, one: q(f"rnn.cells.l0.{name}", one) if is_open else one)
        return F.linear(states[0], q("head.weight", self.head.weight), self.head.bias)


def _lstm_step(given: Tensor, own: Tensor, states: list[Tensor], q: Q) -> list[Tensor]:
    i, f, g, o = (given + own).chunk(4, dim=-1)
    kept = q("forget_gate", f.sigmoid()) * states[1]
    cell = q("cell_state", kept + q("input_gate", i.sigmoid()) * q("cell_gate", g.tanh()))
    return [q("hidden_state", q("output_gate", o.sigmoid()) * q("cell_output", cell.tanh())), cell]


def _gru_step(given: Tensor, own: Tensor, states: list[Tensor], q: Q) -> list[Tensor]:
    (r, z, n), (own_r, own_z, own_n) = given.chunk(3, dim=-1), own.chunk(3, dim=-1)
    update = q("update_gate", (z + own_z).sigmoid())
    new = q("new_gate", (n + q("reset_gate", (r + own_r).sigmoid()) * own_n).tanh())
    return [q("hidden_state", (1 - update) * new + update * states[0])]


class OneRange(nn.Module):
    """Values that move on: through a concatenation, a clamp, a pooling by maximum, a slice, another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)
        self.mix, self.wide, self.narrow = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.act, self.pool, self.head = nn.ReLU6(), nn.MaxPool2d(2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), 3 * self.right(x)], 1)
        x = self.act(self.mix(x))
        x = self.narrow(self.pool(x)) + self.wide(x[..., ::2, ::2])
        return self.head(x.flatten(1))

    def by_hand(self, x: Tensor, q: Q) -> Tensor:
        x = q("left.input", x)
        left, right = self.left(x), 3 * q("mul.input", self.right(x))
        x = self.act(self.mix(q("mix.input", torch.cat([left, right], 1))))
        low, slim = self.pool(q("wide.input", x)), q("wide.input", x)[..., ::2, ::2]
        x = q("add.input", self.narrow(low)) + q("add.input_1", self.wide(slim))
        return self.head(q("head.input", x.flatten(1)))


class Called(NamedTuple):
    """A network, and what is quantized in it; ``is_equal`` bit for bit, or within rounding."""

    make: Callable[[], nn.Module]
    inputs: Any = None
    functions: Any = None
    activations: Any = None
    weights: Any = None
    num_inputs: int = 1
    is_equal: bool = True

    @property
    def points(self) -> dict[str, Any]:
        """Arguments of `QuantizedModel`."""
        return {kind: getattr(self, kind) for kind in ("inputs", "functions", "activations", "weights")}


_LINEAR = predicates.by_type(nn.Linear)
_PARTS = predicates.by_function(torch.matmul, F.softmax)
_SUMS = predicates.by_function(torch.add, F.relu, torch.cat)
CALLED = {
    "shared reads": Called(
        SharedReads,
        predicates.by_type(nn.Conv2d),
        predicates.by_operand(torch.add, torch.mul, torch.matmul),
    ),
    "residual": Called(Residual, functions=_SUMS),
    "u-net": Called(UNet, functions=_SUMS),
    "transformer": Called(
        lambda: Encoder(WrittenAttention),
        _LINEAR & ~predicates.by_name("wide", "narrow"),
        _PARTS | predicates.by_function(torch.add, F.gelu),
    ),
    "fused attention": Called(
        lambda: Encoder(FusedAttention),
        _LINEAR & ~predicates.by_name("wide", "narrow"),
        _PARTS | predicates.by_function(torch.add, F.gelu),
        is_equal=False,
    ),
    "torch's attention": Called(
        TorchAttention,
        predicates.by_type(nn.MultiheadAttention),
        _PARTS | predicates.by_function(torch.add),
        is_equal=False,
    ),
    "torch's attention, fused": Called(
        lambda: TorchAttention(need_weights=False),
        predicates.by_type(nn.MultiheadAttention),
        _PARTS | predicates.by_function(torch.add),
        is_equal=False,
    ),
    "two inputs": Called(
        TwoInputs,
        predicates.by_type(nn.Linear, nn.Bilinear) & ~predicates.by_name("head"),
        predicates.by_function(torch.mul),
        num_inputs=2,
    ),
    **{
        f"{kind.__name__} classifier": Called(
            lambda kind=kind: Recurrent(kind),
            predicates.by_type(nn.RNNBase),
            weights=predicates.weighted,
            is_equal=False,
        )
        for kind in (nn.LSTM, nn.GRU)
    },
    **{
        f"{kind.__name__} classifier, unrolled": Called(
            lambda kind=kind: unroll_recurrent(Recurrent(kind)),
            activations=predicates.by_type(nn.Sigmoid, nn.Tanh, nn.Identity),
            weights=predicates.weighted,
            is_equal=False,
        )
        for kind in (nn.LSTM, nn.GRU)
    },
}


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def calibrated(name: str) -> tuple[QuantizedModel, nn.Module, tuple[Tensor, ...], Any]:
    """A network of `CALLED` at its points, the one written by hand, inputs, and the case."""
    case = CALLED[name]
    torch.manual_seed(0)
    network = case.make().eval()
    written = copy.deepcopy(network)
    model = QuantizedModel(network, **case.points)
    inputs = tuple(images(6, seed) for seed in range(case.num_inputs))
    model.calibrate([inputs], unpack=lambda batch: (batch, None))
    return model, written, inputs, case
