"""The vector of widths: read, set, set for a block, refused as a whole."""

from typing import Any

import numpy as np
import pytest
import torch
from networks import TRAINABLE, batches, digits, trained, wrapping
from torch import nn

from qexplore import predicates
from qexplore.errors import ModelError, NumBitsError
from qexplore.model import QuantizedActivationsModel
from qexplore.quant import QuantDescriptor

RELU = predicates.by_type(nn.ReLU)


@pytest.fixture
def model() -> QuantizedActivationsModel:
    """Four points, all of them unsigned."""
    wrapped = QuantizedActivationsModel(trained("small_cnn"), RELU)
    wrapped.calibrate(batches(digits().calibration))
    return wrapped


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_vector_has_one_width_per_point_in_their_order(name: str) -> None:
    model = QuantizedActivationsModel(trained(name), **wrapping(name))
    widths = np.random.default_rng(0).integers(2, 17, size=len(model.points))
    model.num_bits = widths
    assert np.array_equal(model.num_bits, widths)
    assert [q.num_bits for q in model.activation_fake_quantizers.values()] == widths.tolist()


def test_vector_read_is_an_integer_array_of_its_own(model: QuantizedActivationsModel) -> None:
    widths = model.num_bits
    assert widths.dtype == np.int64
    widths[:] = 3
    assert model.num_bits.tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, lambda v: np.array(v, dtype=np.uint8), lambda v: [np.int16(w) for w in v]]
)
def test_any_sequence_of_integers_will_do(model: QuantizedActivationsModel, form: Any) -> None:
    model.num_bits = form([1, 2, 9, 16])
    assert model.num_bits.tolist() == [1, 2, 9, 16]


@pytest.mark.parametrize("off", [0, None, np.int64(0)])
def test_zero_and_none_switch_a_quantizer_off_and_a_width_switches_it_on_again(
    model: QuantizedActivationsModel, off: Any
) -> None:
    x = digits().search.x[:20]
    model.num_bits = [off, 3, off, 2]
    assert model.num_bits.tolist() == [0, 3, 0, 2]
    assert [q.is_active for q in model.activation_fake_quantizers.values()] == [False, True, False, True]
    model.num_bits = [off] * 4
    assert torch.equal(model(x), trained("small_cnn")(x))
    model.num_bits = [4, 4, 4, 4]
    assert model.num_bits.tolist() == [4, 4, 4, 4]
    assert not torch.equal(model(x), trained("small_cnn")(x))


def test_width_switches_a_quantizer_on_that_was_disabled_by_hand(model: QuantizedActivationsModel) -> None:
    model.activation_fake_quantizers["relu1"].disable()
    assert model.num_bits.tolist() == [8, 0, 8, 8]
    model.num_bits = [8, 4, 8, 8]
    assert model.num_bits.tolist() == [8, 4, 8, 8]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ([4, 4, 4], r"one width for each of the 4 points \(input, relu1, relu2, relu3\), got 3"),
        ([4] * 5, "got 5"),
        ([], "got 0"),
        (4, "must be a vector of 4 widths, got 4"),
        ("4444", "must be a vector of 4 widths, got '4444'"),
        (None, "must be a vector of 4 widths, got None"),
        (iter([4] * 4), "must be a vector of 4 widths, got"),
        ([4, 4, 4, 17], r"`num_bits` of point 'relu3' must be an int in \[1, 16\], got 17"),
        ([4, 4, -1, 4], r"point 'relu2' must be an int in \[1, 16\], got -1"),
        ([4, True, 4, 4], "point 'relu1' must be an int .* got True"),
        ([4, 4, 4, False], "point 'relu3' must be an int .* got False"),
        ([4, 4, 4, np.False_], "point 'relu3' must be an int .* got np.False_"),
        ([4, 4.0, 4, 4], "got 4.0"),
        (np.array([4, 4, 4, np.nan]), "got np.float64"),
        ([4, "4", 4, 4], "got '4'"),
        ([4, [4], 4, 4], r"got \[4\]"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__next__") else repr(value),
)
def test_wrong_vector_is_refused_as_a_whole(model: QuantizedActivationsModel, wrong: Any, text: str) -> None:
    model.num_bits = [3, 0, 5, 6]
    with pytest.raises(NumBitsError, match=text):
        model.num_bits = wrong
    assert model.num_bits.tolist() == [3, 0, 5, 6]
    if not hasattr(wrong, "__next__"):
        with pytest.raises(NumBitsError, match=text), model.using(wrong):
            raise AssertionError("the block must not run")
        assert model.num_bits.tolist() == [3, 0, 5, 6]


def test_one_bit_needs_a_point_without_sign() -> None:
    model = QuantizedActivationsModel(trained("small_cnn"), RELU, unsigned=False)
    with pytest.raises(NumBitsError, match="'relu2' .* got 1: one signed bit has no levels beside zero"):
        model.num_bits = [4, 4, 1, 4]
    assert model.num_bits.tolist() == [8, 8, 8, 8]


