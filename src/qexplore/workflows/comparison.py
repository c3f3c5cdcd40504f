"""Every turn-key workflow on one network, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from torch import nn
from typing_extensions import Unpack as Keywords

from qexplore._arguments import checked_keywords
from qexplore._table import Framed, Rows, record_rows, text_table
from qexplore.errors import MetricError, QExploreError, WorkflowError, first_line
from qexplore.front import score_text
from qexplore.metrics import as_metric
from qexplore.model import Loader, Unpack
from qexplore.predicates import PredicateLike
from qexplore.stacks import STACKS, Engine, Method, Settings, StackRow
from qexplore.training import Loss, TrainingKeywords, TrainingOptions
from qexplore.workflows.inputs import first_inputs
from qexplore.workflows.measuring import float_bytes_on_disk
from qexplore.workflows.results import QuantizationResult, WorkflowReport
from qexplore.workflows.running import Reporting, Training, float_copy, run_workflow

_GRANULARITIES = ("tensor", "channel")


@dataclass(frozen=True)
class ComparisonRow:
    """One workflow.

    Attributes:
        stack: who did it; ``"float"`` for the float network itself.
        method: dynamic, static or qat; for ``"float8"`` the format.
        weights: ``"per tensor"`` or ``"per channel"``.
        accuracy: on the report set; None where the workflow could not be done.
        num_bytes: of the saved file.
        size_ratio: to the float network's saved state dict.
        seconds: median time of one batch on CPU.
        latency_ratio: to the float network, which took turns with this one: median over the turns.
        note: whether it is emulated, how many layers stay float, how many alarms; or why it could not be done.
        report: the workflow's own report; None where there is none.
    """

    stack: str
    method: str
    weights: str
    accuracy: float | None = None
    num_bytes: int | None = None
    size_ratio: float | None = None
    seconds: float | None = None
    latency_ratio: float | None = None
    note: str = ""
    report: WorkflowReport | None = None

    @property
    def is_done(self) -> bool:
        """Whether the workflow could be done."""
        return self.accuracy is not None

    def cells(self) -> tuple[str, ...]:
        """As text, one for each column of the table."""
        figures = (
            "" if self.accuracy is None else score_text(self.accuracy),
            "" if self.num_bytes is None else f"{self.num_bytes}",
            "" if self.size_ratio is None else f"{self.size_ratio:.3f}",
            "" if self.seconds is None else f"{self.seconds * 1e3:.2f}",
            "" if self.latency_ratio is None else f"{self.latency_ratio:.2f}",
        )
        return (self.stack, self.method, self.weights, *figures, self.note)


@dataclass(frozen=True)
class WorkflowComparison(Framed):
    """All workflows that were asked for; ``print`` shows the table.

    Attributes:
        network: the network's class.
        metric: name of the metric.
        accuracy_float: of the float network on the report set.
        bytes_float: of its saved state dict.
        rows: one each workflow, in the order in which they ran.
    """

    network: str
    metric: str
    accuracy_float: float
    bytes_float: int
    rows: tuple[ComparisonRow, ...]

    def row(self, stack: str, method: str, weights: str | None = None) -> ComparisonRow:
        """The row of one workflow, the first where ``weights`` is not told.

        Raises:
            WorkflowError: there is none.
        """
        for row in self.rows:
            if (row.stack, row.method) == (stack, method) and weights in (None, row.weights):
                return row
        raise WorkflowError(f"the comparison has no row ({stack}, {method}, {weights or 'any weights'})")

    def _frame_rows(self) -> Rows:
        names, rows = record_rows(ComparisonRow, self.rows)
        return names[:-1], [row[:-1] for row in rows]

    def __str__(self) -> str:
        first = ComparisonRow("float", "", "", self.accuracy_float, self.bytes_float, 1.0)
        header = ("stack", "method", "weights", self.metric, "bytes", "of float", "ms", "of float in turns", "note")
        table = text_table(header, [row.cells() for row in (first, *self.rows)], numeric=range(3, 8))
        return f"{self.network}; a ratio to float below 1 is smaller or faster\n{table}"


def compare_workflows(
    network: nn.Module,
    calibration_loader: Loader,
    report_loader: Loader,
    metric: Any,
    *,
    train_loader: Loader | None = None,
    loss: Loss | None = None,
    stacks: Sequence[str] = tuple(STACKS),
    methods: Sequence[Method] = get_args(Method),
    weight_granularities: Sequence[str] = _GRANULARITIES,
    modules: PredicateLike | None = None,
    engine: Engine | None = None,
    unpack: Unpack | None = None,
    on_row: Callable[[ComparisonRow], None] | None = None,
    progress: bool | None = None,
    **training: Keywords[TrainingKeywords],
) -> WorkflowComparison:
    """Run every workflow on a copy of ``network`` and put what it cost and brought into one table.

    A workflow that this network, machine or torch cannot do is a row with the reason. A method that a stack does not
    have is no row; a stack with number formats of its own, such as float8, has a row for each of them instead of one
    for each granularity.

    Args:
        network: a float network, left as it is.
        calibration_loader: batches of typical inputs.
        report_loader: batches on which accuracy is measured; the first is what latency is measured on.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        train_loader: batches for training; without it, or without ``loss``, rows of training say so.
        loss: ``loss(output, target)``.
        stacks: which of ``"eager"``, ``"fx"``, ``"pt2e"``, ``"onnxruntime"``, ``"float8"``.
        methods: which of ``"dynamic"``, ``"static"``, ``"qat"``.
        weight_granularities: which of ``"tensor"``, ``"channel"``.
        modules: which modules are quantized; None for all that a stack can.
        engine: whose integer kernels ``"eager"`` and ``"fx"`` use; None for this machine's default.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        on_row: called with each row when it is there.
        progress: show bars on stderr; None shows them on a terminal.
        training: of each row anew: ``epochs``, ``learning_rate``, ``optimizer``, ``device``, ``seed`` and ``on_epoch``,
            as for `quantize_qat`.

    Raises:
        WorkflowError: an unknown stack, method or granularity, or none at all.
        ModelError: the network is wrapped, carries hooks, or cannot be copied.
        DataError: an empty loader.
        MetricError: a metric that is none, or that gives what is not finite for the float network.
        TypeError: a keyword that is none of these.
    """
    checked_keywords(compare_workflows, training, TrainingKeywords)
    _check_choices("stacks", stacks, tuple(STACKS))
    _check_choices("methods", methods, get_args(Method))
    _check_choices("weight_granularities", weight_granularities, _GRANULARITIES)
    if metric is None:
        raise MetricError("compare_workflows needs a metric, got None")
    reporting = Reporting(report_loader, metric, unpack, progress)
    example = first_inputs(network, report_loader, "report_loader", unpack)
    first_inputs(network, calibration_loader, "calibration_loader", unpack)
    options = TrainingOptions(**training, progress=progress)
    taught = None if train_loader is None or loss is None else Training(train_loader, loss, options)
    copied = float_copy(network)
    before = reporting.watched(copied).accuracy(copied)
    assert before is not None

    def run(row: StackRow, asked: dict[str, Any]) -> QuantizationResult:
        settings = Settings(stack=row.name, modules=modules, engine=engine if row.uses_engine else None, **asked)
        if settings.method == "qat" and taught is None:
            raise WorkflowError("training needs train_loader= and loss=")
        data: dict[str, Any] = {"calibration_loader": calibration_loader, "training": taught}
        return run_workflow(copied, settings, reporting, example=example, accuracy_before=before, **data)

    rows = []
    for row, asked in _workflows([one for one in STACKS.values() if one.name in stacks], methods, weight_granularities):
        rows.append(_row(row, asked, partial(run, row, asked)))
        if on_row is not None:
            on_row(rows[-1])
    return WorkflowComparison(
        type(network).__name__, as_metric(metric).name, before, float_bytes_on_disk(copied), tuple(rows)
    )


def _check_choices(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [one for one in given if one not in known]
    if isinstance(given, str) or unknown or not given:
        raise WorkflowError(f"{name} must be a sequence of some of {', '.join(map(repr, known))}, got {given!r}")


def _workflows(
    stacks: Sequence[StackRow], methods: Sequence[Method], granularities: Sequence[str]
) -> Iterator[tuple[StackRow, dict[str, Any]]]:
    """What is asked for in each row of the table: the stack, and arguments of its settings."""
    for stack in stacks:
        for method in (one for one in methods if one in stack.methods):
            if stack.formats:
                yield from ((stack, {"method": method, "float_format": one}) for one in stack.formats)
            else:
                yield from ((stack, {"method": method, "weight_granularity": one}) for one in granularities)


def _row(stack: StackRow, asked: dict[str, Any], workflow: Callable[[], QuantizationResult]) -> ComparisonRow:
    name = (stack.name, asked.get("float_format", asked["method"]), f"per {asked.get('weight_granularity', 'channel')}")
    try:
        report = workflow().report
    except QExploreError as error:
        return ComparisonRow(*name, note=f"not done: {error}")
    except Exception as error:  # a stack may stop in any way; the other rows are still wanted
        return ComparisonRow(*name, note=f"not done: {type(error).__name__}: {first_line(error)}")
    return ComparisonRow(
        *name,
        report.accuracy_after,
        report.bytes_after,
        report.size_ratio,
        None if stack.is_emulated else report.latency.seconds,
        None if stack.is_emulated else report.latency.ratio,
        ", ".join((*(["emulated in float"] if stack.is_emulated else []), *_counts(report))),
        report,
    )


def _counts(report: WorkflowReport) -> list[str]:
    counts = {"step{s} in float": len(report.left_float), "alarm{s}": len(report.alarms)}
    return [f"{count} {text.format(s='s' if count > 1 else '')}" for text, count in counts.items() if count]
