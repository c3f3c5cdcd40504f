"""The PT2E stack, on networks trained on handwritten digits."""

import functools
import zipfile
from dataclasses import dataclass

import pytest
import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import MissingPackageError, SelectionError, TraceError, WorkflowError
from qexplore.model import bit_sum
from qexplore.stacks import pt2e, pt2e_graph, row_for
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.training import TrainingOptions, train

torchao = pytest.importorskip("torchao")


def data() -> Data:
    def calibrate(prepared: nn.Module) -> None:
        with torch.no_grad():
            for x, _ in batches(digits().calibration):
                prepared(x)

    def teach(prepared: nn.Module, freeze) -> None:
        loader = batches(digits().train, 64)
        train(prepared, loader, F.cross_entropy, TrainingOptions(progress=False), freeze=freeze)

    return Data((digits().calibration.x[:8],), calibrate, teach)


def accuracy(network: nn.Module) -> float:
    x, y = digits().report
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


@functools.cache
def converted(name: str, method: str, **settings) -> Converted:
    shown = data() if method != "dynamic" else Data(data().example)
    return pt2e.quantize(trained(name), Settings(method, "pt2e", **settings), shown)


def rows(result: Converted) -> dict[str, tuple[str, str]]:
    return {row.name: (str(row.weights or ""), str(row.activations or "")) for row in result.strategy}


@pytest.mark.parametrize("name", ["small_cnn", "shared_relu", pytest.param("transformer", marks=pytest.mark.slow)])
def test_static_quantization_is_within_one_point_of_float(name):
    assert accuracy(converted(name, "static").model) >= accuracy(trained(name)) - 0.01


def test_training_is_within_one_point_of_float_and_folds_batchnorm():
    result = converted("small_cnn", "qat")
    assert accuracy(result.model) >= accuracy(trained("small_cnn")) - 0.01
    assert not any("batch_norm" in str(node.target) for node in result.model.exported.graph.nodes)
    assert [row.reason for row in result.strategy if row.name == "bn1"] == ["folded into 'conv1'"]


@pytest.mark.parametrize("name", ["small_cnn", "lstm", pytest.param("transformer", marks=pytest.mark.slow)])
def test_dynamic_quantization_takes_linear_layers_and_says_why_others_stay_float(name):
    result = converted(name, "dynamic")
    assert accuracy(result.model) >= accuracy(trained(name)) - 0.01
    quantized = {row.type for row in result.strategy if row.is_quantized}
    assert quantized == {"Linear", "MultiheadAttention"} if name == "transformer" else {"Linear"}
    assert all(row.reason for row in result.strategy)
    if name == "lstm":
        (row,) = (row for row in result.strategy if row.type == "LSTM")
        assert "no integer kernel for LSTM" in row.reason


def test_scale_per_channel_is_not_below_scale_per_tensor():
    channel, tensor = (
        accuracy(converted("small_cnn", "static", weight_granularity=granularity).model)
        for granularity in ("channel", "tensor")
    )
    assert channel >= tensor - 0.01


def test_strategy_is_read_from_the_graph_and_follows_the_settings():
    assert rows(converted("small_cnn", "static"))["conv1"] == ("int8 per channel", "uint8 per tensor, affine")
    tensor = converted("small_cnn", "static", weight_granularity="tensor")
    assert rows(tensor)["conv1"] == ("int8 per tensor", "uint8 per tensor, affine")
    symmetric = converted("small_cnn", "static", activations="symmetric")
    assert rows(symmetric)["conv1"] == ("int8 per channel", "int8 per tensor, symmetric")
    dynamic = converted("small_cnn", "dynamic", activations="symmetric")
    assert rows(dynamic)["fc1"] == ("int8 per channel", "int8 per tensor, symmetric, at run time")
    reasons = {row.name: row.reason for row in converted("small_cnn", "static").strategy}
    assert reasons["relu1"] == "computed in the kernel of conv1"
    assert [row.name for row in converted("small_cnn", "static").strategy][:4] == ["conv1", "bn1", "relu1", "pool"]


def test_observer_decides_the_range():
    observer = torchao.quantization.pt2e.MinMaxObserver
    by_name, by_class = (converted("small_cnn", "static", activation_observer=given) for given in ("minmax", observer))
    x = digits().report.x[:20]
    assert torch.equal(by_name.model(x), by_class.model(x))
    assert not torch.equal(by_name.model(x), converted("small_cnn", "static").model(x))


