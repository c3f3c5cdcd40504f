"""The search's own time: seconds of a search whose candidates are answered from a formula, by part and per generation.

    python benchmarks/own_time.py --networks resnet20 --budgets 60 200 450

Everything is as in a real search but for the network's passes: scores are those of samples whose margins the summed
noise of the choices, and pairs of them, wear away. They are answered at once, stopped early too, and what answering
takes is left out. Seconds are of the thread's processor, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import Evaluation, Order
from qexplore.exploration import run as exploration_run
from qexplore.exploration.state import Run
from qexplore.model import QuantizedModel
from qexplore.search import Archive, LayerwiseQuantizationProblem, guide
from qexplore.search.low_fidelity import LowFidelity
from qexplore.search.memory import Memory
from qexplore.search.sensitivities import Sensitivities
from qexplore.search.surrogate import Surrogate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import networks

PARTS = {
    "version": (QuantizedModel, "version"),
    "memory": (Memory, "measure"),
    "archive": (Archive, "add"),
    "must beat": (Archive, "must_beat"),
    "hypervolume": (Archive, "hypervolume"),
    "front": (Archive, "front"),
    "additive": (Sensitivities, "front"),
    "preview": (guide.Guide, "_previewed"),
    "looks": (LowFidelity, "look"),
    "divergences": (LowFidelity, "described"),
    "pool": (guide.Guide, "_pool"),
    "fit": (guide.Guide, "_fitted"),
    "predict": (Surrogate, "predict"),
    "choose": (guide, "choose"),
    "propose": (guide.Guide, "propose"),
    "note": (Run, "_note"),
    "verify": (exploration_run, "verify"),
    "the rest": (exploration_run, "run_search"),
}
NUM_SAMPLES = 4096


def main() -> None:
    """Search each network at each budget, and print medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--budgets", type=int, nargs="+", default=[60, 200, 450])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--generation", type=int, help="candidates of a generation, at least; ten by default")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    for place in PARTS.values():
        setattr(*place, timed(getattr(*place), {at: name for name, at in PARTS.items()}[place]))
    for name in arguments.networks:
        model = NETWORKS[name]()
        for budget in arguments.budgets:
            runs = [search(model, budget, arguments.seed, arguments.generation) for _ in range(arguments.repeats)]
            found, _ = runs[-1]
            generations = found.history[-1].generation
            by_part = {part: float(np.median([parts[part] for _, parts in runs])) for part in PARTS}
            own = float(np.median([sum(parts.values()) - parts["answers"] for _, parts in runs]))
            print(
                f"{name}, {len(model.fake_quantizers)} points, {budget} passes: {own:.2f} s of its own, "
                f"{1e3 * own / generations:.1f} ms a generation ({generations}), {found.num_evaluations} candidates, "
                f"hypervolume {found.history[-1].hypervolume!r}"
            )
            print("   ", ", ".join(f"{part} {seconds:.2f}" for part, seconds in by_part.items()), flush=True)


def search(
    model: QuantizedModel, budget: int, seed: int, generation: int | None
) -> tuple[qx.Exploration, Counter[str]]:
    """One search, and the seconds of its parts, without those of parts that they call."""
    problem = posed(model)
    spent.clear()
    found = qx.explore(problem, max_evaluations=budget, seed=seed, generation_size=generation, progress=False)
    return found, Counter(spent)


