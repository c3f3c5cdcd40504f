"""Calibration that fails: a named error, and ranges, hooks, flags and random state as they were."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from awkward_networks import Raising
from network_state import hooks, network_state, random_state, ranges
from networks import AWKWARD, batches, digits, trained
from torch import Tensor, nn

from qexplore import predicates
from qexplore.errors import CalibrationError, DataError
from qexplore.model import QuantizedActivationsModel, QuantizedModel, calibrating
from qexplore.quant import QuantDescriptor, TensorQuantizer

RELU = predicates.by_type(nn.ReLU)
X = torch.linspace(-1, 1, 40).reshape(5, 8)


class Exploding(nn.Module):
    """Gives ``value`` from its second call on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.value if self.calls > 1 else x


def exploding(value: float) -> QuantizedActivationsModel:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Exploding(value), nn.ReLU())
    network.train()
    return QuantizedActivationsModel(network, RELU)


def broken_loader() -> Iterator[Tensor]:
    yield 3 * X
    raise OSError("the disk is gone")


class TestFailure:
    def assert_fails_without_a_trace(
        self, model: QuantizedActivationsModel, loader: Any, error: Any, text: str
    ) -> None:
        for quantizer in model.activation_fake_quantizers.values():
            quantizer.amax = 0.125
        if "1" in model.activation_fake_quantizers:
            model.activation_fake_quantizers["1"].unsigned = True
        before, known, widths, seeds = network_state(model), ranges(model), model.num_bits, random_state()
        with pytest.raises(error, match=text):
            model.calibrate(loader)
        assert network_state(model) == before
        assert ranges(model) == known
        assert np.array_equal(model.num_bits, widths)
        assert random_state() == seeds
        quantized = model.model.eval()(X)
        assert len(quantized.unique()) < 300  # not left listening

    def test_nan_in_the_data_names_the_input(self) -> None:
        data = X.clone()
        data[2, 3] = torch.nan
        text = r"point 'input' must see finite values to be calibrated, got NaN in a tensor of shape \(5, 8\)"
        self.assert_fails_without_a_trace(exploding(1.0), [X, data], CalibrationError, text)

    def test_infinity_in_the_data_names_the_input(self) -> None:
        data = X.clone()
        data[2, 3] = -torch.inf
        self.assert_fails_without_a_trace(exploding(1.0), [data], CalibrationError, "point 'input'.*got an infinity")

    @pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "(NaN|an infinity)")])
    def test_value_that_is_not_finite_inside_names_the_point(self, value: float, what: str) -> None:
        model = exploding(value)
        self.assert_fails_without_a_trace(model, [X, X], CalibrationError, f"point '3' must see finite.*got {what}")

    @pytest.mark.parametrize("loader", [[], iter(())], ids=["list", "iterator"])
    def test_empty_loader_is_refused(self, loader: Any) -> None:
        self.assert_fails_without_a_trace(exploding(1.0), loader, DataError, "must hold at least one batch, got none")

    def test_loader_that_raises_half_way(self) -> None:
        self.assert_fails_without_a_trace(exploding(1.0), broken_loader(), OSError, "the disk is gone")

    def test_network_that_raises_half_way(self) -> None:
        model = QuantizedActivationsModel(Raising(limit=1), RELU)
        for quantizer in model.activation_fake_quantizers.values():
            quantizer.amax = 0.125
        before, known = network_state(model), ranges(model)
        with pytest.raises(RuntimeError, match="the network gave up"):
            model.calibrate([X, 3 * X])
        assert (network_state(model), ranges(model)) == (before, known)
        model.model.limit = None
        assert model.detach()(X).shape == (5, 3)
        assert hooks(model.model) == {}

    def test_unknown_method_says_which_there_are(self) -> None:
        known = "'max', 'percentile', 'mse', 'entropy', 'auto'"
        with pytest.raises(CalibrationError, match=f"`method` must be one of {known}, got 'minmax'"):
            exploding(1.0).calibrate([X], method="minmax")
        histograms = QuantizedActivationsModel(
            trained("small_cnn"), RELU, quant_desc=QuantDescriptor(calib_method="histogram")
        )
        with pytest.raises(CalibrationError, match="`method` must be one of 'percentile', 'entropy', got 'max'"):
            histograms.calibrate(batches(digits().calibration), method="max")

    @pytest.mark.parametrize(
        ("options", "error", "sentence"),
        [
            ({"percentile": 200.0}, CalibrationError, "calibration by percentile with .* failed"),
            ({"percentil": 99.0}, TypeError, "did you mean 'percentile'"),
        ],
        ids=["value", "name"],
    )
    def test_wrong_option_of_a_method_changes_nothing(
        self, options: Any, error: type[Exception], sentence: str
    ) -> None:
        case = AWKWARD["tokens"]
        described = QuantDescriptor(calib_method="histogram")
        model = QuantizedActivationsModel(case.build(), case.predicate, quant_desc=described)
        before = ranges(model)
        with pytest.raises(error, match=sentence):
            model.calibrate([case.inputs()], **options)
        assert ranges(model) == before

    def test_option_that_max_does_not_know_is_refused(self) -> None:
        with pytest.raises(
            CalibrationError, match='calibration by max with .* failed: .*: pass method="percentile" with it'
        ):
            exploding(1.0).calibrate([X], percentile=99.0)

    @pytest.mark.parametrize("options", [{"method": "percentile"}, {"method": "entropy"}], ids=str)
    def test_dead_point_calibrates_by_histogram_too(self, options: Any) -> None:
        described = QuantDescriptor(calib_method="histogram")
        model = QuantizedActivationsModel(nn.Sequential(nn.ReLU()), RELU, quant_desc=described, quantize_input=False)
        assert model.calibrate([-X.abs()], **options).dead_points == ("0",)

    def test_channels_that_change_between_calls_are_refused_by_name(self) -> None:
        relu = nn.ReLU()
        network = nn.Sequential(nn.Linear(8, 6), relu, nn.Linear(6, 4), relu)
        model = QuantizedActivationsModel(network, RELU, quant_desc=QuantDescriptor(axis=1), quantize_input=False)
        with pytest.raises(CalibrationError, match="point '1'.*shape"):
            model.calibrate([X])
        assert ranges(model) == {"1": (None, False)}


