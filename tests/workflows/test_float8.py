"""Float8 in one call: the report, what is quantized and what is said of it, files, and BatchNorm statistics."""

import copy
import functools
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import DataError, MetricError, ModelError, SelectionError, WorkflowError
from qexplore.quant import decode_floats, encode_floats, quantize_float
from qexplore.stacks.feeding import feeding_of
from qexplore.stacks.float8 import FORMATS

CODES = {"E4M3": ml_dtypes.float8_e4m3fn, "E5M2": ml_dtypes.float8_e5m2, "E3M4": ml_dtypes.float8_e3m4}


@functools.cache
def quantized(name="small_cnn", **options):
    measured = {"report_loader": batches(digits().report), "metric": qx.top1_accuracy}
    return qx.quantize_float8(trained(name), batches(digits().calibration), **{**measured, **options})


@pytest.mark.parametrize("format", list(FORMATS))
def test_each_format_is_close_to_float_and_stands_in_the_strategy(format):
    result = quantized(format=format)
    activations, weights = FORMATS[format]
    report = result.report

    assert report.accuracy_before - report.accuracy_after < 0.02
    assert {str(row.weights) for row in report.strategy if row.type in ("Conv2d", "Linear")} == {
        f"{weights} per channel"
    }
    assert {str(row.activations) for row in report.strategy if row.activations} == {f"{activations} per tensor"}
    with torch.no_grad():
        hits = (result.model(digits().report.x).argmax(1) == digits().report.y).float().mean()
    assert report.accuracy_after == pytest.approx(float(hits))
    assert format in report.settings.float_format
    assert "emulated in float32" in str(result)


def test_it_is_a_stack_that_quantize_static_knows():
    result = qx.quantize_static(trained("small_cnn"), batches(digits().calibration), stack="float8")
    with torch.no_grad():
        assert torch.equal(result.model(digits().report.x), quantized().model(digits().report.x))
    assert result.report.strategy == quantized().report.strategy


def test_only_what_quantized_layers_read_is_quantized():
    result = quantized()
    assert list(result.model.activation_fake_quantizers) == ["input", "pool", "relu2", "relu3"]
    rows = {row.name: row for row in result.report.strategy}
    assert rows["pool"].reason == "output read by 'conv2'"
    assert rows["input"].reason == "read by 'conv1'"
    assert not rows["bn1"].is_quantized
    assert rows["bn1"].reason == "no quantized layer reads its output"
    assert [row.name for row in result.report.strategy][:4] == ["input", "conv1", "bn1", "relu1"]


def test_predicate_says_which_layers_are_quantized():
    result = quantized(modules=predicates.by_type(nn.Conv2d))
    rows = {row.name: row for row in result.report.strategy}
    assert [name for name, row in rows.items() if row.weights] == ["conv1", "conv2"]
    assert not rows["relu2"].activations
    assert rows["fc1"].reason == "not selected by modules=by_type(Conv2d)"


def test_layer_behind_a_function_says_that_its_input_stays_float():
    with warnings.catch_warnings():
        # Whether eight bits of a float are near enough here is a draw of the training, which differs by processor.
        warnings.filterwarnings("ignore", "the output is .* of the float norm away")
        rows = {row.name: row for row in quantized("mobilenet").report.strategy}
    assert rows["blocks.1.layers.0"].reason == "its input comes from a function and stays float"


@pytest.mark.parametrize(
    ("write", "readers"),
    [
        (lambda z, y: z.add_(y), []),
        (lambda z, y: z[:, :2].mul_(y[:, :2]), []),
        (lambda z, y: z.relu_(), ["b"]),
        (lambda z, y: nn.functional.relu6(z, inplace=True), ["b"]),
        (lambda z, y: z + y, ["b"]),
    ],
    ids=["sum", "part", "relu", "relu6", "nothing"],
)
def test_what_was_written_into_comes_from_a_function_unless_it_was_clamped(write, readers):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            z = self.b(y)
            write(z, y)
            return self.c(z)

    network = Writing().eval()
    feeding = feeding_of(network, (torch.randn(8, 4),), dict(network.named_children()))
    assert [name for name in feeding.producers if "c" in feeding.readers[name]] == readers
    assert feeding.fed_by_function == (set() if readers else {"c"})


