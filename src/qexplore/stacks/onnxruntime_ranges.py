"""Ranges for onnxruntime, found a batch at a time: its own way of reading data keeps all of it.

"entropy" and "percentile" come from our histograms, for its own keep every batch, and their entropy gives the whole
range: they have as many bins as levels, so that no range loses anything to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qexplore._optional import import_optional
from qexplore._quiet import silenced
from qexplore._trees import tensors_of
from qexplore.errors import StackError
from qexplore.quant import Histogram, amax_table, range_table
from qexplore.stacks.stopping import stack_error

_NUM_BITS = 8
_OPTIONS: dict[str, dict[str, Any]] = {"Entropy": {}, "Percentile": {"percentile": 99.999}}
"""By method; onnxruntime's own percentile."""


def ranges_of(
    ready: Path, calibrate: Callable[[nn.Module], None], method: Any, *, is_symmetric: bool, is_moving: bool
) -> Any:
    """The range of every tensor of an ONNX file, as onnxruntime's ``TensorsData``.

    Args:
        ready: the file.
        calibrate: runs data through what stands for the network.
        method: one of onnxruntime's ``CalibrationMethod``.
        is_symmetric: ranges are symmetric about 0; of ``MinMax`` it is seen to when integers are chosen.
        is_moving: the mean of the batches' extremes, for ``MinMax``.

    Raises:
        WorkflowError: onnxruntime cannot run the file.
    """
    calibrators, registry = (_module(name) for name in ("calibrate", "registry"))
    augmented = ready.with_name("augmented.onnx")
    try:
        with silenced():
            calibrator = calibrators.create_calibrator(
                ready,
                sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry}),
                augmented_model_path=str(augmented),
                calibrate_method=method,
                extra_options={"moving_average": is_moving},
            )
    except Exception as error:
        raise cannot_quantize(error) from error
    kinds = {"MinMax": _Extremes, **dict.fromkeys(_OPTIONS, _Histograms)}
    reader: Any = kinds.get(method.name, _Recorder)(calibrator)
    calibrate(reader)
    try:
        with silenced():
            return reader.ranges(method.name, is_symmetric)
    except Exception as error:
        raise cannot_quantize(error) from error


@contextmanager
def ranges_given(ranges: Any) -> Iterator[None]:
    """Let ``quantize_static`` take ``ranges`` for a block, and no data."""
    module = _module("quantize")
    original = module.create_calibrator
    known = SimpleNamespace(collect_data=lambda reader: None, compute_data=lambda: ranges)
    module.create_calibrator = lambda *args, **kwargs: known
    try:
        yield
    finally:
        module.create_calibrator = original


def cannot_quantize(error: Exception) -> StackError:
    """What to raise for an exception of onnxruntime's; they have no common base."""
    return stack_error("onnxruntime cannot quantize the network", error)


def _module(name: str) -> Any:
    with silenced():
        return import_optional(f"onnxruntime.quantization.{name}", extra="onnx", purpose='the stack "onnxruntime"')


class _Reader(nn.Module):
    """Stands in for a prepared network, and hands what it is shown to onnxruntime, a batch at a time."""

    def __init__(self, calibrator: Any) -> None:
        super().__init__()
        self._calibrator = calibrator
        self._names = [one.name for one in calibrator.infer_session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Take the tensors of a batch."""
        named: dict[str, Tensor] = {name: value for name, value in kwargs.items() if name in self._names}
        others = [name for name in self._names if name not in named]
        named |= zip(others, tensors_of(args), strict=True)
        self._take({name: value.detach().cpu().numpy() for name, value in named.items()})

    def _take(self, batch: dict[str, Any]) -> None:
        session = self._calibrator.infer_session
        try:
            outputs = session.run(None, batch)
        except Exception as error:
            raise cannot_quantize(error) from error
        self._look_at({one.name: value for one, value in zip(session.get_outputs(), outputs, strict=True)})

    def _look_at(self, outputs: dict[str, Any]) -> None:
        raise NotImplementedError


class _Extremes(_Reader):
    """Keeps two numbers of each tensor for a batch, as onnxruntime does."""

    def _look_at(self, outputs: dict[str, Any]) -> None:
        own = self._calibrator.model_original_outputs
        self._calibrator.intermediate_outputs.append(
            [None if name in own else value for name, value in outputs.items()]
        )

    def ranges(self, method: str, is_symmetric: bool) -> Any:
        """As onnxruntime computes them."""
        return self._calibrator.compute_data()


class _Histograms(_Reader):
    """Counts what passes; nothing is kept."""

    def __init__(self, calibrator: Any) -> None:
        super().__init__(calibrator)
        self._histograms: dict[str, Histogram] = {}

    def _look_at(self, outputs: dict[str, Any]) -> None:
        for name, values in outputs.items():
            if name in self._calibrator.tensors_to_calibrate:
                histogram = self._histograms.setdefault(name, Histogram(name=f"'{name}' in the ONNX file"))
                histogram.collect(torch.from_numpy(np.array(values)))

    def ranges(self, method: str, is_symmetric: bool) -> Any:
        """By ``"Entropy"`` or ``"Percentile"``."""
        module, name, options = _module("calibrate"), method.lower(), _OPTIONS[method]
        found = {}
        for tensor, histogram in self._histograms.items():
            if is_symmetric:
                amax = amax_table(histogram, name, [_NUM_BITS], unsigned=False, **options)[_NUM_BITS]
                low, high = -amax, amax
            else:
                low, high = range_table(histogram, name, [_NUM_BITS], **options)[_NUM_BITS]
            found[tensor] = (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
        return module.TensorsData(module.CalibrationMethod.MinMax, found)


class _Recorder(_Reader):
    """Keeps all batches, for methods of onnxruntime's own that want them at once, and of one size."""

    def __init__(self, calibrator: Any) -> None:
        super().__init__(calibrator)
        self._batches: list[dict[str, Any]] = []

    def _take(self, batch: dict[str, Any]) -> None:
        self._batches.append({name: value.copy() for name, value in batch.items()})

    def ranges(self, method: str, is_symmetric: bool) -> Any:
        """As onnxruntime computes them."""
        self._even_out()
        self._calibrator.collect_data(self)
        return self._calibrator.compute_data()

    def _even_out(self) -> None:
        """Cut batches to one size; those without a common size stay."""
        sizes = [{len(value) for value in batch.values() if value.ndim} for batch in self._batches]
        if any(len(one) != 1 for one in sizes):
            return
        size = math.gcd(*(next(iter(one)) for one in sizes))
        self._batches = [
            {name: value[start : start + size] if value.ndim else value for name, value in batch.items()}
            for batch, (length,) in zip(self._batches, sizes, strict=True)
            for start in range(0, length, size)
        ]

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, as onnxruntime asks for it; None after the last."""
        return self._batches.pop(0) if self._batches else None