class TestUsing:
    def test_widths_hold_for_the_block_only(self, model: QuantizedActivationsModel) -> None:
        model.num_bits = [3, 0, 5, 6]
        with model.using([2, 2, 0, 7]):
            assert model.num_bits.tolist() == [2, 2, 0, 7]
            with model.using([8, 8, 8, 8]):
                assert model.num_bits.tolist() == [8, 8, 8, 8]
            assert model.num_bits.tolist() == [2, 2, 0, 7]
        assert model.num_bits.tolist() == [3, 0, 5, 6]
        model.num_bits = [3, 4, 5, 6]
        assert model.num_bits.tolist() == [3, 4, 5, 6]

    def test_widths_come_back_after_an_error(self, model: QuantizedActivationsModel) -> None:
        model.num_bits = [3, 0, 5, 6]
        with pytest.raises(RuntimeError, match="oh"), model.using([2, 2, 2, 2]):
            raise RuntimeError("oh")
        assert model.num_bits.tolist() == [3, 0, 5, 6]

    def test_quantizer_disabled_by_hand_stays_disabled(self, model: QuantizedActivationsModel) -> None:
        model.activation_fake_quantizers["relu1"].disable()
        with model.using([4, 4, 4, 4]):
            assert model.num_bits.tolist() == [4, 0, 4, 4]
        assert model.num_bits.tolist() == [8, 0, 8, 8]

    def test_output_is_that_of_widths_set_for_good(self, model: QuantizedActivationsModel) -> None:
        x = digits().search.x[:20]
        with model.using([2, 3, 4, 5]):
            inside = model(x)
        model.num_bits = [2, 3, 4, 5]
        assert torch.equal(inside, model(x))


class TestFirstWidth:
    def wrap(self, **options: Any) -> QuantizedActivationsModel:
        return QuantizedActivationsModel(trained("small_cnn"), RELU, **options)

    def test_eight_unless_told_otherwise(self) -> None:
        assert self.wrap().num_bits.tolist() == [8] * 4
        assert self.wrap(init_num_bits=5).num_bits.tolist() == [5] * 4
        assert self.wrap(init_num_bits=1, unsigned=True).num_bits.tolist() == [1] * 4

    def test_descriptors_width_counts_where_none_is_given(self) -> None:
        assert self.wrap(quant_desc=QuantDescriptor(num_bits=4)).num_bits.tolist() == [4] * 4
        assert self.wrap(quant_desc=QuantDescriptor(num_bits=4), init_num_bits=4).num_bits.tolist() == [4] * 4
        assert self.wrap(quant_desc=QuantDescriptor(), init_num_bits=4).num_bits.tolist() == [4] * 4

    def test_two_different_widths_are_refused(self) -> None:
        with pytest.raises(NumBitsError, match=r"`init_num_bits` \(5\) and the width of quant_desc \(4\) contradict"):
            self.wrap(quant_desc=QuantDescriptor(num_bits=4), init_num_bits=5)

    @pytest.mark.parametrize("wrong", [0, 1, 17, True, 4.0, "8", None], ids=repr)
    def test_wrong_first_width_is_refused_before_a_hook_is_on(self, wrong: Any) -> None:
        network = trained("small_cnn")
        with pytest.raises(NumBitsError, match="`num_bits` of point 'input' must be an int"):
            QuantizedActivationsModel(network, RELU, init_num_bits=wrong)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    def test_wrong_sign_and_wrong_outputs_are_refused(self) -> None:
        with pytest.raises(NumBitsError, match='`unsigned` must be True, False or "auto"'):
            self.wrap(unsigned="never")
        with pytest.raises(ModelError, match='`outputs` must be "tensor" or "all", got \'tuple\''):
            self.wrap(outputs="tuple")

    def test_everything_else_of_the_descriptor_reaches_every_quantizer(self) -> None:
        described = QuantDescriptor(narrow_range=True, axis=1, scale_amax=0.5)
        model = self.wrap(quant_desc=described, unsigned=False)
        for quantizer in model.activation_fake_quantizers.values():
            assert (quantizer.narrow_range, quantizer.axis, quantizer._scale_amax) == (True, 1, 0.5)


def test_torch_tensor_of_widths_is_taken() -> None:
    model = QuantizedActivationsModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), predicates.leaves)

    model.num_bits = torch.tensor([3, 0, 5])

    assert model.num_bits.tolist() == [3, 0, 5]


def test_widths_by_name_are_taken_as_a_front_gives_them() -> None:
    model = QuantizedActivationsModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), predicates.leaves)

    model.num_bits = {"1": 5, "input": 3, "0": 0}

    assert model.num_bits.tolist() == [3, 0, 5]
    with pytest.raises(NumBitsError, match="must name the points input, 0, 1, got '0', '1' missing"):
        model.num_bits = {"input": 3}
