"""From the pipeline to a search over the widths of all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qexplore._trees import map_tensors
from qexplore.errors import ProblemError, SelectionError, WorkflowError
from qexplore.evaluation import DirectEvaluator
from qexplore.exploration import Exploration, explore
from qexplore.metrics import Metric
from qexplore.model import QuantizedModel, num_samples
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import Subject
from qexplore.predicates import by_type, weighted
from qexplore.preparation import copied_network
from qexplore.search import LayerwiseQuantizationProblem

_DROP = 0.05
"""What a point of the front may lose: points of accuracy, or a share of a score that is better when lower."""

_OUTPUTS = by_type(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Explored:
    """What a search found.

    Attributes:
        exploration: its result.
        model: the network that was searched, wrapped and calibrated, at the widths of the cheapest point of the front.
    """

    exploration: Exploration
    model: QuantizedModel


def explore_widths(subject: Subject, network: nn.Module, options: Options, say: Callable[[str], None]) -> Explored:
    """Search widths from 2 to 8 bits for weights and outputs of layers, on half of the held-out data.

    The other half is what the front is reported on; a single batch is cut in two. Where no widths keep the score near
    the float network's, the search has no minimum, and that is said.

    Args:
        subject: its data and metric.
        network: the float network, optimized or not; left as it is.
        options: budget and seed.
        say: told what the search does without.

    Raises:
        WorkflowError: there is no metric, or too little held-out data to be halved.
        QExploreError: as `qexplore.LayerwiseQuantizationProblem` and `qexplore.explore` say.
    """
    if subject.metric is None:
        raise WorkflowError(f"'{subject.name}' has no targets to score candidates with")
    searched, reported = _halves(subject)
    model = _wrapped(copied_network(network))
    model.calibrate(subject.calibration, progress=options.progress)
    exploration = explore(
        _problem(model, searched, subject.metric, say), max_evaluations=options.evaluations, seed=options.seed,
        report_loader=reported, progress=options.progress,
    )  # fmt: skip
    if len(exploration.front):
        model.num_bits = exploration.front.cheapest().num_bits
    return Explored(exploration, model)


def _halves(subject: Subject) -> tuple[list[Any], list[Any]]:
    """Batches to search on, and batches to report on."""
    batches = list(subject.held_out)
    if len(batches) > 1:
        half = len(batches) // 2
        return batches[:half], batches[half:]
    count = num_samples(batches[0])
    if count < 2:
        raise WorkflowError(
            f"the held-out data of '{subject.name}' must hold two samples or more, some to search on and some to "
            "report on, got one batch of which no half can be taken: let the held-out loader give two batches or more"
        )
    return [_samples(batches[0], slice(count // 2))], [_samples(batches[0], slice(count // 2, None))]


def _samples(batch: Any, which: slice) -> Any:
    return map_tensors(lambda tensor: tensor[which] if tensor.dim() else tensor, batch)


def _problem(
    model: QuantizedModel, loader: Any, metric: Metric, say: Callable[[str], None]
) -> LayerwiseQuantizationProblem:
    def posed(max_drop: float | None) -> LayerwiseQuantizationProblem:
        return LayerwiseQuantizationProblem(
            model, loader, metric, num_bits_lower_limit=2, num_bits_upper_limit=8, max_drop=max_drop
        )

    try:
        return posed(_max_drop(metric, model, loader))
    except ProblemError as error:
        say(f"No widths lose as little as was to be lost at most: {error}. The search goes on without a minimum.")
        return posed(None)


def _wrapped(network: nn.Module) -> QuantizedModel:
    try:
        return QuantizedModel(network, activations=_OUTPUTS, weights=weighted)
    except SelectionError:
        return QuantizedModel(network, weights=weighted)


def _max_drop(metric: Metric, model: QuantizedModel, loader: Any) -> float:
    score = DirectEvaluator(model, loader, metric).float_evaluation.score
    # A network that is hardly better than nothing may lose half of what it has.
    size = abs(score)  # such as of a negated error
    return min(_DROP, size / 2) if metric.better == "higher" else _DROP * size
