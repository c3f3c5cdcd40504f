"""Small networks whose parameters, multiply-accumulates and activations are counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore import predicates


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.head(self.relu(self.conv(x) + x).mean((2, 3)))


class Encoder(nn.Module):
    """A transformer's layer written out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        shares = F.softmax(query @ key.transpose(-2, -1) / 8**0.5, -1)
        x = x + self.out(shares @ value)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False), nn.BatchNorm2d(4)
        self.point = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.relu6(self.norm(self.depth(x)))).mean((2, 3))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(12, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(y)], -1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.first)), self.weight)


class Counted(NamedTuple):
    """A network and what was counted by hand.

    Each count is of parameters, multiply-accumulates by weight and by activation, and activation elements: of all,
    and of those at points under three choices of them.
    """

    make: Callable[[], nn.Module]
    example: Any
    total: tuple[int, int, int, int]
    outputs: Any
    by_outputs: tuple[int, int, int, int]
    by_weights: tuple[int, int, int, int]
    by_all: tuple[int, int, int, int]
    left_by_all: dict[str, int] = {}


def counted() -> dict[str, Counted]:
    """By name; three samples each."""
    return {
        "residual": Counted(
            Residual,
            torch.randn(3, 1, 4, 4),
            (18 + 2 + 36 + 2 + 6 + 3, 288 + 576 + 6, 870, 16 + 32 + 32 + 32 + 2),
            predicates.by_type(nn.ReLU),
            (0, 0, 864, 16 + 32 + 32),
            (60, 870, 0, 0),
            (60, 870, 870, 114),
        ),
        "transformer": Counted(
            Encoder,
            torch.randn(3, 5, 8),
            (
                192 + 24 + 64 + 8 + 128 + 16 + 128 + 8 + 4 * 8,
                960 + 320 + 640 + 640,
                2560 + 4 * 200,
                # input, norm, q k v, scores, shares, attended, out, sum, norm2, gelu, down
                40 + 40 + 120 + 25 + 25 + 40 + 40 + 40 + 40 + 80 + 40,
            ),
            predicates.by_type(nn.Linear),
            (0, 0, 3 * 200, 40 + 120 + 40 + 40),
            (512, 2560, 0, 0),
            (512, 2560, 3360, 530 - 40 - 40 - 25),
            {"norm": 40, "norm2": 40, "softmax": 25},
        ),
        "attention": Counted(
            Attention,
            torch.randn(3, 5, 8),
            (
                192 + 24 + 64 + 8 + 24 + 3,
                960 + 320 + 120,
                1400 + 4 * 200,
                # input, q k v, scores, shares, attended, out
                40 + 120 + 50 + 50 + 40 + 40,
            ),
            predicates.by_type(nn.MultiheadAttention),
            (0, 0, 960 + 120, 40 + 40),
            (280, 1400, 0, 0),
            (280, 1400, 2200, 340 - 50),
            {"attention.softmax": 50},
        ),
        "lstm": Counted(
            Recurrent,
            torch.randn(3, 5, 8),
            (192 + 144 + 24 + 24 + 18 + 3, 5 * (192 + 144) + 18, 5 * (192 + 144) + 18, 40 + 6),
            predicates.by_type(nn.LSTM),
            (0, 0, 5 * 192 + 18, 40 + 6),
            (354, 1698, 0, 0),
            (354, 1698, 5 * 192 + 18, 40 + 6),
        ),
        "depthwise": Counted(
            Depthwise,
            torch.randn(3, 4, 6, 6),
            (36 + 8 + 24 + 6, 36 * 36 + 36 * 24, 2160, 144 + 144 + 216),
            predicates.by_type(nn.Conv2d),
            (0, 0, 36 * 36, 144 + 216),
            (60, 2160, 0, 0),
            (60, 2160, 2160, 504),
        ),
        "two inputs": Counted(
            TwoInputs,
            (torch.randn(3, 4), torch.randn(3, 5)),
            (24 + 6 + 30 + 6 + 24 + 2, 78, 78, 4 + 5 + 12),
            predicates.by_type(nn.Linear),
            (0, 0, 78, 21),
            (78, 78, 0, 0),
            (78, 78, 78, 21),
        ),
        "embedding": Counted(
            Tokens,
            torch.randint(10, (3, 4)),
            (80 + 24 + 3, 24, 24, 32 + 8),
            predicates.by_type(nn.Embedding),
            (0, 0, 0, 32),
            (104, 24, 0, 32),  # what is looked up has the weight's bits
            (104, 24, 24, 40),
        ),
        "functional linear": Counted(
            Functional,
            torch.randn(3, 8),
            (40 + 15, 40 + 15, 40 + 15, 8 + 5),
            predicates.everything,
            (0, 0, 40, 8),
            (15, 15, 0, 0),
            (15, 15, 55, 13),
        ),
    }
