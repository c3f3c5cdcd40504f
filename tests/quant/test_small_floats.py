"""Small float formats against ml_dtypes, code by code, and MX blocks against plain numpy."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

from qexplore._choices import FLOAT_FORMATS, FloatFormat, choice_code, choice_of
from qexplore.errors import NumBitsError
from qexplore.quant import (
    QuantDescriptor,
    TensorQuantizer,
    decode_floats,
    encode_floats,
    float_grid,
    quantize_float,
    quantize_mx,
)

TRUTH: dict[str, Any] = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "E3M4": ml_dtypes.float8_e3m4,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
}
FORMATS = [fmt for fmt in FLOAT_FORMATS if not fmt.block]
BLOCKED = [fmt for fmt in FLOAT_FORMATS if fmt.block]
# What section 5 of OCP Microscaling Formats v1.0 and ml_dtypes' documents say.
TABLE = {
    "E4M3": (7, 448.0, 2.0**-9, 127),
    "E5M2": (15, 57344.0, 2.0**-16, 124),
    "E3M4": (3, 15.5, 2.0**-6, 112),
    "E3M2": (3, 28.0, 0.0625, 32),
    "E2M3": (1, 7.5, 0.125, 32),
    "E2M1": (1, 6.0, 0.5, 8),
}

every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
every_blocked = pytest.mark.parametrize("fmt", BLOCKED, ids=str)


def onto_grid(x: torch.Tensor, fmt: FloatFormat) -> torch.Tensor:
    """Without a scale: the largest value stands for itself."""
    return quantize_float(x, fmt, torch.tensor(fmt.largest))


def of_ml_dtypes(x: npt.NDArray[np.float32], fmt: FloatFormat) -> npt.NDArray[np.float32]:
    """Clamped first: some of these formats overflow to NaN or infinity there, ours saturate."""
    clamped = x.clip(-fmt.largest, fmt.largest)
    with np.errstate(invalid="ignore"):  # some formats have no NaN
        rounded: npt.NDArray[np.float32] = clamped.astype(TRUTH[fmt.name]).astype(np.float32)
    return rounded


class TestGrid:
    @every_format
    def test_every_code_of_the_format_is_on_the_grid_and_nothing_else(self, fmt: FloatFormat) -> None:
        num_bits = ml_dtypes.finfo(TRUTH[fmt.name]).bits
        values = np.arange(2**num_bits, dtype=np.uint8).view(TRUTH[fmt.name]).astype(np.float32)
        finite = np.unique(values[np.isfinite(values) & (values >= 0)])
        assert np.array_equal(float_grid(fmt).numpy(), finite)

    @every_format
    def test_sizes_are_those_of_the_table(self, fmt: FloatFormat) -> None:
        assert (fmt.bias, fmt.largest, fmt.smallest_subnormal, len(float_grid(fmt))) == TABLE[fmt.name]

    @every_format
    def test_every_code_and_its_negative_stay_what_they_are(self, fmt: FloatFormat) -> None:
        grid = float_grid(fmt)
        both = torch.cat([grid, -grid])
        assert torch.equal(onto_grid(both, fmt), both)
        assert torch.equal(torch.signbit(onto_grid(both, fmt)), torch.signbit(both))


class TestRounding:
    @every_format
    def test_all_bfloat16_inputs_give_the_values_of_ml_dtypes(self, fmt: FloatFormat) -> None:
        inputs = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
        got = onto_grid(inputs, fmt)
        assert got.dtype == torch.bfloat16
        expected = of_ml_dtypes(inputs.float().numpy(), fmt)
        is_number = ~inputs.isnan().numpy()
        assert np.array_equal(got.float().numpy()[is_number], expected[is_number])
        assert bool(got[inputs.isnan()].isnan().all())

    @every_format
    def test_ten_million_floats_give_the_values_of_ml_dtypes(self, fmt: FloatFormat) -> None:
        generator = np.random.default_rng(0)
        for part in range(10):
            # From subnormals of the format to beyond its largest value.
            spread = fmt.largest * 4.0 ** (1 - part)
            drawn = generator.standard_normal(10**6, dtype=np.float32) * np.float32(spread)
            assert np.array_equal(onto_grid(torch.from_numpy(drawn), fmt).numpy(), of_ml_dtypes(drawn, fmt))

    @every_format
    def test_half_way_goes_to_the_even_code_and_its_neighbours_to_the_nearest(self, fmt: FloatFormat) -> None:
        grid = float_grid(fmt)
        half_way = (grid[1:] + grid[:-1]) / 2
        even = torch.where(torch.arange(len(grid) - 1) % 2 == 0, grid[:-1], grid[1:])
        assert torch.equal(onto_grid(half_way, fmt), even)
        assert torch.equal(onto_grid(-half_way, fmt), -even)
        assert torch.equal(onto_grid(torch.nextafter(half_way, torch.tensor(math.inf)), fmt), grid[1:])
        assert torch.equal(onto_grid(torch.nextafter(half_way, torch.tensor(-math.inf)), fmt), grid[:-1])

    @every_format
    def test_what_is_too_large_saturates_and_nan_stays(self, fmt: FloatFormat) -> None:
        x = torch.tensor([math.inf, -math.inf, 3e38, -3e38, fmt.largest * 1.001, math.nan])
        largest = fmt.largest
        assert onto_grid(x, fmt)[:5].tolist() == [largest, -largest, largest, -largest, largest]
        assert math.isnan(onto_grid(x, fmt)[5])

    @every_format
    def test_the_largest_value_stands_for_amax(self, fmt: FloatFormat) -> None:
        x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        scale = torch.tensor(fmt.largest) / torch.tensor(1.7)
        expected = onto_grid(x * scale, fmt) / scale
        assert torch.equal(quantize_float(x, fmt, torch.tensor(1.7)), expected)
        assert float(quantize_float(torch.tensor(9.0), fmt, torch.tensor(1.7))) == pytest.approx(1.7)

    def test_a_range_of_nothing_gives_zeros_and_keeps_nan(self) -> None:
        got = quantize_float(torch.tensor([1.0, -1.0, math.inf, math.nan]), FORMATS[0], torch.tensor(0.0))
        assert got[:3].tolist() == [0.0, 0.0, 0.0]
        assert bool(got[3].isnan())

    @pytest.mark.parametrize("fmt", [known for known in FORMATS if not known.block], ids=lambda fmt: fmt.name)
    @pytest.mark.parametrize("scale", [2.0**-26, 2.0**-99, 2.0**-101, 2.0**-120])
    def test_small_ranges_are_ranges_like_others(self, fmt: FloatFormat, scale: float) -> None:
        x, amax = torch.linspace(-1.5, 1.5, 51), torch.tensor(1.3)
        expected = quantize_float(x, fmt, amax) * scale
        assert torch.allclose(quantize_float(x * scale, fmt, amax * scale), expected, rtol=1e-6, atol=2.0**-148)
        codes = encode_floats(x * scale, fmt, amax * scale)
        assert torch.equal(codes, encode_floats(x, fmt, amax))
        assert torch.equal(decode_floats(codes, fmt, amax * scale), quantize_float(x * scale, fmt, amax * scale))

    def test_one_range_per_row(self) -> None:
        x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
        amax = torch.tensor([[0.5], [1.0], [2.0]])
        rows = [quantize_float(row, FORMATS[0], one) for row, one in zip(x, amax, strict=True)]
        assert torch.equal(quantize_float(x, FORMATS[0], amax), torch.stack(rows))

    def test_gradients_pass_within_the_range(self) -> None:
        x = torch.tensor([-2.0, -0.9, 0.3, 1.0, 1.1], requires_grad=True)
        quantize_float(x, FORMATS[0], torch.tensor(1.0)).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def mx_block(block: npt.NDArray[np.float32], fmt: FloatFormat) -> npt.NDArray[np.float64]:
    """Section 6.3 of the specification, number by number."""
    largest = float(np.max(np.abs(block)))
    top = int(math.floor(math.log2(fmt.largest)))
    exponent = -127 if largest == 0 else min(max(math.frexp(largest)[1] - 1 - top, -127), 127)
    grid = sorted(
        (m / 2**fmt.mantissa + (e > 0)) * 2.0 ** (max(e, 1) - fmt.bias)
        for e in range(2**fmt.exponent)
        for m in range(2**fmt.mantissa)
    )
    grid = [value for value in grid if value <= fmt.largest]
    rounded = []
    for value in block.tolist():
        scaled = abs(value) / 2.0**exponent
        distances = [abs(scaled - level) for level in grid]
        nearest = [place for place, distance in enumerate(distances) if distance == min(distances)]
        chosen = next(place for place in nearest if len(nearest) == 1 or place % 2 == 0)
        rounded.append(math.copysign(grid[chosen] * 2.0**exponent, value))
    return np.array(rounded)


class TestBlocks:
    @every_blocked
    def test_blocks_equal_plain_numpy(self, fmt: FloatFormat) -> None:
        generator = np.random.default_rng(1)
        spread = np.exp2(generator.integers(-140, 120, size=(12, 1)))
        x = (generator.standard_normal((12, 40)) * spread).astype(np.float32)
        x[0], x[1, :32], x[2, 3] = 0.0, 2.0**-149, 3.3e38
        expected = np.stack([np.concatenate([mx_block(row[:32], fmt), mx_block(row[32:], fmt)]) for row in x])
        assert np.array_equal(quantize_mx(torch.from_numpy(x), fmt).numpy(), expected.astype(np.float32))

    def test_blocks_lie_along_the_channels_of_images_and_the_last_axis_of_the_rest(self) -> None:
        fmt = BLOCKED[0]
        x = torch.randn(2, 40, 3, 5, generator=torch.Generator().manual_seed(0)).exp()
        turned = quantize_mx(x.movedim(1, -1), fmt, axis=-1).movedim(-1, 1)
        assert torch.equal(quantize_mx(x, fmt), turned)
        tokens = x[:, :, :, 0]
        assert torch.equal(quantize_mx(tokens, fmt), quantize_mx(tokens, fmt, axis=2))
        assert not torch.equal(quantize_mx(x, fmt), quantize_mx(x, fmt, axis=0))

    def test_nan_has_no_say_and_infinities_saturate(self) -> None:
        x = torch.tensor([1.0, math.nan, 0.3, -0.26])
        clean = torch.tensor([1.0, 0.0, 0.3, -0.26])
        got = quantize_mx(x, BLOCKED[0])
        assert bool(got[1].isnan())
        assert torch.equal(got[[0, 2, 3]], quantize_mx(clean, BLOCKED[0])[[0, 2, 3]])
        assert bool(torch.isfinite(quantize_mx(torch.tensor([math.inf, -math.inf]), BLOCKED[0])).all())

    def test_scalars_and_empty_tensors_and_half(self) -> None:
        fmt = BLOCKED[-1]
        assert float(quantize_mx(torch.tensor(5.2), fmt)) == 6.0
        assert quantize_mx(torch.empty(0, 3), fmt).shape == (0, 3)
        x = torch.randn(64, generator=torch.Generator().manual_seed(0)).half()
        assert torch.equal(quantize_mx(x, fmt), quantize_mx(x.float(), fmt).half())

    def test_gradients_pass_everywhere(self) -> None:
        x = torch.tensor([100.0, 0.01, -3.0], requires_grad=True)
        quantize_mx(x, BLOCKED[0]).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [1.0, 1.0, 1.0]


class TestChoices:
    @pytest.mark.parametrize("bits", [(9, 9), (4, 4), (4, 3, 16), ("4", 3)], ids=str)
    def test_formats_that_do_not_exist_are_refused_by_name(self, bits: tuple[int, ...]) -> None:
        with pytest.raises(NumBitsError, match=r"must have \(exponent, mantissa\) among \(4, 3\), .*got \("):
            FloatFormat(*bits)

    @pytest.mark.parametrize("form", ["E4M3", "e4m3", (4, 3), [4, 3], FloatFormat(4, 3), 403])
    def test_every_form_of_a_format_sets_it(self, form: Any) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
        quantizer.num_bits = form
        assert quantizer.num_bits == FloatFormat(4, 3)
        assert quantizer.code == 403
        x = torch.randn(100, generator=torch.Generator().manual_seed(0))
        assert torch.equal(quantizer(x), quantize_float(x, FloatFormat(4, 3), torch.tensor(2.0)))

    @pytest.mark.parametrize("unknown", ["E4M4", "FP8", "MX", (4, 4), (3,), (4, 3, 16), "e8m0"])
    def test_an_unknown_format_is_refused_with_those_that_are_known(self, unknown: Any) -> None:
        quantizer = TensorQuantizer(name="fc")
        with pytest.raises(NumBitsError, match=r"`num_bits` of point 'fc' must be .*E4M3.*MXE2M1.*got") as caught:
            quantizer.num_bits = unknown
        assert repr(unknown) in str(caught.value)
        assert quantizer.num_bits == 8

    @pytest.mark.parametrize("fmt", FLOAT_FORMATS, ids=str)
    def test_codes_lead_back_to_their_format(self, fmt: FloatFormat) -> None:
        assert choice_of(fmt.code) == fmt
        assert choice_code(fmt.name) == choice_code((fmt.exponent, fmt.mantissa, fmt.block)) == fmt.code

    def test_mx_needs_no_range_and_the_width_comes_back(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=5))
        quantizer.num_bits = "MXE2M1"
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(quantizer(x), quantize_mx(x, FloatFormat(2, 1, 32)))
        assert "MXE2M1" in repr(quantizer)
        quantizer.num_bits = 5
        assert torch.equal(quantizer(x), TensorQuantizer(QuantDescriptor(num_bits=5))(x))

    def test_a_format_without_a_range_takes_each_tensors_maximum(self) -> None:
        quantizer = TensorQuantizer()
        quantizer.num_bits = "E3M2"
        x = torch.randn(100, generator=torch.Generator().manual_seed(0))
        assert torch.equal(quantizer(x), quantize_float(x, FloatFormat(3, 2), x.abs().max()))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_tensors_are_computed_in_float32(self, dtype: torch.dtype) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
        quantizer.num_bits = "E4M3"
        x = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert torch.equal(quantizer(x), quantizer(x.float()).to(dtype))
