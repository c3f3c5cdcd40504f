"""Calibration: full precision, every form of batch, and nothing changed when it fails."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from network_state import flags, hooks, network_state, random_state, ranges
from networks import AWKWARD, TRAINABLE, Case, batches, digits, trained, wrapping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, SelectionError
from qexplore.model import QuantizedActivationsModel
from qexplore.quant import CALIBRATORS, QuantDescriptor
from qexplore.quant.calibrators import Calibrator

RELU = predicates.by_type(nn.ReLU)
CASES = pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD)


def small_cnn(**options: Any) -> QuantizedActivationsModel:
    return QuantizedActivationsModel(trained("small_cnn"), RELU, **options)


def as_batch(inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    """A loader of one batch, and the ``unpack`` that it needs."""
    if isinstance(inputs, tuple):
        return [inputs], {"unpack": lambda batch: (batch, None)}
    return [inputs], {}


@CASES
def test_awkward_network_calibrates_and_keeps_hooks_flags_data_and_random_state(case: Case) -> None:
    model = QuantizedActivationsModel(case.build(), case.predicate, **case.options)
    model.describe(case.inputs())
    before, seeds = network_state(model.model), random_state()
    loader, options = as_batch(case.inputs())
    model.calibrate(loader, **options)
    once = ranges(model)
    model.calibrate(loader, **options)
    assert ranges(model) == once  # a network that changes its input in place did not change the loader's
    model.require_calibrated()
    assert network_state(model.model) == before
    assert random_state() == seeds


def observed_maxima(network: nn.Module, names: list[str], loader: Any) -> dict[str, float]:
    """Largest magnitude of the float activations, by hooks of the test's own."""
    found = dict.fromkeys(names, 0.0)

    def watch(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = max(found[name], float(output.abs().max()))

        return note

    for name in names:
        network.get_submodule(name).register_forward_hook(watch(name))
    with torch.no_grad():
        for x, _ in loader:
            network(x)
    return found


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu", "transformer"])
def test_ranges_are_the_maxima_of_the_float_activations_whatever_the_widths(name: str) -> None:
    loader = batches(digits().calibration, size=64)
    model = QuantizedActivationsModel(trained(name), **wrapping(name, init_num_bits=2))
    model.calibrate(loader)
    points = [point for point in model.activation_fake_quantizers if point != "input"]
    truth = observed_maxima(trained(name), points, loader)
    assert {point: float(model.activation_fake_quantizers[point].amax) for point in points} == truth
    model.num_bits = [3] * len(model.num_bits)
    model.calibrate(loader)
    assert {point: float(model.activation_fake_quantizers[point].amax) for point in points} == truth


def test_calibration_runs_in_eval_mode_and_leaves_training_mode_as_it_was() -> None:
    network = trained("small_cnn").train()
    network.bn1.eval()
    model = QuantizedActivationsModel(network, RELU)
    before = network_state(model)
    model.calibrate(batches(digits().calibration))
    assert flags(model) == before[0]
    assert hooks(model) == before[1]
    assert torch.equal(network.bn2.running_mean, trained("small_cnn").bn2.running_mean)
    assert all(parameter.grad is None for parameter in model.parameters())
    evaluated = small_cnn()
    evaluated.calibrate(batches(digits().calibration))
    assert ranges(model) == ranges(evaluated)


class TestBatches:
    def expected(self) -> dict[str, Any]:
        model = small_cnn()
        model.calibrate(batches(digits().calibration))
        return ranges(model)

    @pytest.mark.parametrize(
        "form",
        [
            lambda x, y: x,
            lambda x, y: (x,),
            lambda x, y: [x, y],
            lambda x, y: (x, y, "a third thing"),
            lambda x, y: {"x": x},
            lambda x, y: {"x": x, "labels": y},
            lambda x, y: {"x": x, "target": y},
            lambda x, y: (x.double(), y),
        ],
        ids=["x", "(x,)", "[x, y]", "(x, y, z)", "dict", "dict with labels", "dict with target", "float64"],
    )
    def test_every_form_of_batch_gives_the_same_ranges(self, form: Any) -> None:
        model = small_cnn()
        model.calibrate([form(x, y) for x, y in batches(digits().calibration)])
        assert ranges(model) == self.expected()

    def test_own_unpack_is_asked(self) -> None:
        model = small_cnn()
        loader = [(y, {"image": x}) for x, y in batches(digits().calibration)]
        model.calibrate(loader, unpack=lambda batch: (batch[1]["image"], batch[0]))
        assert ranges(model) == self.expected()

    def test_data_loader_and_generator_will_do(self) -> None:
        split = digits().calibration
        by_loader, by_generator = small_cnn(), small_cnn()
        seeds = random_state()
        by_loader.calibrate(DataLoader(TensorDataset(*split), batch_size=32, shuffle=True))
        by_generator.calibrate(batch for batch in batches(split))
        assert random_state() == seeds
        assert ranges(by_loader).keys() == self.expected().keys()
        for (amax, unsigned), (expected, sign) in zip(
            ranges(by_loader).values(), self.expected().values(), strict=True
        ):
            assert (amax, unsigned) == (pytest.approx(expected, rel=1e-5), sign)
        assert ranges(by_generator) == self.expected()

    def test_several_inputs_come_as_keywords_or_by_unpack(self) -> None:
        case = AWKWARD["keyword_inputs"]
        model = QuantizedActivationsModel(case.build(), case.predicate)
        report = model.calibrate([case.inputs()])
        expected = {f"input.{name}": float(case.inputs()[name].abs().max()) for name in ("x", "other")}
        assert {row.name: row.amax for row in report.ranges[:2]} == expected

    @pytest.mark.parametrize("wrong", [3, "text", None, ()], ids=repr)
    def test_batch_of_no_known_form_is_refused(self, wrong: Any) -> None:
        with pytest.raises(DataError, match="a batch must be a tensor"):
            small_cnn().calibrate([wrong])

    def test_unpack_that_gives_no_pair_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"`unpack` must return a tuple \(inputs, target\), got Tensor"):
            small_cnn().calibrate(batches(digits().calibration), unpack=lambda batch: batch[0])

    def test_number_of_batches_can_be_limited(self) -> None:
        loader = batches(digits().calibration, size=20)
        limited, few = small_cnn(), small_cnn()
        taken: list[int] = []

        def watched() -> Iterator[Any]:
            for index, batch in enumerate(loader):
                taken.append(index)
                yield batch

        assert limited.calibrate(watched(), num_batches=3).num_batches == 3
        few.calibrate(loader[:3])
        assert ranges(limited) == ranges(few)
        assert taken == [0, 1, 2]
        assert small_cnn().calibrate(loader, num_batches=99).num_batches == 10

    @pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "all"], ids=repr)
    def test_number_of_batches_must_be_a_positive_integer(self, wrong: Any) -> None:
        with pytest.raises(DataError, match="`num_batches` must be an int of at least 1, got"):
            small_cnn().calibrate(batches(digits().calibration), num_batches=wrong)


