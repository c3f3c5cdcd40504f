"""A settled quantizer gives bit for bit what the quantizer gives, compiled or not."""

import itertools
import math
import warnings

import pytest
import torch
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch.utils._python_dispatch import TorchDispatchMode

from qexplore.errors import NumBitsError
from qexplore.quant import FixedQuantizer, TensorQuantizer, fixed, quantize_stacked
from qexplore.quant.kernel import fused_kernel

SPECIAL = [0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38, float("inf"), -float("inf"), float("nan")]


# Without a compiler the four passes are all there is.
WAYS = ["four passes"] if fused_kernel() is None else ["compiled", "four passes"]


@pytest.fixture(params=WAYS, autouse=True)
def kernel(request, monkeypatch):
    """Every test runs with the compiled kernel and without one."""
    if request.param == "four passes":
        monkeypatch.setattr(fixed, "fused_kernel", lambda: None)


def numbers(shape=(4, 6, 5, 3), seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    drawn.view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL)
    drawn.view(-1)[20:60] = torch.arange(-10, 10, 0.5) * 1.7 / 127  # half-way between two levels at 8 bits
    return drawn


def quantizer(unsigned=False, narrow=False, amax=1.7, **options):
    built = TensorQuantizer(QuantDescriptor(amax=amax, narrow_range=narrow, **options), unsigned=unsigned)
    if unsigned == "auto":
        built.decide_sign(0.0)
    return built


def same(first, second):
    """Equal bits, NaN apart, and zeros of either sign, which clamping at zero may choose freely."""
    return torch.equal(first.nan_to_num(7.7), second.nan_to_num(7.7)) and torch.equal(first.isnan(), second.isnan())


def exact(built, num_bits, tensor):
    with torch.no_grad():
        before, built.num_bits = built.num_bits, num_bits
        output = built(tensor.clone())
        built.num_bits = before
    return output


CASES = list(itertools.product([False, "auto"], [False, True], range(2, 17)))


@pytest.mark.filterwarnings("ignore:point")
@pytest.mark.parametrize(("unsigned", "narrow", "num_bits"), CASES)
def test_it_equals_the_quantizer_bit_for_bit(unsigned, narrow, num_bits):
    built = quantizer(unsigned, narrow)
    settled = FixedQuantizer.of(built, num_bits)
    assert settled.is_plain
    for tensor in (numbers(), numbers().contiguous(memory_format=torch.channels_last), numbers()[:, ::2]):
        expected, before = exact(built, num_bits, tensor), tensor.clone()
        assert same(settled(tensor), expected)
        assert same(tensor, before)
        written = tensor.clone(memory_format=torch.preserve_format)
        assert same(settled(written, in_place=True), expected)


@pytest.mark.filterwarnings("ignore:point")
@pytest.mark.parametrize("limits", [(0.0, float("inf")), (0.0, 6.0), (-0.35, 0.91)], ids=["relu", "relu6", "hardtanh"])
@pytest.mark.parametrize("num_bits", [2, 4, 8, 16])
@pytest.mark.parametrize("unsigned", [False, "auto"])
@pytest.mark.parametrize("amax", [1.7, 9.0, 0.0])
def test_a_clamp_before_it_can_be_taken_over(limits, num_bits, unsigned, amax):
    built = quantizer(unsigned, amax=amax)
    merged = FixedQuantizer.of(built, num_bits).behind_clamp(*limits)
    assert same(merged(numbers()), exact(built, num_bits, numbers().clamp(*limits)))


@pytest.mark.parametrize("num_bits", [2, 5, 8])
def test_a_sum_before_it_can_be_taken_over(num_bits):
    built = quantizer()
    settled = FixedQuantizer.of(built, num_bits)
    first, second = numbers(seed=1), numbers(seed=2)
    expected = exact(built, num_bits, first + second)
    assert same(settled(first, second), expected)
    assert same(settled(first, second.contiguous(memory_format=torch.channels_last)), expected)
    assert same(settled(first.clone(), second, in_place=True), expected)
    assert same(settled(first, second[:, :, :1]), exact(built, num_bits, first + second[:, :, :1]))


