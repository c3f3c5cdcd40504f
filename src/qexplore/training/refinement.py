"""The cheap end of a front, fine-tuned: where few bits cost most, training brings most."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from qexplore._arguments import checked_int, checked_keywords
from qexplore._direction import Directed
from qexplore._progress import Progress
from qexplore._table import Tabular, text_table
from qexplore.errors import FrontError, WorkflowError
from qexplore.evaluation import DirectEvaluator
from qexplore.front import Front, FrontPoint, cost_text, score_text
from qexplore.metrics import judging
from qexplore.model import Loader, QuantizedModel, Unpack, alone, require_same_model, require_wrapped
from qexplore.training.fine_tuning import FineTuning, fine_tune, measured, metric_for
from qexplore.training.loop import copied_state
from qexplore.training.options import Loss, TrainingKeywords, check_loss

State = dict[str, Any]
"""A state dict, its tensors on the CPU."""

_DEFAULT_COUNT = 5


@dataclass(frozen=True, eq=False)
class RefinedPoint:
    """One point, before and after it was fine-tuned.

    Attributes:
        num_bits: codes of its choices.
        costs: by name.
        accuracy_before: on the report set, with the weights that the model had.
        accuracy_after: with the weights that were trained for it.
        fine_tuning: its epochs.
        state: the model's state dict with these weights, ranges and widths.
    """

    num_bits: tuple[int, ...]
    costs: dict[str, float]
    accuracy_before: float
    accuracy_after: float
    fine_tuning: FineTuning
    state: State = field(repr=False)


@dataclass(frozen=True, eq=False)
class Refinement(Tabular):
    """What `refine` gives; ``print`` shows it.

    Attributes:
        before: the front's points, measured on the report set with the weights that the model had.
        after: these and the refined ones together, without those that another one beats; measured likewise.
        refined: the points that were fine-tuned, by rising cost.
        state: the model's state dict with the weights before.
        interrupted: whether Ctrl-C ended it; points that were not reached are as they were.
    """

    before: Front
    after: Front
    refined: tuple[RefinedPoint, ...]
    state: State = field(repr=False)
    interrupted: bool = False

    def apply(self, model: QuantizedModel, point: Any) -> None:
        """Give ``model``, wrapped as the refined one was, the weights, ranges and widths of a point of `after`.

        Raises:
            FrontError: ``after`` has no such point.
        """
        wanted = tuple(int(code) for code in getattr(point, "num_bits", point))
        if wanted not in set(map(tuple, self.after.num_bits.tolist())):
            raise FrontError(f"Refinement.apply: the front after fine-tuning has no point with num_bits {wanted}.")
        found = self._kept(wanted)
        model.load_state_dict(self.state if found is None else found.state)
        model.num_bits = wanted

    def is_refined(self, point: FrontPoint) -> bool:
        """Whether a point of `after` has weights of its own."""
        return self._kept(point.num_bits) is not None

    def _kept(self, num_bits: tuple[int, ...]) -> RefinedPoint | None:
        found = next((one for one in self.refined if one.num_bits == num_bits), None)
        if found is None:
            return None
        return found if found.fine_tuning.is_better(found.accuracy_after, found.accuracy_before) else None

    def __str__(self) -> str:
        name = self.before.cost_names[0]
        rows = [
            (
                cost_text(one.costs[name]),
                score_text(one.accuracy_before),
                score_text(one.accuracy_after),
                str(one.fine_tuning.best_epoch),
            )
            for one in self.refined
        ]
        metric = self.before.metric_name
        table = text_table((name, f"{metric} before", "after", "best epoch"), rows, numeric=range(4))
        ended = ", interrupted" if self.interrupted else ""
        count = len(self.refined)
        return f"{count} of {len(self.before)} points fine-tuned{ended}, on the report set:\n{table}\n{self.after}"


@alone
def refine(
    front: Front,
    model: QuantizedModel,
    train_loader: Loader,
    loss: Loss,
    *,
    report_loader: Loader,
    validation_loader: Loader | None = None,
    count: int | None = None,
    below: float | None = None,
    cost: str | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
    **fine_tuning: Any,
) -> Refinement:
    """Fine-tune the cheap points of a front, each from the weights that the model has, and give the front anew.

    All points of the front are measured on the report set before, and the refined ones after, by the direct evaluator;
    so both fronts are of real measurements on the same data. The model comes back as it was; `Refinement.apply` gives
    it the weights of a point. Ctrl-C ends it with the points refined so far.

    Only ``metric`` is measured: the fronts that come back hold no scores by further metrics, which would be those of
    other weights or of another set.

    Args:
        front: of the model's points, such as ``exploration.front``.
        model: wrapped and calibrated, as it was when the front was found.
        train_loader: batches to train on.
        loss: ``loss(output, target)``, one number.
        report_loader: data that accuracy is measured on and that decides nothing else.
        validation_loader: data that decides which epoch is kept; None takes the least loss.
        count: refine so many of the cheapest points; None, without ``below``, is 5.
        below: refine all points whose accuracy in ``front`` is worse than this.
        cost: name of the cost that says which points are cheap; None takes the first one.
        metric: see `qexplore.metrics`; the front's own. None takes it, where the front is of this process or the metric
            is one of qexplore's.
        unpack: ``unpack(batch) -> (inputs, target)``, for all loaders.
        progress: show bars on stderr; None shows them on a terminal, and elsewhere a line every half minute.
        fine_tuning: further arguments of `fine_tune`, such as ``epochs=2`` or ``learn_step_sizes=True``.

    Raises:
        FrontError: no front, an empty one, or one of other points or of another metric.
        OtherModelError: the front knows that it was found on another model.
        WorkflowError: no ``metric`` where the front's is known by a name only, both ``count`` and ``below``, none
            selected, and all that `fine_tune` refuses.
        QExploreError: see `fine_tune`.
    """
    parameters = inspect.signature(fine_tune).parameters.values()
    beside = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    checked_keywords(refine, fine_tuning, TrainingKeywords, beside=beside)
    require_wrapped("refine", model, WorkflowError)
    check_loss(loss)
    measure = judging(metric_for("refine", metric, front), fine_tuning.get("output"))
    _check_front(front, model, measure)
    chosen = _chosen(front, measure, count, below, cost)
    state, widths = copied_state(model, "cpu"), model.num_bits
    reporter = DirectEvaluator(model, report_loader, measure, unpack=unpack)
    before = []
    with Progress(len(front), description="measure the front", unit="point", shown=progress) as bar:
        for point in front:
            before.append(measured(reporter, point.num_bits))
            bar.advance()
    refined: list[RefinedPoint] = []
    interrupted = False
    with Progress(len(chosen), description="refine", unit="point", shown=progress) as bar:
        for point in chosen:
            with _brought_back(model, state, widths):
                tuned = fine_tune(
                    model,
                    point,
                    train_loader,
                    loss,
                    validation_loader=validation_loader,
                    metric=measure,
                    unpack=unpack,
                    progress=progress,
                    **fine_tuning,
                )
                interrupted = tuned.interrupted
                after = measured(reporter, point.num_bits)
                trained = copied_state(model, "cpu")
                refined.append(RefinedPoint(point.num_bits, point.costs, before[point.index], after, tuned, trained))
            bar.advance()
            if interrupted:
                break
    start = _remeasured(front, before, reporter.float_evaluation.score)
    return Refinement(
        before=start,
        after=_best_of(start, refined),
        refined=tuple(refined),
        state=state,
        interrupted=interrupted,
    )


@contextmanager
def _brought_back(model: QuantizedModel, state: State, widths: Any) -> Iterator[None]:
    try:
        yield
    finally:
        model.load_state_dict(state)
        model.num_bits = widths


def _check_front(front: Any, model: QuantizedModel, metric: Any) -> None:
    if not isinstance(front, Front):
        hint = ": give its front" if isinstance(getattr(front, "front", None), Front) else ""
        raise FrontError(f"refine: needs a Front, got {type(front).__name__}{hint}.")
    names = tuple(model.fake_quantizers)
    if front.point_names != names:
        raise FrontError(
            f"refine: the front must be of the model's {len(names)} points ({', '.join(names)}), got one of "
            f"{', '.join(front.point_names)}. Wrap the network as it was wrapped for the search."
        )
    if (front.metric_name, front.better) != (metric.name, metric.better):
        raise FrontError(
            f"refine: the front is of {front.metric_name!r}, but metric is {metric.name!r}. Give the front's own."
        )
    require_same_model(model, front.cheapest())  # an empty front is refused here


def _chosen(front: Front, metric: Directed, count: Any, below: Any, cost: str | None) -> list[FrontPoint]:
    if count is not None and below is not None:
        raise WorkflowError("refine takes `count` or `below`, got both")
    front.cost(cost)  # an unknown name is refused here
    name = front.cost_names[0] if cost is None else cost
    points = sorted(front, key=lambda point: point.costs[name])
    if below is None:
        return points[: _DEFAULT_COUNT if count is None else checked_int("`count`", count, WorkflowError, low=1)]
    worse = [one for one in points if metric.is_better(below, one.accuracy)]
    if not worse:
        raise WorkflowError(
            f"`below` selects no point: the worst {front.metric_name} of this front is "
            f"{metric.gain(min(metric.gain(front.accuracy))):g}, got below={below!r}"
        )
    return worse


def _remeasured(front: Front, scores: list[float], float_accuracy: float) -> Front:
    """``front`` with ``scores`` of another set, and nothing else that was measured."""
    gone: dict[str, Any] = dict.fromkeys(
        [field.name for field in fields(front) if field.name.startswith("report_")]
        + ["interval", "further_scores", "min_accuracy", "uniform"]
    )
    return replace(front, accuracy=np.array(scores), float_accuracy=float_accuracy, verified=True, further=(), **gone)


def _best_of(before: Front, refined: list[RefinedPoint]) -> Front:
    """The front of the points of ``before`` and the ``refined`` ones."""
    if not refined:
        return before
    fields = dict(vars(before))
    added = {
        "num_bits": [one.num_bits for one in refined],
        "accuracy": [one.accuracy_after for one in refined],
        "costs": [list(one.costs.values()) for one in refined],
    }
    known = {name: np.concatenate([fields[name], rows]) for name, rows in added.items()}
    return Front.from_candidates(**(fields | known | {"fingerprint": None}))  # it is of several weights
