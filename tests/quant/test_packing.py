"""Integers of 2 to 8 bits without gaps, and back."""

import numpy as np
import pytest
import torch

from qexplore.errors import NumBitsError
from qexplore.quant.packing import num_packed_bytes, pack, quantize_weight, spread_scales, unpack

WIDTHS = range(2, 9)


def drawn(num_bits, count):
    generator = torch.Generator().manual_seed(num_bits)
    return torch.randint(-(2 ** (num_bits - 1)), 2 ** (num_bits - 1), (count,), generator=generator)


@pytest.mark.parametrize("num_bits", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 64, 1001])
def test_what_is_packed_comes_back(num_bits, count):
    integers = drawn(num_bits, count)

    packed = pack(integers, num_bits)

    assert packed.dtype == torch.uint8
    assert packed.shape == (num_packed_bytes(count, num_bits),)
    assert torch.equal(unpack(packed, num_bits, (count,)), integers.to(torch.int8))


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_bits_lie_where_numpys_packbits_puts_them(num_bits):
    integers = drawn(num_bits, 53)
    bits = (integers.numpy()[:, None] >> np.arange(num_bits)) & 1

    expected = np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")

    assert pack(integers, num_bits).numpy().tolist() == expected.tolist()


def test_two_integers_of_four_bits_share_a_byte_the_first_in_its_lower_half():
    assert pack(torch.tensor([[1, -1], [-8, 7], [3, 0]]), 4).tolist() == [0xF1, 0x78, 0x03]
    assert pack(torch.tensor([5, -2, 7]), 4).tolist() == [0xE5, 0x07]


@pytest.mark.parametrize("num_bits", WIDTHS)
@pytest.mark.parametrize("group_size", [None, 16, 10])
def test_a_weight_is_within_half_a_step_of_its_integers_times_their_scales(num_bits, group_size):
    weight = torch.randn(6, 48, generator=torch.Generator().manual_seed(0))

    integers, scales = quantize_weight(weight, num_bits, group_size, method="max")

    assert integers.dtype == torch.int8 and integers.shape == weight.shape
    assert scales.shape == (6, 1 if group_size is None else -(-48 // group_size))
    spread = spread_scales(scales, 48, group_size)
    assert bool(((integers * spread - weight).abs() <= spread * 0.5001).all())


@pytest.mark.parametrize("num_bits", [2, 3, 4])
def test_least_squared_error_is_below_that_of_the_largest_magnitude(num_bits):
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))

    def error(method):
        integers, scales = quantize_weight(weight, num_bits, method=method)
        return float((integers * scales - weight).square().mean())

    assert error("mse") < 0.8 * error("max")


def test_rows_of_zeros_stay_zero():
    weight = torch.zeros(2, 5)
    weight[1] = torch.arange(5.0)
    integers, scales = quantize_weight(weight, 4)
    assert integers[0].tolist() == [0] * 5 and float(scales[0]) == 0
    assert bool(torch.isfinite(scales).all())


@pytest.mark.parametrize("num_bits", [0, 1, 9, 4.0, True, "4", None])
def test_other_widths_are_refused(num_bits):
    with pytest.raises(NumBitsError, match=r"`num_bits` of packed weights must be an int in \[2, 8\], got "):
        pack(torch.zeros(3, dtype=torch.int8), num_bits)


@pytest.mark.parametrize("group_size", [0, -1, 2.0, True, "32"])
def test_other_group_sizes_are_refused(group_size):
    with pytest.raises(NumBitsError, match="`group_size` of packed weights must be an int of at least 1, got "):
        quantize_weight(torch.ones(2, 4), 4, group_size)


def test_an_integer_that_a_width_does_not_hold_is_refused_and_not_cut_off():
    with pytest.raises(NumBitsError, match=r"packed in 4 bits must lie in \[-8, 7\], got -2 to 8"):
        pack(torch.tensor([8, -2]), 4)
