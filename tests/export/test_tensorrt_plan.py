"""What points become for TensorRT: types it has, ranges kept, and the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from network_state import network_state
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, ExportError, ModelError
from qexplore.export.tensorrt import in_tensorrt_form

X = torch.linspace(-9, 9, 20_001)
POSITIVE = X[X >= 0]


def one_point(choice, *, low=-4.0, high=4.0, **options) -> qx.QuantizedModel:
    """A ReLU-less network with one activation that has seen values from ``low`` to ``high``."""
    model = qx.QuantizedModel(nn.Identity(), predicates.by_type(nn.Identity), quantize_input=False, **options)
    model.calibrate([torch.linspace(low, high, 1000).reshape(10, 100)])
    model.num_bits = [choice]
    return model


def one_weight(module: nn.Module, choice, **options) -> qx.QuantizedModel:
    torch.manual_seed(0)
    network = nn.Sequential(copy.deepcopy(module))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    model = qx.QuantizedModel(network, weights=predicates.by_name("0"), **options)
    model.num_bits = [choice]
    return model


def levels(model: qx.QuantizedModel, x: torch.Tensor = X) -> torch.Tensor:
    return model(x[None]).unique()


def test_model_in_int8_throughout_is_left_as_it_is():
    copied, plan = in_tensorrt_form(one_point(8))
    assert [(point.stored, point.change) for point in plan.points] == [("int8", "none")]
    assert plan.notes == ()
    assert torch.equal(copied(X), one_point(8)(X))


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 6, 7])
def test_signed_width_is_widened_to_a_grid_that_holds_its_own(num_bits):
    model = one_point(num_bits)
    copied, plan = in_tensorrt_form(model)
    assert plan.widened == ("output",)
    assert plan.notes == (f"point 'output': {num_bits} bits widened to int8, the range kept",)
    wide = levels(copied)
    assert len(wide) == 256
    for level in levels(model):
        assert torch.isclose(wide, level, rtol=1e-6, atol=1e-6).any()


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4, 5, 6])
def test_unsigned_width_is_widened_and_keeps_its_range(num_bits):
    model = one_point(num_bits, low=0.0)
    copied, plan = in_tensorrt_form(model)
    assert plan.notes == (f"point 'output': {num_bits} bits without a sign widened to int8, the range kept",)
    assert levels(copied, POSITIVE).max() == levels(model, POSITIVE).max()
    assert len(levels(copied, POSITIVE)) == 128


def test_seven_bits_without_a_sign_are_int8_value_for_value():
    model = one_point(7, low=0.0)
    copied, plan = in_tensorrt_form(model)
    assert plan.points[0].change == "same"
    assert torch.equal(copied(POSITIVE), model(POSITIVE))


def test_eight_bits_without_a_sign_lose_one_and_the_note_says_so():
    copied, plan = in_tensorrt_form(one_point(8, low=0.0))
    assert plan.notes == (
        "point 'output': 8 bits without a sign become signed int8 around zero, with steps 2.0 times as wide",
    )
    assert plan.widened == ()
    assert len(levels(copied, POSITIVE)) == 128


def test_zero_point_goes_and_the_range_stays_whole():
    model = one_point(8, low=-1.0, asymmetric=True)
    copied, plan = in_tensorrt_form(model)
    assert "8 bits with a zero point become signed int8 around zero, with steps 1.6 times as wide" in plan.notes[0]
    assert levels(copied).min() <= levels(model).min()
    assert levels(copied).max() >= levels(model).max() - 1e-5
    assert not copied.fake_quantizers["output"].asymmetric


def test_range_that_reaches_further_below_zero_is_not_cut():
    model = one_point(6, low=-4.0, high=1.0, asymmetric=True)
    copied, _ = in_tensorrt_form(model)
    assert torch.isclose(levels(copied).min(), levels(model).min(), rtol=0.02)


@pytest.mark.parametrize("num_bits", [9, 12, 16])
def test_more_than_8_bits_are_left_in_float(num_bits):
    copied, plan = in_tensorrt_form(one_point(num_bits))
    assert plan.points[0].stored == "float"
    assert plan.notes == (f"point 'output': {num_bits} bits left in float: TensorRT has no integers above 8 bits",)
    assert torch.equal(copied(X), X)


def test_e4m3_stays():
    model = one_point("E4M3")
    copied, plan = in_tensorrt_form(model)
    assert [(point.stored, point.change) for point in plan.points] == [("float8e4m3fn", "none")]
    assert torch.equal(copied(X), model(X))


@pytest.mark.parametrize(
    ("choice", "change", "words"),
    [
        ("E2M1", "widened", "E2M1 becomes E4M3, the one small float that TensorRT has for it"),
        ("E3M4", "coarser", "with a mantissa bit less"),
        ("E5M2", "coarser", "with fewer small values"),
        ("MXE4M3", "coarser", "with one scale for all its blocks"),
    ],
)
def test_other_float_becomes_e4m3_over_the_same_range(choice, change, words):
    model = one_point(choice)
    copied, plan = in_tensorrt_form(model)
    assert plan.points[0].change == change
    assert words in plan.notes[0]
    assert copied.num_bits.tolist() == [403]
    assert levels(copied).max() == pytest.approx(4.0)


def test_off_stays_off_without_a_note():
    copied, plan = in_tensorrt_form(one_point("off"))
    assert plan.notes == ()
    assert plan.points[0].stored == "float"
    assert torch.equal(copied(X), X)


@pytest.mark.parametrize("module", [nn.Linear(8, 4), nn.Conv2d(2, 4, 3), nn.Conv1d(2, 4, 3)])
@pytest.mark.parametrize("num_bits", [2, 4, 5, 8])
def test_weight_of_8_bits_or_fewer_keeps_every_value(module, num_bits):
    model = one_weight(module, num_bits)
    copied, plan = in_tensorrt_form(model)
    assert plan.stored("0.weight") == "int8"
    assert plan.points[0].change == ("none" if num_bits == 8 else "stored")
    assert torch.equal(copied.model[0].weight, model.model[0].weight)


@pytest.mark.parametrize("size", [64, 128])
def test_weight_in_blocks_that_tensorrt_has_stays_int4(size):
    model = one_weight(nn.Linear(128, 6), 3, weight_granularity=size)
    copied, plan = in_tensorrt_form(model)
    assert [(point.stored, point.change) for point in plan.points] == [("int4", "none")]
    assert torch.equal(copied.model[0].weight, model.model[0].weight)


@pytest.mark.parametrize(
    ("module", "num_bits", "size"),
    [
        (nn.Linear(128, 6), 4, 32),  # blocks that TensorRT does not have
        (nn.Linear(100, 6), 4, 64),  # a shorter last block
        (nn.Linear(128, 5), 4, 64),  # an odd number of outputs
        (nn.Linear(128, 6), 8, 64),  # int8 has no blocks
        (nn.Conv2d(64, 6, 3), 4, 64),  # nor has a convolution
    ],
)
def test_weight_in_other_blocks_gets_one_scale_for_each_channel(module, num_bits, size):
    model = one_weight(module, num_bits, weight_granularity=size)
    copied, plan = in_tensorrt_form(model)
    assert plan.stored("0.weight") == "int8"
    assert f"one scale for all of a channel's blocks of {size}" in plan.notes[0]
    amax = copied.fake_quantizers["0.weight"].amax
    assert torch.equal(amax, amax[:, :1].expand_as(amax))
    float_weight = model.weight_points[0].parameter
    step = amax.max() / 127
    assert (copied.model[0].weight - float_weight).abs().max() <= step / 2 * 1.01  # nothing is cut off


def test_transposed_convolution_gets_one_scale():
    model = one_weight(nn.ConvTranspose2d(2, 3, 3), 8)
    copied, plan = in_tensorrt_form(model)
    assert "one scale for all channels" in plan.notes[0]
    assert copied.fake_quantizers["0.weight"].amax.unique().numel() == 1
    assert (copied.model[0].weight - model.weight_points[0].parameter).abs().max() <= levels_apart(copied) / 2 * 1.01


def levels_apart(model: qx.QuantizedModel) -> float:
    return float(model.fake_quantizers["0.weight"].amax.max()) / 127


def test_transposed_convolution_with_one_scale_is_left_as_it_is():
    plan = in_tensorrt_form(one_weight(nn.ConvTranspose2d(2, 3, 3), 8, weight_granularity="tensor"))[1]
    assert plan.notes == ()


def test_embedding_is_left_in_float():
    model = one_weight(nn.Embedding(10, 4), 8)
    copied, plan = in_tensorrt_form(model)
    assert (
        "left in float: TensorRT quantizes weights of convolutions and matrix products, no Embedding" in plan.notes[0]
    )
    assert torch.equal(copied.model[0].weight, model.weight_points[0].parameter)


def test_wide_weight_is_left_in_float():
    model = one_weight(nn.Linear(8, 4), 12)
    copied, plan = in_tensorrt_form(model)
    assert plan.stored("0.weight") == "float"
    assert torch.equal(copied.model[0].weight, model.weight_points[0].parameter)


@pytest.fixture(scope="module")
def small_cnn() -> qx.QuantizedModel:
    model = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(batches(digits().calibration), method="mse")
    model.num_bits = [3, 4, 7, 8, 2, 5, 8, 16]
    return model


def test_model_is_as_it_was(small_cnn):
    x = digits().report.x[:50]
    before = network_state(small_cnn), small_cnn.version(), small_cnn.num_bits.tolist(), small_cnn(x)
    copied, _ = in_tensorrt_form(small_cnn)
    copied(x)
    after = network_state(small_cnn), small_cnn.version(), small_cnn.num_bits.tolist(), small_cnn(x)
    assert before[:-1] == after[:-1]
    assert torch.equal(before[-1], after[-1])


def test_every_point_of_the_copy_is_one_that_tensorrt_has(small_cnn):
    copied, plan = in_tensorrt_form(small_cnn)
    for point, weight in zip(copied.points, copied.fake_quantizers.values(), strict=True):
        if plan.stored(point.name) == "int8":
            assert not weight.unsigned
            assert not weight.asymmetric
            assert point.kind == "weight" or weight.num_bits == 8


def test_widened_model_predicts_no_worse(small_cnn):
    report = digits().report
    copied, _ = in_tensorrt_form(small_cnn)
    found = [(one(report.x).argmax(1) == report.y).float().mean().item() for one in (copied, small_cnn)]
    assert found[0] >= found[1]


def test_text_is_a_table_with_the_notes_below(small_cnn):
    text = str(in_tensorrt_form(small_cnn)[1])
    assert "relu1         activation  4             int8         widened" in text
    assert text.endswith("point 'fc2.weight': 16 bits left in float: TensorRT has no integers above 8 bits")


def test_model_without_ranges_is_refused():
    model = qx.QuantizedModel(nn.Identity(), predicates.by_type(nn.Identity), quantize_input=False)
    with pytest.raises(CalibrationError, match="must be calibrated"):
        in_tensorrt_form(model)


def test_detached_model_is_refused():
    model = one_point(8)
    model.detach()
    with pytest.raises(ModelError, match="detached"):
        in_tensorrt_form(model)


class Uncopyable(nn.Identity):
    def __deepcopy__(self, memo):
        raise RuntimeError("holds a file")


def test_network_that_cannot_be_copied_is_refused_with_the_reason():
    model = qx.QuantizedModel(Uncopyable(), predicates.by_type(nn.Identity), quantize_input=False)
    model.calibrate([torch.randn(10, 4)])
    with pytest.raises(ExportError, match="must be one that can be copied: RuntimeError: holds a file"):
        in_tensorrt_form(model)