def test_many_widths_of_one_tensor_stand_one_after_the_other():
    built, tensor = quantizer(), numbers((6, 20))
    settled = [FixedQuantizer.of(built, num_bits) for num_bits in (2, 3, 8)]
    expected = torch.cat([exact(built, num_bits, tensor) for num_bits in (2, 3, 8)])
    assert same(quantize_stacked(tensor, settled), expected)
    turned = numbers((20, 6)).t()
    assert same(quantize_stacked(turned, settled), torch.cat([one(turned) for one in settled]))


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(1, 3),
    "flat": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("clamp", [None, (0.0, 6.0)])
def test_stacked_ones_give_the_bits_and_the_layout_of_single_ones_on_any_device(accelerator, layout, clamp):
    built = quantizer(amax=0.9)
    settled = [FixedQuantizer.of(built, num_bits) for num_bits in (2, 3, 5, 8)]
    settled = settled if clamp is None else [one.behind_clamp(*clamp) for one in settled]
    for device in ("cpu", accelerator):
        tensor = LAYOUTS[layout](numbers().to(device))
        expected = torch.cat([one(tensor) for one in settled])
        stacked = quantize_stacked(tensor, settled)
        assert stacked.stride() == expected.stride() and stacked.device == tensor.device
        numbers_of = [one.cpu().nan_to_num(7.7).view(torch.int32) for one in (stacked, expected)]
        assert torch.equal(*numbers_of)


