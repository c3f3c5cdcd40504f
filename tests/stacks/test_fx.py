"""The FX stack: dynamic and static; engines, predicates, observers; what it cannot do."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from networks import TRAINABLE, batches, digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import TraceError
from qexplore.stacks import torch_ao as stack
from qexplore.stacks.base import Settings

ENGINES = ["x86", "fbgemm", "onednn", "qnnpack"]


def calibration():
    return batches(digits().calibration)


def report():
    return {"report_loader": batches(digits().report), "metric": qx.top1_accuracy}


def images():
    return digits().report.x[:50]


def rows_of(result):
    return {row.name: row for row in result.report.strategy}


def is_there(engine):
    return pytest.mark.skipif(
        engine not in torch.backends.quantized.supported_engines, reason=f"no {engine} on this machine"
    )


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("engine", [pytest.param(engine, marks=is_there(engine)) for engine in ENGINES])
def test_static_integers_answer_like_the_float_network_on_every_engine(engine, granularity):
    network = trained("small_cnn")
    result = qx.quantize_static(network, calibration(), engine=engine, weight_granularity=granularity, **report())
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.01
    kinds = {type(module) for module in result.model.modules()}
    assert {stack.require("nniq").ConvReLU2d, stack.require("nniq").LinearReLU} <= kinds
    assert not kinds & {nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU}


@pytest.mark.parametrize("name", [name for name in TRAINABLE if name != "small_cnn"])
def test_every_network_of_the_gallery_is_quantized_statically(name):
    result = qx.quantize_static(trained(name), calibration(), **report())
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.02
    assert any(str(row.weights) == "int8 per channel" for row in result.report.strategy)


def clamped(x):
    return torch.clamp(x, 0, 6)


def clamped_by_method(x):
    return x.clamp(min=0, max=6)


def clamped_in_place(x):
    F.hardtanh_(x, 0, 6)
    return x


def compared_with_before(x):
    return F.relu6(x) + x


KINDS_OF_CLAMP = (nn.ReLU6(inplace=True), nn.Hardtanh(0, 6), clamped, clamped_by_method, clamped_in_place)


@pytest.mark.skipif("qnnpack" not in torch.backends.quantized.supported_engines, reason="no qnnpack here")
@pytest.mark.parametrize("clamp", [*KINDS_OF_CLAMP, compared_with_before])
def test_what_clamps_reads_values_in_order_on_qnnpack(clamp, tmp_path):
    class Clamping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)
            self.clamp = clamp

        def forward(self, x):
            return self.last(self.clamp(self.conv(x)))

    torch.manual_seed(0)
    network = Clamping().eval()
    result = qx.quantize_static(network, calibration(), engine="qnnpack")
    result.save(tmp_path / "network.pt")
    loaded = qx.load_quantized(tmp_path / "network.pt", network)
    with stack.using_engine("qnnpack"), torch.no_grad():
        expected, got = network(images()), result.model(images())
        assert torch.equal(loaded(images()), got)
    assert float((got - expected).pow(2).mean() / expected.pow(2).mean()) < 0.001
    assert any("contiguous order" in note for note in result.report.notes)


class Writing(nn.Module):
    """Writes into a tensor and reads it by its former name."""

    def __init__(self, write):
        super().__init__()
        self.conv, self.last, self.write = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), write

    def forward(self, x):
        x = self.conv(x)
        self.write(x)
        return self.last(x)


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize(
    "write",
    [nn.ReLU(inplace=True), nn.ReLU6(inplace=True), F.relu_, lambda x: x.clamp_(0, 0.2), lambda x: x.add_(1.0)],
    ids=["ReLU", "ReLU6", "relu_", "clamp_", "add_"],
)
def test_activations_whose_result_nobody_takes_are_not_lost(write, method):
    torch.manual_seed(0)
    network = Writing(write).eval()
    if method == "static":
        result = qx.quantize_static(network, calibration())
    else:
        data = batches(digits().train)[:4]
        result = qx.quantize_qat(network, data, lambda output, target: output.mean(), learning_rate=1e-9)
    with torch.no_grad():
        expected, got = network(images()), result.model(images())
    assert float((got - expected).pow(2).mean() / expected.pow(2).mean()) < 0.005


@pytest.mark.skipif("qnnpack" not in torch.backends.quantized.supported_engines, reason="no qnnpack here")
@pytest.mark.parametrize("method", ["static", "qat"])
def test_a_network_of_relu6_keeps_its_accuracy_on_qnnpack(method):
    network = trained("mobilenet")
    if method == "static":
        result = qx.quantize_static(network, calibration(), engine="qnnpack", **report())
    else:
        result = qx.quantize_qat(network, batches(digits().train)[:4], F.cross_entropy, engine="qnnpack", **report())
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.02


def test_convolutions_swallow_their_batchnorm_and_stay_the_same_function():
    network = trained("resnet20")
    result = qx.quantize_static(network, calibration())
    assert "21 BatchNorm layers are folded into the layers before them" in result.report.notes
    with torch.no_grad():
        expected, got = network(images()), result.model(images())
    noise = float((got - expected).pow(2).mean() / expected.pow(2).mean())
    assert noise < 0.01


def test_dynamic_quantization_takes_linear_and_recurrent_layers():
    result = qx.quantize_dynamic(trained("lstm"), images(), **report())
    rows = rows_of(result)
    assert all(str(rows[name].weights).startswith("int8 per") for name in ("lstm", "fc1", "head"))
    assert rows["tanh"].reason == "dynamic quantization has integer kernels for Linear and recurrent layers only"
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.02


def test_dynamic_quantization_without_linear_layers_says_so():
    result = qx.quantize_dynamic(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), images())
    assert any("nothing is quantized" in note for note in result.report.notes)


def test_activations_are_symmetric_where_that_is_asked():
    affine = qx.quantize_static(trained("small_cnn"), calibration())
    symmetric = qx.quantize_static(trained("small_cnn"), calibration(), activations="symmetric", engine="qnnpack")
    assert str(rows_of(affine)["conv2"].activations) == "uint8 per tensor, affine"
    assert str(rows_of(symmetric)["conv2"].activations) == "uint8 per tensor, symmetric"
    assert symmetric.model.conv2.zero_point == 127


# ------------------------------------------------------------------------------------------------- predicates


def test_only_what_the_predicate_selects_is_quantized():
    result = qx.quantize_static(trained("small_cnn"), calibration(), modules=predicates.by_name("fc1", "relu3"))
    assert {row.name for row in result.report.strategy if row.weights} == {"fc1"}
    assert rows_of(result)["conv1"].reason == "not selected by modules=by_name('fc1', 'relu3')"
    assert isinstance(result.model.conv1, stack.require("nni").ConvReLU2d)


def test_everything_but_one_part_is_quantized_functions_included():
    result = qx.quantize_static(trained("resnet20"), calibration(), modules=~predicates.by_name("layer2", "layer2.*"))
    rows = rows_of(result)
    assert not any(row.is_quantized for name, row in rows.items() if name.startswith("layer2"))
    assert all(row.weights for name, row in rows.items() if name.startswith("layer3") and row.type == "Conv2d")
    additions = [row for row in rows.values() if row.type.startswith("add")]
    assert [row.is_quantized for row in additions] == [True] * 3 + [False] * 3 + [True] * 3


def test_functions_follow_the_module_that_calls_them():
    by_type = predicates.by_type(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear)
    result = qx.quantize_static(trained("resnet20"), calibration(), modules=by_type)
    additions = [row for row in result.report.strategy if row.type.startswith("add")]
    assert additions and not any(row.is_quantized for row in additions)


def test_predicate_that_selects_nothing_lists_what_there_is():
    with pytest.raises(qx.errors.SelectionError, match=r"by_name\('conv9'\) selects no module[\s\S]*conv1: Conv2d"):
        qx.quantize_static(trained("small_cnn"), calibration(), modules=predicates.by_name("conv9"))


# -------------------------------------------------------------------------------------------------- observers


def test_observers_of_the_users_own_set_the_ranges():
    class UpToOne(stack.require("MinMaxObserver")):
        """Ranges end at 1."""

        def forward(self, x):
            super().forward(x.clamp(-1, 1))
            return x

    # A class is told the format; a factory has been told it.
    told = UpToOne.with_args(dtype=torch.quint8, quant_min=0, quant_max=127)
    for observer in (UpToOne, told):
        result = qx.quantize_static(trained("small_cnn"), calibration(), activation_observer=observer)
        assert result.model.conv1.scale == pytest.approx(1 / 127)
        assert [alarm.layer for alarm in result.report.alarms]  # told, and left as the user has it
        trained_too = qx.quantize_qat(
            trained("small_cnn"), batches(digits().train)[:2], F.cross_entropy, activation_observer=observer
        )
        assert trained_too.model.conv1.scale == pytest.approx(1 / 127)


@pytest.mark.parametrize("name", ["minmax", "moving_average", "histogram"])
def test_named_observers_are_torchs_own(name):
    settings = Settings("static", "fx", activation_observer=name, weight_granularity="tensor", weight_observer=name)
    qconfig = stack.qconfig_of(settings)
    expected = {"minmax": "MinMax", "moving_average": "MovingAverageMinMax", "histogram": "Histogram"}[name]
    assert type(qconfig.activation()).__name__ == type(qconfig.weight()).__name__ == f"{expected}Observer"


@pytest.mark.parametrize("method", ["static", pytest.param("qat", marks=pytest.mark.slow)])
def test_torchvisions_resnet18_passes_with_its_shared_relus(method):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10).eval()
    data = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
    if method == "static":
        result = qx.quantize_static(network, data)
    else:
        result = qx.quantize_qat(network, data, F.cross_entropy)
    assert sum(bool(row.weights) for row in result.report.strategy) == 21
    assert result.report.size_ratio < 0.26
    assert not result.report.left_float or {row.type for row in result.report.left_float} <= {"flatten"}


# --------------------------------------------------------------------------------------------------- training


# ------------------------------------------------------------------------------------------ what is left float


class Ending(nn.Module):
    """The small CNN with an ending of its own."""

    def __init__(self, ending):
        super().__init__()
        self.network = trained("small_cnn")
        self.ending = ending

    def forward(self, x):
        return self.ending(self.network(x))


@pytest.mark.parametrize("engine", [pytest.param(engine, marks=is_there(engine)) for engine in ENGINES])
def test_softmax_module_has_an_integer_form_on_every_engine(engine):
    network = Ending(nn.Softmax(dim=1)).eval()
    result = qx.quantize_static(network, calibration(), engine=engine, **report())
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.01
    row = rows_of(result)["ending"]
    assert (row.type, str(row.activations)) == ("Softmax", "uint8 per tensor, affine")
    assert "0 to 1 is known" in row.reason or engine == "qnnpack"
    with torch.no_grad():
        assert float((result.model(images()) * 256).frac().abs().max()) == 0.0


def test_softmax_function_stays_float_and_is_said_to():
    class Functional(Ending):
        def forward(self, x):
            return F.softmax(self.network(x), dim=1)

    result = qx.quantize_static(Functional(nn.Identity()).eval(), calibration(), **report())
    assert not rows_of(result)["softmax"].is_quantized
    assert any("left float" in note and "softmax" in note for note in result.report.notes)
    assert float((result.model(images()).sum(1) - 1).abs().max()) < 1e-5


def test_modules_that_cannot_be_traced_stay_float_and_are_said_to():
    class Counting(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 1e9 else x * 1.0

    result = qx.quantize_static(Ending(Counting()).eval(), calibration(), **report())
    assert any(note.startswith("'ending' cannot be traced") for note in result.report.notes)
    assert result.report.accuracy_after >= result.report.accuracy_before - 0.01


def test_network_that_cannot_be_traced_is_told_what_to_do():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(x.flatten(1)) if float(x.sum()) > 0 else x.flatten(1)[:, :10]

    with pytest.raises(TraceError, match=r'Deciding is not: .*works: stack="eager" with qexplore.quantize_dynamic'):
        qx.quantize_static(Deciding(), calibration())


def test_layers_inside_torchs_own_transformer_are_taken_as_a_whole_trained_or_not():
    network = trained("transformer")
    result = qx.quantize_qat(network, batches(digits().train)[:3], F.cross_entropy, **report())
    assert rows_of(result)["encoder"].reason == "taken as a whole, with the layers inside it"
    assert not any("fake_quant" in name for name in result.model.state_dict())


def test_the_float_network_stays_as_it_is():
    network = trained("small_cnn").train()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    qx.quantize_qat(network, batches(digits().train)[:2], F.cross_entropy)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert torch.equal(state, torch.get_rng_state())


class Read(nn.Module):
    """A layer behind an embedding, which stays float, and something that moves values."""

    def __init__(self, way):
        super().__init__()
        self.table, self.linear, self.way = nn.Embedding(5, 8), nn.Linear(8, 8), way

    def forward(self, places):
        return self.way(self.table(places), self.linear)


@pytest.mark.parametrize(
    "way",
    [
        lambda x, linear: linear(x.reshape(-1, 8)),
        lambda x, linear: linear(x.reshape((-1, 8))),
        lambda x, linear: linear(x.reshape(x.shape)),
        lambda x, linear: linear(x.reshape(x.numel()).reshape(x.shape[0] * x.shape[1], 8)),
        lambda x, linear: F.linear(x.flatten(1).reshape(x.shape).contiguous(), linear.weight),
        lambda x, linear: linear(F.silu(x).reshape(-1, 8)),
    ],
)
def test_a_layer_behind_a_reshaped_float_tensor_is_in_integers(way):
    torch.manual_seed(0)
    network, places = Read(way), torch.randint(0, 5, (4, 6))
    report = qx.quantize_static(network, [(places, None)], stack="fx").report
    assert [row.is_quantized for row in report.strategy if row.weights is not None] == [True]
    assert report.error < 0.05