class TestReport:
    def test_a_percentile_of_nothing_is_reported_as_dead(self) -> None:
        model = QuantizedActivationsModel(nn.Sequential(nn.ReLU(), nn.Linear(1, 2)), RELU, quantize_input=False)
        x = torch.linspace(-3, 1, 100_000)[:, None]
        assert model.calibrate([x], method="percentile", percentile=60.0).dead_points == ("0",)
        assert model.calibrate([x], method="percentile", percentile=90.0).dead_points == ()

    def test_report_is_a_table_with_signs_and_dead_points(self) -> None:
        network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        nn.init.constant_(network[0].weight, -1.0)
        nn.init.zeros_(network[0].bias)
        model = QuantizedActivationsModel(network, predicates.by_name("0", "1"))
        report = model.calibrate([torch.ones(3, 8), torch.ones(2, 8) * 2])
        assert report.dead_points == ("1",)
        assert [(row.name, row.amax, row.lowest, row.highest, row.unsigned) for row in report.ranges] == [
            ("input", 2.0, 1.0, 2.0, True),
            ("0", 16.0, -16.0, -8.0, False),
            ("1", 0.0, 0.0, 0.0, True),
        ]
        lines = str(report).splitlines()
        assert lines[0] == "Calibrated on 2 batches, method max"
        assert lines[1].split() == ["point", "amax", "lowest", "highest", "sign", "method"]
        assert lines[-1].split() == ["1", "0", "0", "0", "unsigned", "max", "dead:", "always", "zero"]
        assert lines[-2].split() == ["0", "16", "-16", "-8", "signed", "max"]
        assert torch.equal(model(torch.ones(1, 8)), network[2].bias.expand(1, 2))

    def test_progress_is_shown_on_stderr_only_when_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        small_cnn().calibrate(batches(digits().calibration), progress=False)
        small_cnn().calibrate(batches(digits().calibration))
        assert capsys.readouterr() == ("", "")
        small_cnn().calibrate(batches(digits().calibration), progress=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "calibrate" in shown.err
        assert "/2" in shown.err


class TestSettings:
    @pytest.mark.parametrize("unsigned", [True, False])
    def test_given_sign_is_kept(self, unsigned: bool) -> None:
        model = small_cnn(unsigned=unsigned)
        model.calibrate(batches(digits().calibration))
        assert [q.unsigned for q in model.activation_fake_quantizers.values()] == [unsigned] * 4

    def test_automatic_sign_is_dropped_only_where_nothing_is_negative(self) -> None:
        model = QuantizedActivationsModel(trained("small_cnn"), RELU | predicates.by_name("conv1"))
        model.calibrate(batches(digits().calibration))
        signs = {name: q.unsigned for name, q in model.activation_fake_quantizers.items()}
        assert signs == {"input": True, "conv1": False, "relu1": True, "relu2": True, "relu3": True}

    def test_automatic_sign_saves_a_bit_at_equal_output(self) -> None:
        x, loader = digits().report.x[:50], batches(digits().calibration)
        auto, signed = small_cnn(), small_cnn(unsigned=False)
        auto.calibrate(loader)
        signed.calibrate(loader)
        auto.num_bits, signed.num_bits = [1, 3, 4, 5], [2, 4, 5, 6]
        with torch.no_grad():
            assert torch.equal(auto(x), signed(x))

    def test_range_of_the_descriptor_stays(self) -> None:
        model = small_cnn(quant_desc=QuantDescriptor(amax=0.25))
        model.calibrate(batches(digits().calibration))
        assert {name: amax for name, (amax, _) in ranges(model).items()} == dict.fromkeys(ranges(model), 0.25)
        report = model.calibrate(batches(digits().calibration), method="mse")
        assert {(row.amax, row.method) for row in report.ranges} == {(0.25, "fixed")} and "fixed" in str(report)

    def test_one_range_per_channel(self) -> None:
        model = small_cnn(quant_desc=QuantDescriptor(axis=1))
        model.calibrate([digits().calibration.x])
        network = trained("small_cnn")
        seen: list[Tensor] = []
        network.relu2.register_forward_hook(lambda _, args, output: seen.append(output.detach()))
        network(digits().calibration.x)
        assert torch.equal(model.activation_fake_quantizers["relu2"].amax, seen[0].amax(dim=(0, 2, 3), keepdim=True))
        model(digits().search.x[:4])

    def test_percentile_and_entropy_come_with_a_histogram_descriptor(self) -> None:
        data = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))

        def amax(**options: Any) -> tuple[str, float]:
            described = QuantDescriptor(calib_method="histogram")
            model = QuantizedActivationsModel(nn.Sequential(nn.ReLU()), RELU, quant_desc=described)
            return model.calibrate([data], **options).method, float(model.activation_fake_quantizers["0"].amax)

        highest = float(data.max())
        assert amax() == amax(method="percentile") == amax(method="percentile", percentile=99.99)
        assert amax(percentile=75.0) == ("percentile", pytest.approx(float(data.relu().quantile(0.75)), abs=0.01))
        with pytest.warns(DeprecationWarning, match="`stride` tuned the search of pytorch-quantization's own"):
            method, found = amax(method="entropy", stride=128)
        assert method == "entropy"
        assert 0 < found <= highest


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_uncalibrated_points_are_named(name: str) -> None:
    model = QuantizedActivationsModel(trained(name), **wrapping(name))
    with pytest.raises(CalibrationError, match="these have no `amax`: input, "):
        model.require_calibrated()
    model.calibrate(batches(digits().calibration))
    model.require_calibrated()


