"""The eager stack: static quantization of networks that were not written for it."""

import copy
from collections import Counter

import pytest
import torch
import torchvision
from network_state import network_state, random_state
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F

from qexplore import predicates
from qexplore.errors import SelectionError, TraceError, WorkflowError
from qexplore.workflows import eager
from qexplore.workflows.base import Data, Settings
from qexplore.workflows.stack import quiet, require, using_engine

ENGINES = [name for name in torch.backends.quantized.supported_engines if name != "none"]
REPORT = torch.cat([digits().search.x, digits().report.x]), torch.cat([digits().search.y, digits().report.y])


def calibrate(prepared):
    with torch.no_grad():
        for x, _ in batches(digits().calibration):
            prepared(x)


def digits_data():
    return Data((digits().calibration.x[:8],), calibrate)


def data_of(*inputs):
    def calibrate(prepared):
        with torch.no_grad():
            prepared(*copy.deepcopy(inputs))

    return Data(inputs, calibrate)


def static(network, data=None, **options):
    return eager.quantize(network, Settings("static", "eager", **options), data or digits_data())


@torch.no_grad()
def run(model, *inputs):
    with quiet():
        return model(*copy.deepcopy(inputs))


def accuracy(model):
    return float((run(model, REPORT[0]).argmax(1) == REPORT[1]).float().mean())


def error(network, model, *inputs):
    """Of the outputs, as a share of the float ones."""
    expected = run(network, *inputs)
    return float((run(model, *inputs) - expected).norm() / expected.norm())


def kinds(model):
    return Counter(type(module).__name__ for module in model.modules())


def rows(converted):
    return {row.name: row for row in converted.strategy}


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu", "transformer", "lstm"])
def test_static_int8_is_within_a_point_of_float(name):
    network = trained(name)
    before, random_before = network_state(network), random_state()

    converted = static(network)

    assert accuracy(converted.model) >= accuracy(network) - 0.0101
    assert any(row.weights == "int8 per channel" for row in converted.strategy)
    assert network_state(network) == before
    assert random_state() == random_before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("granularity", "activations"), [("channel", "symmetric"), ("tensor", "affine")])
def test_every_engine_and_form_is_within_a_point_of_float(engine, granularity, activations):
    network = trained("mobilenet")
    with using_engine(engine):
        converted = static(network, engine=engine, weight_granularity=granularity, activations=activations)
        assert accuracy(converted.model) >= accuracy(network) - 0.0101
    first = rows(converted)["stem.0"]
    assert first.weights == f"int8 per {granularity}"
    middle = rows(converted)["blocks.0.layers.6"]
    assert middle.activations.endswith(activations)


def test_a_kernel_that_goes_wrong_on_channels_last_order_gets_contiguous_tensors():
    if "qnnpack" not in ENGINES:
        pytest.skip("this torch has no qnnpack")
    converted = static(trained("mobilenet"), engine="qnnpack")
    assert any("contiguous order before: 'stem_2'" in note for note in converted.notes)
    assert not any("contiguous" in note for note in static(trained("mobilenet")).notes)


def test_plain_fusing_drops_a_relu_that_is_used_twice_and_ours_does_not():
    network, x = trained("shared_relu"), digits().calibration.x
    with quiet():
        plain = require("fuse_modules")(network, [["conv1", "relu"]])
    assert error(network, plain, x) > 0.3  # without a word, and before anything is quantized
    assert error(network, static(network).model, x) < 0.03


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_resnet18_of_torchvision_passes(method):
    network, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(2, 3, 32, 32)
    converted = eager.quantize(network, Settings(method, "eager"), data_of(x))
    assert error(network, converted.model, x) < 0.15
    if method == "static":
        assert all(row.is_quantized or "into" in row.reason for row in converted.strategy)
        assert kinds(converted.model)["ConvReLU2d"] == 9 and kinds(converted.model)["QFunctional"] == 8
        assert "'layer1.0.relu'" in converted.notes[0] and "3 more" in converted.notes[0]


class Functions(nn.Module):
    """Sums, products and concatenations in all their forms, and activations that are functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.second(x)
        y += x
        z = torch.add(y, x).relu()
        z = z * torch.sigmoid(self.second(z))
        z = torch.mul(z, 0.5).add_(1)
        z = torch.cat([F.relu6(z, inplace=True), F.dropout(y, 0.3, self.training)], dim=1)
        return self.last(F.adaptive_avg_pool2d(z, 1).flatten(1))


def test_functions_become_modules_with_a_range():
    network, x = Functions().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert error(network, converted.model, x) < 0.05
    swapped = {row.name: row.type for row in converted.strategy if row.activations}
    assert swapped["add"] == "add" and swapped["add_1"] == "add_relu" and swapped["cat"] == "cat"
    assert swapped["mul"] == "mul" and swapped["mul_1"] == "mul_scalar" and swapped["add_"] == "add_scalar"
    assert kinds(converted.model)["QFunctional"] == 6
    assert not any("left float" in note for note in converted.notes)


class Aliased(nn.Module):
    """The shortcut reads what an in-place ReLU has written."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu, self.conv = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.conv(self.relu(x)) + x


def test_what_an_operation_writes_in_place_is_read_behind_it():
    network, x = Aliased().eval(), torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert error(network, static(network, data_of(x)).model, x) < 0.05


