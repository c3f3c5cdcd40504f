"""What TensorQuantizer adds to upstream's: widths, signs, ranges, and where its numbers are kept."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_quantization.nn import TensorQuantizer as Upstream
from torch import Tensor, nn

from qexplore.errors import CalibrationError, NumBitsError, QExploreError
from qexplore.quant import IntegerGrid, QuantDescriptor, TensorQuantizer

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))


def auto(amax: float | None = 1.0, **options: Any) -> TensorQuantizer:
    """An automatic quantizer that has been found never to be negative."""
    quantizer = TensorQuantizer(QuantDescriptor(amax=amax, **options), unsigned="auto", name="relu")
    quantizer.decide_sign(0.0)
    return quantizer


class TestWidths:
    @pytest.mark.parametrize("wrong", [0, -3, 17, 1000, True, False, 4.0, 4.5, "8", None, np.float64(4), np.True_])
    def test_wrong_width_is_refused_with_the_value_and_nothing_changes(self, wrong: Any) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=5), name="layer1.0.relu")
        with pytest.raises(NumBitsError) as caught:
            quantizer.num_bits = wrong
        shown = repr(wrong) if not isinstance(wrong, int) or isinstance(wrong, bool) else str(wrong)
        assert str(caught.value) == f"`num_bits` of point 'layer1.0.relu' must be an int in [2, 16], got {shown}"
        assert quantizer.num_bits == 5

    def test_one_signed_bit_is_refused_with_the_reason(self) -> None:
        quantizer = TensorQuantizer(name="layer1.0.relu")
        with pytest.raises(NumBitsError) as caught:
            quantizer.num_bits = 1
        assert str(caught.value) == (
            "`num_bits` of point 'layer1.0.relu' must be an int in [2, 16], got 1: one signed bit has no levels beside "
            "zero"
        )
        assert isinstance(caught.value, ValueError)

    def test_width_of_a_descriptor_is_checked_when_the_quantizer_is_built(self) -> None:
        for num_bits in (1, 17):
            with pytest.raises(NumBitsError, match=rf"in \[2, 16\], got {num_bits}"):
                TensorQuantizer(QuantDescriptor(num_bits=num_bits))
        assert TensorQuantizer(QuantDescriptor(num_bits=1, unsigned=True)).num_bits == 1

    @pytest.mark.parametrize("width", [np.int64(7), np.uint8(7), np.int32(7), 7])
    def test_integers_of_numpy_are_widths(self, width: Any) -> None:
        quantizer = TensorQuantizer()
        quantizer.num_bits = width
        assert quantizer.num_bits == 7
        assert type(quantizer.num_bits) is int

    def test_one_bit_is_a_width_where_there_is_no_sign(self) -> None:
        quantizer = TensorQuantizer(unsigned=True)
        assert (quantizer.min_num_bits, TensorQuantizer().min_num_bits) == (1, 2)
        quantizer.num_bits = 1
        assert quantizer(torch.tensor([0.0, 0.4, 0.6, 1.0])).tolist() == [0.0, 0.0, 1.0, 1.0]

    def test_a_sign_widens_one_bit_to_two(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=1, unsigned=True))
        quantizer.unsigned = False
        assert (quantizer.num_bits, quantizer.unsigned) == (2, False)

    @pytest.mark.parametrize(
        ("grid", "low", "high", "levels"),
        [
            (IntegerGrid(8), -128, 127, 256),
            (IntegerGrid(8, narrow_range=True), -127, 127, 255),
            (IntegerGrid(8, unsigned=True), 0, 255, 256),
            (IntegerGrid(1, unsigned=True, narrow_range=True), 0, 1, 2),
            (IntegerGrid(2), -2, 1, 4),
            (IntegerGrid(16), -32768, 32767, 65536),
        ],
    )
    def test_grid_holds_the_integers_of_its_width(self, grid: IntegerGrid, low: int, high: int, levels: int) -> None:
        assert (grid.quant_min, grid.quant_max, grid.num_levels) == (low, high, levels)
        assert grid.step(2.0) == 2.0 / high

    def test_grid_refuses_a_width_that_no_quantizer_has(self) -> None:
        with pytest.raises(NumBitsError, match="an integer grid"):
            IntegerGrid(1)

    def test_grid_of_a_quantizer_is_what_its_output_takes(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=3, narrow_range=True, amax=1.0))
        grid = quantizer.grid
        values = quantizer(torch.linspace(-2, 2, 1001)).unique()
        assert len(values) == grid.num_levels == 7
        assert float(values[1] - values[0]) == pytest.approx(grid.step(1.0))


class TestSign:
    def test_auto_stays_signed_until_calibration_has_seen_the_range(self) -> None:
        quantizer = TensorQuantizer(unsigned="auto")
        assert quantizer.auto_sign
        assert not quantizer.unsigned
        quantizer.decide_sign(0.0)
        assert quantizer.unsigned
        quantizer.decide_sign(-1e-6)
        assert not quantizer.unsigned

    @pytest.mark.parametrize("fixed", [True, False])
    def test_a_given_sign_is_kept_through_calibration(self, fixed: bool) -> None:
        quantizer = TensorQuantizer(unsigned=fixed)
        for lowest in (-1.0, 0.0):
            quantizer.decide_sign(lowest)
            assert quantizer.unsigned == fixed

    def test_a_sign_set_by_hand_ends_auto(self) -> None:
        quantizer = TensorQuantizer(unsigned="auto")
        quantizer.unsigned = True
        quantizer.decide_sign(-1.0)
        assert quantizer.unsigned
        assert not quantizer.auto_sign

    def test_the_descriptors_sign_counts_where_none_is_given(self) -> None:
        described = QuantDescriptor(unsigned=True)
        assert TensorQuantizer(described).unsigned
        assert TensorQuantizer(described, unsigned="auto").unsigned
        assert not TensorQuantizer(described, unsigned=False).unsigned

    @pytest.mark.parametrize("wrong", ["signed", "yes", 2, 1, 0, 1.0])
    def test_what_is_no_sign_is_refused(self, wrong: Any) -> None:
        with pytest.raises(QExploreError, match='must be True, False or "auto"'):
            TensorQuantizer(unsigned=wrong)

    def test_negative_value_after_calibration_is_clamped_counted_and_warned_of_once(self) -> None:
        quantizer = auto(num_bits=8)
        x = torch.tensor([-0.5, -0.1, 0.2, 1.0])
        with pytest.warns(RuntimeWarning, match="point 'relu' was never negative during calibration"):
            output = quantizer(x)
        assert torch.equal(output, quantizer(x.clamp(min=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quantizer(x)
        assert quantizer.num_negative == 4

    def test_calibration_starts_the_count_of_negative_values_anew(self) -> None:
        quantizer = auto()
        with pytest.warns(RuntimeWarning, match="never negative"):
            quantizer(torch.tensor([-1.0]))
        quantizer.decide_sign(0.0)
        assert quantizer.num_negative == 0
        with pytest.warns(RuntimeWarning, match="never negative"):
            quantizer(torch.tensor([-1.0]))

    def test_clamped_values_get_no_gradient(self) -> None:
        x = torch.tensor([-0.5, 0.5], requires_grad=True)
        with pytest.warns(RuntimeWarning, match="never negative"):
            auto()(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, 1.0]

    def test_negative_zero_is_not_negative(self) -> None:
        quantizer = auto()
        quantizer(torch.tensor([-0.0, 0.5]))
        assert quantizer.num_negative == 0

    def test_explicitly_unsigned_raises_on_negative_values_as_upstream_does(self) -> None:
        described = QuantDescriptor(unsigned=True, amax=1.0)
        for quantizer in (TensorQuantizer(described), Upstream(described), TensorQuantizer(unsigned=True)):
            with pytest.raises(TypeError, match="Negative values encountered in unsigned quantization"):
                quantizer(torch.tensor([-0.5, 0.5]))


class TestRange:
    @pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0, "wide", None, [1.0, float("nan")], [], {}])
    def test_wrong_range_is_refused_and_the_old_one_kept(self, wrong: Any) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(amax=2.0), name="fc")
        with pytest.raises(CalibrationError, match="`amax` of point 'fc' must be"):
            quantizer.amax = wrong
        assert quantizer.amax is not None
        assert float(quantizer.amax) == 2.0

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0, [1.0, float("nan")]])
    def test_wrong_range_of_a_descriptor_is_refused_when_the_quantizer_is_built(self, wrong: Any) -> None:
        with pytest.raises(CalibrationError, match="`amax` of point 'fc' must be finite and not negative"):
            TensorQuantizer(QuantDescriptor(amax=wrong), name="fc")

    @pytest.mark.parametrize("value", [3, 3.0, np.float32(3), torch.tensor(3.0), torch.tensor(3.0).half()])
    def test_range_is_kept_in_float32(self, value: Any) -> None:
        quantizer = TensorQuantizer()
        assert not quantizer.is_calibrated
        assert quantizer.amax is None
        quantizer.amax = value
        assert quantizer.is_calibrated
        assert quantizer.amax is not None
        assert (float(quantizer.amax), quantizer.amax.dtype) == (3.0, torch.float32)

    def test_range_may_change_from_one_value_to_one_per_channel(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
        quantizer.amax = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        truth = Upstream(QuantDescriptor(amax=[[1.0, 2.0, 3.0, 4.0]], axis=1))
        assert torch.equal(quantizer(X), truth(X))

    def test_range_taken_from_a_tensor_is_a_copy(self) -> None:
        given = torch.tensor(1.0)
        quantizer = TensorQuantizer()
        quantizer.amax = given
        given.fill_(5.0)
        assert quantizer.amax is not None
        assert float(quantizer.amax) == 1.0

    @pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
    def test_range_stays_float32_when_a_model_is_cast(self, cast: str) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(amax=1.2345678))
        network = nn.Sequential(nn.Linear(2, 2), quantizer)
        getattr(network, cast)()
        assert quantizer.amax is not None
        assert quantizer.amax.dtype == torch.float32
        assert float(quantizer.amax) == float(np.float32(1.2345678))


class TestSwitches:
    def test_disabled_and_switched_off_quantizers_let_tensors_through(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=2))
        quantizer.disable()
        assert quantizer(X) is X
        assert (quantizer.disabled, quantizer.is_active) == (True, False)
        quantizer.enable()
        quantizer.switched_off = True
        assert quantizer(X) is X
        assert (quantizer.disabled, quantizer.is_active) == (False, False)
        assert "off" in repr(quantizer)
        quantizer.enable()
        assert quantizer.is_active
        assert not torch.equal(quantizer(X), X)
        assert TensorQuantizer(disabled=True)(X) is X

    def test_upstreams_stages_are_honoured(self) -> None:
        assert TensorQuantizer(if_quant=False)(X) is X
        collecting = TensorQuantizer(if_quant=False, if_calib=True)
        collecting(X)
        collecting.load_calib_amax()
        assert collecting.amax is not None
        assert float(collecting.amax) == float(X.abs().max())


class TestDescriptor:
    @pytest.mark.parametrize(
        "options",
        [
            {"num_bits": 5},
            {"num_bits": 5, "narrow_range": True},
            {"num_bits": 4, "axis": 1},
            {"num_bits": 4, "axis": (0, 1)},
            {"num_bits": 4, "amax": 0.7},
            {"num_bits": 4, "amax": [[0.5, 0.6, 0.7, 0.8]], "axis": 1},
            {"num_bits": 4, "scale_amax": 0.8},
            {"num_bits": 4, "scale_amax": 0.8, "amax": 2.0},
            {"num_bits": 4, "learn_amax": True, "amax": 0.7},
            {"num_bits": 4, "learn_amax": True},
            {"num_bits": 4, "fake_quant": False, "amax": 0.7},
        ],
        ids=str,
    )
    def test_everything_that_a_descriptor_sets_is_honoured(self, options: dict[str, Any]) -> None:
        ours, truth = TensorQuantizer(QuantDescriptor(**options)), Upstream(QuantDescriptor(**options))
        assert torch.equal(ours(X), truth(X))
        assert torch.equal(ours(3 * X), truth(3 * X))
        plain = Upstream(QuantDescriptor(num_bits=8))
        assert not torch.equal(truth(X), plain(X))

    def test_unsigned_descriptor_is_honoured(self) -> None:
        options = {"num_bits": 4, "unsigned": True}
        ours, truth = TensorQuantizer(QuantDescriptor(**options)), Upstream(QuantDescriptor(**options))
        assert torch.equal(ours(X.abs()), truth(X.abs()))

    def test_descriptors_name_is_the_quantizers_unless_one_is_given(self) -> None:
        described = QuantDescriptor(name="of the descriptor")
        assert TensorQuantizer(described).name == "of the descriptor"
        assert TensorQuantizer(described, name="given").name == "given"
        assert TensorQuantizer().name == "quantizer"

    def test_histogram_descriptor_brings_upstreams_histogram(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"))
        assert quantizer.collects_histogram
        assert not TensorQuantizer().collects_histogram

    def test_learned_range_gets_the_gradient_of_upstream(self) -> None:
        options = {"num_bits": 4, "learn_amax": True, "amax": 0.7}
        gradients = []
        for quantizer in (TensorQuantizer(QuantDescriptor(**options)), Upstream(QuantDescriptor(**options))):
            quantizer(X).sum().backward()
            gradients.append((quantizer.clip.clip_value_min.grad, quantizer.clip.clip_value_max.grad))
        assert gradients[0] == gradients[1]
        assert float(gradients[0][1]) != 0.0

    def test_setting_a_learned_range_moves_what_is_learned(self) -> None:
        quantizer = TensorQuantizer(QuantDescriptor(num_bits=4, learn_amax=True))
        quantizer.amax = 0.5
        truth = Upstream(QuantDescriptor(num_bits=4, learn_amax=True, amax=0.5))
        assert torch.equal(quantizer(X), truth(X))


class TestHistogramOfTheDescriptor:
    """Upstream's interface, with none of the faults of its histogram."""

    @staticmethod
    def collected(*tensors: Tensor) -> TensorQuantizer:
        quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"), if_quant=False, if_calib=True)
        for tensor in tensors:
            quantizer(tensor)
        return quantizer

    @pytest.mark.parametrize("first", [torch.zeros(10), torch.tensor([1e5]), torch.tensor([1e-30, 3e38])], ids=str)
    def test_neither_first_tensor_nor_outlier_matters(self, first: Tensor) -> None:
        x = torch.linspace(0, 1, 100_000)
        for tensors in ((first, x), (x, first)):
            quantizer = self.collected(*tensors)
            quantizer.load_calib_amax("percentile", percentile=99.0)
            assert float(quantizer.amax) == pytest.approx(0.99, abs=1e-3)
            quantizer.load_calib_amax("entropy")
            assert float(quantizer.amax) == pytest.approx(1.0, abs=0.05)

    def test_a_reset_leaves_nothing_behind(self) -> None:
        quantizer = self.collected(torch.tensor([1e-6]), torch.tensor([1e5]))
        quantizer.calibrator.reset()
        assert quantizer.calibrator.compute_amax("percentile") is None
        quantizer(torch.linspace(0, 1, 1001))
        assert float(quantizer.calibrator.compute_amax("percentile", percentile=50.0)) == pytest.approx(0.5, rel=2e-3)


def test_a_negative_value_without_a_sign_is_refused_with_the_point_and_the_way_out() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0), unsigned=True, name="relu")
    with pytest.raises(QExploreError, match="point 'relu' must see no negative value .* got -2 .* unsigned=\"auto\""):
        quantizer(torch.tensor([1.0, -2.0]))
