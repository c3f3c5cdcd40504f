"""Weights of Linear beside torchao's `IntxWeightOnlyConfig`.

Its rule is symmetric too, with the largest magnitude over half the number of steps, 2^(n-1) - 1/2, as its scale.
"""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup

from qexplore import predicates
from qexplore.model import QuantizedModel

WIDTHS = range(2, 9)


def linear() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Linear(128, 24)


def quantized(width: int, granularity: Any) -> tuple[nn.Module, Any]:
    module = linear()
    theirs = copy.deepcopy(module)
    quantize_(theirs, IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{width}"), granularity=granularity))
    return module, theirs


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("width", WIDTHS)
@torch.no_grad()
def test_with_its_scales_the_same_integers_come_out(width: int, size: int | None) -> None:
    module, theirs = quantized(width, PerAxis(0) if size is None else PerGroup(size))
    scale, codes = theirs.weight.scale, theirs.weight.qdata
    assert (int(codes.min()), int(codes.max())) == (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    model = QuantizedModel(module, weights=predicates.weighted, weight_granularity=size or "channel")
    quantizer = model.weight_fake_quantizers["weight"]
    quantizer.set_amax((scale * (2 ** (width - 1) - 1)).reshape(quantizer.amax.shape))
    model.num_bits = [width]
    spread = scale.repeat_interleave(size or 128, dim=1)
    weight = module.parametrizations.weight.original
    # The largest magnitude of a row lies 2^(n-1) - 1/2 steps from zero: rounding may go either way.
    is_tie = ((weight / spread).abs() % 1 - 0.5).abs() < 1e-5 * 2**width
    ours = (module.weight / spread).round().to(torch.int8)
    assert torch.equal(ours[~is_tie], codes[~is_tie])
    assert bool(((ours - codes).abs() <= is_tie).all())
    assert 0 < int(is_tie.sum()) < 0.02 * weight.numel() * (128 / (size or 128))
    expected = torch.where(is_tie, ours * spread, theirs.weight.dequantize())
    assert torch.allclose(module.weight, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", WIDTHS)
@torch.no_grad()
def test_with_the_scales_of_each_the_two_lie_within_half_a_step_of_both(width: int) -> None:
    module, theirs = quantized(width, PerAxis(0))
    weight = module.weight.detach().clone()
    amax = weight.abs().amax(dim=1, keepdim=True)
    model = QuantizedModel(module, weights=predicates.weighted)
    model.num_bits = [width]
    our_step, their_step = amax / (2 ** (width - 1) - 1), amax / (2 ** (width - 1) - 0.5)
    assert torch.allclose(theirs.weight.scale, their_step, rtol=1e-6)
    # The largest magnitude itself falls on our grid's end, and half a step beyond the end of theirs.
    bound = (our_step + their_step) / 2 * (1 + 1e-5)
    assert bool(((module.weight - theirs.weight.dequantize()).abs() <= bound).all())