def test_scales_are_the_largest_magnitudes():
    result = quantized(recalibrate=False)
    weight = trained("small_cnn").conv1.weight.detach()
    amax = result.model.fake_quantizers["conv1.weight"].amax
    torch.testing.assert_close(amax, weight.flatten(1).abs().amax(1, keepdim=True))
    assert float(result.model.fake_quantizers["input"].amax) == float(digits().calibration.x.max())


def test_given_network_is_left_as_it_is():
    network = trained("small_cnn").train()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    qx.quantize_float8(network, batches(digits().calibration))
    assert torch.equal(torch.rand(1), expected)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["small_cnn", "transformer", "lstm"])
def test_saved_file_is_loaded_back_bit_for_bit_and_is_small(name, tmp_path):
    result = quantized(name, format="mixed")
    path = tmp_path / "network.pt"
    result.save(path)

    other = trained(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    loaded = qx.load_quantized(path, other)

    with torch.no_grad():
        assert torch.equal(loaded(digits().report.x), result.model(digits().report.x))
    assert result.report.bytes_after == path.stat().st_size
    held = sum(point.parameter.numel() for point in result.model.weight_points)
    assert result.report.bytes_after < result.report.bytes_before - 2 * held


def test_each_of_several_inputs_has_its_range_in_the_strategy_and_in_the_file(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, x, t):
            return self.left(x) + self.right(t)

    x, t = torch.randn(8, 4), torch.randn(8, 2) * 100
    result = qx.quantize_float8(Two(), [(x, t)], unpack=lambda batch: (batch, None))
    ranges = {name: float(one.amax) for name, one in result.model.activation_fake_quantizers.items()}
    assert ranges == {"input.x": float(x.abs().max()), "input.t": float(t.abs().max())}
    assert [row.name for row in result.report.strategy][:2] == ["input.x", "input.t"]
    result.save(tmp_path / "network.pt")
    assert torch.equal(qx.load_quantized(tmp_path / "network.pt", Two())(x, t), result.model(x, t))


def test_file_of_another_network_is_refused(tmp_path):
    quantized().save(tmp_path / "network.pt")
    with pytest.raises(WorkflowError, match="another network than the ResNet20 given"):
        qx.load_quantized(tmp_path / "network.pt", trained("resnet20"))


@pytest.mark.parametrize("format", list(CODES))
def test_stored_bytes_are_the_formats_own_codes(format):
    fmt = {"E4M3": qx.FloatFormat(4, 3), "E5M2": qx.FloatFormat(5, 2), "E3M4": qx.FloatFormat(3, 4)}[format]
    x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, -0.0, 9.0, -9.0])])
    amax = torch.tensor(fmt.largest)  # a scale of one
    x *= fmt.largest / 4

    codes = encode_floats(x, fmt, amax)

    truth = x.clamp(-fmt.largest, fmt.largest).numpy().astype(CODES[format]).view(np.uint8)
    assert np.array_equal(codes.numpy(), truth)
    assert torch.equal(decode_floats(codes, fmt, amax), quantize_float(x, fmt, amax))


def test_decoded_rows_are_the_quantizers_values_also_where_a_row_is_nothing():
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [0.0], [1e-3]])
    amax = rows.abs().amax(1, keepdim=True)
    fmt = qx.FloatFormat(4, 3)
    assert torch.equal(decode_floats(encode_floats(rows, fmt, amax), fmt, amax), quantize_float(rows, fmt, amax))


# ---------------------------------------------------------------------------------- BatchNorm statistics


