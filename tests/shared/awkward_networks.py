"""Untrained networks with habits that hooks must survive. Tests import them from `networks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qexplore import predicates


@dataclass(frozen=True)
class Case:
    """An awkward network, how it is wrapped, what it is called with, and the points that come of it, in order.

    ``inputs()`` is what a batch loader yields: a tensor, a tuple of positional or a dict of keyword arguments.
    ``calls`` counts the calls of each point in one forward.
    """

    build: Callable[[], nn.Module]
    predicate: Callable[..., bool]
    inputs: Callable[[], Any]
    points: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    calls: tuple[int, ...] | None = None


def rows(*shape: int) -> Tensor:
    """Reproducible numbers of both signs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def nested_sequential() -> nn.Module:
    inner = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.ReLU()))
    return nn.Sequential(inner, nn.Sequential(nn.Sequential(nn.ReLU())), nn.Linear(8, 3))


def inplace_first() -> nn.Module:
    """Changes its own input in place before anything else runs."""
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


class UserHooked(nn.Module):
    """Carries hooks of the user's own: one adds 1, one counts calls, a pre-hook doubles the input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 3)
        self.num_relu_calls = 0
        self.relu.register_forward_hook(_plus_one)
        self.relu.register_forward_hook(self._count)
        self.fc.register_forward_pre_hook(_doubled)

    def _count(self, module: nn.Module, args: Any, output: Any) -> None:
        self.num_relu_calls += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.fc(x)))


def _plus_one(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output + 1


def _doubled(module: nn.Module, args: Any) -> Any:
    return (args[0] * 2,)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class TupleOut(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.relu(), (-x).relu()


class ListOut(nn.Module):
    def forward(self, pair: Any) -> Any:
        return [pair[0] * 2, pair[1], "a label", None, pair[0].argmax(dim=1)]


class DictOut(nn.Module):
    def forward(self, items: Any) -> Any:
        return {"left": items[0] + 1, "right": items[1]}


class NamedTupleOut(nn.Module):
    def forward(self, items: Any) -> Any:
        return Pair(items["left"], items["right"] * 3)


class Containers(nn.Module):
    """Tuples, lists, dicts and named tuples between its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)
        self.as_tuple = TupleOut()
        self.as_list = ListOut()
        self.as_dict = DictOut()
        self.as_named = NamedTupleOut()

    def forward(self, x: Tensor) -> Tensor:
        pair = self.as_named(self.as_dict(self.as_list(self.as_tuple(self.fc(x)))))
        return pair.left + pair.right


class Tokens(nn.Module):
    """Integer tokens: no floating input at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.embedding(tokens).mean(dim=1))


class SeveralInputs(nn.Module):
    """Two floating inputs, an optional mask, one of them by keyword only."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 4)
        self.right = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, other: Tensor) -> Tensor:
        y = self.left(x) + self.right(other)
        return y if mask is None else y * mask[:, None]


class TwoPositional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x - y)


class NeverCalled(nn.Module):
    """`spare` is registered and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.spare = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Argmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(dim=-1)


def integer_output() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), Argmax())


class Branching(nn.Module):
    """Takes a way that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.positive = nn.ReLU()
        self.negative = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.positive(self.fc(x)) if x.sum() > 0 else self.negative(self.fc(x))


class TwoNames(nn.Module):
    """One module under two names, called once by each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class InputModule(nn.Module):
    """Has a module that is named as the input's point is."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.input(x))


def frozen_batchnorm() -> nn.Module:
    """A training network whose BatchNorm is held in eval mode."""
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    network.train()
    network[1].eval()
    return network


class Noisy(nn.Module):
    """Draws random numbers in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.fc(x) + torch.randn(8))


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))


class Attention(nn.Module):
    """nn.MultiheadAttention reads the weights of `out_proj` without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Raising(nn.Module):
    """Raises in the call after ``limit`` good ones; never when ``limit`` is None."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 3)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc(x))
        if self.limit is not None:
            self.limit -= 1
            if self.limit < 0:
                raise RuntimeError("the network gave up")
        return self.head(x)


_RELU, _LINEAR = predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear)


def _keywords() -> dict[str, Tensor]:
    return {"x": rows(5, 8), "other": rows(5, 8, 1)[..., 0], "mask": torch.tensor([1, 0, 1, 1, 0])}


AWKWARD = {
    "nested_sequential": Case(
        nested_sequential, _RELU, lambda: rows(5, 8), ("input", "0.1.0", "0.1.2", "1.0.0"), calls=(1, 1, 1, 1)
    ),
    "inplace_first": Case(inplace_first, _RELU, lambda: rows(5, 8), ("input", "0", "2")),
    "user_hooks": Case(UserHooked, _RELU | _LINEAR, lambda: rows(5, 8), ("input", "fc", "relu", "head")),
    "containers": Case(
        Containers,
        predicates.by_name("as_*"),
        lambda: rows(5, 8),
        ("input", "as_tuple", "as_list", "as_dict", "as_named"),
        {"outputs": "all"},
    ),
    "tokens": Case(
        Tokens,
        predicates.leaves,
        lambda: torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(0)),
        ("embedding", "fc"),
    ),
    "keyword_inputs": Case(SeveralInputs, _LINEAR, _keywords, ("input.x", "input.other", "left", "right")),
    "positional_inputs": Case(
        TwoPositional, _LINEAR, lambda: (rows(5, 8), rows(5, 8, 2)[..., 1]), ("input.x", "input.y", "fc")
    ),
    "two_names": Case(TwoNames, _LINEAR, lambda: rows(5, 8), ("input", "first"), calls=(1, 2)),
    "single_module": Case(lambda: nn.Linear(8, 3), _LINEAR, lambda: rows(5, 8), ("input", "output")),
    "input_module": Case(InputModule, _LINEAR, lambda: rows(5, 8), ("(input)", "input", "head")),
    "frozen_batchnorm": Case(frozen_batchnorm, _RELU, lambda: rows(5, 8), ("input", "2")),
    "noisy": Case(Noisy, _RELU, lambda: rows(5, 8), ("input", "relu")),
    "weight_norm": Case(weight_norm, _RELU | _LINEAR, lambda: rows(5, 8), ("input", "0", "1", "2")),
    "never_called_unselected": Case(NeverCalled, predicates.by_name("fc"), lambda: rows(5, 8), ("input", "fc")),
    "branching": Case(Branching, predicates.by_name("fc"), lambda: rows(5, 8), ("input", "fc")),
    "attention": Case(Attention, predicates.by_name("head"), lambda: rows(5, 4, 8), ("input", "head"), calls=(1, 1)),
}
"""Those that wrap and run; `NeverCalled`, `integer_output`, `Attention`, `Raising` serve the refusals too."""
