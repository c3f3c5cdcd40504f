"""The public calls: the report, files, TorchScript, and everything that can be asked wrongly."""

from __future__ import annotations

import pytest
import torch
from networks import batches, digits, trained, wrapping
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import DataError, MetricError, ModelError, TraceError, WorkflowError


def calibration():
    return batches(digits().calibration)


def report():
    return {"report_loader": batches(digits().report), "metric": qx.top1_accuracy}


def images():
    return digits().report.x[:50]


@pytest.fixture(scope="module")
def result():
    return qx.quantize_static(trained("small_cnn"), calibration(), **report())


def quantized(method, name="small_cnn", **options):
    network = trained(name)
    if method == "dynamic":
        return network, qx.quantize_dynamic(network, images(), **options)
    if method == "static":
        return network, qx.quantize_static(network, calibration(), **options)
    return network, qx.quantize_qat(network, batches(digits().train)[:3], F.cross_entropy, **options)


def test_epochs_are_told_while_training_goes_on():
    told, seen = [], []

    def loss(output, target):
        seen.append(len(told))
        return F.cross_entropy(output, target)

    data = batches(digits().train)[:2]
    result = qx.quantize_qat(trained("small_cnn"), data, loss, epochs=3, on_epoch=told.append)
    assert seen == [0, 0, 1, 1, 2, 2]
    assert tuple(told) == result.report.epochs


# ----------------------------------------------------------------------------------------------------- report


def test_report_measures_both_networks(result, tmp_path):
    report, network = result.report, trained("small_cnn")
    with torch.no_grad():
        x, y = digits().report
        assert report.accuracy_before == pytest.approx(float((network(x).argmax(1) == y).float().mean()))
        assert report.accuracy_after == pytest.approx(float((result.model(x).argmax(1) == y).float().mean()))
    path = tmp_path / "network"  # files hold their own names
    torch.save(network.state_dict(), path)
    assert report.bytes_before == path.stat().st_size
    result.save(path)
    assert report.bytes_after == path.stat().st_size
    assert report.size_ratio < 0.35
    assert report.latency.seconds > 0 and report.latency.ratio > 0 and report.latency.batch == 100


def test_report_prints_as_tables(result):
    text = str(result)
    assert text.startswith("static quantization, stack fx, engine ")
    for piece in (
        "accuracy",
        "bytes on disk",
        "ms for a batch of 100, ratio in turns",
        "conv1",
        "int8 per channel",
        "folded into 'conv1'",
    ):
        assert piece in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_report_without_report_set_leaves_accuracy_out():
    result = qx.quantize_dynamic(trained("small_cnn"), images())
    assert result.report.accuracy_before is None
    assert "accuracy" not in str(result)


def test_metrics_of_the_whole_set_are_taken():
    def share_of_zeros(model, loader):
        return float(torch.cat([model(x).argmax(1) == 0 for x, _ in loader]).float().mean())

    metric = qx.whole_set(share_of_zeros, name="zeros")
    result = qx.quantize_dynamic(trained("small_cnn"), images(), report_loader=batches(digits().report), metric=metric)
    assert result.report.metric == "zeros"
    assert 0.05 < result.report.accuracy_after < 0.2


@pytest.mark.parametrize("form", ["dict", "tuple", "one sample", "double"])
def test_inputs_come_in_any_form_that_the_network_takes(form):
    x = images()
    example = {"dict": {"x": x}, "tuple": (x,), "one sample": x[:1], "double": x.double()}[form]
    assert any(row.weights for row in qx.quantize_dynamic(trained("small_cnn"), example).report.strategy)