def posed(model: QuantizedModel) -> LayerwiseQuantizationProblem:
    """A problem whose evaluators are answered by a formula."""
    with torch.no_grad(), model.using([0] * len(model.fake_quantizers)):
        data = [(model.example, model(model.example).argmax(1))] * (NUM_SAMPLES // len(model.example))
    problem = LayerwiseQuantizationProblem(model, data, engine="direct", min_accuracy=0.5)
    answers = Answers(problem)
    problem.evaluator = problem._memory._evaluator = answers
    problem.direct.evaluate = answers.evaluate  # of the last word
    problem.direct.scores_on_subset = answers.scores_on_subset
    return problem


# ------------------------------------------------------------------------------------------------- what is timed

spent: Counter[str] = Counter()
_running: list[list[float]] = []


def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function``, with its processor time added to ``spent``, that of timed functions inside it left out."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        result = counted(name, lambda: function(*args, **options))
        return stepwise(name, result) if isinstance(result, Iterator) else result

    return run


def stepwise(name: str, answers: Iterator[Any]) -> Iterator[Any]:
    """The same answers, each of them timed."""
    end = object()
    while (answer := counted(name, lambda: next(answers, end))) is not end:
        yield answer


def counted(name: str, call: Callable[[], Any]) -> Any:
    """What ``call`` returns, timed."""
    _running.append([0.0])
    start = time.thread_time()
    try:
        return call()
    finally:
        seconds = time.thread_time() - start
        spent[name] += seconds - _running.pop()[0]
        if _running:
            _running[-1][0] += seconds


# --------------------------------------------------------------------------------------------------- the formula


class Answers:
    """Evaluates candidates by a formula: shares of noise by point and width, pairs of points, margins of samples.

    Args:
        problem: whose points and choices.
    """

    description = "answered by a formula"
    early_stop = "on"
    divergence_gap = ""
    series = ()

    def __init__(self, problem: LayerwiseQuantizationProblem) -> None:
        rng = np.random.default_rng(5)
        points = problem.space.num_points
        self._metric = problem.metric
        self._shares = np.exp(rng.normal(0.0, 1.5, points)) * 40 / points
        self._pairs = np.triu(rng.normal(0.0, 0.8, (points, points)) * (rng.random((points, points)) < 0.2), 1)
        self._margins = np.sort(rng.logistic(1.6, 0.7, NUM_SAMPLES))
        self._wear = rng.uniform(0.5, 1.5, NUM_SAMPLES)
        self.evaluate = timed(self._evaluate, "answers")

    def _damage(self, candidates: np.ndarray) -> np.ndarray:
        noise = self._shares * np.where(candidates > 0, 4.0 ** -candidates.astype(np.float64), 0.0)
        roots = np.sqrt(noise)
        return np.sqrt(np.maximum(noise.sum(axis=1) + ((roots @ self._pairs) * roots).sum(axis=1), 0.0))

    def _evaluate(
        self, candidates: np.ndarray, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        for place, candidate in enumerate(candidates):
            row = tuple(candidate.tolist())
            damage = float(self._damage(candidate[None])[0])
            scores = (self._margins > damage * self._wear).astype(np.float32)
            best = 1 - np.cumsum(1 - scores)[127::128] / NUM_SAMPLES
            beaten = np.flatnonzero(best[:-1] <= (-np.inf if must_beat is None else must_beat[place]))
            if len(beaten):
                count = 128 * int(beaten[0] + 1)
                yield Evaluation(row, "stopped", bound=float(best[beaten[0]]), num_samples=count)
            else:
                score = float(scores.mean())
                yield Evaluation(row, "complete", score, scores, divergence=damage**2, num_samples=NUM_SAMPLES)

    def scores_on_subset(self, candidates: np.ndarray, metric: Any, num_samples: int, **_: Any) -> np.ndarray:
        """The noise of each candidate, the same for all samples."""
        return np.repeat(self._damage(candidates)[:, None] ** 2, num_samples, axis=1).astype(np.float32)

    def subset_size(self, num_samples: int) -> int:
        """As many as asked for."""
        return num_samples


# ---------------------------------------------------------------------------------------------------- networks


class Layer(nn.Module):
    """A layer of a transformer, each of its parts a module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.wide, self.act, self.narrow = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]``."""
        mixed = self.mix(self.norm1(x))
        x = x + self.out(torch.softmax(mixed @ mixed.transpose(1, 2), dim=-1) @ mixed)
        return x + self.narrow(self.act(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    """Twelve layers, and a mean over tokens."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.layers = nn.Sequential(*[Layer(width) for _ in range(12)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, 8]``."""
        return self.head(self.norm(self.layers(self.embed(x))).mean(dim=1))


def resnet20() -> QuantizedModel:
    """ResNet-20, its input and every ReLU: 20 points."""
    return calibrated(networks.ResNet20(), torch.randn(8, 1, 8, 8), predicates.by_type(nn.ReLU))


def transformer() -> QuantizedModel:
    """Outputs of the layers of a transformer: 75 points."""
    return calibrated(Transformer(), torch.randn(8, 4, 8), predicates.by_type(nn.LayerNorm, nn.Linear, nn.GELU) & INNER)


def weights() -> QuantizedModel:
    """The same and the weights of its linear layers: more than 100 points."""
    outputs = predicates.by_type(nn.LayerNorm, nn.Linear, nn.GELU) & INNER
    return calibrated(Transformer(), torch.randn(8, 4, 8), outputs, weights=predicates.by_type(nn.Linear))


INNER = ~predicates.by_name("head", "*.norm1")
NETWORKS = {"resnet20": resnet20, "transformer": transformer, "transformer and weights": weights}


def calibrated(network: nn.Module, example: Tensor, activations: Any, **options: Any) -> QuantizedModel:
    """Wrapped, with ranges of ``example``, which it keeps."""
    model = QuantizedModel(network.eval(), activations=activations, unsigned=False, **options)
    model.calibrate([example])
    model.example = example
    return model


if __name__ == "__main__":
    main()