def test_predicate_leaves_the_rest_float():
    result = converted("small_cnn", "static", modules=predicates.by_name("conv2", "fc2"))
    weights = {row.name: str(row.weights or "") for row in result.strategy if row.type in ("Conv2d", "Linear")}
    assert weights == {"conv1": "", "conv2": "int8 per channel", "fc1": "", "fc2": "int8 per channel"}
    assert "not selected" in next(row.reason for row in result.strategy if row.name == "fc1")


def test_relu_that_is_called_thrice_gets_a_module_of_its_own_per_call():
    result = converted("shared_relu", "static")
    assert {"relu", "relu_2", "relu_3"} <= {row.name for row in result.strategy}
    assert "every call of relu has a module of its own" in result.notes[0]


@pytest.mark.parametrize("method", ["static", "dynamic", "qat"])
def test_loaded_network_equals_the_saved_one_bit_for_bit_at_any_batch(method, tmp_path):
    result = converted("small_cnn", method)
    result.save(tmp_path / "network")
    loaded = pt2e.load(tmp_path / "network", trained("small_cnn"))
    for count in (1, 7, 300):
        x = digits().report.x[:count]
        assert torch.equal(loaded(x), result.model(x))
    assert torch.equal(loaded(x=x), result.model(x))


def test_file_holds_integers_and_no_float_weight_and_nothing_of_the_example(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 10)).eval()
    result = pt2e.quantize(network, Settings("static", "pt2e"), data())
    result.save(tmp_path / "network")
    torch.save(network.state_dict(), tmp_path / "float")
    assert (tmp_path / "network").stat().st_size <= 0.3 * (tmp_path / "float").stat().st_size
    with zipfile.ZipFile(tmp_path / "network") as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("model.json"))).decode()
    assert __file__ not in text and "stack_trace" not in text