def test_selected_module_that_this_data_never_reaches_is_named() -> None:
    case = AWKWARD["branching"]
    model = QuantizedActivationsModel(case.build(), predicates.by_name("positive", "negative"))
    with pytest.raises(SelectionError, match="no batch of the calibration data calls: 'negative'"):
        model.calibrate([torch.ones(2, 8)])
    assert ranges(model)["positive"] == (None, False)
    model.calibrate([torch.ones(2, 8), -torch.ones(2, 8)])
    model.require_calibrated()


def test_a_method_is_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Calibrator(
        amax=lambda histogram, *_, share=0.5: lambda code: share * histogram.amax,
        ends=lambda histogram, share=0.5: lambda width: (share * histogram.ends[0], share * histogram.ends[1]),
        options={"share": float},
    )
    monkeypatch.setitem(CALIBRATORS, "share", half)
    model = small_cnn()
    model.calibrate(batches(digits().calibration))
    whole = {name: float(quantizer.amax) for name, quantizer in model.fake_quantizers.items()}
    report = model.calibrate(batches(digits().calibration), method="share", share=0.25, clip_outputs=True)
    assert report.method == "share" and "amax of the present choices" in str(report)
    for name, quantizer in model.fake_quantizers.items():
        assert float(quantizer.amax) == pytest.approx(0.25 * whole[name])
    with pytest.raises(CalibrationError, match="'share', 'auto', got 'half'"):
        model.calibrate(batches(digits().calibration), method="half")