class Counted(nn.Module):
    """Interrupts its forward at one of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu, self.last = nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
        self.calls, self.fails_at = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return self.last(self.relu(self.layer(x)))


def everything_held(model: QuantizedModel) -> tuple[Any, ...]:
    switches = [(q.unsigned, q.asymmetric, q.code, q.switched_off, q.num_negative) for q in model.quantizers.values()]
    return network_state(model), switches, model.num_bits.tolist(), model.points, random_state()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("place", ["forward", "table", "row"])
def test_an_interrupt_anywhere_leaves_everything_as_it_was(
    place: str, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.default_generator.manual_seed(0)
    network = Counted().train()
    model = QuantizedModel(network, activations=RELU, weights=predicates.weighted, asymmetric="auto")
    if not is_first:
        model.calibrate([X * 0.1], weight_method="mse")
        model.num_bits = [3, 4, 5, 6]
    before, tensors = everything_held(model), {name: one.data_ptr() for name, one in model.named_buffers()}
    count = {"calls": 0, "fails_at": 0}

    def interrupted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count["calls"] += 1
            if count["calls"] == count["fails_at"]:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    patched = {"table": (TensorQuantizer, "set_amax_table"), "row": (calibrating, "weight_row")}
    if place in patched:
        owner, name = patched[place]
        monkeypatch.setattr(owner, name, interrupted(getattr(owner, name)))
    for step in (1, 2, 3, 4, 5, 8, 13, 16):
        network.calls = count["calls"] = 0
        network.fails_at = count["fails_at"] = step
        network.fails_at = step if place == "forward" else 0
        try:
            model.calibrate([X, 3 * X])
        except KeyboardInterrupt:
            network.calls = 0
            assert everything_held(model) == before, step
            assert {name: one.data_ptr() for name, one in model.named_buffers()} == tensors
            last = step
    assert last >= {"forward": 16, "table": 16, "row": 2}[place]
