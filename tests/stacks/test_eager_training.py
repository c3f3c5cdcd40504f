"""The eager stack: quantization-aware training, and dynamic quantization."""

import copy

import pytest
import torch
import torchvision
from network_state import network_state
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F

from qexplore import predicates
from qexplore._quiet import quiet
from qexplore.errors import WorkflowError
from qexplore.stacks import eager
from qexplore.stacks.base import Data, Settings
from qexplore.stacks.torch_ao import require
from qexplore.training import TrainingOptions, train

X, Y = digits().report


@torch.no_grad()
def run(model, *inputs):
    with quiet():
        return model(*copy.deepcopy(inputs))


def accuracy(model):
    return float((run(model, X).argmax(1) == Y).float().mean())


class Training:
    """Trains for one epoch, and notes what it was given."""

    def __init__(self, learning_rate=1e-3):
        self.learning_rate = learning_rate

    def __call__(self, prepared, freeze):
        self.prepared, self.before = prepared, copy.deepcopy(prepared.state_dict())

        def freezing():
            freeze()
            self.observers = [m.observer_enabled.item() for m in prepared.modules() if hasattr(m, "observer_enabled")]
            self.statistics = {k: v.clone() for k, v in prepared.state_dict().items() if "running" in k}

        train(
            prepared, batches(digits().train, 100), F.cross_entropy,
            TrainingOptions(learning_rate=self.learning_rate, device="cpu"), freeze=freezing,
        )  # fmt: skip
        prepared.eval()
        self.after = copy.deepcopy(prepared.state_dict())


def qat(network, training=None, **options):
    data = Data((digits().calibration.x[:8],), train=training or Training())
    return eager.quantize(network, Settings("qat", "eager", **options), data)


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet", "transformer"])
def test_trained_int8_is_within_two_points_of_float(name):
    network = trained(name)
    before = network_state(network)
    converted = qat(network)
    assert accuracy(converted.model) >= accuracy(network) - 0.02
    assert network_state(network) == before
    assert not converted.model.training


def test_training_moves_the_prepared_weights_and_conversion_takes_them():
    training = Training()
    converted = qat(trained("small_cnn"), training)
    assert type(training.prepared) is type(converted.model)
    assert not torch.equal(training.before["conv1.weight"], training.after["conv1.weight"])
    # Weights that are not cut off lie within half a step of the trained ones, scaled by BatchNorm as it was at the end.
    scale = training.after["conv1.bn.weight"] / (training.after["conv1.bn.running_var"] + 1e-5).sqrt()
    expected = training.after["conv1.weight"] * scale[:, None, None, None]
    weight = converted.model.conv1.weight()
    steps = weight.q_per_channel_scales()[:, None, None, None]
    inside = (weight.int_repr() > -128) & (weight.int_repr() < 127)
    assert float(inside.float().mean()) > 0.7
    assert float(((weight.dequantize() - expected).abs() / steps)[inside].max()) < 0.51


def test_layers_are_fused_in_training_mode_with_batchnorm_that_trains():
    training = Training()
    qat(trained("small_cnn"), training)
    assert {"conv1.bn.weight", "conv1.weight_fake_quant.scale"} <= training.before.keys()
    assert not torch.equal(training.before["conv1.bn.running_mean"], training.after["conv1.bn.running_mean"])


