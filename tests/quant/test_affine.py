"""Grids with a zero point, and weights with a range per channel, against torch's own fake quantization."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qexplore.errors import NumBitsError
from qexplore.quant import QuantDescriptor, TensorQuantizer

X = torch.randn(20_000, generator=torch.Generator().manual_seed(3))


def asymmetric(num_bits: int, low: float, high: float) -> TensorQuantizer:
    quantizer = TensorQuantizer(QuantDescriptor(), asymmetric=True)
    quantizer.set_amax_table({num_bits: high}, {num_bits: low})
    quantizer.num_bits = num_bits
    return quantizer


def units_apart(left: Tensor, right: Tensor) -> float:
    """Largest distance in units in the last place of the larger number."""
    spacing = np.spacing(torch.maximum(left.abs(), right.abs()).numpy())
    return float(np.max((left - right).abs().numpy() / spacing))


@pytest.mark.parametrize("num_bits", range(1, 9))
@pytest.mark.parametrize(("low", "high"), [(-0.17, 3.0), (-1.0, 1.5), (0.0, 2.0), (-2.0, 0.0), (-3.3, 0.1)])
def test_zero_points_agree_with_torch(num_bits: int, low: float, high: float) -> None:
    levels = 2**num_bits - 1
    scale = (high - low) / levels
    zero_point = round(-low / scale)
    truth = torch.fake_quantize_per_tensor_affine(X, scale, zero_point, 0, levels)
    output = asymmetric(num_bits, low, high)(X)
    # torch multiplies by the reciprocal: what lies half-way but for the last place may fall to either side.
    half_way = ((X.double() / scale) % 1 - 0.5).abs() < 1e-5
    assert float((output - truth).abs().max()) <= scale * 1.001
    assert units_apart(output[~half_way], truth[~half_way]) <= 2


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_a_range_per_channel_agrees_with_torch(num_bits: int) -> None:
    rows = X.reshape(50, 400)
    amax = rows.abs().amax(dim=1)
    bound = 2 ** (num_bits - 1) - 1
    quantizer = TensorQuantizer(QuantDescriptor(amax=amax[:, None].numpy()))
    quantizer.num_bits = num_bits
    zeros = torch.zeros(50, dtype=torch.int32)
    truth = torch.fake_quantize_per_channel_affine(rows, amax / bound, zeros, 0, -bound - 1, bound)
    assert units_apart(quantizer(rows), truth) <= 2


@settings(deadline=None, derandomize=True, max_examples=80)
@given(low=st.floats(-100, 0, width=32), high=st.floats(0, 100, width=32), num_bits=st.integers(1, 16), data=st.data())
def test_zero_is_exact_levels_are_counted_and_no_value_moves_more_than_a_step(
    low: float, high: float, num_bits: int, data: st.DataObject
) -> None:
    quantizer = asymmetric(num_bits, low, high)
    values = st.floats(min_value=low, max_value=high, width=32)
    x = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=20)))
    output = quantizer(x)
    assert float(quantizer(torch.zeros(()))) == 0.0
    assert bool(torch.isfinite(output).all())
    if max(-low, high) > 2.0**-24:
        step = (high - low) / (2**num_bits - 1)
        assert float((output - x).abs().max()) <= step * (1 + 1e-3)
        least, greatest = quantizer.limits
        assert float(least) <= 0 <= float(greatest)
        assert float(output.min()) >= float(least)
        assert float(output.max()) <= float(greatest)


def test_all_levels_are_used() -> None:
    output = asymmetric(3, -0.5, 3.0)(torch.linspace(-2, 5, 10_001))
    assert output.unique().tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_half_way_goes_to_even() -> None:
    assert asymmetric(3, -1.0, 6.0)(torch.tensor([-0.5, 0.5, 1.5, 2.5])).tolist() == [0.0, 0.0, 2.0, 2.0]


def test_a_range_of_nothing_gives_zeros() -> None:
    quantizer = asymmetric(4, 0.0, 0.0)
    assert quantizer.is_dead
    assert quantizer(torch.tensor([1.0, -1.0, math.inf, -math.inf])).tolist() == [0.0] * 4


@pytest.mark.parametrize("scale", [2.0**-24, 2.0**-90, 2.0**-120, 2.0**-130])
def test_small_ranges_are_ranges_like_others(scale: float) -> None:
    x = torch.linspace(-1.5, 3, 40).double()
    quantizer = asymmetric(3, -1.0 * scale, 2.5 * scale)
    expected = asymmetric(3, -1.0, 2.5)(x.float()).double() * scale
    assert not quantizer.is_dead
    assert torch.allclose(quantizer((x * scale).float()).double(), expected, rtol=1e-6, atol=2.0**-148)
    assert quantizer(torch.tensor([1.0, -1.0])).tolist() == [quantizer.range[1].item(), quantizer.range[0].item()]


def test_nan_stays_and_infinities_saturate() -> None:
    output = asymmetric(3, -1.0, 6.0)(torch.tensor([math.nan, math.inf, -math.inf]))
    assert bool(output[0].isnan())
    assert output[1:].tolist() == [6.0, -1.0]


def test_gradients_pass_within_the_range() -> None:
    x = torch.tensor([-1.1, -0.9, 5.9, 6.1], requires_grad=True)
    asymmetric(3, -1.0, 6.0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("choice", "options"), [(4, {"asymmetric": True}), (4, {}), ("E4M3", {}), ("MXE4M3", {}), ("MXE2M1", {})]
)
def test_what_follows_may_write_into_the_output(choice: Any, options: dict[str, Any]) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(), **options)
    quantizer.amax = 8.0
    quantizer.num_bits = choice
    x = X[:120].reshape(3, 40).clone().requires_grad_()
    expected = quantizer(x).relu()
    output = torch.relu_(quantizer(x))
    assert torch.equal(output, expected)
    gradients = [torch.autograd.grad(one.sum(), x)[0] for one in (output, expected)]
    assert torch.equal(*gradients) and bool(gradients[0].any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_tensors_are_computed_in_float32(dtype: torch.dtype) -> None:
    x = X[:100].to(dtype)
    quantizer = asymmetric(8, -1.0, 2.0)
    assert torch.equal(quantizer(x), quantizer(x.float()).to(dtype))


def test_without_a_range_each_tensors_extremes_are_taken() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=4), asymmetric=True)
    x = X[:100].clamp(min=-0.3)
    assert torch.equal(quantizer(x), asymmetric(4, float(x.min()), float(x.max()))(x))


def test_one_bit_is_a_width_with_a_zero_point() -> None:
    assert asymmetric(1, 0.0, 1.0)(torch.tensor([0.4, 0.6])).tolist() == [0.0, 1.0]


class TestAuto:
    def build(self, **options: Any) -> TensorQuantizer:
        return TensorQuantizer(QuantDescriptor(num_bits=4), asymmetric="auto", **options)

    @pytest.mark.parametrize(
        ("lowest", "highest", "decided"),
        [
            (-0.17, 5.0, True),  # GELU and SiLU
            (-5.0, 0.3, True),
            (-5.0, -1.0, True),
            (-1.0, 2.1, True),
            (-1.0, 1.9, False),
            (-1.0, 1.0, False),
            (0.0, 5.0, False),  # a sign serves it as well
            (1.0, 5.0, False),
            (0.0, 0.0, False),
        ],
    )
    def test_one_sided_tensors_get_a_zero_point(self, lowest: float, highest: float, decided: bool) -> None:
        quantizer = self.build()
        assert not quantizer.asymmetric
        assert quantizer.wants_zero_point(lowest, highest) == decided
        quantizer.decide_zero_point(lowest, highest)
        assert quantizer.asymmetric == decided
        assert quantizer.auto_zero_point

    @pytest.mark.parametrize("fixed", [True, False])
    def test_what_was_asked_for_is_kept(self, fixed: bool) -> None:
        quantizer = TensorQuantizer(asymmetric=fixed)
        for range_seen in ((-0.1, 5.0), (-1.0, 1.0)):
            quantizer.decide_zero_point(*range_seen)
            assert quantizer.asymmetric == fixed

    def test_losing_the_zero_point_widens_one_bit_to_two(self) -> None:
        quantizer = self.build()
        quantizer.decide_zero_point(-0.1, 5.0)
        quantizer.num_bits = 1
        quantizer.decide_zero_point(-1.0, 1.0)
        assert quantizer.num_bits == 2

    def test_state_dict_carries_the_decision(self) -> None:
        source, fresh = self.build(), self.build()
        source.decide_zero_point(-0.1, 5.0)
        source.set_amax_table({1: 4.0, 4: 5.0}, {1: 0.0, 4: -0.1})
        source.num_bits = 1
        fresh.load_state_dict(source.state_dict(), strict=True)
        assert fresh.asymmetric
        assert torch.equal(fresh(X), source(X))

    @pytest.mark.parametrize("wrong", ["yes", 1, None])
    def test_what_is_no_answer_is_refused(self, wrong: Any) -> None:
        with pytest.raises(NumBitsError, match='`asymmetric` must be True, False or "auto"'):
            TensorQuantizer(asymmetric=wrong)
