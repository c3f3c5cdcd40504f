"""State dicts, deep copies and casts of a wrapped network."""

import copy
import io
from typing import Any

import pytest
import torch
from network_state import hooks, ranges
from networks import AWKWARD, TRAINABLE, batches, digits, trained, wrapping
from torch import Tensor, nn

from qexplore import predicates
from qexplore.model import QuantizedActivationsModel, call

NAMES = pytest.mark.parametrize("name", list(TRAINABLE))
RELU = predicates.by_type(nn.ReLU)


def calibrated(name: str, **options: Any) -> QuantizedActivationsModel:
    model = QuantizedActivationsModel(trained(name), **wrapping(name, **options))
    model.calibrate(batches(digits().calibration))
    model.num_bits = [2 + index % 5 for index in range(len(model.num_bits))]
    return model


def fresh(name: str) -> QuantizedActivationsModel:
    """A wrapper of a network whose weights are others, not calibrated."""
    network = TRAINABLE[name].build().eval()
    return QuantizedActivationsModel(network, **wrapping(name))


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    return model(digits().report.x[:20])


class TestStateDict:
    @NAMES
    def test_saved_file_gives_a_fresh_wrapper_the_same_widths_ranges_and_output(self, name: str) -> None:
        model, other = calibrated(name), fresh(name)
        other.load_state_dict(through_a_file(model.state_dict()), strict=True)
        assert other.num_bits.tolist() == model.num_bits.tolist()
        assert ranges(other) == ranges(model)
        other.require_calibrated()
        assert torch.equal(output(other), output(model))

    def test_switched_off_points_stay_off(self) -> None:
        model, other = calibrated("small_cnn"), fresh("small_cnn")
        model.num_bits = [0, 3, 0, 5]
        other.load_state_dict(through_a_file(model.state_dict()), strict=True)
        assert other.num_bits.tolist() == [0, 3, 0, 5]
        assert torch.equal(output(other), output(model))

    def test_uncalibrated_wrapper_loads_into_an_uncalibrated_one(self) -> None:
        model, other = fresh("small_cnn"), fresh("small_cnn")
        model.num_bits = [3, 4, 5, 6]
        other.load_state_dict(through_a_file(model.state_dict()), strict=True)
        assert other.num_bits.tolist() == [3, 4, 5, 6]
        assert ranges(other)["relu1"] == (None, False)
        assert torch.equal(output(other), output(model))

    def test_calibration_can_be_loaded_over_another(self) -> None:
        model, other = calibrated("small_cnn"), calibrated("small_cnn", unsigned=False)
        for quantizer in other.activation_fake_quantizers.values():
            quantizer.amax = 0.5
        other.load_state_dict(model.state_dict(), strict=True)
        assert ranges(other) == ranges(model)
        assert torch.equal(output(other), output(model))

    @pytest.mark.parametrize("how", ["alone", "deep copy", "inside another module"])
    def test_token_model_that_dropped_its_input_loads_into_a_fresh_wrapper(self, how: str) -> None:
        case = AWKWARD["tokens"]
        model = QuantizedActivationsModel(case.build(), case.predicate)
        model.calibrate([case.inputs()])
        other: nn.Module = QuantizedActivationsModel(case.build(), case.predicate)
        if how == "deep copy":
            other = copy.deepcopy(other)
        wrapped, state = other, model.state_dict()
        if how == "inside another module":
            other, state = nn.ModuleDict({"encoder": other}), nn.ModuleDict({"encoder": model}).state_dict()
        other.load_state_dict(through_a_file(state), strict=True)
        assert tuple(wrapped.activation_fake_quantizers) == case.points
        assert len(wrapped.num_bits) == 2
        assert torch.equal(call(wrapped.eval(), case.inputs()), call(model.eval(), case.inputs()))

    def test_float_networks_own_state_dict_is_not_taken_for_a_wrappers(self) -> None:
        model = fresh("small_cnn")
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(trained("small_cnn").state_dict(), strict=True)
        assert list(model.activation_fake_quantizers) == ["input", "relu1", "relu2", "relu3"]

    def test_names_with_dots_and_the_input_module_have_keys_of_their_own(self) -> None:
        case = AWKWARD["input_module"]
        model = QuantizedActivationsModel(case.build(), case.predicate)
        model.calibrate([case.inputs()])
        other = QuantizedActivationsModel(case.build(), case.predicate)
        other.load_state_dict(through_a_file(model.state_dict()), strict=True)
        assert ranges(other) == ranges(model)