def test_batches_of_another_form_are_unpacked():
    loader = [{"picture": x, "class": y} for x, y in batches(digits().calibration)]
    unpack = lambda batch: (batch["picture"], batch["class"])  # noqa: E731
    result = qx.quantize_static(
        trained("small_cnn"), loader, unpack=unpack, report_loader=loader, metric=qx.top1_accuracy
    )
    assert result.report.accuracy_after > 0.95


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("method", ["dynamic", "static", "qat"])
@pytest.mark.parametrize("name", ["small_cnn", "lstm", "transformer"])
def test_saved_network_comes_back_with_equal_outputs(method, name, tmp_path):
    network, result = quantized(method, name)
    result.save(tmp_path / "network.pt")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # the file holds them
    loaded = qx.load_quantized(tmp_path / "network.pt", network)
    with torch.no_grad():
        assert torch.equal(loaded(images()), result.model(images()))


@pytest.mark.parametrize(
    "options",
    [
        {"weight_granularity": "tensor"},
        {"linear_num_bits": 4},
        {"engine": "qnnpack", "activations": "symmetric"},
        {"modules": ~qx.predicates.by_name("conv1", "fc2")},
    ],
    ids=str,
)
def test_settings_come_back_with_the_file(options, tmp_path):
    network, result = quantized("static", **options)
    result.save(tmp_path / "network.pt")
    loaded = qx.load_quantized(tmp_path / "network.pt", network)
    with torch.no_grad():
        assert torch.equal(loaded(images()), result.model(images()))


