"""The one typed door to pytorch-quantization, whose import and log messages are kept from doing harm.

Only this file touches pytorch-quantization; `TensorQuantizer` builds on the class that it hands on.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn


@contextmanager
def _logging_untouched() -> Iterator[None]:
    """Give the root logger its handlers and level back, and keep import-time warnings from the caller."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.script is deprecated; upstream decorates one function with it
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class _StandardLogging:
    """Stands in for ``absl.logging`` inside pytorch-quantization.

    absl installs a root handler on its first message, which would switch off an application's own ``basicConfig``.
    Messages go to the standard logger "pytorch_quantization" instead, whose level the application may set.
    """

    def __init__(self) -> None:
        logger = logging.getLogger("pytorch_quantization")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
        self.debug, self.info, self.warning = logger.debug, logger.info, logger.warning
        self.error, self.critical = logger.error, logger.critical
        self.DEBUG, self.INFO, self.WARNING, self.ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
        self._log = logger.log

    def log_first_n(self, level: int, message: str, n: int, *args: object) -> None:
        self._log(level, message, *args)


with _logging_untouched():
    from pytorch_quantization import nn as _upstream_nn
    from pytorch_quantization.calib import HistogramCalibrator as _HistogramCalibrator
    from pytorch_quantization.tensor_quant import QuantDescriptor as QuantDescriptor  # re-exported
    from pytorch_quantization.tensor_quant import fake_tensor_quant as fake_tensor_quant  # re-exported

    for _name, _module in list(sys.modules.items()):
        if _name.startswith("pytorch_quantization") and hasattr(_module, "logging"):
            _module.logging = _StandardLogging()  # type: ignore[attr-defined]

if TYPE_CHECKING:  # upstream is untyped: this is the one typed door to it

    class UpstreamQuantizer(nn.Module):  # noqa: D101
        _num_bits: int
        _unsigned: bool
        _disabled: bool
        _learn_amax: bool
        _scale_amax: float | None
        _if_quant: bool
        _if_clip: bool
        _calibrator: Any
        fake_quant: bool
        narrow_range: bool
        axis: Any
        clip: Any

        def __init__(self, quant_desc: Any, disabled: bool = ..., **stages: bool) -> None: ...
        def _quant_forward(self, inputs: Tensor) -> Tensor: ...
        def _get_amax(self, inputs: Tensor) -> Tensor: ...
        def init_learn_amax(self) -> None: ...  # noqa: D102
        def disable(self) -> None: ...  # noqa: D102
        def enable(self) -> None: ...  # noqa: D102
        def extra_repr(self) -> str: ...  # noqa: D102

    class HistogramCalibrator:  # noqa: D101
        _num_bits: Any
        _unsigned: bool

        def __init__(self, num_bits: Any, axis: Any, unsigned: bool) -> None: ...

else:
    UpstreamQuantizer = _upstream_nn.TensorQuantizer
    HistogramCalibrator = _HistogramCalibrator
