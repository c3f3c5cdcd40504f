"""What divergence does where it misleads, and what wrong labels do: `explore` with and without it.

    python benchmarks/misled.py --results misled.json

Cases on the digits, each on 400 images that are searched and 300 on which nothing was chosen:

- "gains": a small network whose logits are multiplied by gains that are quantized too. A coarse gain makes the network
  surer or less sure, so that outputs diverge, and leaves every prediction as it was: divergence sees the points that
  need no bits, and little of those that do;
- "saturated": the same network with logits so large that divergence is that of the few samples on the edge;
- "labels": a fifth of the labels of the search set is wrong, of the small network's and of a ResNet-20's.

Each mode searches with a problem of its own, the same seeds and budgets. Hypervolumes are of the fronts handed out, on
the search set as it is given (wrong labels included) and unseen, where all labels are right. How well divergence orders
candidates at random is said before each case.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _results import Results
from _unseen import hypervolume, unseen
from scipy.stats import spearmanr, wilcoxon
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.metrics import kl_divergence
from qexplore.search import LayerwiseQuantizationProblem, reference_point

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from networks import batches, digits, trained

MIN_ACCURACY = 0.5
WRONG = 0.2
SATURATION = 20.0
BRIGHTEST = 0.45
"""About the brightest image: most are nearer to it than to black, so that two bits make them as bright."""
FEW = 64
SETS = ("search set", "unseen")
WITH, WITHOUT = "with divergence", "without"
MODES: dict[str, dict[str, Any]] = {
    WITH: {},
    "looks, but no judge": {"judge": "accuracy"},
    "judge, but no looks": {"low_fidelity": False},
    WITHOUT: {"low_fidelity": False, "judge": "accuracy"},
}


def main() -> None:
    """Search every case in every mode, and print both hypervolumes at every budget."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--budgets", type=int, nargs="+", default=[40, 100, 300])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--results", type=Path, help="JSON that a rerun goes on from: what is in it is not run again")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    results, seeds = Results(arguments.results), range(1, arguments.seeds + 1)
    modes = [mode for mode in arguments.modes if is_there(MODES[mode])]
    for name in arguments.cases:
        case = CASES[name]()
        print(f"\n{name}: {results.get((name,), case.told)}", flush=True)
        found = {
            mode: np.array([results.get((name,), case.run, mode, seed, *arguments.budgets) for seed in seeds])
            for mode in modes
        }
        for line in table(found, arguments.budgets):
            print(line, flush=True)


def is_there(options: dict[str, Any]) -> bool:
    """Whether `explore` has these options; says which it has not."""
    missing = [option for option in options if option not in inspect.signature(qx.explore).parameters]
    if missing:
        print(f"not run: `explore` has no {' and no '.join(missing)}")
    return not missing


def table(found: dict[str, np.ndarray], budgets: Sequence[int]) -> list[str]:
    """A line a mode and set: median and worst, and how the divergence does beside the mode."""
    lines = []
    for mode, values in found.items():
        for which, part in enumerate(SETS):
            cells = []
            for place, budget in enumerate(budgets):
                one = values[:, place, which]
                cells.append(f"at {budget} median {np.median(one):.3f} worst {one.min():.3f}")
                if mode != WITH and WITH in found:
                    cells[-1] += f" ({beside(found[WITH][:, place, which], one)})"
            lines.append(f"{mode:22s} {part:10s} {'; '.join(cells)}")
    return lines


def beside(ours: np.ndarray, others: np.ndarray) -> str:
    """In how many seeds the divergence is better and worse, and Wilcoxon's one-sided p that it is worse."""
    gains = ours - others
    p = wilcoxon(gains, alternative="less").pvalue if np.any(gains) else 1.0
    return f"with: +{int((gains > 0).sum())} -{int((gains < 0).sum())}, worse p={p:.3f}"


class Case(NamedTuple):
    """A network, data, and what stands unseen."""

    model: qx.QuantizedActivationsModel
    search: list[tuple[Tensor, Tensor]]
    report: list[tuple[Tensor, Tensor]]

    def pose(self) -> LayerwiseQuantizationProblem:
        """The problem anew."""
        return LayerwiseQuantizationProblem(self.model, self.search, min_accuracy=MIN_ACCURACY)

    def told(self) -> str:
        """How well a few samples' divergence tells accuracies apart: of all, and of those that come near float."""
        problem = self.pose()
        candidates = problem.space.random(600, np.random.default_rng(0))
        divergence = problem.scores_on_subset(candidates, kl_divergence, FEW, against_float=True).mean(axis=1)
        scores = np.array([evaluation.score for evaluation in problem.measure(candidates)])
        return (
            f"{problem.space.num_points} points, float {problem.float_accuracy:.3f}; rank correlation of accuracy with "
            f"divergence on {FEW} samples {-spearmanr(divergence, scores).statistic:.3f} and with total bits "
            f"{spearmanr(candidates.sum(axis=1), scores).statistic:.3f}, of {len(scores)} candidates at random"
        )

    def run(self, mode: str, seed: int, *budgets: int) -> list[tuple[float, float]]:
        """Both hypervolumes of what a search hands out within each budget; the longer ones find much in memory."""
        problem = self.pose()
        there, reference = unseen(problem, self.report), reference_point(problem, ())
        values = []
        for budget in budgets:
            found = qx.explore(problem, max_evaluations=budget, seed=seed, progress=False, **MODES[mode])
            front = found.front.num_bits
            values.append((hypervolume(problem, front, reference), hypervolume(there, front, reference)))
        return values


# ---------------------------------------------------------------------------------------------------------- the cases


class Gain(nn.Module):
    """A positive factor a sample, told by how bright it is; whatever its quantizer does, it stays positive."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * (self.act(x.mean(dim=(1, 2, 3))) - BRIGHTEST)).exp()[:, None]


class Gained(nn.Module):
    """Logits times the product of gains, which no prediction depends on."""

    def __init__(self, base: nn.Module, slopes: Sequence[float] = (), scale: float = 1.0) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.gains = nn.ModuleList([Gain(slope) for slope in slopes])

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x) * self.scale
        for gain in self.gains:
            logits = logits * gain(x)
        return logits


def case(network: nn.Module, wrong: float = 0.0) -> Case:
    """A network on the digits; a share of the search set's labels is wrong."""
    model = qx.QuantizedActivationsModel(network.eval(), predicates.by_type(nn.ReLU), unsigned=False)
    model.calibrate(batches(digits().calibration))
    split = digits().search
    rng = np.random.default_rng(0)
    places = rng.permutation(len(split.y))[: round(wrong * len(split.y))]
    labels = split.y.clone()
    labels[places] = (labels[places] + torch.from_numpy(rng.integers(1, 10, size=len(places)))) % 10
    return Case(model, batches(split._replace(y=labels), 200), batches(digits().report))


CASES: dict[str, Callable[[], Case]] = {
    "gains": lambda: case(Gained(trained("small_cnn"), slopes=(15.0,) * 4, scale=30.0)),
    "saturated": lambda: case(Gained(trained("small_cnn"), scale=SATURATION)),
    "labels": lambda: case(trained("small_cnn"), WRONG),
    "labels, ResNet-20": lambda: case(trained("resnet20"), WRONG),
}

if __name__ == "__main__":
    main()
