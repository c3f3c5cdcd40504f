"""The arithmetic against pytorch-quantization's own TensorQuantizer, bit for bit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_quantization.nn import TensorQuantizer as Upstream
from strategies import ranges, tensors, widths
from torch import Tensor

from qexplore.quant import QuantDescriptor, TensorQuantizer

exactly = settings(deadline=None, derandomize=True, max_examples=150)

SUBNORMAL = 2.0**-149


def edge_tensors(num_bits: int, unsigned: bool) -> dict[str, Tensor]:
    """Tensors around every decision that the arithmetic takes, for a range of 1 and beyond it."""
    bound = 2 ** (num_bits - 1 + unsigned) - 1
    halves = (torch.arange(-bound - 3, bound + 3, max(1, bound // 500), dtype=torch.float32) + 0.5) / bound
    cases = {
        "zeros": torch.zeros(5),
        "both zeros": torch.tensor([0.0, -0.0]),
        "half-way": halves,
        "one place beside half-way": torch.cat([torch.nextafter(halves, s * torch.ones(())) for s in (-9, 9)]),
        "on and beyond the range": torch.tensor([-1.5, -1.0, -1.0 - 1 / bound, 0.999, 1.0, 1.5, 1 + 2 / bound]),
        "huge": torch.tensor([3.4e38, 1e20, -3.4e38]),
        "infinities": torch.tensor([math.inf, 1.0, -math.inf]),
        "nan": torch.tensor([math.nan, 0.3, -0.7]),
        "subnormal": torch.tensor([SUBNORMAL, -SUBNORMAL, 1e-40, 1.17e-38]),
        "random": torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(num_bits)),
        "scalar": torch.tensor(0.37),
    }
    return {name: tensor.abs() if unsigned else tensor for name, tensor in cases.items()}


def bits_of(tensor: Tensor) -> Tensor:
    """Raw bits, so that NaN equals NaN and -0.0 differs from 0.0."""
    views = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
    return tensor.detach().contiguous().view(views[tensor.dtype])


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits_of(left), bits_of(right))


def forward_and_gradient(quantizer: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    output = quantizer(x)
    weights = torch.arange(1, x.numel() + 1, dtype=x.dtype).reshape(x.shape)
    (gradient,) = torch.autograd.grad((output * weights).sum(), x)
    return output.detach(), gradient


def assert_like_upstream(x: Tensor, **options: Any) -> None:
    """Where upstream takes a range for nothing, like the formula in double precision."""
    quantizer = TensorQuantizer(QuantDescriptor(**options))
    amax = quantizer._get_amax(x).detach()
    if bool((amax <= 2.0**-24).any()):
        assert_like_the_formula(quantizer, x, amax)
        return
    ours = forward_and_gradient(TensorQuantizer(QuantDescriptor(**options)), x)
    truth = forward_and_gradient(Upstream(QuantDescriptor(**options)), x)
    assert same_bits(ours[0], truth[0]), (options, x, ours[0], truth[0])
    assert same_bits(ours[1], truth[1]), (options, x, ours[1], truth[1])


def assert_like_the_formula(quantizer: TensorQuantizer, x: Tensor, amax: Tensor) -> None:
    grid, live = quantizer.grid, (amax > 0).double()
    step = amax.double() / grid.quant_max
    places = (x.double() / torch.where(amax > 0, step, torch.ones_like(step))).nan_to_num(math.nan)
    expected = places.round().clamp(grid.quant_min, grid.quant_max) * step * live
    output, gradient = forward_and_gradient(quantizer, x)
    is_near_half = ((places - places.floor()) - 0.5).abs() < 0.01
    is_right = torch.isclose(output.double(), expected, rtol=1e-6, atol=SUBNORMAL, equal_nan=True)
    assert bool((is_right | is_near_half).all()), (x, amax, output, expected)
    passed = torch.arange(1, x.numel() + 1).reshape(x.shape) * (x.abs() <= amax)
    assert torch.equal(gradient, passed.float())


SIGNS_AND_RANGES = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("unsigned", "narrow_range"), SIGNS_AND_RANGES)
@pytest.mark.parametrize("num_bits", range(2, 17))
def test_edge_tensors_give_upstreams_bits(num_bits: int, unsigned: bool, narrow_range: bool) -> None:
    options = {"num_bits": num_bits, "unsigned": unsigned, "narrow_range": narrow_range}
    for x in edge_tensors(num_bits, unsigned).values():
        for amax in (1.0, 0.37, 0.0, 2.0**-24, 5e-8, 1e-30, 1e-38, 1e-42, 3e38, None):
            assert_like_upstream(x, amax=amax, **options)


@exactly
@given(data=st.data(), narrow_range=st.booleans(), unsigned=st.booleans())
def test_any_tensor_gives_upstreams_bits(data: st.DataObject, narrow_range: bool, unsigned: bool) -> None:
    x = data.draw(tensors(non_negative=unsigned))
    num_bits, amax = data.draw(widths(unsigned=unsigned)), data.draw(st.none() | ranges)
    assert_like_upstream(x, num_bits=num_bits, unsigned=unsigned, narrow_range=narrow_range, amax=amax)


@exactly
@given(data=st.data(), unsigned=st.booleans(), scale_amax=st.sampled_from([None, 0.5, 0.9, 1.7]))
def test_any_axis_and_scaled_range_give_upstreams_bits(
    data: st.DataObject, unsigned: bool, scale_amax: float | None
) -> None:
    x = data.draw(tensors(non_negative=unsigned, min_dims=2))
    axis = data.draw(st.sampled_from([0, 1, (0,), (0, 1), x.dim() - 1]))
    num_bits = data.draw(widths(unsigned=unsigned))
    assert_like_upstream(x, num_bits=num_bits, unsigned=unsigned, axis=axis, scale_amax=scale_amax)


@pytest.mark.parametrize("axis", [0, (0, 1)])
def test_a_channel_of_nan_leaves_a_dead_channel_dead(axis: int | tuple[int, ...]) -> None:
    assert_like_upstream(torch.tensor([[math.nan, 1.0], [0.0, 0.0], [1e-30, 3.0]]), num_bits=4, axis=axis)


@pytest.mark.parametrize(("unsigned", "narrow_range"), SIGNS_AND_RANGES)
@pytest.mark.parametrize("num_bits", [2, 3, 8, 16])
def test_one_range_per_channel_gives_upstreams_bits(num_bits: int, unsigned: bool, narrow_range: bool) -> None:
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    amax = [[[1.0], [0.0], [0.3]]]  # the channel in the middle is dead
    options = {"num_bits": num_bits, "unsigned": unsigned, "narrow_range": narrow_range, "axis": 1}
    assert_like_upstream(x.abs() if unsigned else x, amax=amax, **options)
    assert_like_upstream(x.abs() if unsigned else x, **options)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("num_bits", [2, 5, 8, 16])
def test_without_fake_quantization_the_integers_and_the_scale_are_upstreams(num_bits: int, unsigned: bool) -> None:
    options = {"num_bits": num_bits, "unsigned": unsigned, "fake_quant": False, "amax": 0.8}
    ours, truth = TensorQuantizer(QuantDescriptor(**options)), Upstream(QuantDescriptor(**options))
    for x in edge_tensors(num_bits, unsigned).values():
        assert same_bits(ours(x), truth(x))
        assert same_bits(ours.scale, truth.scale)
    finite = torch.linspace(0 if unsigned else -1, 1, 50)
    assert torch.equal(ours(finite), ours(finite).round())


@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize("num_bits", range(1, 16))
def test_unsigned_equals_one_bit_more_signed_where_nothing_is_negative(num_bits: int, narrow_range: bool) -> None:
    for amax in (1.0, 0.37, 0.0, None):
        unsigned = TensorQuantizer(QuantDescriptor(num_bits=num_bits, unsigned=True, amax=amax))
        signed = TensorQuantizer(QuantDescriptor(num_bits=num_bits + 1, narrow_range=narrow_range, amax=amax))
        for x in edge_tensors(num_bits, unsigned=True).values():
            assert same_bits(unsigned(x), signed(x))


@exactly
@given(x=tensors(non_negative=True), num_bits=st.integers(1, 15), amax=st.none() | ranges)
def test_unsigned_equals_one_bit_more_signed_on_any_non_negative_tensor(
    x: Tensor, num_bits: int, amax: float | None
) -> None:
    unsigned = TensorQuantizer(QuantDescriptor(num_bits=num_bits, unsigned=True, amax=amax))
    signed = TensorQuantizer(QuantDescriptor(num_bits=num_bits + 1, amax=amax))
    assert same_bits(unsigned(x), signed(x))


@pytest.mark.parametrize(
    ("num_bits", "unsigned", "expected"),
    [
        (2, False, [-2.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0]),
        (3, False, [-4 / 3, -1.0, -2 / 3, 0.0, 1 / 3, 2 / 3, 1.0]),
        (1, True, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
        (2, True, [0.0, 0.0, 0.0, 0.0, 1 / 3, 2 / 3, 1.0]),
    ],
)
def test_narrow_widths_agree_with_hand_arithmetic(num_bits: int, unsigned: bool, expected: list[float]) -> None:
    x = torch.tensor([-9.0, -0.9, -0.6, 0.0, 0.4, 0.7, 9.0])
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=num_bits, unsigned=unsigned, amax=1.0))
    output = quantizer(x.clamp(min=0) if unsigned else x)
    np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_half_way_values_round_to_even() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=4, amax=7.0))
    assert quantizer(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0.0, 2.0, 2.0, -0.0, -2.0]


@pytest.mark.parametrize("num_bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("unsigned", [False, True])
def test_half_tensors_give_upstreams_bits_where_float16_can_hold_the_scale(num_bits: int, unsigned: bool) -> None:
    for name, x in edge_tensors(num_bits, unsigned).items():
        bound = 2 ** (num_bits - 1 + unsigned) - 1
        if name != "huge" and bound <= 65504:
            assert_like_upstream(x.half(), num_bits=num_bits, unsigned=unsigned, amax=1.25)


@pytest.mark.parametrize("amax", [1e-3, 1e-6, 0.0])
@pytest.mark.parametrize("num_bits", [8, 16])
def test_half_tensors_whose_scale_overflows_are_computed_in_float32(num_bits: int, amax: float) -> None:
    x = (torch.randn(100, generator=torch.Generator().manual_seed(0)) * 1e-3).half()
    options = {"num_bits": num_bits, "amax": amax}
    truth = Upstream(QuantDescriptor(**options))(x.float()).half()
    output = TensorQuantizer(QuantDescriptor(**options))(x)
    assert same_bits(output, truth)
    assert bool(torch.isfinite(output).all())


@pytest.mark.parametrize("amax", [1.25, 1e-6, 0.0, None])
@pytest.mark.parametrize("num_bits", [2, 4, 8, 16])
@pytest.mark.parametrize("unsigned", [False, True])
def test_bfloat16_tensors_are_computed_in_float32(num_bits: int, unsigned: bool, amax: float | None) -> None:
    options = {"num_bits": num_bits, "unsigned": unsigned, "amax": amax}
    for x in edge_tensors(num_bits, unsigned).values():
        truth = TensorQuantizer(QuantDescriptor(**options))(x.bfloat16().float()).bfloat16()
        assert same_bits(TensorQuantizer(QuantDescriptor(**options))(x.bfloat16()), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_keep_the_dtype_and_stop_outside_the_range(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=dtype)
    _, gradient = forward_and_gradient(TensorQuantizer(QuantDescriptor(num_bits=4, amax=1.0)), x)
    assert gradient.dtype == dtype
    assert gradient.tolist() == [0.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("amax", [1.0, None])
def test_empty_tensors_come_back_empty(unsigned: bool, amax: float | None) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(unsigned=unsigned, amax=amax))
    assert quantizer(torch.empty(0, 3)).shape == (0, 3)
    if amax is not None and not unsigned:
        assert_like_upstream(torch.empty(0, 3), amax=amax)
