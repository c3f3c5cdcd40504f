"""Ranges while a model is trained: those of weights follow the weights, and steps may be learned (LSQ)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qexplore._choices import FloatFormat, has_range
from qexplore.model import QuantizedModel, WeightPoint
from qexplore.quant import StepSize, TensorQuantizer

_LEAST_STEP = 2.0**-24
_LEAST_SHARE = 1 / 64
"""Learned steps do not fall below this share of what they began with: at zero they would be stuck."""


class TrainedRanges:
    """The ranges of a model that is being trained; `update` after every step of the optimizer.

    Args:
        model: wrapped and calibrated, with the widths that it is trained at.
        learned: whether step sizes are learned, at every point whose present choice has a range.
    """

    def __init__(self, model: QuantizedModel, *, learned: bool) -> None:
        self._learned: list[_Learned] = []
        weights = set(model.weight_fake_quantizers)
        for name, quantizer in model.fake_quantizers.items():
            if _is_plain(quantizer):
                self._attach(quantizer, learned=learned, per_sample=name not in weights)
        self._followers = [_Follower(point, model.fake_quantizers[point.name]) for point in model.weight_points]

    def _attach(self, quantizer: TensorQuantizer, *, learned: bool, per_sample: bool) -> None:
        # A range that the user has fixed stays.
        if not learned or quantizer.has_fixed_amax or quantizer.is_dead:
            quantizer.set_step_size(StepSize(None, 0.0, 0.0, per_sample=per_sample))
            return
        quantizer.own_range()
        step_size = _learned_step_size(quantizer, per_sample)
        quantizer.set_step_size(step_size)
        self._learned.append(_Learned(quantizer, step_size))

    @property
    def steps(self) -> Sequence[nn.Parameter]:
        """The learned step sizes."""
        return [one.step for one in self._learned]

    @torch.no_grad()
    def update(self) -> None:
        """Bring the ranges of the quantizers up to their weights and their learned steps."""
        for follower in self._followers:
            follower.update()
        for one in self._learned:
            one.update()


@contextmanager
def trained_ranges(model: QuantizedModel, *, learned: bool) -> Iterator[TrainedRanges]:
    """`TrainedRanges` for a block, plain quantizers afterwards, with the ranges that they have then."""
    quantizers = tuple(model.fake_quantizers.values())
    ranges = TrainedRanges(model, learned=learned)
    try:
        yield ranges
    finally:
        for quantizer in quantizers:
            quantizer.set_step_size(None)


def _is_plain(quantizer: TensorQuantizer) -> bool:
    """On, with a range that is known, and nothing but the quantize stage."""
    return quantizer.is_active and quantizer.is_calibrated and quantizer.is_plain and has_range(quantizer.code)


def _learned_step_size(quantizer: TensorQuantizer, per_sample: bool) -> StepSize:
    """Begins with the step that the quantizer has."""
    amax, choice = quantizer.amax, quantizer.num_bits
    assert amax is not None
    if isinstance(choice, FloatFormat):
        return StepSize(_alive(amax / choice.largest), -choice.largest, choice.largest, per_sample=per_sample)
    if quantizer.asymmetric:
        scale, quant_min, quant_max = quantizer.affine_parameters
        return StepSize(_alive(1 / scale), quant_min, quant_max, per_sample=per_sample)
    grid = quantizer.grid
    return StepSize(_alive(amax / grid.quant_max), grid.quant_min, grid.quant_max, per_sample=per_sample)


def _alive(step: Tensor) -> Tensor:
    return torch.nan_to_num(step, posinf=0.0).clamp(min=_LEAST_STEP)


class _Learned:
    """Writes a learned step into the range of the choice that it is learned at."""

    def __init__(self, quantizer: TensorQuantizer, step_size: StepSize) -> None:
        assert step_size.step is not None
        self.step = step_size.step
        self._quantizer = quantizer
        self._ends = step_size.quant_min, step_size.quant_max
        self._least = self.step.detach() * _LEAST_SHARE

    def update(self) -> None:
        """After a step of the optimizer."""
        step = self.step
        step.copy_(torch.maximum(step, self._least.to(step.device)))
        low, high = (end.to(step.device) if isinstance(end, Tensor) else end for end in self._ends)
        self._quantizer.set_own_range(step * low, step * high)


class _Follower:
    """Keeps every range of a weight, at all widths, the same share of its row's largest magnitude."""

    def __init__(self, point: WeightPoint, quantizer: TensorQuantizer) -> None:
        self._point, self._quantizer = point, quantizer
        self._largest = self._row_maxima()
        self._before = [tensor.clone() for tensor in quantizer.range_tensors]

    def _row_maxima(self) -> Tensor:
        rows = self._point.layout.rows(self._point.parameter.detach())
        return rows.float().abs().amax(dim=-1, keepdim=True)

    def update(self) -> None:
        """After a step of the optimizer."""
        now = self._row_maxima()
        before = self._largest.to(now.device)
        ratio = torch.where(before > 0, now / before, torch.ones_like(now))
        for tensor, start in zip(self._quantizer.range_tensors, self._before, strict=True):
            # One range for the whole weight, set by hand, follows the row that has grown most.
            factor = ratio if tensor.shape[-ratio.dim() :] == ratio.shape else ratio.max()
            tensor.copy_(start.to(tensor.device) * factor)
