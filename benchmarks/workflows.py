"""Every turn-key workflow on ordinary networks: accuracy, bytes on disk, and time beside the float network.

    python benchmarks/workflows.py

On Fashion-MNIST: the small network with its Softmax, ResNet-20 and a MobileNetV2-like one through everything; an LSTM
and a small transformer through dynamic quantization. Accuracy is measured on test images that nothing else has seen,
time on one batch, float and quantized taking turns. Training starts anew for each row, from the float weights, on the
first `--train-images` of the training images.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import torch
from _workloads import BATCH_SIZE, EXPERIMENTS, Workload, recipe
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import qexplore as qx
from qexplore.workflows import ComparisonRow, WorkflowComparison

EVERYTHING = ("small", "resnet20", "mobilenet")
DYNAMIC_ONLY = ("lstm", "transformer")
LSTM_IMAGES = 16_384
INTEGER_STACKS = ("eager", "fx", "pt2e", "onnxruntime")
WIDTHS = (12, 8, 12, 9, 9, 9, 9, 9)
HEADER = ("stack", "method", "weights", "accuracy", "bytes", "of float", "ms", "of float", "note")
ONE_POINT = 0.01
SIZE = 0.3


class LSTM(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 128, batch_first=True)
        self.fc1 = nn.Linear(128, 128)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x[:, 0])
        return self.fc2(self.relu(self.fc1(outputs[:, -1])))


def main() -> None:
    """One table a network, then what the figures say."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=EVERYTHING + DYNAMIC_ONLY, default=EVERYTHING + DYNAMIC_ONLY)
    options.add_argument("--stacks", nargs="+", default=[*INTEGER_STACKS, "float8"])
    options.add_argument("--train-images", type=int, default=2048)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--report-samples", type=int, default=4096)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        start = time.perf_counter()
        comparison = compared(name, arguments)
        say(f"({time.perf_counter() - start:.0f} s)")
        if name in EVERYTHING:
            for line in checks(comparison, arguments.report_samples):
                say(line)


def say(text: str) -> None:
    print(text, flush=True)


def compared(name: str, arguments: argparse.Namespace) -> WorkflowComparison:
    workload = Workload("small" if name == "lstm" else name)
    network = trained_lstm(workload) if name == "lstm" else workload.network
    say(f"\n{name}: {arguments.report_samples} images to report, {arguments.train_images} to train")
    say(in_columns(HEADER))
    data = Subset(workload.train, range(arguments.train_images))
    comparison = qx.compare_workflows(
        network,
        workload.calibration,
        first(workload.report, arguments.report_samples),
        qx.top1_accuracy,
        train_loader=DataLoader(data, BATCH_SIZE, shuffle=True),
        loss=loss_of_probabilities if name == "small" else F.cross_entropy,
        epochs=arguments.epochs,
        stacks=[stack for stack in arguments.stacks if name in EVERYTHING or stack != "float8"],
        methods=("dynamic", "static", "qat") if name in EVERYTHING else ("dynamic",),
        on_row=lambda row: say(in_columns(row.cells())),
        progress=False,
    )
    say(in_columns(ComparisonRow("float", "", "", comparison.accuracy_float, comparison.bytes_float).cells()))
    return comparison


def trained_lstm(workload: Workload) -> nn.Module:
    settings = argparse.Namespace(seed=1, device="cpu", weights_dir=EXPERIMENTS / "fashion_mnist" / "weights")
    data = TensorDataset(*workload.train[:LSTM_IMAGES])
    return recipe.trained("lstm", LSTM, data, settings, epochs=2, learning_rate=0.005)


def loss_of_probabilities(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The small network ends in a softmax, whose integer form may give 0."""
    return F.nll_loss(probabilities.clamp_min(1e-4).log(), labels)


def first(batches: list[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, y) for x, y in batches[: -(-count // BATCH_SIZE)] if len(x) == BATCH_SIZE]


def in_columns(cells: tuple[str, ...]) -> str:
    left = " ".join(cell.ljust(width) for cell, width in zip(cells[:3], WIDTHS[:3], strict=True))
    right = " ".join(cell.rjust(width) for cell, width in zip(cells[3:8], WIDTHS[3:], strict=True))
    return f"{left} {right}  {cells[8][:120]}".rstrip()


def checks(comparison: WorkflowComparison, samples: int) -> Iterator[str]:
    """What the table is to show, each with yes or no and the row that decides."""
    integers = [row for row in comparison.rows if row.is_done and row.stack in INTEGER_STACKS]
    static = [row for row in integers if row.method == "static"]
    small = [row for row in integers if row.method in ("static", "qat")]
    floor = comparison.accuracy_float

    def losses(row: ComparisonRow) -> float:
        return floor - accuracy(row)

    yield judged("static int8 is within one point of float", static, losses, ONE_POINT, "loses {:.2%}")
    noise = math.sqrt(2 * floor * (1 - floor) / samples)
    pairs = [(row, other_granularity(comparison, row)) for row in small if row.weights == "per channel"]
    behind = {id(row): accuracy(other) - accuracy(row) for row, other in pairs if other is not None and other.is_done}
    rows = [row for row, _ in pairs if id(row) in behind]
    yield judged("per channel is not below per tensor", rows, lambda row: behind[id(row)], 0.0, "behind by {:.2%}")
    claim = f"per channel is not below per tensor by more than a standard error of two accuracies ({noise:.2%})"
    yield judged(claim, rows, lambda row: behind[id(row)], noise, "behind by {:.2%}")
    yield judged(
        "static and QAT files are at most 0.3 of float", small, lambda row: row.size_ratio or 0.0, SIZE, "{:.3f}"
    )
    for row in static:
        learned = comparison.row(row.stack, "qat", row.weights) if row.stack != "onnxruntime" else None
        if learned is not None and learned.is_done:
            yield (
                f"  {row.stack}, {row.weights}: static loses {losses(row):+.2%} of accuracy, after training "
                f"{losses(learned):+.2%}: training brings {losses(row) - losses(learned):+.2%}"
            )


def accuracy(row: ComparisonRow) -> float:
    assert row.accuracy is not None
    return row.accuracy


def other_granularity(comparison: WorkflowComparison, row: ComparisonRow) -> ComparisonRow | None:
    same = [
        one for one in comparison.rows if (one.stack, one.method, one.weights) == (row.stack, row.method, "per tensor")
    ]
    return same[0] if same else None


def judged(
    claim: str, rows: list[ComparisonRow], figure: Callable[[ComparisonRow], float], limit: float, shown: str
) -> str:
    if not rows:
        return f"{claim}: nothing to judge"
    worst = max(rows, key=figure)
    kept = sum(figure(row) <= limit + 1e-9 for row in rows)
    verdict = "yes" if kept == len(rows) else "NO"
    name = f"{worst.stack} {worst.method} {worst.weights}"
    return f"{claim}: {verdict} ({kept} of {len(rows)} rows; worst {name}, {shown.format(figure(worst))})"


if __name__ == "__main__":
    main()