@pytest.mark.parametrize("engine", ["x86", "qnnpack"])
def test_awkward_layers_come_back_too(engine, tmp_path):
    torch.manual_seed(0)
    convolutions = [nn.ConvTranspose2d(1, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ELU()]
    others = [nn.Conv2d(4, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 3), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*convolutions, *others, nn.LayerNorm(4), nn.Linear(4, 10), nn.Sigmoid()).eval()
    result = qx.quantize_static(network, calibration(), engine=engine)
    result.save(tmp_path / "network.pt")
    loaded = qx.load_quantized(tmp_path / "network.pt", network)
    with torch.no_grad():
        assert torch.equal(loaded(images()), result.model(images()))
    rows = {row.type: row for row in result.report.strategy}
    # Whatever is asked, as its kernels have no other form; the one of x86 is wrong.
    assert str(rows["ConvTranspose2d"].weights or "") == ("int8 per tensor" if engine == "qnnpack" else "")
    assert rows["PReLU"].state == "float"  # its kernel is wrong


def test_optional_arguments_are_settled_by_the_example(tmp_path):
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = trained("small_cnn")

        def forward(self, x, mask=None, flip=False):
            x = x if mask is None else x * mask
            return self.network(x.flip(-1) if flip else x)

    network = Optional().eval()
    for example in ({"x": images(), "flip": True}, (images(), torch.ones(1, 1, 8, 8))):
        result = qx.quantize_dynamic(network, example)
        arguments = (images(), None, True) if isinstance(example, dict) else example
        with torch.no_grad():
            expected = network(*arguments)
            assert float((result.model(*arguments) - expected).abs().max()) < 0.05 * float(expected.abs().max())
            result.save(tmp_path / "network.pt")
            assert torch.equal(
                qx.load_quantized(tmp_path / "network.pt", network)(*arguments), result.model(*arguments)
            )
    with pytest.raises(TraceError, match="mask has been specialized to have value None"):
        qx.quantize_dynamic(network, images()).model(images(), images())


def test_file_runs_no_code_when_it_is_read(result, tmp_path):
    result.save(tmp_path / "network.pt")
    content = torch.load(tmp_path / "network.pt", weights_only=True)
    assert content["settings"]["method"] == "static"


def test_loaded_network_is_checked_against_the_file(result, tmp_path):
    result.save(tmp_path / "network.pt")
    with pytest.raises(WorkflowError, match=r"another network than the SharedReLU given: .the network. is SharedReLU"):
        qx.load_quantized(tmp_path / "network.pt", trained("shared_relu"))
    with pytest.raises(WorkflowError, match=r"give the float network .* load_quantized\(path, network\)"):
        qx.load_quantized(tmp_path / "network.pt")
    wider, dynamic = quantized("dynamic")
    dynamic.save(tmp_path / "dynamic.pt")
    wider.conv2 = nn.Conv2d(8, 16, 5, padding=2, bias=False)
    with pytest.raises(WorkflowError, match="file is of another network"):
        qx.load_quantized(tmp_path / "dynamic.pt", wider)


def test_a_folder_is_no_file_to_save_to(result, tmp_path):
    with pytest.raises(WorkflowError, match="cannot be written, for it is a folder: give the path of a file in it"):
        result.save(tmp_path)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(WorkflowError, match="there is no file"):
        qx.load_quantized(tmp_path / "nothing", trained("small_cnn"))
    torch.save(trained("small_cnn").state_dict(), tmp_path / "state")
    with pytest.raises(WorkflowError, match=r"not written by result\.save"):
        qx.load_quantized(tmp_path / "state", trained("small_cnn"))


@pytest.mark.parametrize("method", ["dynamic", "static", "qat"])
def test_scripted_network_gives_equal_outputs(method):
    _, result = quantized(method)
    scripted = result.script()
    assert isinstance(scripted, torch.jit.ScriptModule)
    with torch.no_grad():
        assert torch.equal(scripted(images()), result.model(images()))


def test_packed_weights_cannot_be_scripted_and_say_so():
    _, result = quantized("static", linear_num_bits=4)
    with pytest.raises(WorkflowError, match="linear_num_bits=8"):
        result.script()


def test_packed_weights_make_a_smaller_file(result):
    _, narrow = quantized("static", linear_num_bits=4)
    assert narrow.report.bytes_after < 0.75 * result.report.bytes_after


# -------------------------------------------------------------------------------------------------- bad input


def test_wrapped_network_is_told_to_detach():
    model = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    for wrapped in (model, model.model):
        with pytest.raises(ModelError, match=r"detach"):
            qx.quantize_static(wrapped, calibration())
    assert qx.quantize_static(model.detach(), calibration()).report.strategy


def test_what_is_no_float_network_is_refused():
    with pytest.raises(ModelError, match="must be a torch.nn.Module, got list"):
        qx.quantize_dynamic([1], images())
    with pytest.raises(ModelError, match=r"float32.*call network.float\(\)"):
        qx.quantize_dynamic(trained("small_cnn").half(), images())
    hooked = trained("small_cnn")
    hooked.conv1.register_forward_hook(lambda *args: None)
    with pytest.raises(ModelError, match="'conv1' carries hooks"):
        qx.quantize_dynamic(hooked, images())


@pytest.mark.parametrize("first", [nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()])
def test_lazy_modules_without_a_shape_are_told_of_as_such(first):
    network = nn.Sequential(first, nn.ReLU()).eval()
    says = r"the weight of '0' \(Lazy.*\) has no shape yet: call the network once"
    data = [(images(), None)]
    for refuse in (
        lambda: qx.quantize_static(network, data),
        lambda: qx.quantize_qat(network, data, F.mse_loss),
        lambda: qx.fold_batchnorm(network, images()),
        lambda: qx.pack_linear_weights(network),
    ):
        with pytest.raises(ModelError, match=says):
            refuse()


def test_missing_data_is_named():
    with pytest.raises(DataError, match="needs example_input"):
        qx.quantize_dynamic(trained("small_cnn"), None)
    with pytest.raises(DataError, match="calibration_loader must hold at least one batch"):
        qx.quantize_static(trained("small_cnn"), [])
    with pytest.raises(DataError, match="train_loader must hold at least one batch"):
        qx.quantize_qat(trained("small_cnn"), [], F.cross_entropy)
    with pytest.raises(DataError, match="got an iterator"):
        qx.quantize_static(trained("small_cnn"), iter(calibration()))
    with pytest.raises(DataError, match="calibration_loader must be a loader of batches, got int"):
        qx.quantize_static(trained("small_cnn"), 3)
    with pytest.raises(DataError, match="report_loader must hold"):
        qx.quantize_dynamic(trained("small_cnn"), images(), report_loader=[], metric=qx.top1_accuracy)
    with pytest.raises(DataError, match="must hold a tensor"):
        qx.quantize_dynamic(trained("small_cnn"), 3)


@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.whole_set(lambda network, loader: 0.0)])
def test_a_report_set_that_can_be_gone_through_once_is_refused_before_any_work(metric):
    epochs = []
    options = {"report_loader": iter(batches(digits().report)), "metric": metric, "on_epoch": epochs.append}
    with pytest.raises(DataError, match="report_loader must be gone through more than once, got an iterator: give a"):
        qx.quantize_qat(trained("small_cnn"), batches(digits().train)[:1], F.cross_entropy, **options)
    assert not epochs


