"""What a workflow gives back: the quantized network, and what it cost and brought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from qexplore._arguments import made_folder
from qexplore._table import Tabular, text_table
from qexplore.errors import WorkflowError
from qexplore.front import score_text
from qexplore.stacks import LayerStrategy, Settings, error_text, layer_table
from qexplore.training import EpochRecord
from qexplore.workflows.holding import Alarm
from qexplore.workflows.measuring import Latency


@dataclass(frozen=True)
class WorkflowReport(Tabular):
    """What quantizing did; ``print`` shows it as tables.

    Attributes:
        settings: what was asked for, with the engine that was used.
        metric: name of the metric; empty without one.
        accuracy_before: of the float network on the report set; None where no report set was given.
        accuracy_after: of the quantized network.
        bytes_before: saved state dict of the float network.
        bytes_after: saved file of the quantized network.
        latency: both networks on CPU, taking turns in one run; its ratio is the median over turns, not the quotient of
            the two times.
        strategy: one row per layer, read back from the quantized network.
        notes: what was changed so that the network passes, or could not be done.
        epochs: of training; none without.
        error: norm of the difference between the quantized network's output and the float network's, over the norm of
            the latter, on up to 256 samples of the report set; without one on a few batches of the calibration data,
            whose ranges fit them best. Of several outputs the largest. After training it is the network with the
            trained weights that is meant. None where no output holds floating numbers.
        error_of: the data it is of: ``"report set"``, ``"calibration data"``, ``"training data"`` or ``"the example"``.
        alarms: layers, and the output, that are farther from float than rounding explains.
    """

    settings: Settings
    metric: str
    accuracy_before: float | None
    accuracy_after: float | None
    bytes_before: int
    bytes_after: int
    latency: Latency
    strategy: tuple[LayerStrategy, ...]
    notes: tuple[str, ...] = ()
    epochs: tuple[EpochRecord, ...] = ()
    error: float | None = None
    error_of: str = "calibration data"
    alarms: tuple[Alarm, ...] = ()

    @property
    def size_ratio(self) -> float:
        """Bytes on disk, quantized to float."""
        return self.bytes_after / self.bytes_before

    @property
    def left_float(self) -> tuple[LayerStrategy, ...]:
        """Layers that run in float, each with its reason; not those that became part of another one."""
        return tuple(row for row in self.strategy if row.state == "float")

    def __str__(self) -> str:
        parts = ["\n".join(f"! {alarm}" for alarm in self.alarms)] if self.alarms else []
        figures = text_table(("", "float", "quantized", "ratio"), self._figures(), numeric=(1, 2, 3))
        parts += [self._title(), figures, layer_table(self.strategy)]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        if self.epochs:
            parts.append("\n".join(map(str, self.epochs)))
        return "\n\n".join(parts)

    def _title(self) -> str:
        settings = self.settings
        engine = f", engine {settings.engine}" if settings.engine else ""
        return (
            f"{settings.method} quantization, stack {settings.stack}{engine}, weights per {settings.weight_granularity}"
        )

    def _figures(self) -> list[tuple[str, str, str, str]]:
        rows = []
        if self.accuracy_before is not None and self.accuracy_after is not None:
            rows.append((self.metric, score_text(self.accuracy_before), score_text(self.accuracy_after), ""))
        rows.append((f"error of the output, {self.error_of}", "", error_text(self.error), ""))
        rows.append(("bytes on disk", f"{self.bytes_before}", f"{self.bytes_after}", f"{self.size_ratio:.3f}"))
        latency = self.latency
        times = (f"{latency.seconds_float * 1e3:.2f}", f"{latency.seconds * 1e3:.2f}", f"{latency.ratio:.2f}")
        return [*rows, (f"ms for a batch of {latency.batch}, ratio in turns", *times)]


@dataclass(frozen=True)
class QuantizationResult(Tabular):
    """A quantized network and its report.

    Attributes:
        model: the quantized network, on CPU, called like the float one.
        report: what quantizing did to it.
    """

    model: nn.Module
    report: WorkflowReport
    _save: Callable[[Path], None] = field(repr=False)
    _script: Callable[[], Any] | None = field(repr=False, default=None)

    def save(self, path: str | Path) -> None:
        """Write the quantized network to ``path``; `qexplore.load_quantized` reads it.

        Makes the folder of ``path``, but not that folder's parents.

        Raises:
            WorkflowError: the folder cannot be made, or ``path`` is one itself.
        """
        made_folder(path, WorkflowError)
        if Path(path).is_dir():
            raise WorkflowError(f"'{path}' cannot be written, for it is a folder: give the path of a file in it")
        self._save(Path(path))

    def script(self) -> Any:
        """The quantized network as a TorchScript module, which runs without its Python code.

        Raises:
            WorkflowError: the stack has none, or this network cannot be scripted.
        """
        stack = self.report.settings.stack
        if self._script is None:
            raise WorkflowError(
                f'a network quantized by stack="{stack}" with these settings cannot be scripted: save it with '
                'result.save(path), or quantize with stack="fx" and linear_num_bits=8'
            )
        return self._script()

    def __str__(self) -> str:
        return str(self.report)
