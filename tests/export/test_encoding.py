"""What is stored, against what the quantizers give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.export.encoding import TYPES_SINCE, Encoding, OpsetTooLow, Unwritable, encoding_of
from qexplore.export.weights import StoredWeight, stored_weight
from qexplore.quant import TensorQuantizer

NARROWEST = {**dict.fromkeys(range(1, 5), 4), **dict.fromkeys(range(5, 9), 8), **dict.fromkeys(range(9, 17), 16)}


def calibrated(num_bits, *, low: float = -1.7, high: float = 1.7, **options) -> TensorQuantizer:
    quantizer = TensorQuantizer(**options)
    quantizer.num_bits = num_bits
    quantizer.set_amax(max(-low, high))
    if quantizer.asymmetric:
        quantizer.set_amax_table({quantizer.code: high}, {quantizer.code: low})
    return quantizer


@pytest.mark.parametrize("num_bits", range(2, 17))
def test_every_width_has_the_narrowest_type_that_holds_it(num_bits):
    size = NARROWEST[num_bits]

    assert encoding_of(calibrated(num_bits), 21).type == f"int{size}"
    assert encoding_of(calibrated(num_bits, unsigned=True), 21).type == f"uint{size}"
    assert encoding_of(calibrated(num_bits, asymmetric=True, low=-0.2), 21).type == f"uint{size}"


@pytest.mark.parametrize("options", [{}, {"unsigned": True}, {"asymmetric": True, "low": -0.17, "high": 2.9}])
@pytest.mark.parametrize("num_bits", range(2, 17))
def test_every_integer_of_the_grid_stands_for_a_value_of_the_quantizer(num_bits, options):
    quantizer = calibrated(num_bits, **options)
    encoding = encoding_of(quantizer, 21)
    least, greatest = encoding.limits
    values = torch.arange(least, greatest + 1, dtype=torch.float32) * torch.tensor(encoding.scale)

    torch.testing.assert_close(quantizer(values), values, rtol=2.0**-23, atol=0)
    assert greatest - least + 1 == 2**num_bits
    low, high = quantizer(torch.tensor([-1e9 if least < 0 else 0.0, 1e9])).tolist()
    np.testing.assert_allclose([low, high], [values[0], values[-1]], rtol=2.0**-22)


def test_scale_is_the_float_next_to_one_over_the_quantizer_s_factor():
    for amax in torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist():
        quantizer = calibrated(16, high=amax, low=-amax)
        factor = float(torch.tensor(32767.0) / quantizer.amax)
        scale = encoding_of(quantizer, 21).scale
        neighbours = [scale, np.nextafter(scale, np.float32(0)), np.nextafter(scale, np.float32(9))]
        assert min(neighbours, key=lambda one: abs(float(one) * factor - 1)) == scale


def test_narrow_range_leaves_out_the_least_integer():
    quantizer = calibrated(8, quant_desc=qx.QuantDescriptor(narrow_range=True))

    assert encoding_of(quantizer, 21).limits == (-127, 127)
    assert not encoding_of(quantizer, 21).is_whole_type


def test_range_of_nothing_becomes_zero():
    encoding = encoding_of(calibrated(8, low=0.0, high=0.0), 21)

    assert encoding.limits == (0, 0)
    assert encoding.scale == 1


@pytest.mark.parametrize(("name", "kind"), [("E4M3", "float8e4m3fn"), ("E5M2", "float8e5m2")])
def test_float8_has_a_type_of_its_own(name, kind):
    assert encoding_of(calibrated(name), 19).type == kind


@pytest.mark.parametrize("name", ["E3M4", "E3M2", "E2M3", "E2M1", "MXE4M3", "MXE2M1"])
def test_other_formats_cannot_be_written_and_say_so(name):
    found = encoding_of(calibrated(name), 25)

    assert isinstance(found, Unwritable)
    assert name in found.reason


def test_quantizer_that_scales_its_range_cannot_be_written():
    scaled = calibrated(8, quant_desc=qx.QuantDescriptor(scale_amax=0.9))

    assert isinstance(encoding_of(scaled, 21), Unwritable)


@pytest.mark.parametrize(("choice", "opset", "needed"), [(9, 20, 21), (16, 18, 21), ("E4M3", 18, 19)])
def test_opset_that_a_choice_needs_is_named(choice, opset, needed):
    found = encoding_of(calibrated(choice), opset)

    assert isinstance(found, OpsetTooLow)
    assert found.opset == needed
    assert isinstance(encoding_of(calibrated(choice), needed), Encoding)


def test_narrow_widths_lie_in_8_bits_before_there_are_types_for_4():
    assert [encoding_of(calibrated(n), 19).type for n in (2, 4, 8)] == ["int8"] * 3
    assert TYPES_SINCE["int4"] == 21


LAYERS = {
    "linear": lambda: nn.Linear(20, 6),
    "conv": lambda: nn.Conv2d(3, 6, 3),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed_groups": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
    "embedding": lambda: nn.Embedding(7, 12),
    "one_channel": lambda: nn.Linear(9, 1),
}


def dequantized(stored: StoredWeight) -> Tensor:
    """What DequantizeLinear, Reshape and Transpose make of a stored weight, by numpy alone."""
    values, scale = stored.values, stored.scale
    if stored.block_size:
        scale = np.repeat(scale, stored.block_size, axis=1)[:, : values.shape[1]]
    elif stored.axis is not None:
        scale = scale.reshape([-1 if axis == stored.axis else 1 for axis in range(values.ndim)])
    weight = values * scale
    if stored.unfolded is not None:
        weight = weight.reshape(stored.unfolded)
        if stored.unfolded != stored.shape:
            weight = weight.swapaxes(1, 2).reshape(stored.shape)
    return torch.tensor(weight)


@pytest.mark.parametrize("granularity", ["tensor", "channel", 4, 5])
@pytest.mark.parametrize("layer", LAYERS)
def test_stored_weight_gives_back_what_the_module_reads(layer, granularity):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(LAYERS[layer]())
    model = qx.QuantizedModel(network, weights=predicates.weighted, weight_granularity=granularity)
    (point,) = model.weight_points
    for choice in (*range(2, 17), "E4M3", "E5M2"):
        model.num_bits = [choice]
        stored = stored_weight(point, model.fake_quantizers[point.name], 21)
        torch.testing.assert_close(dequantized(stored), network[0].weight.detach(), rtol=2.0**-22, atol=0)
        if stored.encoding.limits is not None:
            least, greatest = stored.encoding.limits
            assert least <= stored.values.min() and stored.values.max() <= greatest
            assert (stored.values == stored.values.round()).all()


def test_channel_of_zeros_is_stored_as_zeros():
    network = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        network[0].weight[1] = 0
    model = qx.QuantizedModel(network, weights=predicates.weighted)
    stored = stored_weight(model.weight_points[0], model.fake_quantizers["0.weight"], 21)

    assert not stored.values[1].any()
    assert (stored.scale > 0).all()
