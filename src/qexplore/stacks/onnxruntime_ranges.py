"""Ranges for onnxruntime by our histograms: its own keep every batch, and their entropy gives the whole range.

Its histograms have as many bins as levels, so that no range loses anything to another, and grow by what passes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from qexplore._optional import import_optional
from qexplore.quant import Histogram, amax_table, range_table

_NUM_BITS = 8
_OPTIONS: dict[str, dict[str, Any]] = {"entropy": {}, "percentile": {"percentile": 99.999}}
"""By method; onnxruntime's own percentile."""


@contextmanager
def own_ranges(method: str, is_symmetric: bool) -> Iterator[None]:
    """Let onnxruntime take its ranges from our histograms for a block, where ``method`` is one of those that have them.

    Args:
        method: ``"entropy"`` or ``"percentile"``; others are left to onnxruntime.
        is_symmetric: ranges are symmetric about 0.
    """
    if method not in _OPTIONS:
        yield
        return
    module: Any = import_optional("onnxruntime.quantization.quantize", extra="onnx", purpose='the stack "onnxruntime"')
    original = module.create_calibrator

    def create(*args: Any, **kwargs: Any) -> Any:
        calibrator = original(*args, **kwargs)
        histograms: dict[str, Histogram] = {}
        calibrator.collect_data = functools.partial(_collect, calibrator, histograms)
        calibrator.compute_data = functools.partial(_compute, histograms, method, is_symmetric)
        return calibrator

    module.create_calibrator = create
    try:
        yield
    finally:
        module.create_calibrator = original


def _collect(calibrator: Any, histograms: dict[str, Histogram], reader: Any) -> None:
    """Count what passes, a batch at a time; nothing is kept."""
    session = calibrator.infer_session
    names = [one.name for one in session.get_outputs()]
    while inputs := reader.get_next():
        for name, values in zip(names, session.run(None, inputs), strict=True):
            if name in calibrator.tensors_to_calibrate:
                histogram = histograms.setdefault(name, Histogram(name=f"'{name}' in the ONNX file"))
                histogram.collect(torch.from_numpy(np.array(values)))


def _compute(histograms: dict[str, Histogram], method: str, is_symmetric: bool) -> Any:
    calibrate: Any = import_optional(
        "onnxruntime.quantization.calibrate", extra="onnx", purpose='the stack "onnxruntime"'
    )
    found = {}
    for name, histogram in histograms.items():
        if is_symmetric:
            amax = amax_table(histogram, method, [_NUM_BITS], unsigned=False, **_OPTIONS[method])[_NUM_BITS]
            low, high = -amax, amax
        else:
            low, high = range_table(histogram, method, [_NUM_BITS], **_OPTIONS[method])[_NUM_BITS]
        found[name] = (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
    return calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, found)
