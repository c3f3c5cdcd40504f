"""A written file beside the model that it was written from, on data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._onnx import OnnxModel, Optimization
from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import DataError, ExportError, MetricError
from qexplore.metrics import Output, logits_of
from qexplore.model import (
    Loader,
    Pass,
    Placement,
    QuantizedModel,
    Unpack,
    bound_arguments,
    call,
    count_samples,
    in_eval_mode,
    measuring,
    takes_any_arguments,
    unpacking,
)


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs are from the model's.

    Attributes:
        num_samples: that were compared.
        num_different: samples with a prediction that differs: the place of the greatest number along the classes (axis
            1, or the last of three axes) of the one floating output, the chosen one or ``logits``, or any number of an
            integer output. None where outputs hold no predictions: a single number a sample, targets that are no
            labels, or, without labels, several floating outputs none of which is chosen.
        largest_difference: of two numbers in the outputs; absolute. Infinite where only one of them is finite.
        largest_output: magnitude of the model's outputs, to compare it with; NaN and infinities apart.
        num_not_finite: samples whose outputs, of the model or of the file, hold NaN or an infinity.
        has_labels: whether all targets were labels, so that a place of the greatest number is a prediction.
    """

    num_samples: int
    num_different: int | None
    largest_difference: float
    largest_output: float
    num_not_finite: int = 0
    has_labels: bool = True

    def __str__(self) -> str:
        largest = f"largest difference {self.largest_difference:.2g} (outputs up to {self.largest_output:.3g})"
        if self.num_different is not None:
            what = "predictions differ" if self.has_labels else "samples have their greatest output at another place"
            largest = f"{self.num_different} {what}, {largest}"
        broken = f", {self.num_not_finite} of them with NaN or infinite outputs" if self.num_not_finite else ""
        return f"{self.num_samples} samples{broken}: {largest}"

    def __add__(self, other: Parity) -> Parity:
        known = [one.num_different for one in (self, other) if one.num_different is not None]
        return Parity(
            self.num_samples + other.num_samples,
            sum(known) if len(known) == 2 else None,
            max(self.largest_difference, other.largest_difference),
            max(self.largest_output, other.largest_output),
            self.num_not_finite + other.num_not_finite,
            self.has_labels and other.has_labels,
        )


def compare_each(
    models: Sequence[nn.Module],
    path: str | Path,
    loader: Loader,
    *,
    optimization: Optimization = "all",
    unpack: Unpack | None = None,
    progress: bool | None = None,
    output: Any = None,
) -> tuple[Parity, ...]:
    """Compare the file at ``path`` with each of ``models``, which take the same inputs, in one pass over ``loader``.

    Raises:
        DataError: no batches, or one that cannot be unpacked or that the file does not take.
        ExportError: onnxruntime cannot run the file, or it gives other tensors than the model.
        MissingPackageError: onnxruntime is missing.
    """
    written = OnnxModel(path, optimization=optimization)
    placement = Placement.of(models[0])
    chosen = Output.of(output)
    totals = [Parity(0, 0, 0.0, 0.0) for _ in models]
    unpack = unpacking(models[0], unpack)
    batches = Pass("`data`", loader, unpack=unpack, bar="comparing", progress=progress)
    with ExitStack() as modes, torch.no_grad(), measuring(placement.device):
        for model in models:
            modes.enter_context(in_eval_mode(model))
        for inputs, target in batches:
            actual = tensors_of(_run(written, models[0], placement.copy_inputs(inputs)))
            for index, model in enumerate(models):
                given = map_tensors(Tensor.cpu, call(model, placement.copy_inputs(inputs)))
                _require_alike(tensors_of(given), actual)
                read = map_tensors(partial(_next, iter(actual)), given)
                totals[index] += _difference(given, read, count_samples(inputs, target, given), target, chosen)
    return tuple(totals)


def _run(written: OnnxModel, model: nn.Module, inputs: Any) -> Any:
    try:
        return call(written, _by_name(model, inputs))
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"a batch of `data` must be like the example that the file was written for (inputs "
            f"{', '.join(written.input_names)}): {error}"
        ) from error


def _by_name(model: nn.Module, inputs: Any) -> Any:
    """``inputs`` by the names that forward gives them, in its order, as the file has them."""
    network = model.model if isinstance(model, QuantizedModel) else model
    signature = inspect.signature(network.forward)
    return inputs if takes_any_arguments(signature) else bound_arguments(signature, inputs)


def _require_alike(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
    shapes = [[tuple(tensor.shape) for tensor in outputs] for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"the file must give tensors of the shapes that the model gives, {_listed(shapes[0])}, but gives "
            f"{_listed(shapes[1])}: some of its operators settle on the example's shapes, so give one like `data`"
        )


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def _next(tensors: Iterator[Tensor], _: Tensor) -> Tensor:
    return next(tensors)


def _difference(given: Any, read: Any, num_samples: int, target: Any, chosen: Output | None = None) -> Parity:
    if chosen is not None:
        given, read = chosen(given), chosen(read)
    pairs = list(zip(tensors_of(given), tensors_of(read), strict=True))
    floating = [(want.double(), got.double()) for want, got in pairs if want.is_floating_point() and want.numel()]
    decided = [(want, got) for want, got in pairs if not want.is_floating_point()]
    labels = tensors_of(target)
    if floating and not any(label.is_floating_point() for label in labels):
        decided += _predictions_in(given, read, has_labels=bool(labels))
    differs = torch.zeros(num_samples, dtype=torch.bool)
    broken = torch.zeros(num_samples, dtype=torch.bool)
    for want, got in decided:
        differs |= _by_sample(want != got, num_samples)
    for want, got in floating:
        broken |= _by_sample(~(want.isfinite() & got.isfinite()), num_samples)
    return Parity(
        num_samples,
        int(differs.sum()) if decided else None,
        max((_largest(want, got) for want, got in floating), default=0.0),
        max((float(want[want.isfinite()].abs().max()) for want, _ in floating if want.isfinite().any()), default=0.0),
        int(broken.sum()),
        bool(labels) or not floating,
    )


def _largest(want: Tensor, got: Tensor) -> float:
    """Of two numbers; none where both are NaN, or the same infinity."""
    is_same = (want == got) | (want.isnan() & got.isnan())
    apart = torch.where(is_same, 0.0, (want - got).abs())
    return float(apart.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _by_sample(flags: Tensor, num_samples: int) -> Tensor:
    """Which samples have a flag; all of them where the first axis is not that of samples."""
    if flags.dim() and len(flags) == num_samples:
        return flags.reshape(num_samples, -1).any(dim=1)
    return flags.any().expand(num_samples)


def _predictions_in(given: Any, read: Any, *, has_labels: bool) -> list[tuple[Tensor, Tensor]]:
    """Of the logits among the outputs. Where nothing says which these are, labels cannot be held against any."""
    try:
        return _predictions(logits_of(given).double(), logits_of(read).double())
    except MetricError:
        if has_labels:
            raise
        return []


def _predictions(want: Tensor, got: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The class of each place: tokens have theirs on the last axis, images on axis 1; nothing where there is one.

    Samples that are NaN in one and not in the other are told apart.
    """
    axis = 2 if want.dim() == 3 else 1
    if want.dim() <= axis or want.shape[axis] < 2:
        return []
    classes = [torch.where(each.isnan().any(dim=axis), -1, each.argmax(dim=axis)) for each in (want, got)]
    return [(classes[0], classes[1])]
