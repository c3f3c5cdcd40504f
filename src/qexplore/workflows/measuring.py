"""What a workflow's report measures: accuracy, bytes on disk, and time beside the float network."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qexplore._trees import cloned
from qexplore.errors import MetricError
from qexplore.evaluation import apply_metric, batch_scores, summary
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Loader, Pass, Placement, Unpack, arithmetic, call, unpacking

_MAX_TURNS = 50
_SECONDS = 1.0
"""A latency takes about so long to measure, and no more turns than `_MAX_TURNS`."""


@dataclass(frozen=True)
class Latency:
    """Time of one forward on CPU, two networks taking turns.

    Attributes:
        batch: samples of the batch.
        seconds_float: median of the float network's calls.
        seconds: median of the quantized network's calls.
        ratio: median over the turns of quantized to float; below 1 is faster. On a busy machine it is steadier than the
            quotient of the two medians, and differs from it.
        threads: of torch.
    """

    batch: int
    seconds_float: float
    seconds: float
    ratio: float
    threads: int


def measure_latency(network: nn.Module, quantized: nn.Module, inputs: tuple[Any, ...], batch: int) -> Latency:
    """Time both networks on ``inputs``, in turns, so that what else the machine does meets both alike."""
    turns: list[tuple[float, float]] = []
    with torch.no_grad():
        for model in (network, quantized):
            _seconds_of_call(model, inputs)
        start = time.perf_counter()
        while len(turns) < _MAX_TURNS and (len(turns) < 3 or time.perf_counter() - start < _SECONDS):
            # Who goes first changes: a scheduler on a busy machine can fall in step with turns of one kind.
            if len(turns) % 2:
                second = _seconds_of_call(quantized, inputs)
                turns.append((_seconds_of_call(network, inputs), second))
            else:
                turns.append((_seconds_of_call(network, inputs), _seconds_of_call(quantized, inputs)))
    return Latency(
        batch,
        seconds_float=statistics.median(first for first, _ in turns),
        seconds=statistics.median(second for _, second in turns),
        ratio=statistics.median(second / first for first, second in turns),
        threads=torch.get_num_threads(),
    )


def _seconds_of_call(model: nn.Module, inputs: tuple[Any, ...]) -> float:
    given = cloned(inputs)  # a forward may write into them
    start = time.perf_counter()
    model(*given)
    return time.perf_counter() - start


def bytes_on_disk(save: Callable[[Path], None]) -> int:
    """Size of what ``save`` writes to a path, and to files beside it."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "network")
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def float_bytes_on_disk(network: nn.Module) -> int:
    """Size of the float network's saved state dict."""
    return bytes_on_disk(lambda path: torch.save(network.state_dict(), path))


def measure_accuracy(
    network: nn.Module,
    loader: Loader,
    metric: Metric | WholeSetMetric,
    *,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> float:
    """The metric of ``network``, which is on CPU and in eval mode, on ``loader``.

    Raises:
        DataError: the loader is empty.
        MetricError: scores that are not finite.
    """
    with torch.no_grad(), arithmetic():
        if isinstance(metric, WholeSetMetric):
            score = float(apply_metric(metric, network, loader))
        else:
            score = summary(_scores(network, loader, metric, unpack, progress), metric)
    if not np.isfinite(score):
        raise MetricError(f"the metric '{metric.name}' must give a finite number, got {score}")
    return score


def _scores(network: nn.Module, loader: Loader, metric: Metric, unpack: Unpack | None, progress: bool | None) -> Any:
    # A quantized network's parameters tell nothing about the dtype of its inputs.
    placement = Placement(Placement.of(network).device, torch.float32)
    unpack = unpacking(network, unpack)
    batches = Pass("report_loader", loader, unpack=unpack, placement=placement, bar="evaluating", progress=progress)
    if metric.fit is not None:
        metric = metric.fitted(target for _, target in Pass("report_loader", loader, unpack=unpack, progress=False))
    scores = [batch_scores(metric, call(network, inputs), inputs, target) for inputs, target in batches]
    return torch.cat(scores).cpu().numpy()
