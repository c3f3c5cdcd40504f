"""pytorch-quantization's ``TensorQuantizer``, with what breaks off a GPU or at import mended, and more formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qexplore._choices import Choice, FloatFormat, choice_of
from qexplore._warnings import warn
from qexplore.errors import ModelError, NumBitsError
from qexplore.quant.affine import affine_parameters, quantize_affine
from qexplore.quant.formats import IntegerGrid, check_choice, check_num_bits, min_num_bits
from qexplore.quant.histogram_calibrator import OwnHistogramCalibrator
from qexplore.quant.lifting import LEAST_OF_UPSTREAM, lift_of
from qexplore.quant.ranged import RangedQuantizer
from qexplore.quant.small_floats import quantize_float, quantize_mx
from qexplore.quant.step_size import StepSize
from qexplore.quant.upstream import HistogramCalibrator, QuantDescriptor, fake_tensor_quant

Sign = bool | Literal["auto"]

_ONE_SIDED = 1.5
"""Ranges shorter than this many of their larger end get a zero point where calibration decides."""

_HALF_MAX = torch.finfo(torch.float16).max


class TensorQuantizer(RangedQuantizer):
    """Fake quantizer of a tensor: pytorch-quantization's, bit for bit in float32.

    ``clamp(round_half_even(x * scale), quant_min, quant_max) / scale`` with ``scale = quant_max / amax``. Without an
    ``amax`` each tensor's own maximum is taken, as upstream does. What differs from upstream:

    - ``unsigned="auto"`` stays signed until `decide_sign` (called by calibration) has seen the range. A negative value
      that comes later is clamped to zero, counted in `num_negative` and warned of once; upstream raises.
    - widths are checked, ``amax`` stays float32 when the model is cast, and the state dict carries width, sign and
      ``amax`` and loads on any device.
    - ranges of 2^-24 and less, which upstream takes for nothing, are ranges like others; where the range is nothing,
      infinity becomes 0 too.
    - bfloat16 tensors are computed in float32, as upstream does for half; half tensors whose scale float16 cannot
      hold are too.
    - the range may depend on the width: `set_amax_table`. Setting ``amax`` gives one range to all widths again.
    - ``num_bits`` may be a `FloatFormat`, its name or ``(exponent, mantissa)``; MX formats have no ``amax``.
    - ``asymmetric=True``: integer widths have a zero point, their range is ``[low, high]`` with zero in it, and all
      ``2^num_bits`` levels lie between; "auto" is symmetric until calibration has seen the range.

    Args:
        quant_desc: pytorch-quantization's ``QuantDescriptor``; all that it sets is honoured.
        disabled: let tensors through unchanged.
        unsigned: True, False, or "auto"; None takes it from ``quant_desc``.
        name: how error messages call this quantizer; None takes the descriptor's name.
        asymmetric: give integer widths a zero point; "auto" leaves it to `decide_zero_point`.
        stages: upstream's ``if_quant``, ``if_clip`` and ``if_calib``.

    Attributes:
        switched_off: whether the width vector has switched this quantizer off; `disable` is the user's own switch
            beside it.
        settled: what is called in its place, in a copy of a network that runs one choice after the other.

    Raises:
        NumBitsError: a width that the sign does not allow, or what is no sign.
        CalibrationError: an ``amax`` in ``quant_desc`` that is negative or not finite.
    """

    settled: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        quant_desc: Any = None,
        disabled: bool = False,
        *,
        unsigned: Sign | None = None,
        name: str | None = None,
        asymmetric: Sign = False,
        **stages: bool,
    ) -> None:
        quant_desc = QuantDescriptor() if quant_desc is None else quant_desc
        super().__init__(quant_desc, disabled, name or quant_desc.name or "quantizer", **stages)
        if not (unsigned is None or isinstance(unsigned, bool) or unsigned == "auto"):
            raise NumBitsError(f'`unsigned` must be True, False or "auto", got {unsigned!r}')
        if not (isinstance(asymmetric, bool) or asymmetric == "auto"):
            raise NumBitsError(f'`asymmetric` must be True, False or "auto", got {asymmetric!r}')
        self.asymmetric = asymmetric is True
        self._auto_zero_point = asymmetric == "auto"
        self._auto_sign = unsigned == "auto" and not quant_desc.unsigned
        self._unsigned = unsigned if isinstance(unsigned, bool) else bool(quant_desc.unsigned)
        if self.collects_histogram:
            self._calibrator = OwnHistogramCalibrator(quant_desc, self._unsigned)
        self.switched_off = False
        self._num_negative = 0
        self.num_bits = self._num_bits  # checks the width

    @property
    def num_bits(self) -> Choice:
        """Width in bits, or a float format."""
        return choice_of(self._code)

    @num_bits.setter
    def num_bits(self, value: Any) -> None:
        limits: Any = {"unsigned": self._unsigned or self.asymmetric, "owner": f"point '{self.name}'"}
        # Off is no width: `switched_off` and `disable` are the switches.
        self._code = check_choice(value, **limits) or check_num_bits(value, **limits)
        if isinstance(self.num_bits, int):
            self._num_bits = self._code

    @property
    def code(self) -> int:
        """The width, or the code of the float format, as it stands in a vector ``num_bits``."""
        return self._code

    @property
    def min_num_bits(self) -> int:
        """Narrowest width that the present sign allows."""
        return min_num_bits(self._unsigned or self.asymmetric)

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
        self._widen()

    def _widen(self) -> None:
        """To the narrowest width that the sign allows."""
        if not isinstance(self.num_bits, FloatFormat):
            self.num_bits = max(self._num_bits, self.min_num_bits)

    @property
    def auto_zero_point(self) -> bool:
        """Whether calibration decides if integer widths have a zero point."""
        return self._auto_zero_point

    def wants_zero_point(self, lowest: float, highest: float) -> bool:
        """Whether integer widths have a zero point once calibration has seen values from ``lowest`` to ``highest``.

        As asked for; where that is "auto", on tensors that are negative too but clearly more to one side: when
        ``[lowest, highest]``, with zero in it, is shorter than 3/4 of the symmetric range around it, which makes steps
        finer by a quarter or more (2.5 dB). Never on tensors without a negative value, for which `decide_sign` does
        the same.
        """
        if not self._auto_zero_point:
            return self.asymmetric
        low, high = min(lowest, 0.0), max(highest, 0.0)
        return low < 0 and high - low < _ONE_SIDED * max(-low, high)

    def decide_zero_point(self, lowest: float, highest: float) -> None:
        """Choose by `wants_zero_point`; ranges are to be set afterwards."""
        self.asymmetric = self.wants_zero_point(lowest, highest)
        self._widen()

    @property
    def grid(self) -> IntegerGrid:
        """The integers that the present width, sign and range mode allow, before a zero point is taken from them."""
        return IntegerGrid(self._num_bits, self._unsigned or self.asymmetric, bool(self.narrow_range))

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
    def is_plain(self) -> bool:
        """Whether it fake-quantizes and nothing else: neither clips, nor learns or scales its range."""
        return self.stages == (True, False) and not self.scales_amax and bool(self.fake_quant)

    @property
    def is_active(self) -> bool:
        """Whether tensors are quantized at all."""
        return not (self._disabled or self.switched_off)

    def enable(self) -> None:
        """Quantize again, whichever way the quantizer was switched off."""
        super().enable()
        self.switched_off = False

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value that the present width can represent, float32, in the shape of `amax`."""
        assert self.amax is not None, "limits are known after calibration"
        amax = self._get_amax(self.amax)
        if self._learn_amax:
            amax = torch.max(-self.clip.clip_value_min, self.clip.clip_value_max).detach()
        if isinstance(self.num_bits, FloatFormat):
            return -amax, amax
        if self.asymmetric:
            scale, quant_min, quant_max = self.affine_parameters
            divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
            return quant_min / divisor, quant_max / divisor
        return amax * (self.grid.quant_min / self.grid.quant_max), amax

    @property
    def widest_limits(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value within the range of some integer width, whatever the present one."""
        if self.scales_amax:
            return self.limits
        low, high = self.widest_range
        return (low if self.asymmetric or not self._unsigned else torch.zeros_like(high)), high

    @property
    def is_dead(self) -> bool:
        """Whether the range is nothing, so that everything becomes 0, whatever the width."""
        return are_dead([self])[0]

    @property
    def affine_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(scale, quant_min, quant_max)`` of an asymmetric quantizer's present width."""
        return affine_parameters(self._num_bits, *self.range)

    @property
    def calibrator(self) -> Any:
        """The calibrator that the descriptor asks for, like upstream's: ``collect``, ``compute_amax``, ``reset``."""
        return self._calibrator

    def collect(self, tensor: Tensor) -> None:
        """Show ``tensor`` to the calibrator, which may have begun on another device: a module can be called on both."""
        if isinstance(begun := getattr(self._calibrator, "_calib_amax", None), Tensor):
            self._calibrator._calib_amax = begun.to(tensor.device)
        self._calibrator.collect(tensor)

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
        if self.switched_off or inputs.numel() == 0:
            return inputs
        if self.settled is not None:
            return self.settled(inputs)
        step_size = self._modules.get("step_size")
        if step_size is None or self._disabled:
            output: Tensor = super().forward(inputs)
            return output
        with torch.no_grad():
            quantized = super().forward(inputs)
        passed: Tensor = step_size(inputs, quantized, *(end.to(inputs.device) for end in self.limits))
        return passed

    @property
    def step_size(self) -> StepSize | None:
        """How gradients pass in training; None, as always outside `qexplore.fine_tune`, for upstream's way."""
        found = self._modules.get("step_size")
        return found if isinstance(found, StepSize) else None

    def set_step_size(self, step_size: StepSize | None) -> None:
        """Let ``step_size`` pass the gradients from now on; None for upstream's way again."""
        self._modules.pop("step_size", None)
        if step_size is not None:
            self._modules["step_size"] = step_size

    def _quant_forward(self, inputs: Tensor) -> Tensor:
        if self._code != self._num_bits or self.asymmetric:
            return self._quantize_otherwise(inputs.float()).to(inputs.dtype)
        if self._auto_sign and self._unsigned:
            inputs = self._without_negatives(inputs)
        if inputs.dtype == torch.bfloat16 or (
            inputs.dtype == torch.float16 and self.overflows_half(self._get_amax(inputs))
        ):
            return self._without_a_sign_asked_for(inputs.float()).to(inputs.dtype)
        return self._without_a_sign_asked_for(inputs)

    def _without_a_sign_asked_for(self, inputs: Tensor) -> Tensor:
        try:
            return self._quantize_integers(inputs)
        except TypeError as error:
            if "Negative values" not in str(error):
                raise
            raise ModelError(
                f"point '{self.name}' must see no negative value with unsigned=True, got {float(inputs.min()):g} "
                '(Negative values encountered in unsigned quantization): wrap with unsigned="auto" or False'
            ) from error

    def _quantize_integers(self, inputs: Tensor) -> Tensor:
        """Upstream's arithmetic, for ranges too that it takes for nothing."""
        if self._learn_amax or not self.fake_quant:
            return super()._quant_forward(inputs)
        amax = self._get_amax(inputs)
        if not bool((amax <= LEAST_OF_UPSTREAM).any()):
            return super()._quant_forward(inputs)
        lift = lift_of(amax, LEAST_OF_UPSTREAM)
        # Infinity times a scale of 0 would be NaN.
        lifted = torch.nan_to_num(inputs, nan=math.nan) * lift
        # A range of NaN would hide from upstream that another is of nothing; what lies in it is NaN all the same.
        known = amax.nan_to_num(nan=1.0) * lift
        quantized: Tensor = fake_tensor_quant(lifted, known, self._num_bits, self._unsigned, self.narrow_range)
        return torch.where(amax.isnan(), amax, quantized / lift)

    def _quantize_otherwise(self, inputs: Tensor) -> Tensor:
        """Formats that upstream does not have."""
        fmt = self.num_bits
        if isinstance(fmt, FloatFormat):
            return quantize_mx(inputs, fmt) if fmt.block else quantize_float(inputs, fmt, self._get_amax(inputs))
        if self.amax is not None:
            return quantize_affine(inputs, self._num_bits, *(end.to(inputs.device) for end in self.range))
        low, high = torch.aminmax(inputs.detach())
        return quantize_affine(inputs, self._num_bits, low.clamp(max=0), high.clamp(min=0))

    def overflows_half(self, amax: Tensor) -> bool:
        """Whether float16 cannot hold the largest level, or the scale, of a range at the present width."""
        bound = self.grid.quant_max
        return bound > _HALF_MAX or bound > float(amax.min()) * _HALF_MAX

    def _without_negatives(self, inputs: Tensor) -> Tensor:
        if not bool(inputs.detach().min() < 0):
            return inputs
        if self._num_negative == 0:
            warn(
                f"point '{self.name}' was never negative during calibration and is quantized without a sign, but a "
                "negative value has come and is clamped to 0. Calibrate on more data, or wrap with unsigned=False",
                RuntimeWarning,
            )
        self._num_negative += int((inputs.detach() < 0).sum())
        return inputs.clamp(min=0)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "num_bits"] = torch.tensor(0 if self.switched_off else self._code)
        destination[prefix + "unsigned"] = torch.tensor(self._unsigned)
        destination[prefix + "asymmetric"] = torch.tensor(self.asymmetric)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        num_bits, unsigned = own.pop("num_bits", None), own.pop("unsigned", None)
        self.asymmetric = bool(own.pop("asymmetric", self.asymmetric))  # older state dicts do not say
        missing += [prefix + key for key, value in (("num_bits", num_bits), ("unsigned", unsigned)) if value is None]
        if unsigned is not None:
            self._unsigned = bool(unsigned)
        if num_bits is not None:
            self.switched_off = int(num_bits) == 0
            self.num_bits = max(self._num_bits, self.min_num_bits) if self.switched_off else int(num_bits)
        if "_amax" in own:
            self._make_room_for_amax(own["_amax"])
        # Upstream's own loading moves amax to a GPU whether there is one or not, so it is passed over.
        nn.Module._load_from_state_dict(
            self, {prefix + k: v for k, v in own.items()}, prefix, metadata, strict, missing, unexpected, errors
        )

    def extra_repr(self) -> str:
        """Upstream's summary, with what switches the quantizer off and with formats that upstream does not have."""
        if self.switched_off:
            return "off"
        kind = f"{self.num_bits} " if isinstance(self.num_bits, FloatFormat) else ""
        return f"{kind}{'asymmetric ' if self.asymmetric else ''}{super().extra_repr()}"


def are_dead(quantizers: Iterable[TensorQuantizer]) -> list[bool]:
    """`TensorQuantizer.is_dead` of each; asked together, an accelerator is waited for once and not for every one."""
    answers: list[bool] = []
    lively: dict[torch.device, dict[int, Tensor]] = {}
    for place, quantizer in enumerate(quantizers):
        answers.append(False)
        largest = quantizer._buffers.get("_amax")
        if largest is not None and quantizer.stages == (True, False) and not quantizer.scales_amax:
            lively.setdefault(largest.device, {})[place] = largest.any()
    for of_device in lively.values():
        for place, is_lively in zip(of_device, torch.stack([*of_device.values()]).tolist(), strict=True):
            answers[place] = not is_lively
    return answers
