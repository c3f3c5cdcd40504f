"""Quantization-aware training of a point of a front."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack as Keywords

from qexplore._arguments import checked_keywords, checked_number, checked_switch
from qexplore._direction import Directed
from qexplore._table import Framed, Rows, record_rows, text_table
from qexplore._warnings import warn
from qexplore.errors import EvaluationError, WorkflowError, first_line
from qexplore.evaluation import DirectEvaluator, Evaluation, paired_interval
from qexplore.front import difference_text, score_text
from qexplore.metrics import Metric, Output, WholeSetMetric, as_metric, in_metric, judging, metric_named, top1_accuracy
from qexplore.model import Loader, QuantizedModel, Unpack, alone, noting, require_wrapped
from qexplore.training.loop import best_epoch, check_share, made_optimizer, on_device, train
from qexplore.training.options import EpochRecord, Loss, MakeOptimizer, TrainingKeywords, TrainingOptions, check_loss
from qexplore.training.step_sizes import TrainedRanges, trained_ranges


@dataclass(frozen=True)
class FineTuning(Framed, Directed):
    """What fine-tuning did; ``print`` shows it.

    Attributes:
        num_bits: codes of the choices that were trained, in the order of the model's points.
        epochs: a record each, with the score on the validation set where there is one.
        best_epoch: the one whose weights the model has; 0 for those before training.
        metric_name: of all scores.
        higher_is_better: its direction.
        float_accuracy: of the float network before training, on the report set; None without one.
        accuracy_before: of the point on the report set, before training.
        accuracy_after: the same, with the weights of the best epoch.
        learned_step_sizes: whether step sizes were learned (LSQ).
        seconds: wall time, evaluations included.
        interrupted: whether Ctrl-C ended it.
        unforced: operations that have no deterministic form where it was trained, as torch calls them: the same seed
            may give other weights; empty where all have one, and with ``deterministic=False``.
        loss_interval: 95 % interval of ``accuracy_before - float_accuracy``, paired by sample; None where not known.
        change_interval: the same of ``accuracy_after - accuracy_before``.
    """

    num_bits: tuple[int, ...]
    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    metric_name: str
    higher_is_better: bool
    float_accuracy: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    learned_step_sizes: bool
    seconds: float = field(compare=False)
    interrupted: bool = False
    loss_interval: tuple[float, float] | None = None
    unforced: tuple[str, ...] = ()
    change_interval: tuple[float, float] | None = None

    @property
    def is_worse(self) -> bool:
        """Whether training made the point worse on the report set, beyond noise: all of `change_interval` is."""
        return self.change_interval is not None and max(map(self.gain, self.change_interval)) < 0

    @property
    def recovered(self) -> float | None:
        """The share of what quantization had lost that training won back.

        None where nothing is known, and where nothing was lost beyond noise: the score before is no worse than the
        float network's, or its `loss_interval` holds 0.
        """
        if self.float_accuracy is None or self.accuracy_before is None or self.accuracy_after is None:
            return None
        lost = self.gain(self.float_accuracy - self.accuracy_before)
        if lost <= 0 or (self.loss_interval is not None and max(map(self.gain, self.loss_interval)) >= 0):
            return None
        return float(self.gain(self.accuracy_after - self.accuracy_before) / lost)

    def _frame_rows(self) -> Rows:
        return record_rows(EpochRecord, self.epochs)

    def __str__(self) -> str:
        rows = [
            (
                str(record.epoch),
                f"{record.loss:.4f}",
                "" if record.score is None else score_text(record.score),
                f"{record.seconds:.1f}",
                "kept" if record.epoch == self.best_epoch else "",
            )
            for record in self.epochs
        ]
        how = "with learned step sizes" if self.learned_step_sizes else "straight through"
        ended = ", interrupted" if self.interrupted else ""
        kept = "" if self.best_epoch else ", the state before training kept"
        count = f"{len(self.epochs)} epoch{'' if len(self.epochs) == 1 else 's'}"
        head = f"Fine-tuned {how}, {count} in {self.seconds:.1f} s{ended}{kept}"
        table = text_table(("epoch", "loss", self.metric_name, "seconds", ""), rows, numeric=range(4))
        unforced = [f"the same seed may give other weights, for no deterministic form: {', '.join(self.unforced)}"]
        return "\n".join([head, table, *(unforced if self.unforced else []), *self._report_lines()])

    def _report_lines(self) -> list[str]:
        if self.float_accuracy is None or self.accuracy_before is None or self.accuracy_after is None:
            return []
        scores = (self.float_accuracy, self.accuracy_before, self.accuracy_after)
        line = "report set: {} float {}, before {}, after {}".format(self.metric_name, *map(score_text, scores))
        if self.is_worse:
            return [line, f"! {self._worse()}"]
        if self.recovered is not None:
            return [f"{line}: {self.recovered:.0%} of the loss won back"]
        change = difference_text(self.accuracy_before - self.float_accuracy, self.loss_interval)
        return [f"{line}: nothing was lost beyond noise before, {change} from float"]

    def _worse(self) -> str:
        assert self.accuracy_after is not None and self.accuracy_before is not None
        change = difference_text(self.accuracy_after - self.accuracy_before, self.change_interval)
        return (
            f"training made {self.metric_name} worse on the report set, {change} from before: take a smaller "
            "learning_rate=, or validation_loader=, by which the state before training stays where no epoch is better"
        )


@alone
def fine_tune(
    model: QuantizedModel,
    point: Any,
    train_loader: Loader,
    loss: Loss,
    *,
    learn_step_sizes: bool = False,
    step_learning_rate: float | None = None,
    freeze_batchnorm_after: float = 0.5,
    validation_loader: Loader | None = None,
    report_loader: Loader | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
    output: Any = None,
    **training: Keywords[TrainingKeywords],
) -> FineTuning:
    """Set a point's widths and train the model with them: quantization-aware training.

    The network's own float weights are trained, through the quantizers: gradients pass straight through rounding and
    stop at what is clipped. The model stays wrapped, with the weights of the best epoch; `QuantizedModel.detach` gives
    the float network with these. Ranges of weights follow the weights: each stays the same share of its row's largest
    magnitude that calibration gave it, at every width. Ranges of activations stay those of calibration. With learned
    step sizes both are learned, at the widths that are trained; the other widths keep theirs.

    Ctrl-C ends it with the best epoch so far, and so does an error, which passes through. Device, train/eval flags and
    random state come back in every case.

    Args:
        model: wrapped and calibrated.
        point: of a front, or a vector or mapping of choices as ``model.num_bits`` takes it; None for what it has.
        train_loader: batches to train on.
        loss: ``loss(output, target)``, one number, such as ``torch.nn.functional.cross_entropy``.
        learn_step_sizes: learn the quantizers' step sizes too (LSQ, arXiv 1902.08153), from their present ranges on.
        step_learning_rate: of AdamW for learned steps, relative to each step's size; None is ``learning_rate``.
        freeze_batchnorm_after: the share of all steps after which BatchNorm layers keep the statistics that they have
            and normalize with them; 1 for never.
        validation_loader: data that decides which epoch is the best, by ``metric``; None takes the least loss. The
            state before training stays where no epoch is better.
        report_loader: data that decides nothing: accuracy before and after is measured on it.
        metric: see `qexplore.metrics`. None takes the point's own, the one of the problem that it was found in; for
            widths that are of no front, top-1 accuracy.
        unpack: ``unpack(batch) -> (inputs, target)``, for all loaders.
        progress: show a bar on stderr; None shows it on a terminal, and elsewhere a line every half minute.
        output: which of several outputs of the network ``loss`` gets, and a metric without a choice of its own; see
            `Metric`. None gives the loss all.
        training: ``epochs`` (2), ``learning_rate``, ``optimizer``, ``device``, ``seed``, ``on_epoch`` and
            ``deterministic``, as `qexplore.training.TrainingOptions` says. The report set is measured where the model
            is.

    Raises:
        WorkflowError: no wrapped model, nothing to train, an optimizer of other parameters, an argument out of range,
            a loss that is not one finite number, or a point whose own metric is known by a name only.
        CalibrationError: points without a range.
        NumBitsError: ``point`` does not fit the model.
        DataError, MetricError, EvaluationError: a loader or the metric cannot be used; said before training.
        ModelError: the model is detached from its network.
    """
    checked_keywords(fine_tune, training, TrainingKeywords)
    require_wrapped("fine_tune", model, WorkflowError)
    check_loss(loss)
    asked: dict[str, Any] = {"epochs": 2, **training}
    options = TrainingOptions(**asked, progress=progress)
    check_share(freeze_batchnorm_after)
    _check_steps(learn_step_sizes, step_learning_rate, options.optimizer)
    is_measured = validation_loader is not None or report_loader is not None
    measure = judging(metric_for("fine_tune", metric, point, is_needed=is_measured), output)
    chosen = Output.of(output)
    judged_loss = loss if chosen is None else partial(_loss_of_output, loss, chosen)
    reporter = None if report_loader is None else DirectEvaluator(model, report_loader, measure, unpack=unpack)
    start = time.perf_counter()
    if point is not None:
        model.num_bits = point
    codes = tuple(int(code) for code in model.num_bits)
    before = None if reporter is None else evaluated(reporter, codes)
    records: list[EpochRecord] = []

    def note(record: EpochRecord) -> None:
        records.append(record)
        if options.on_epoch is not None:
            options.on_epoch(_in_user_direction(record, measure))

    interrupted, baseline = False, None
    with ExitStack() as stack:
        unforced = stack.enter_context(noting())
        stack.enter_context(on_device(model, options.device))
        evaluate = None
        if validation_loader is not None:
            judge = DirectEvaluator(model, validation_loader, measure, unpack=unpack)
            evaluate = partial(_gain, judge, codes, measure)
            baseline = evaluate()
        ranges = stack.enter_context(trained_ranges(model, learned=learn_step_sizes))
        make = _with_steps(options, ranges, step_learning_rate)
        try:
            train(
                model,
                train_loader,
                judged_loss,
                replace(options, optimizer=make, learning_rate=None, on_epoch=note),
                decay=options.optimizer is None,
                unpack=unpack,
                on_step=ranges.update,
                freeze=partial(_fix_batchnorm, model),
                freeze_after=freeze_batchnorm_after,
                evaluate=evaluate,
                baseline=baseline,
                choice="pass output= with its place or its name" if chosen is None else None,
            )
        except KeyboardInterrupt:
            interrupted = True
    after = None if reporter is None else evaluated(reporter, codes)
    floats = None if reporter is None else reporter.float_evaluation
    result = FineTuning(
        num_bits=codes,
        epochs=tuple(_in_user_direction(record, measure) for record in records),
        best_epoch=best_epoch(records, baseline),
        metric_name=measure.name,
        higher_is_better=measure.higher_is_better,
        float_accuracy=None if floats is None else floats.score,
        accuracy_before=None if before is None else before.score,
        accuracy_after=None if after is None else after.score,
        learned_step_sizes=learn_step_sizes,
        seconds=time.perf_counter() - start,
        interrupted=interrupted,
        loss_interval=_interval(before, floats, measure),
        unforced=tuple(unforced) if options.deterministic else (),
        change_interval=_interval(after, before, measure),
    )
    if result.is_worse:
        warn(f"fine_tune: {result._worse()}")
    return result


def metric_for(owner: str, metric: Any, source: Any, *, is_needed: bool = True) -> Metric | WholeSetMetric:
    """``metric``; None stands for the one that ``source``, a point or a front, was measured by, else top-1 accuracy.

    Raises:
        WorkflowError: ``source`` knows its metric by name only, as one from a file does, the name is none of
            qexplore's, and scores are needed.
    """
    name = getattr(source, "metric_name", None)
    if metric is not None or name is None:
        return as_metric(top1_accuracy if metric is None else metric)
    known: Metric | WholeSetMetric | None = source.metric or metric_named(name)
    if known is None and is_needed:
        raise WorkflowError(
            f"{owner}: these scores are of '{name}', a metric of your own that is known by its name only: give it as "
            "metric=, as it was given to the problem"
        )
    return replace(top1_accuracy, name=name) if known is None else known  # then it measures nothing


def _loss_of_output(loss: Loss, chosen: Output, output: Any, target: Any) -> Any:
    """The loss of the chosen output alone.

    Raises:
        WorkflowError: it stops at that, but takes all outputs: it chooses by itself.
    """
    given = chosen(output)
    try:
        return loss(given, target)
    except Exception as error:
        if given is output or not _takes(loss, output, target):
            raise
        raise WorkflowError(
            f"with output={chosen} the loss is given that output alone, at which it stops ({type(error).__name__}: "
            f"{first_line(error)}), but it takes all outputs of the network: let it take the one, as in loss=lambda "
            "output, target: ... output instead of output[0], or leave output= out and give the metric its own, "
            f"{in_metric(chosen)}"
        ) from error


def _takes(loss: Loss, output: Any, target: Any) -> bool:
    try:
        loss(output, target)
    except Exception:  # of whatever it is
        return False
    return True


def _interval(
    first: Evaluation | None, second: Evaluation | None, metric: Metric | WholeSetMetric
) -> tuple[float, float] | None:
    """Of how much ``first`` is above ``second``; None where there is no score for each sample."""
    if first is None or second is None or not isinstance(metric, Metric):
        return None
    if first.scores is None or second.scores is None:
        return None
    return paired_interval(first.scores, second.scores, metric)


def _check_steps(learn: Any, rate: Any, optimizer: Any) -> None:
    checked_switch("`learn_step_sizes`", learn, WorkflowError)
    if rate is None:
        return
    if not learn or optimizer is not None:
        raise WorkflowError("`step_learning_rate` is for learn_step_sizes=True with the default optimizer only")
    checked_number("`step_learning_rate`", rate, WorkflowError, low=0)


def measured(evaluator: DirectEvaluator, codes: tuple[int, ...]) -> float:
    """The score of one candidate; EvaluationError as `evaluated`."""
    return evaluated(evaluator, codes).score


def evaluated(evaluator: DirectEvaluator, codes: tuple[int, ...]) -> Evaluation:
    """The measurement of one candidate.

    Raises:
        EvaluationError: it could not be measured.
    """
    evaluation = next(evaluator.evaluate(np.array([codes])))
    if not evaluation.is_complete:
        raise EvaluationError(f"the point could not be measured: {evaluation.reason}")
    return evaluation


def _gain(evaluator: DirectEvaluator, codes: tuple[int, ...], metric: Directed) -> float:
    return float(metric.gain(measured(evaluator, codes)))


def _fix_batchnorm(model: nn.Module) -> None:
    """Let BatchNorm layers keep their statistics and normalize with them."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _in_user_direction(record: EpochRecord, metric: Directed) -> EpochRecord:
    return record if record.score is None else replace(record, score=metric.gain(record.score))


def _with_steps(options: TrainingOptions, ranges: TrainedRanges, step_rate: float | None) -> MakeOptimizer:
    """The optimizer of the network's parameters, learned steps beside them without weight decay."""

    def make_both(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        steps = {id(step) for step in ranges.steps}
        own = [parameter for parameter in parameters if id(parameter) not in steps]
        made = made_optimizer(own, options, "the network")
        for step in ranges.steps:
            group: dict[str, Any] = {"params": [step], "weight_decay": 0.0}
            if options.optimizer is None:
                # Adam moves every number by about its rate: a share of the step, whatever its size.
                base = step_rate if step_rate is not None else made.defaults["lr"]
                group["lr"] = base * float(step.detach().mean())
                group["eps"] = 1e-8  # they are float32, whatever the network is
            made.add_param_group(group)
        return made

    return make_both