def low(network=None):
    model = qx.QuantizedModel(network or trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(batches(digits().calibration), method="mse", weight_method="mse")
    model.num_bits = [8] + [2] * (len(model.points) - 1)
    return model


def correct(model):
    with torch.no_grad():
        return int((model.eval()(digits().report.x).argmax(1) == digits().report.y).sum())


def test_recalibrated_statistics_are_those_of_the_quantized_network():
    model = low()
    before = correct(model)
    seen = []
    handle = model.model.conv1.register_forward_hook(lambda module, args, output: seen.append(output))
    report = qx.recalibrate_batchnorm(model, batches(digits().calibration))
    handle.remove()

    expected = torch.stack([output.mean((0, 2, 3)) for output in seen]).mean(0)
    torch.testing.assert_close(model.model.bn1.running_mean, expected)
    assert [row.name for row in report.layers] == ["bn1", "bn2"]
    assert report.num_samples == 200
    assert max(row.mean_shift for row in report.layers) > 0.05
    assert correct(model) > before + 5
    assert "2 layers recalibrated on 200 samples" in str(report)


def test_with_everything_off_the_statistics_are_those_of_the_float_network():
    model = low()
    model.num_bits = [0] * len(model.points)
    qx.recalibrate_batchnorm(model, [digits().train.x])
    plain = trained("small_cnn")
    torch.optim.swa_utils.update_bn([digits().train.x], plain)
    torch.testing.assert_close(model.model.bn2.running_mean, plain.bn2.running_mean)
    torch.testing.assert_close(model.model.bn2.running_var, plain.bn2.running_var)


def test_recalibration_refuses_a_float_network_and_leaves_it():
    network = trained("small_cnn")
    before = network.bn1.running_mean.clone()
    with pytest.raises(WorkflowError, match="recalibrate_batchnorm takes a QuantizedModel, got"):
        qx.recalibrate_batchnorm(network, batches(digits().calibration))
    assert torch.equal(network.bn1.running_mean, before)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_statistics_come_back_after_an_error(error):
    class Loader:
        def __iter__(self):
            yield digits().calibration.x
            raise error

    model = low()
    model.model.bn2.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(type(error)):
        qx.recalibrate_batchnorm(model, Loader())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in (model.model.bn1, model.model.bn2)] == [False, True]
    assert model.model.bn1.momentum == 0.1


def test_flags_momentum_and_weights_are_left_alone():
    model = low()
    flags = [module.training for module in model.modules()]
    weights = [parameter.clone() for parameter in model.parameters()]
    qx.recalibrate_batchnorm(model, batches(digits().calibration), num_batches=1)
    assert [module.training for module in model.modules()] == flags
    assert model.model.bn1.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_network_without_batchnorm_says_so():
    report = qx.recalibrate_batchnorm(low(trained("shared_relu")), batches(digits().calibration))
    assert report.layers == ()
    assert "no BatchNorm layer" in str(report)


def test_bad_input_of_recalibration_is_refused():
    with pytest.raises(DataError, match="at least one batch"):
        qx.recalibrate_batchnorm(low(), [])
    with pytest.raises(WorkflowError, match="takes a QuantizedModel, got int"):
        qx.recalibrate_batchnorm(3, batches(digits().calibration))
    with pytest.raises(DataError, match="num_batches"):
        qx.recalibrate_batchnorm(low(), batches(digits().calibration), num_batches=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "E2M1"}, WorkflowError, "'E4M3', 'E5M2', 'E3M4', 'mixed', got 'E2M1'"),
        ({"modules": predicates.by_type(nn.ReLU)}, SelectionError, "selects no module"),
        ({"metric": None}, MetricError, "together"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        quantized(**options)


def test_wrapped_networks_and_empty_loaders_are_refused():
    with pytest.raises(ModelError, match="wrapped already"):
        qx.quantize_float8(low().model, batches(digits().calibration))
    with pytest.raises(DataError, match="calibration_loader"):
        qx.quantize_float8(trained("small_cnn"), [])
