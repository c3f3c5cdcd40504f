"""pytorch-quantization's ``TensorQuantizer``, with what breaks off a GPU or at import mended.

This is the only file that touches pytorch-quantization; the rest of the package speaks to the class below.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from qexplore.errors import CalibrationError, NumBitsError
from qexplore.quant.formats import IntegerGrid, check_num_bits, min_num_bits

Sign = bool | Literal["auto"]


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
    from pytorch_quantization.calib import HistogramCalibrator
    from pytorch_quantization.tensor_quant import QuantDescriptor as QuantDescriptor  # re-exported

    for _name, _module in list(sys.modules.items()):
        if _name.startswith("pytorch_quantization") and hasattr(_module, "logging"):
            _module.logging = _StandardLogging()  # type: ignore[attr-defined]

if TYPE_CHECKING:  # upstream is untyped: this is the one typed door to it

    class _Upstream(nn.Module):
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
        def init_learn_amax(self) -> None: ...
        def disable(self) -> None: ...
        def enable(self) -> None: ...
        def extra_repr(self) -> str: ...

else:
    _Upstream = _upstream_nn.TensorQuantizer

_NOTHING_BELOW = 2.0**-24
"""Ranges up to this give 0 everywhere."""

_HALF_MAX = torch.finfo(torch.float16).max


class TensorQuantizer(_Upstream):
    """Fake quantizer of a tensor: pytorch-quantization's, bit for bit in float32.

    ``clamp(round_half_even(x * scale), quant_min, quant_max) / scale`` with ``scale = quant_max / amax``. Without an
    ``amax`` each tensor's own maximum is taken, as upstream does. What differs from upstream:

    - ``unsigned="auto"`` stays signed until `decide_sign` (called by calibration) has seen the range. A negative value
      that comes later is clamped to zero, counted in `num_negative` and warned of once; upstream raises.
    - widths are checked, ``amax`` stays float32 when the model is cast, and the state dict carries width, sign and
      ``amax`` and loads on any device.
    - bfloat16 tensors are computed in float32, as upstream does for half; half tensors whose scale float16 cannot
      hold are too.

    Args:
        quant_desc: pytorch-quantization's ``QuantDescriptor``; all that it sets is honoured.
        disabled: let tensors through unchanged.
        unsigned: True, False, or "auto"; None takes it from ``quant_desc``.
        name: how error messages call this quantizer; None takes the descriptor's name.
        stages: upstream's ``if_quant``, ``if_clip`` and ``if_calib``.

    Raises:
        NumBitsError: a width that the sign does not allow.
        CalibrationError: an ``amax`` in ``quant_desc`` that is negative or not finite.
    """

    def __init__(
        self,
        quant_desc: Any = None,
        disabled: bool = False,
        *,
        unsigned: Sign | None = None,
        name: str | None = None,
        **stages: bool,
    ) -> None:
        quant_desc = QuantDescriptor() if quant_desc is None else quant_desc
        super().__init__(quant_desc, disabled, **stages)
        if not (unsigned is None or isinstance(unsigned, bool) or unsigned == "auto"):
            raise NumBitsError(f'`unsigned` must be True, False or "auto", got {unsigned!r}')
        self.name = name or quant_desc.name or "quantizer"
        self.has_fixed_amax = quant_desc.amax is not None
        if self.has_fixed_amax:
            self.set_amax(quant_desc.amax)  # checks the range
        self._auto_sign = unsigned == "auto" and not quant_desc.unsigned
        self._unsigned = unsigned if isinstance(unsigned, bool) else bool(quant_desc.unsigned)
        self._switched_off = False
        self._num_negative = 0
        self.num_bits = self._num_bits  # checks the width

    @property
    def num_bits(self) -> int:
        """Width in bits."""
        return self._num_bits

    @num_bits.setter
    def num_bits(self, value: int) -> None:
        self._num_bits = check_num_bits(value, unsigned=self._unsigned, owner=f"point '{self.name}'")

    @property
    def min_num_bits(self) -> int:
        """Narrowest width that the present sign allows."""
        return min_num_bits(self._unsigned)

    @property
    def unsigned(self) -> bool:
        """Whether the grid starts at zero. While "auto" is undecided the quantizer is signed."""
        return self._unsigned

    @unsigned.setter
    def unsigned(self, value: bool) -> None:
        self._auto_sign = False
        self._set_sign(bool(value))

    @property
    def auto_sign(self) -> bool:
        """Whether calibration decides the sign."""
        return self._auto_sign

    def decide_sign(self, lowest: float) -> None:
        """Choose the sign where it is "auto": unsigned when ``lowest``, the least value seen, is not negative."""
        self._num_negative = 0
        if self._auto_sign:
            self._set_sign(lowest >= 0)

    def _set_sign(self, unsigned: bool) -> None:
        self._unsigned = unsigned
        self._num_bits = max(self._num_bits, min_num_bits(unsigned))

    @property
    def grid(self) -> IntegerGrid:
        """The integers that the present width, sign and range mode allow."""
        return IntegerGrid(self._num_bits, self._unsigned, bool(self.narrow_range))

    @property
    def switched_off(self) -> bool:
        """Whether the width vector has switched this quantizer off; `disable` is the user's own switch beside it."""
        return self._switched_off

    @switched_off.setter
    def switched_off(self, value: bool) -> None:
        self._switched_off = value

    @property
    def disabled(self) -> bool:
        """Whether `disable` was called by hand."""
        return self._disabled

    @property
    def stages(self) -> tuple[bool, bool]:
        """Which of upstream's stages are on: quantize, clip."""
        return self._if_quant, self._if_clip

    @property
    def scales_amax(self) -> bool:
        """Whether upstream multiplies the range by a factor, or learns it."""
        return self._scale_amax is not None or bool(self._learn_amax)

    @property
    def is_active(self) -> bool:
        """Whether tensors are quantized at all."""
        return not (self._disabled or self._switched_off)

    def enable(self) -> None:
        """Quantize again, whichever way the quantizer was switched off."""
        super().enable()
        self._switched_off = False

    @property
    def amax(self) -> Tensor | None:
        """Largest magnitude the range covers, float32, a scalar or one value per channel; None before calibration."""
        return self._buffers.get("_amax")

    @amax.setter
    def amax(self, value: float | Tensor) -> None:
        self.set_amax(value)

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value that the present width can represent, float32, in the shape of `amax`."""
        assert self.amax is not None, "limits are known after calibration"
        amax = self._get_amax(self.amax)
        if self._learn_amax:
            amax = torch.max(-self.clip.clip_value_min, self.clip.clip_value_max).detach()
        return amax * (self.grid.quant_min / self.grid.quant_max), amax

    @property
    def is_calibrated(self) -> bool:
        """Whether the range is known without looking at the tensor at hand."""
        return self.amax is not None

    @property
    def is_dead(self) -> bool:
        """Whether the range is so small that everything becomes 0, whatever the width."""
        plain = self.stages == (True, False) and not self.scales_amax
        return plain and self.amax is not None and bool((self.amax <= _NOTHING_BELOW).all())

    def set_amax(self, value: Any) -> None:
        """Set the range and give ``_amax`` its shape, in place where the shape stays.

        Raises:
            CalibrationError: not a number, or not a tensor of finite, non-negative numbers with at least one in it.
        """
        try:
            amax = torch.as_tensor(value, dtype=torch.float32).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise CalibrationError(f"`amax` of point '{self.name}' must be a number, got {value!r}") from error
        if amax.numel() == 0 or not bool((torch.isfinite(amax) & (amax >= 0)).all()):
            raise CalibrationError(f"`amax` of point '{self.name}' must be finite and not negative, got {value!r}")
        present = self.amax
        if present is not None and present.shape == amax.shape:
            with torch.no_grad():
                present.copy_(amax)
        else:
            device = amax.device if present is None else present.device
            self.register_buffer("_amax", amax.clone().to(device))
        if self._learn_amax:
            self.init_learn_amax()

    @property
    def calibrator(self) -> Any:
        """Upstream's calibrator that the descriptor asks for: ``collect``, ``compute_amax``, ``reset``."""
        return self._calibrator

    @property
    def collects_histogram(self) -> bool:
        """Whether the calibrator keeps a histogram rather than the maximum."""
        return isinstance(self._calibrator, HistogramCalibrator)

    @property
    def num_negative(self) -> int:
        """How many negative values an automatically unsigned quantizer has clamped since its calibration."""
        return self._num_negative

    def forward(self, inputs: Tensor) -> Tensor:
        """Fake-quantize ``inputs``; same shape and dtype."""
        if self._switched_off or inputs.numel() == 0:
            return inputs
        output: Tensor = super().forward(inputs)
        return output

    def _quant_forward(self, inputs: Tensor) -> Tensor:
        if self._auto_sign and self._unsigned:
            inputs = self._without_negatives(inputs)
        if inputs.dtype == torch.bfloat16 or (inputs.dtype == torch.float16 and self._overflows_half(inputs)):
            return super()._quant_forward(inputs.float()).to(inputs.dtype)
        return super()._quant_forward(inputs)

    def _overflows_half(self, inputs: Tensor) -> bool:
        bound = self.grid.quant_max
        amax = float(self._get_amax(inputs).min())
        return bound > _HALF_MAX or bound > amax * _HALF_MAX

    def _without_negatives(self, inputs: Tensor) -> Tensor:
        if not bool(inputs.detach().min() < 0):
            return inputs
        if self._num_negative == 0:
            warnings.warn(
                f"point '{self.name}' was never negative during calibration and is quantized without a sign, but a "
                "negative value has come and is clamped to 0. Calibrate on more data, or wrap with unsigned=False",
                RuntimeWarning,
                stacklevel=2,
            )
        self._num_negative += int((inputs.detach() < 0).sum())
        return inputs.clamp(min=0)

    def _apply(self, fn: Any, recurse: bool = True) -> TensorQuantizer:
        before = self.amax
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.amax
        if before is not None and after is not None and after.dtype != torch.float32:
            self._buffers["_amax"] = before.to(after.device)  # a model cast to half must not round its ranges
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "num_bits"] = torch.tensor(0 if self._switched_off else self._num_bits)
        destination[prefix + "unsigned"] = torch.tensor(self._unsigned)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        num_bits, unsigned = own.pop("num_bits", None), own.pop("unsigned", None)
        missing += [prefix + key for key, value in (("num_bits", num_bits), ("unsigned", unsigned)) if value is None]
        if unsigned is not None:
            self._unsigned = bool(unsigned)
        if num_bits is not None:
            self._switched_off = int(num_bits) == 0
            self.num_bits = max(self._num_bits, self.min_num_bits) if self._switched_off else int(num_bits)
        if "_amax" in own:
            self._make_room_for_amax(own["_amax"])
        # Upstream's own loading moves amax to a GPU whether there is one or not, so it is passed over.
        nn.Module._load_from_state_dict(
            self, {prefix + k: v for k, v in own.items()}, prefix, metadata, strict, missing, unexpected, errors
        )

    def _make_room_for_amax(self, saved: Tensor) -> None:
        present = self.amax
        if present is None or present.shape != saved.shape:
            device = torch.device("cpu") if present is None else present.device
            self.register_buffer("_amax", torch.full_like(saved, math.nan, dtype=torch.float32, device=device))

    def extra_repr(self) -> str:
        """Upstream's summary, with what switches the quantizer off."""
        return "off" if self._switched_off else super().extra_repr()
