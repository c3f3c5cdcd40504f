"""A written file beside the model that it was written from, on data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._onnx import OnnxModel, Optimization
from qexplore._random import isolated
from qexplore._trees import tensors_of
from qexplore.errors import DataError
from qexplore.model import Loader, Pass, Placement, Unpack, call, in_eval_mode


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs are from the model's.

    Attributes:
        num_samples: that were compared.
        num_different: samples with a prediction that differs: the place of the greatest number along the classes (axis
            1, or the last of three axes) of the first floating output, or any number of an integer output.
        largest_difference: of two numbers in the outputs; absolute.
        largest_output: magnitude of the model's outputs, to compare it with.
    """

    num_samples: int
    num_different: int
    largest_difference: float
    largest_output: float


def compare_each(
    models: Sequence[nn.Module],
    path: str | Path,
    loader: Loader,
    *,
    optimization: Optimization = "all",
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> tuple[Parity, ...]:
    """Compare the file at ``path`` with each of ``models``, which take the same inputs, in one pass over ``loader``.

    Raises:
        DataError: no batches, or one that cannot be unpacked or that the file does not take.
        ExportError: onnxruntime cannot run the file.
        MissingPackageError: onnxruntime is missing.
    """
    written = OnnxModel(path, optimization=optimization)
    placement = Placement.of(models[0])
    totals = [Parity(0, 0, 0.0, 0.0) for _ in models]
    batches = Pass("`data`", loader, unpack=unpack, bar="comparing", progress=progress)
    with ExitStack() as modes, torch.no_grad(), isolated(placement.device):
        for model in models:
            modes.enter_context(in_eval_mode(model))
        for inputs, _ in batches:
            actual = tensors_of(_run(written, placement.copy_inputs(inputs)))
            for index, model in enumerate(models):
                expected = tensors_of(call(model, placement.copy_inputs(inputs)))
                totals[index] = _add(totals[index], _difference([one.cpu() for one in expected], actual))
    return tuple(totals)


def _run(written: OnnxModel, inputs: Any) -> Any:
    try:
        return call(written, inputs)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"a batch of `data` must be like the example that the file was written for (inputs "
            f"{', '.join(written.input_names)}): {error}"
        ) from error


def _difference(expected: list[Tensor], actual: list[Tensor]) -> Parity:
    pairs = list(zip(expected, actual, strict=True))
    floating = [(want, got) for want, got in pairs if want.is_floating_point() and want.numel()]
    num_samples = expected[0].shape[0] if expected[0].dim() else 1
    differs = torch.zeros(num_samples, dtype=torch.bool)
    decided = [(want, got) for want, got in pairs if not want.is_floating_point()]
    decided += [(_predictions(want), _predictions(got)) for want, got in floating[:1]]
    for want, got in decided:
        if want.dim() and len(want) == num_samples:
            differs |= (want != got).reshape(num_samples, -1).any(dim=1)
    return Parity(
        num_samples,
        int(differs.sum()),
        max((float((want - got).abs().max()) for want, got in floating), default=0.0),
        max((float(want.abs().max()) for want, _ in floating), default=0.0),
    )


def _predictions(output: Tensor) -> Tensor:
    """The class of each place: tokens have theirs on the last axis, images on axis 1."""
    axis = 2 if output.dim() == 3 else 1
    return output.argmax(dim=axis) if output.dim() > axis else torch.zeros(len(output) if output.dim() else 1)


def _add(total: Parity, part: Parity) -> Parity:
    return Parity(
        total.num_samples + part.num_samples,
        total.num_different + part.num_different,
        max(total.largest_difference, part.largest_difference),
        max(total.largest_output, part.largest_output),
    )