class TestDeepCopy:
    @NAMES
    def test_copy_gives_the_same_output_by_quantizers_of_its_own(self, name: str) -> None:
        model = calibrated(name)
        duplicate = copy.deepcopy(model)
        before = output(model)
        assert torch.equal(output(duplicate), before)
        duplicate.num_bits = [0] * len(duplicate.num_bits)
        assert not torch.equal(output(duplicate), before)
        assert torch.equal(output(model), before)
        model.num_bits = [0] * len(model.num_bits)
        duplicate.num_bits = [2 + index % 5 for index in range(len(model.num_bits))]
        assert torch.equal(output(duplicate), before)

    @NAMES
    def test_ranges_of_copy_and_original_do_not_touch(self, name: str) -> None:
        model = calibrated(name)
        duplicate = copy.deepcopy(model)
        before = ranges(model)
        duplicate.calibrate([digits().calibration.x[:20] * 0.5])
        assert ranges(model) == before
        again = ranges(duplicate)
        assert again != before
        model.calibrate([digits().calibration.x[:20] * 0.25])
        assert ranges(duplicate) == again

    def test_each_detaches_its_own_network_only(self) -> None:
        model = calibrated("small_cnn")
        duplicate = copy.deepcopy(model)
        before, network = output(duplicate), model.detach()
        assert hooks(network) == {}
        assert torch.equal(output(duplicate), before)
        other = duplicate.detach()
        assert other is not network
        assert hooks(other) == {}
        assert torch.equal(output(other), output(network))

    def test_copy_of_the_wrapped_network_alone_quantizes_on_its_own(self) -> None:
        model = calibrated("small_cnn")
        duplicate = copy.deepcopy(model.model)
        before = output(model)
        model.num_bits = [0] * 4
        assert torch.equal(output(duplicate), before)

    def test_users_hook_objects_are_still_called_in_a_copy(self) -> None:
        case = AWKWARD["user_hooks"]
        model = QuantizedActivationsModel(case.build(), case.predicate)
        duplicate = copy.deepcopy(model)
        assert torch.equal(duplicate(case.inputs()), model(case.inputs()))


class TestCasts:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", ["small_cnn", "shared_relu", "transformer"])
    def test_network_of_another_dtype_is_calibrated_and_run_in_it(self, name: str, dtype: torch.dtype) -> None:
        model = QuantizedActivationsModel(trained(name).to(dtype), **wrapping(name))
        model.calibrate(batches(digits().calibration))  # float32 images
        x, y = digits().search.x[:200].to(dtype), digits().search.y[:200]
        with torch.no_grad():
            result = model(x)
        assert result.dtype == dtype
        assert all(q.amax.dtype == torch.float32 for q in model.activation_fake_quantizers.values())
        exact = QuantizedActivationsModel(trained(name), **wrapping(name))
        exact.calibrate(batches(digits().calibration))
        for point, (amax, unsigned) in ranges(exact).items():
            assert ranges(model)[point] == (pytest.approx(amax, rel=0.05), unsigned)
        assert abs(hits(result, y) - hits(exact(digits().search.x[:200]), y)) <= 10

    def test_casting_a_wrapped_model_keeps_its_ranges_exactly(self) -> None:
        model = calibrated("small_cnn")
        before = ranges(model)
        model.half()
        assert ranges(model) == before
        model.float()
        assert ranges(model) == before

    def test_float64_network_takes_float32_data(self) -> None:
        model = QuantizedActivationsModel(trained("small_cnn").double(), RELU)
        model.calibrate(batches(digits().calibration))
        with torch.no_grad():
            assert model(digits().search.x[:3].double()).dtype == torch.float64


def hits(logits: Tensor, y: Tensor) -> int:
    return int((logits.argmax(dim=1) == y).sum())