class Standing(nn.Module):
    """A BatchNorm that no layer can take in."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.last = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.Linear(144, 10)

    def forward(self, x):
        return self.last(F.relu(self.conv(self.norm(x))).flatten(1))


@pytest.mark.parametrize("build", [lambda: trained("small_cnn"), lambda: Standing().eval()])
def test_freezing_stops_observers_and_statistics(build):
    training = Training()
    qat(build(), training)
    assert training.observers and not any(training.observers)
    assert training.statistics
    assert all(torch.equal(value, training.after[name]) for name, value in training.statistics.items())


def test_relu6_costs_no_range_and_stays_in_training():
    converted = qat(trained("mobilenet"))
    table = {row.name: row for row in converted.strategy}
    assert table["stem.1"].reason == "folded into 'stem.0'"
    assert table["stem.2"].type == "ReLU6" and table["stem.2"].activations
    assert type(converted.model.get_submodule("stem.0")) is require("nniq").ConvReLU2d


def test_resnet18_of_torchvision_is_trained_and_converted():
    network, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(2, 3, 32, 32)

    def train_once(prepared, freeze):
        prepared.train()
        optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-4)
        prepared(x).square().mean().backward()
        optimizer.step()
        freeze()
        prepared.eval()

    converted = eager.quantize(network, Settings("qat", "eager"), Data((x,), train=train_once))
    assert torch.isfinite(run(converted.model, x)).all()
    assert {str(row.weights) for row in converted.strategy if row.type in ("Conv2d", "Linear")} == {"int8 per channel"}


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet"])
def test_trained_networks_come_back_bit_for_bit(tmp_path, name):
    converted = qat(trained(name))
    converted.save(tmp_path / "network.pt")
    loaded = eager.load(tmp_path / "network.pt", trained(name))
    assert torch.equal(run(loaded, X), run(converted.model, X))


def test_layers_without_a_trainable_form_are_named():
    network = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(248, 10)).eval()
    converted = qat(network)
    assert any("no form of them that trains: '1'" in note for note in converted.notes)
    assert {row.name for row in converted.strategy if row.weights} == {"1", "3"}


# ------------------------------------------------------------------------------------------------------- dynamic


def dynamic(network, *inputs, **options):
    return eager.quantize(network, Settings("dynamic", "eager", **options), Data(inputs or (X[:8],)))


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["lstm", "transformer", "small_cnn"])
def test_dynamic_int8_is_within_a_point_of_float(name, granularity):
    network = trained(name)
    before = network_state(network)
    converted = dynamic(network, weight_granularity=granularity)
    assert accuracy(converted.model) >= accuracy(network) - 0.0101
    assert {str(row.weights) for row in converted.strategy if row.weights} == {f"int8 per {granularity}"}
    assert network_state(network) == before


def test_dynamic_layers_are_listed_in_call_order_with_reasons():
    converted = dynamic(trained("lstm"))
    assert [(row.name, row.type) for row in converted.strategy] == [
        ("lstm", "LSTM"), ("fc1", "Linear"), ("head", "Linear"),
    ]  # fmt: skip
    convolutions = [row for row in dynamic(trained("small_cnn")).strategy if row.type == "Conv2d"]
    assert convolutions and all(not row.is_quantized and "Linear and recurrent" in row.reason for row in convolutions)


def test_attention_of_torch_stays_float_and_its_layer_takes_the_plain_path():
    converted = dynamic(trained("transformer"))
    rows = {row.name: row for row in converted.strategy}
    assert rows["encoder.layers.0.linear1"].weights and not rows["encoder.layers.0.self_attn"].is_quantized
    assert "2 TransformerEncoderLayer modules take their plain path" in converted.notes[0]
    with torch.enable_grad():
        converted.model(X[:4])


def test_a_padding_mask_is_taken_by_the_encoder_whatever_the_example_had():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

        def forward(self, x, mask=None):
            return self.encoder(x, src_key_padding_mask=mask)

    torch.manual_seed(0)
    network, x, mask = Padded().eval(), torch.randn(4, 6, 16), torch.zeros(4, 6, dtype=torch.bool)
    mask[:, 4:] = True
    for example in ((x,), (x, mask)):
        converted = dynamic(network, *example)
        given, expected = (run(one, x, mask)[~mask] for one in (converted.model, network))
        assert float((given - expected).norm() / expected.norm()) < 0.03
    assert "the places that it hides hold values" in converted.notes[0]
    assert network.encoder.use_nested_tensor


def test_a_predicate_chooses_dynamic_layers():
    converted = dynamic(trained("lstm"), modules=predicates.by_type(nn.Linear))
    rows = {row.name: row for row in converted.strategy}
    assert rows["fc1"].weights and not rows["lstm"].is_quantized
    assert "not selected" in rows["lstm"].reason
    with pytest.raises(WorkflowError, match=r"needs a Linear, LSTM or GRU layer among those.*by_type\(Conv2d\)"):
        dynamic(trained("small_cnn"), modules=predicates.by_type(nn.Conv2d))


class Branching(nn.Module):
    """Cannot be traced, which dynamic quantization need not."""

    def __init__(self):
        super().__init__()
        self.gru, self.cell = nn.GRU(8, 16, num_layers=2, bidirectional=True, batch_first=True), nn.LSTMCell(32, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        rows = self.gru(x[:, 0] if x.dim() == 4 else x)[0]
        hidden = None
        for step in range(rows.shape[1]):
            hidden = self.cell(rows[:, step], hidden)
        return self.head(hidden[0])


@pytest.mark.parametrize("name", ["lstm", "transformer", "branching"])
def test_dynamic_networks_come_back_bit_for_bit(tmp_path, name):
    torch.manual_seed(0)
    network = Branching().eval() if name == "branching" else trained(name)
    settings = Settings("dynamic", "eager")
    converted = eager.quantize(network, settings, Data((X[:8],)))
    converted.save(tmp_path / "network.pt")
    torch.load(tmp_path / "network.pt", weights_only=True)
    other = Branching().eval() if name == "branching" else trained(name)
    loaded = eager.load(tmp_path / "network.pt", other)
    assert torch.equal(run(loaded, X), run(converted.model, X))
    if name == "branching":
        with pytest.raises(WorkflowError, match=r"Branching is neither \(RuntimeError: .* save the network with"):
            converted.script()
        return
    # TorchScript takes another path through torch's attention, which rounds in another place.
    assert float((run(converted.script(), X[:8]) - run(converted.model, X[:8])).abs().max()) < 0.05


def test_a_file_of_another_dynamic_network_is_refused(tmp_path):
    settings = Settings("dynamic", "eager")
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10)).eval() for width in (8, 9)]
    eager.quantize(networks[0], settings, Data((X[:8],))).save(tmp_path / "network.pt")
    with pytest.raises(WorkflowError, match="of another network than the Sequential given"):
        eager.load(tmp_path / "network.pt", networks[1])


def test_packed_weights_of_dynamic_linear_layers():
    network = trained("small_cnn")
    converted = dynamic(network, linear_num_bits=4)
    assert accuracy(converted.model) >= accuracy(network) - 0.03
    assert {str(row.weights) for row in converted.strategy if row.weights} == {"int4 per channel, packed"}