class Attention(nn.Module):
    """Linear layers around what has no integer kernel."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.silu, self.softmax = nn.LayerNorm(8), nn.SiLU(), nn.Softmax(dim=-1)

    def forward(self, x):
        x = x[:, 0]
        weights = self.softmax(self.q(x) @ self.k(x).transpose(-2, -1))
        return self.out(self.silu(self.norm(x + weights @ self.v(x)))).mean(1)


def test_what_has_no_integer_kernel_stays_float_and_is_listed():
    network, x = Attention().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert error(network, converted.model, x) < 0.03
    floats = {row.name: row.reason for row in converted.strategy if not row.is_quantized}
    assert floats.keys() == {"matmul", "softmax", "matmul_1", "add", "norm", "silu"}
    assert floats["matmul"] == "torch has no integer kernel for it" and floats["softmax"] == "what it reads is float"
    assert any("'matmul'" in note and "no integer kernel" in note for note in converted.notes)


def test_softmax_at_the_end_stays_float():
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1)).eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert torch.allclose(run(converted.model, x).sum(1), torch.ones(16))
    assert converted.notes == ("left float: '2' (torch has no integer kernel for it)",)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU()], (4, 3, 9)),
        ([nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU()], (4, 3, 5, 5, 5)),
        ([nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()], (4, 3, 5, 5)),
        ([nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()], (16, 6)),
        ([nn.Conv2d(3, 4, 3, padding_mode="reflect", padding=1), nn.LeakyReLU()], (4, 3, 5, 5)),
        ([nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, dilation=2), nn.Hardswish()], (4, 3, 7, 7)),
        ([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ELU(), nn.Upsample(scale_factor=2)], (4, 4, 5, 5)),
    ],
)
def test_every_kind_of_layer_passes(layers, shape):
    torch.manual_seed(0)
    network, x = nn.Sequential(*copy.deepcopy(layers)), torch.randn(shape)
    network.train()(x)
    network.eval()
    assert error(network, static(network, data_of(x)).model, x) < 0.03


def test_a_weight_that_is_used_twice_keeps_one_range():
    network, x = Twice().eval(), digits().calibration.x[:16]
    converted = static(network, data_of(x))
    assert error(network, converted.model, x) < 0.05
    assert any("'layer' is called more than once" in note for note in converted.notes)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.relu = nn.Linear(64, 64), nn.ReLU()

    def forward(self, x):
        return self.relu(self.layer(self.relu(self.layer(x.flatten(1)))))


def test_a_predicate_leaves_the_rest_float():
    network = trained("resnet20")
    converted = static(network, modules=predicates.by_name("layer1.*", "fc"))
    assert accuracy(converted.model) >= accuracy(network) - 0.0101
    table = rows(converted)
    assert table["layer1.0.conv1"].weights and table["fc"].weights
    for name in ("conv1", "layer2.0.conv1", "layer3.2.conv2"):
        assert not table[name].is_quantized and "not selected" in table[name].reason
        assert type(converted.model.get_submodule(name)) is nn.Conv2d
    assert kinds(converted.model)["Quantize"] == 2  # in front of layer1 and of fc


def test_a_module_that_is_not_selected_stays_float_between_integer_layers():
    converted = static(trained("small_cnn"), modules=~predicates.by_type(nn.MaxPool2d))
    table = rows(converted)
    assert "not selected" in table["pool"].reason and not table["pool"].is_quantized
    assert table["conv1"].weights and table["conv2"].weights


def test_packed_weights_of_linear_layers():
    network = trained("small_cnn")
    converted = static(network, linear_num_bits=4)
    assert accuracy(converted.model) >= accuracy(network) - 0.03
    assert rows(converted)["fc1"].weights == "int4 per channel, packed"


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "shared_relu"])
def test_saved_networks_come_back_bit_for_bit(tmp_path, name):
    settings = Settings("static", "eager")
    converted = eager.quantize(trained(name), settings, digits_data())
    path = tmp_path / "network.pt"
    converted.save(path)
    torch.load(path, weights_only=True)
    other = trained(name)
    for parameter in other.parameters():
        parameter.data.zero_()  # weights of the network that is given do not matter
    loaded = eager.load(path, other, settings)
    assert torch.equal(run(loaded, REPORT[0]), run(converted.model, REPORT[0]))
    scripted = converted.script()
    assert isinstance(scripted, torch.jit.ScriptModule)
    assert torch.equal(run(scripted, REPORT[0]), run(converted.model, REPORT[0]))


def test_a_file_of_another_network_is_refused(tmp_path):
    settings = Settings("static", "eager")
    eager.quantize(trained("small_cnn"), settings, digits_data()).save(tmp_path / "network.pt")
    with pytest.raises(WorkflowError, match="SharedReLU has another structure"):
        eager.load(tmp_path / "network.pt", trained("shared_relu"), settings)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) if x.sum() > 0 else x


def test_bad_input_is_refused_with_a_way_out():
    with pytest.raises(TraceError, match="Branching is not: .*control flow"):
        static(Branching().eval())
    with pytest.raises(SelectionError, match="selects no module"):
        static(trained("small_cnn"), modules=predicates.by_type(nn.GELU))
    with pytest.raises(WorkflowError, match=r"needs a convolution or Linear layer among those.*by_type\(ReLU\)"):
        static(trained("small_cnn"), modules=predicates.by_type(nn.ReLU))
    with pytest.raises(WorkflowError, match="'tpu' is not known"):
        static(trained("small_cnn"), engine="tpu")
    hooked = trained("small_cnn")
    for layer in (hooked.conv1, hooked.conv2, hooked.fc1, hooked.fc2):
        layer.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(WorkflowError, match="'conv1' is left out: it carries hooks"):
        static(hooked)


def test_a_network_comes_back_as_it_was_after_an_error():
    network = trained("small_cnn")
    before, engine = network_state(network), torch.backends.quantized.engine

    def fail(prepared):
        raise RuntimeError("no data today")

    with pytest.raises(RuntimeError, match="no data today"):
        static(network, Data((digits().calibration.x[:4],), fail), engine=ENGINES[0])
    assert network_state(network) == before
    assert torch.backends.quantized.engine == engine