def broken(*arguments):
    raise ZeroDivisionError("no such number")


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (broken, "the metric 'broken' raised ZeroDivisionError: no such number"),
        (qx.whole_set(broken), "the metric 'broken' raised ZeroDivisionError: no such number"),
        (
            lambda output, target: output,
            r"must return one score per sample, shape \[50\], got a tensor",
        ),
        (lambda output, target: output[:, 0] / 0, "gave (NaN|infinity) for 50 of 50 samples"),
        (qx.whole_set(lambda network, loader: float("nan")), "must give a finite number, got nan"),
    ],
    ids=["raises", "raises on the whole set", "many scores a sample", "not finite", "not finite on the whole set"],
)
def test_a_metric_that_does_not_work_is_named(metric, sentence):
    x, y = digits().report
    with pytest.raises(MetricError, match=sentence):
        qx.quantize_dynamic(trained("small_cnn"), images(), report_loader=[(x[:50], y[:50])], metric=metric)


def test_metric_and_report_set_come_together():
    with pytest.raises(MetricError, match="got metric= without report_loader="):
        qx.quantize_dynamic(trained("small_cnn"), images(), metric=qx.top1_accuracy)
    with pytest.raises(MetricError, match="got report_loader= without metric="):
        qx.quantize_dynamic(trained("small_cnn"), images(), report_loader=batches(digits().report))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stack": "tensorflow"},
            r"stack must be one of 'eager', 'fx', 'pt2e', 'onnxruntime', 'float8', got 'tensorflow'",
        ),
        ({"weight_granularity": "group"}, "weight_granularity must be one of 'channel', 'tensor', got 'group'"),
        ({"activations": "unsigned"}, "activations must be one of 'affine', 'symmetric'"),
        ({"linear_num_bits": 1}, r"linear_num_bits must be an int in \[2, 8\], got 1"),
        ({"linear_num_bits": 9}, "got 9"),
        ({"linear_num_bits": 4.0}, "got 4.0"),
        ({"linear_num_bits": True}, "got True"),
        ({"linear_num_bits": 4, "stack": "pt2e"}, 'no packed weights.*use stack="eager" or "fx"'),
    ],
)
def test_settings_that_do_not_exist_are_refused(options, message):
    with pytest.raises(WorkflowError, match=message):
        qx.quantize_static(trained("small_cnn"), calibration(), **options)


def test_onnxruntime_does_not_train():
    with pytest.raises(WorkflowError, match="must be 'dynamic' or 'static', got 'qat': use stack=\"eager\", \"fx\" or"):
        qx.quantize_qat(trained("small_cnn"), batches(digits().train), F.cross_entropy, stack="onnxruntime")


def test_training_that_fails_leaves_the_network_alone():
    network = trained("small_cnn")
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(WorkflowError, match="the loss became nan"):
        qx.quantize_qat(network, batches(digits().train), lambda output, target: output.sum() * float("nan"))
    assert all(map(torch.equal, before, network.parameters()))