def test_network_comes_back_as_it_was():
    network = trained("small_cnn")
    before = {name: bit_sum(value) for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    pt2e.quantize(network, Settings("dynamic", "pt2e"), data())
    assert before == {name: bit_sum(value) for name, value in network.state_dict().items()}
    assert not any(module.training for module in network.modules())
    assert torch.equal(state, torch.get_rng_state())


class OddNorm(nn.Module):
    """BatchNorm with an eps and a momentum of its own, and a Dropout whose p is not one half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, bias=True)
        self.norm = nn.BatchNorm2d(8, eps=0.5, momentum=0.7)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(8 * 36, 10)

    def forward(self, x):
        return self.fc(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


@dataclass
class Untrained:
    """Looks at a prepared network in both modes and leaves its weights alone."""

    outputs: torch.Tensor | None = None
    momentum_and_eps: tuple = ()
    dropped: float = 0.0

    def __call__(self, prepared: nn.Module, freeze) -> None:
        x = digits().calibration.x
        graph = prepared.exported.graph
        with torch.no_grad():
            prepared.train()
            for _ in range(30):
                prepared(x)
            (norm,) = (node for node in graph.nodes if node.target is torch.ops.aten.batch_norm.default)
            (dropout,) = (node for node in graph.nodes if node.target is torch.ops.aten.dropout.default)
            self.momentum_and_eps, self.dropped = tuple(norm.args[6:8]), dropout.args[1]
            freeze()
            mean = prepared.exported.norm.running_mean.clone()
            prepared(x)
            assert norm.args[5] is False and dropout.args[2] is True
            assert torch.equal(mean, prepared.exported.norm.running_mean)
            prepared.eval()
            self.outputs = prepared(digits().report.x)
            assert dropout.args[2] is False


def test_training_keeps_eps_momentum_and_dropout_and_folding_keeps_the_outputs():
    torch.manual_seed(0)
    network, seen = OddNorm().eval(), Untrained()
    result = pt2e.quantize(network, Settings("qat", "pt2e"), Data((digits().calibration.x[:8],), None, seen))
    assert seen.momentum_and_eps == (0.7, 0.5) and seen.dropped == 0.2
    # Folding changes the order of float operations, so that a value may round to its neighbour.
    with torch.no_grad():
        difference = (result.model(digits().report.x) - seen.outputs).abs()
    assert difference.max() < 2e-3 * seen.outputs.abs().max() and difference.mean() < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "qnnpack"}, 'engine of stack="pt2e"'),
        ({"linear_num_bits": 4}, "linear_num_bits"),
        ({"activation_observer": "mean"}, "activation_observer must be"),
        ({"activation_observer": nn.ReLU}, "activation_observer must be"),
        ({"activation_observer": lambda: None}, "activation_observer must be"),
        ({"weight_observer": "histogram"}, "no per-channel form"),
        ({"method": "dynamic", "activation_observer": "minmax"}, "activation_observer must be None"),
        ({"modules": predicates.by_type(nn.ReLU)}, "has none that by_type"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(settings, message):
    with pytest.raises(WorkflowError, match=message):
        asked = Settings(**{"method": "static", "stack": "pt2e", **settings})
        row_for(asked).home.quantize(trained("small_cnn"), asked, data())


def test_predicate_that_selects_nothing_is_refused():
    with pytest.raises(SelectionError):
        converted("small_cnn", "static", modules=predicates.by_name("head"))


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.view(8, 64))


class DependsOnValues(FixedBatch):
    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else x


@pytest.mark.parametrize("kind", [FixedBatch, DependsOnValues])
def test_network_that_cannot_be_exported_is_refused_by_name(kind):
    with pytest.raises(TraceError, match=kind.__name__):
        pt2e.quantize(kind().eval(), Settings("dynamic", "pt2e"), data())


def test_file_that_holds_something_else_is_refused(tmp_path):
    with pytest.raises(WorkflowError, match="not there"):
        pt2e.load(tmp_path / "none", None)
    (tmp_path / "text").write_text("text")
    with pytest.raises(WorkflowError, match="holds none"):
        pt2e.load(tmp_path / "text", None)


def test_missing_package_is_named_with_the_command(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'qexplore\[pt2e\]'"):
        pt2e.quantize(trained("small_cnn"), Settings("static", "pt2e"), data())


def test_tensors_that_the_graph_does_not_read_are_dropped():
    exported, _ = pt2e_graph.export(nn.Linear(4, 2).eval(), (torch.ones(2, 4),))
    exported.register_buffer("left", torch.ones(3))
    pt2e_graph.drop_unused(exported)
    assert sorted(exported.state_dict()) == ["bias", "weight"]


class Summing(nn.Module):
    def __init__(self, kind, operation):
        super().__init__()
        layer = nn.Conv2d if kind == "Conv2d" else nn.Linear
        self.first, self.last = (layer(8, 8, 1), layer(8, 4, 1)) if kind == "Conv2d" else (layer(8, 8), layer(8, 4))
        self.operation = operation

    def forward(self, x):
        return self.last(self.operation(self.first(x)))


def in_place(x):
    x += 1.0
    return x


@pytest.mark.parametrize(
    ("kind", "operation"),
    [("Conv2d", lambda x: x + 5), ("Conv2d", in_place), ("Linear", lambda x: 2 - x), ("Linear", lambda x: 2 * x + 1)],
)
def test_numbers_are_added_behind_layers(kind, operation):
    x = torch.randn(4, 8, 3, 3) if kind == "Conv2d" else torch.randn(16, 8)
    result = qx.quantize_static(Summing(kind, operation).eval(), [x], stack="pt2e")
    assert result.report.error < 0.03


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_functions_are_told_apart_from_methods_of_their_name(method):
    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, x):
            y = torch.relu(torch.add(self.conv(x), x)).mean((2, 3))
            return (self.fc(y) + y).relu()

    x = torch.randn(4, 4, 3, 3)
    if method == "dynamic":
        result = qx.quantize_dynamic(Alike(), x, stack="pt2e")
    else:
        result = qx.quantize_static(Alike(), [x], stack="pt2e")
    assert result.report.error < 0.03


def test_a_batchnorm_that_stands_alone_costs_no_search_for_patterns(monkeypatch):
    from torchao.quantization.pt2e import qat_utils

    searched = []
    monkeypatch.setattr(qat_utils, "_fold_conv_bn_qat_helper", lambda model, *_, **__: searched.append(1) or model)
    network, x = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).eval(), torch.randn(4, 3, 6, 6)
    assert qx.quantize_static(network, [x], stack="pt2e").report.error < 0.03
    loss = lambda output, _: (output**2).mean()  # noqa: E731
    qx.quantize_qat(network, [(x, torch.zeros(4))], loss, stack="pt2e")
    assert not searched


def test_nn_rnn_is_sent_to_the_stack_that_has_a_kernel():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.RNN(8, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.body(x)[0])

    report = qx.quantize_dynamic(Recurrent().eval(), torch.randn(4, 5, 8), stack="pt2e").report
    assert [row.name for row in report.strategy] == ["body", "head"]
    assert 'stack="onnxruntime"' in report.strategy[0].reason