class Launches(TorchDispatchMode):
    """Counts operations that compute or copy numbers; views do neither."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns)
        self.count += not is_view and "empty" not in func.__name__
        return func(*args, **(kwargs or {}))


def test_more_widths_of_one_tensor_take_no_more_launches_on_a_device(accelerator):
    settled = [FixedQuantizer.of(quantizer(), num_bits) for num_bits in range(2, 9)]
    tensor = numbers().to(accelerator)
    counts = []
    for some in (settled, settled[:2], settled):  # the first brings the numbers there
        with Launches() as launches:
            quantize_stacked(tensor, some)
        counts.append(launches.count)
    assert counts[1] == counts[2] == 5


def test_numbers_behind_other_limits_are_not_mistaken_for_these(accelerator):
    whole, x = FixedQuantizer.of(quantizer(), 4), torch.tensor([-9.0, 9.0], device=accelerator)
    settled = [whole, whole.behind_clamp(0.0, 6.0), whole.behind_clamp(0.0, 1.0)]
    expected = [-1.7 * 8 / 7, 1.7, 0.0, 1.7, 0.0, 1.7 * 4 / 7]
    assert [number for one in settled for number in one(x).tolist()] == pytest.approx(expected)
    assert quantize_stacked(x, settled).tolist() == pytest.approx(expected)
    assert whole.behind_clamp(0.0, 6.0) is settled[1]


def test_a_range_of_nothing_gives_zeros():
    built = quantizer(amax=0.0)
    values = torch.cat([torch.randn(50), torch.tensor([math.inf, -math.inf])])
    assert built.is_dead
    assert torch.equal(FixedQuantizer.of(built, 4)(values), torch.zeros(52))
    assert torch.equal(FixedQuantizer.of(built, 4).behind_clamp(-6.0, -2.0)(values), torch.zeros(52))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("amax", [2.0**-24, 1e-30, 2.0**-99, 2.0**-101, 1e-37, 1e-43])
def test_small_ranges_are_the_quantizers(amax, asymmetric):
    built = TensorQuantizer(QuantDescriptor(amax=amax), asymmetric=asymmetric)
    values = torch.cat([torch.linspace(-2, 2, 64) * amax, torch.tensor([math.inf, 1.0, math.nan, -0.0])])
    for num_bits in (2, 5, 16):
        built.num_bits = num_bits
        assert same(FixedQuantizer.of(built, num_bits)(values), exact(built, num_bits, values))
        assert same(quantize_stacked(values, [FixedQuantizer.of(built, num_bits)]), exact(built, num_bits, values))
        assert len(built(values)[:64].unique()) >= min(2**num_bits, 3)


def test_what_the_formula_does_not_cover_goes_through_the_quantizer():
    per_channel = quantizer(amax=[[[[0.5]], [[1.0]], [[2.0]], [[0.1]], [[3.0]], [[1.0]]]], axis=1)
    assert not FixedQuantizer.of(per_channel, 4).is_plain
    assert same(FixedQuantizer.of(per_channel, 4)(numbers()), exact(per_channel, 4, numbers()))
    built, half = quantizer(), torch.randn(40).half()
    assert torch.equal(FixedQuantizer.of(built, 4)(half), exact(built, 4, half))
    assert FixedQuantizer.of(built, 4).behind_clamp(0.0, 6.0)(half).dtype == torch.half


def test_a_sign_that_was_asked_for_still_refuses_negative_values():
    settled = FixedQuantizer.of(quantizer(unsigned=True), 4)
    with pytest.raises(TypeError, match="Negative values"):
        settled(torch.tensor([-1.0, 1.0]))


def test_it_does_not_follow_the_quantizer_it_was_made_of():
    built = quantizer()
    settled = FixedQuantizer.of(built, 4)
    expected = settled(numbers())
    built.amax = 3.0
    built.num_bits = 7
    assert same(settled(numbers()), expected)


def test_a_width_that_the_quantizer_cannot_have_is_refused():
    with pytest.raises(NumBitsError, match=r"must be an int in \[2, 16\], got 1"):
        FixedQuantizer.of(quantizer(), 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{"unsigned": False}, {"unsigned": "auto"}, {"asymmetric": True}], ids=str)
def test_every_half_number_at_every_width_is_quantized_by_the_formula_bit_for_bit(dtype, options):
    kind = torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(kind).to(dtype)
    for amax in (2.0**-110, 2.0**-24, 1e-4, 0.013, 1.7, 65000.0, 1e6):
        quantizer = TensorQuantizer(**options)
        quantizer.amax = amax
        if "unsigned" in options:
            quantizer.decide_sign(0.0)
        for width in range(quantizer.min_num_bits, 17):
            quantizer.num_bits = width
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # negative values are clamped
                expected = quantizer(numbers.clone())
            given = FixedQuantizer.of(quantizer, width)
            assert given.is_plain == (amax > 2.0**-100)
            got = given(numbers)
            assert got.dtype == dtype
            assert torch.equal(got.nan_to_num(nan=1e-7), expected.nan_to_num(nan=1e-7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_tensors_do_not_reach_the_quantizer_itself(dtype, monkeypatch):
    quantizer = TensorQuantizer()
    quantizer.amax = 1.7
    fixed = FixedQuantizer.of(quantizer, 4)
    monkeypatch.setattr(TensorQuantizer, "forward", None)
    x = torch.randn(5, 3).to(dtype)
    assert fixed(x).dtype == fixed.behind_clamp(0.0, 6.0)(x).dtype == fixed(x, x).dtype == dtype


def test_the_choices_of_a_quantizer_share_its_table_of_ranges():
    quantizer = TensorQuantizer(QuantDescriptor(axis=0))
    quantizer.set_amax_table({bits: torch.full((6, 1), float(bits)) for bits in range(2, 9)})
    copies = [FixedQuantizer.of(quantizer, bits).quantizer for bits in (2, 8)]
    assert {copied.ranges.high.data_ptr() for copied in copies} == {quantizer.ranges.high.data_ptr()}
    assert [float(copied.amax[0]) for copied in copies] == [2.0, 8.0]
