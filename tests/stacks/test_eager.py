"""The eager stack: static quantization of networks that were not written for it."""

import pytest
import torch
import torchvision
from eager_runs import ENGINES, accuracy, data_of, digits_data, error, kinds, rows, run, static
from network_state import network_state, random_state
from networks import digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import SelectionError, TraceError, WorkflowError
from qexplore.stacks import eager
from qexplore.stacks.base import Data, Settings
from qexplore.stacks.torch_ao import using_engine


def test_layers_quantized_at_run_time_are_not_in_training(tmp_path):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.LSTM(8, 8)

        def forward(self, x):
            x = F.dropout(self.a(x), 0.5, self.a.training)
            return F.dropout(self.b(x)[0], 0.5, self.b.training)

    network, x = Dropping(), torch.randn(5, 4, 8)
    result = qx.quantize_dynamic(network, x, stack="eager")
    result.save(tmp_path / "file")
    loaded = qx.load_quantized(tmp_path / "file", network)
    assert not any(one.a.training or one.b.training for one in (result.model, loaded))
    assert torch.equal(result.model(x), loaded(x))


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu", "lstm"])
def test_static_int8_is_within_a_point_of_float(name):
    network = trained(name)
    before, random_before = network_state(network), random_state()

    converted = static(network)

    assert accuracy(converted.model) >= accuracy(network) - 0.0101
    assert any(str(row.weights) == "int8 per channel" for row in converted.strategy)
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
    assert str(first.weights) == f"int8 per {granularity}"
    middle = rows(converted)["blocks.0.layers.6"]
    assert str(middle.activations).endswith(activations)


def test_a_kernel_that_goes_wrong_on_channels_last_order_gets_contiguous_tensors():
    if "qnnpack" not in ENGINES:
        pytest.skip("this torch has no qnnpack")
    converted = static(trained("mobilenet"), engine="qnnpack")
    assert any("contiguous order before: 'stem_2'" in note for note in converted.notes)
    assert not any("contiguous" in note for note in static(trained("mobilenet")).notes)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_resnet18_of_torchvision_passes(method):
    network, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(2, 3, 32, 32)
    converted = eager.quantize(network, Settings(method, "eager"), data_of(x))
    assert error(network, converted.model, x) < 0.15
    if method == "static":
        assert all(row.is_quantized or "into" in row.reason for row in converted.strategy)
        assert kinds(converted.model)["ConvReLU2d"] == 9 and kinds(converted.model)["QFunctional"] == 8
        assert "'layer1.0.relu'" in converted.notes[0] and "3 more" in converted.notes[0]


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
    assert str(rows(converted)["fc1"].weights) == "int4 per channel, packed"
    scripted, x = converted.script(), digits().report.x  # without a word of torch's tracer
    assert torch.equal(run(scripted, x), run(converted.model, x))


def test_no_trace_is_given_of_a_module_that_may_have_branches():
    class Choosing(nn.Module):
        ways = (torch.Tensor.neg, torch.Tensor.abs)

        def forward(self, x):
            return self.ways[int(bool(x.sum() > 0))](x)

    x = torch.randn(16, 8)
    network = nn.Sequential(nn.Linear(8, 8), Choosing(), nn.Linear(8, 4)).eval()
    converted = static(network, Data((x,), lambda prepared: prepared(x)))
    with pytest.raises(WorkflowError, match="keep only the path of the example"):
        converted.script()


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
    loaded = eager.load(path, other)
    assert torch.equal(run(loaded, digits().report.x), run(converted.model, digits().report.x))
    scripted = converted.script()
    assert isinstance(scripted, torch.jit.ScriptModule)
    assert torch.equal(run(scripted, digits().report.x), run(converted.model, digits().report.x))


def test_a_file_of_another_network_is_refused(tmp_path):
    settings = Settings("static", "eager")
    eager.quantize(trained("small_cnn"), settings, digits_data()).save(tmp_path / "network.pt")
    with pytest.raises(WorkflowError, match="of another network than the SharedReLU given"):
        eager.load(tmp_path / "network.pt", trained("shared_relu"))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) if x.sum() > 0 else x


def test_bad_input_is_refused_with_a_way_out():
    with pytest.raises(
        TraceError,
        match="Branching is not: .*control flow",
    ):
        static(Branching().eval())
    with pytest.raises(SelectionError, match="selects no module"):
        static(trained("small_cnn"), modules=predicates.by_type(nn.GELU))
    with pytest.raises(WorkflowError, match=r"needs a convolution or Linear layer among those.*by_type\(ReLU\)"):
        static(trained("small_cnn"), modules=predicates.by_type(nn.ReLU))
    with pytest.raises(WorkflowError, match="engine must be one of .* got 'tpu'"):
        static(trained("small_cnn"), engine="tpu")
    hooked = trained("small_cnn")
    for layer in (hooked.conv1, hooked.conv2, hooked.fc1, hooked.fc2):
        layer.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(WorkflowError, match="'conv1' is left out: it carries hooks"):
        static(hooked)


def test_a_large_example_is_cut_to_a_few_samples():
    x, seen = digits().calibration.x, []
    network = trained("small_cnn")
    network.fc2.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    static(network, Data((x,), lambda prepared: prepared(x)), modules=~predicates.by_name("fc2"))
    assert sorted(set(seen)) == [8, len(x)] and seen.count(len(x)) == 1


def test_a_network_comes_back_as_it_was_after_an_error():
    network = trained("small_cnn")
    before, engine = network_state(network), torch.backends.quantized.engine

    def fail(prepared):
        raise RuntimeError("no data today")

    with pytest.raises(RuntimeError, match="no data today"):
        static(network, Data((digits().calibration.x[:4],), fail), engine=ENGINES[0])
    assert network_state(network) == before
    assert torch.backends.quantized.engine == engine
