"""Small problems that can be searched in a blink, and what tests look at besides the answer.

The network has three points ("input", "relu1", "relu2"), is trained on the real digits, and one evaluation of it takes
about a millisecond. `Watched` is top-1 accuracy that counts its calls and can be told to misbehave.
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from networks import Split, batches, digits
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import Evaluation, PrefixEvaluator

Candidate = tuple[int, ...]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 16)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(16, 12)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.fc1(x.flatten(1)))
        return self.fc3(self.relu2(self.fc2(x)))


@functools.cache
def _trained_tiny() -> Tiny:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = Tiny()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        loss = F.cross_entropy(network(digits().train.x), digits().train.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False).eval()


def tiny_network() -> Tiny:
    """A copy of the trained network, in eval mode."""
    return copy.deepcopy(_trained_tiny())


def tiny_model(network: nn.Module | None = None, **options: Any) -> qx.QuantizedActivationsModel:
    """The trained network, or another one, wrapped at its ReLU modules and calibrated."""
    model = qx.QuantizedActivationsModel(network or tiny_network(), predicates.by_type(nn.ReLU), **options)
    model.calibrate([digits().calibration.x.clone()])
    return model


def weighted_model(network: nn.Module | None = None, **options: Any) -> qx.QuantizedModel:
    """The same with the three weights quantized too: points input, relu1, relu2, and fc1, fc2, fc3 with ".weight"."""
    if network is None:
        return copy.deepcopy(_weighted_once(_trained_tiny(), **options))
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted, **options)
    model.calibrate([digits().calibration.x.clone()], method="mse")
    return model


@functools.cache
def _weighted_once(network: nn.Module, **options: Any) -> qx.QuantizedModel:
    return weighted_model(copy.deepcopy(network), **options)


class Scaled(nn.Module):
    """The trained network with gains behind it: outputs that they scale diverge, and every prediction stays."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.gains = tiny_network(), nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x) * 30
        for gain in self.gains:
            logits = logits * (15 * (gain(x.mean(dim=(1, 2, 3))) - 0.45)).exp()[:, None]
        return logits


def search_loader(size: int = 400) -> list[tuple[Tensor, Tensor]]:
    """The 400 images of the search split; one batch unless told otherwise."""
    return batches(digits().search, size)


def tiny_problem(
    metric: Any = qx.top1_accuracy,
    *,
    model: Any = None,
    loader: Any = None,
    lower: Any = 2,
    upper: Any = 4,
    **options: Any,
) -> qx.LayerwiseQuantizationProblem:
    """Three points of widths 2 to 4: 27 candidates, or other limits."""
    return qx.LayerwiseQuantizationProblem(
        model or tiny_model(),
        search_loader() if loader is None else loader,
        metric,
        num_bits_lower_limit=lower,
        num_bits_upper_limit=upper,
        **options,
    )


def front_of_uniform(problem: qx.LayerwiseQuantizationProblem) -> str:
    """The front of the uniform widths, as text; here, so that another process finds it."""
    list(problem.measure(problem.space.uniform()))
    return str(problem.front())


def prefix_evaluator(
    model: Any, loader: Any, metric: Any, *, budget_bytes: int | None = None, required: bool = False, **options: Any
) -> PrefixEvaluator:
    """The fast evaluator over the direct one of the same model, loader and metric."""
    direct = qx.DirectEvaluator(model, loader, metric, **options)
    return PrefixEvaluator(direct, budget_bytes=budget_bytes, required=required)


class Watched:
    """Top-1 accuracy that counts batches and does something else at chosen ones, counted from 1."""

    def __init__(self, at: Iterable[int] = (), do: Callable[[Tensor], Tensor] | None = None) -> None:
        self.calls = 0
        self.at = set(at)
        self.do = do
        self.__name__ = "watched"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        scores = qx.top1_accuracy(output, target)
        return self.do(scores) if self.do is not None and self.calls in self.at else scores


class SpoiledFor:
    """Top-1 accuracy that does something else for samples whose output is that of one candidate of the tiny network.

    However an evaluator cuts and orders its work, the same candidate is hit.
    """

    def __init__(self, candidate: Candidate, do: Callable[[Tensor], Tensor]) -> None:
        model = tiny_model()
        model.num_bits = candidate
        with torch.no_grad():
            self.rows = model(_seen_by(model, digits().search).x)
        self.do = do
        self.__name__ = "spoiled"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        scores = qx.top1_accuracy(output, target)
        is_hit = (output[:, None] - self.rows).abs().amax(dim=2).amin(dim=1) < 1e-5
        # A sample or two may come out the same for other candidates; eight in a row do not.
        if not is_hit.unfold(0, 8, 1).all(dim=1).any():
            return scores
        return torch.where(is_hit, self.do(scores), scores)


def raising(error: BaseException) -> Callable[[Any], Any]:
    """A function of one argument that raises ``error``."""

    def raise_error(_: Any) -> Any:
        raise error

    return raise_error


def correct(model: nn.Module, candidate: Iterable[int], split: Split | None = None) -> int:
    """How many samples a hand-written loop finds right, with the quantizers' widths set one by one."""
    split = digits().search if split is None else split
    copied = copy.deepcopy(model).eval()
    for quantizer, width in zip(copied.fake_quantizers.values(), candidate, strict=True):
        if width:
            quantizer.num_bits = width
        else:
            quantizer.disable()
    x, y = _seen_by(copied, split)
    with torch.no_grad():
        return int((copied(x).argmax(dim=1) == y).sum())


def _seen_by(model: nn.Module, split: Split) -> Split:
    """A copy of ``split`` where ``model`` lies."""
    place = next(model.parameters()).device
    return Split(*(tensor.clone().to(place) for tensor in split))


def measured(evaluations: Iterable[Evaluation]) -> list[tuple[Any, ...]]:
    """All that is measured of each candidate, times apart."""
    return [
        (e.candidate, e.state, e.score, None if e.scores is None else e.scores.tobytes(), e.interval, e.num_samples)
        for e in evaluations
    ]


def every_candidate(problem: qx.LayerwiseQuantizationProblem) -> list[Candidate]:
    """All candidates of a small space."""
    limits = zip(problem.space.lower, problem.space.upper, strict=True)
    return list(itertools.product(*(range(int(low), int(high) + 1) for low, high in limits)))


def true_front(rows: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """Of (score to maximise, cost to minimise), those that no other beats; every pair is compared."""
    pairs = set(rows)
    return {
        (score, cost)
        for score, cost in pairs
        if not any(s >= score and c <= cost and (s, c) != (score, cost) for s, c in pairs)
    }


def state_of(model: qx.QuantizedModel) -> dict[str, Any]:
    """All that an evaluation must leave as it was."""
    return {
        "quantizers": {
            name: (
                q.code,
                q.switched_off,
                q.disabled,
                q.unsigned,
                q.num_negative,
                None if q.amax is None else q.amax.tolist(),
            )
            for name, q in model.fake_quantizers.items()
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (dict(module._forward_hooks), dict(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "tensors": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "homes": {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]},
        "gradients": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    }


def random_state() -> tuple[Any, ...]:
    """The global generators of torch, numpy and Python, and of the pretended device while it is in use."""
    legacy: Any = np.random.get_state()  # noqa: NPY002
    device = getattr(torch, "pretended", None)
    count = device.device_count() if device and device.is_available() else 0
    there = [device.get_rng_state(index).tolist() for index in range(count)]
    return torch.get_rng_state().tolist(), there, legacy[1].tolist(), legacy[2:], random.getstate()
