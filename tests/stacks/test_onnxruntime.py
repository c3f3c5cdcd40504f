"""The onnxruntime stack, on networks trained on handwritten digits."""

import copy
import functools
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from networks import batches, digits, trained
from torch import nn

from qexplore import predicates
from qexplore.errors import MissingPackageError, SelectionError, WorkflowError
from qexplore.model import bit_sum
from qexplore.stacks import onnxruntime as stack
from qexplore.stacks import row_for
from qexplore.stacks.base import Converted, Data, Settings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def data() -> Data:
    def calibrate(prepared: nn.Module) -> None:
        for x, _ in batches(digits().calibration, 60):  # the last batch is smaller
            prepared(x)

    return Data((digits().calibration.x[:8],), calibrate)


def accuracy(network: nn.Module) -> float:
    x, y = digits().report
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


@functools.cache
def converted(name: str, method: str, **settings) -> Converted:
    return stack.quantize(trained(name), Settings(method, "onnxruntime", **settings), data())


def rows(result: Converted) -> dict[str, tuple[str, str]]:
    return {row.name: (str(row.weights or ""), str(row.activations or "")) for row in result.strategy}


WEIGHTS = "int7" if stack._can_overflow() else "int8"


@pytest.mark.parametrize("name", ["small_cnn", pytest.param("shared_relu", marks=pytest.mark.slow)])
def test_static_quantization_is_within_one_point_of_float(name):
    assert accuracy(converted(name, "static").model) >= accuracy(trained(name)) - 0.01


@pytest.mark.parametrize("name", ["small_cnn", pytest.param("lstm", marks=pytest.mark.slow)])
def test_dynamic_quantization_is_within_one_point_of_float(name):
    result = converted(name, "dynamic")
    assert accuracy(result.model) >= accuracy(trained(name)) - 0.01
    quantized = {row.type for row in result.strategy if row.is_quantized}
    assert quantized == ({"LSTM", "Linear"} if name == "lstm" else {"Conv2d", "Linear"})


def test_scale_per_channel_is_not_below_scale_per_tensor():
    channel, tensor = (
        accuracy(converted("small_cnn", "static", weight_granularity=granularity).model)
        for granularity in ("channel", "tensor")
    )
    assert channel >= tensor - 0.01


def test_strategy_is_read_from_the_file_and_follows_the_settings():
    assert rows(converted("small_cnn", "static"))["conv1"] == (f"{WEIGHTS} per channel", "uint8 per tensor, affine")
    tensor = converted("small_cnn", "static", weight_granularity="tensor")
    assert rows(tensor)["conv1"] == (f"{WEIGHTS} per tensor", "uint8 per tensor, affine")
    symmetric = converted("small_cnn", "static", activations="symmetric")
    assert rows(symmetric)["conv2"] == (f"{WEIGHTS} per channel", "int8 per tensor, symmetric")
    dynamic = converted("small_cnn", "dynamic")
    assert rows(dynamic)["fc1"] == (f"{WEIGHTS} per channel", "uint8 per tensor, affine, at run time")
    # Dynamic convolutions of onnxruntime have one scale a weight, whatever was asked for.
    assert rows(dynamic)["conv1"] == (f"{WEIGHTS} per tensor", "uint8 per tensor, affine, at run time")
    assert all(row.reason for row in dynamic.strategy)


def test_every_layer_of_the_network_has_its_row_in_call_order():
    names = [row.name for row in converted("small_cnn", "static").strategy if row.name != "view"]
    assert names == ["conv1", "bn1", "relu1", "pool", "conv2", "bn2", "relu2", "fc1", "relu3", "fc2"]
    reasons = {row.name: row.reason for row in converted("small_cnn", "static").strategy}
    assert reasons["bn1"] == "folded into 'conv1'" and reasons["relu3"] == "fused into 'fc1'"


@pytest.mark.parametrize("observer", ["percentile", pytest.param("moving_average", marks=pytest.mark.slow)])
def test_observer_decides_the_range(observer):
    other = converted("small_cnn", "static", activation_observer=observer)
    assert accuracy(other.model) >= accuracy(trained("small_cnn")) - 0.02
    assert scales(other) != scales(converted("small_cnn", "static"))


@pytest.mark.slow
def test_entropy_takes_batches_of_two_sizes():
    assert accuracy(converted("small_cnn", "static", activation_observer="entropy").model) >= 0.95


def scales(result: Converted) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "network.onnx")
        graph = onnx.load(Path(folder) / "network.onnx").graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    return {name: float(array) for name, array in arrays.items() if name.endswith("_scale") and array.ndim == 0}


def test_predicate_leaves_the_rest_float():
    result = converted("small_cnn", "static", modules=predicates.by_name("conv2", "fc2"))
    weights = {row.name: str(row.weights or "") for row in result.strategy if row.type in ("Conv2d", "Linear")}
    chosen = f"{WEIGHTS} per channel"
    assert weights == {"conv1": "", "conv2": chosen, "fc1": "", "fc2": chosen}
    assert "not selected" in next(row.reason for row in result.strategy if row.name == "fc1")


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_loaded_network_equals_the_saved_one_bit_for_bit_at_any_batch(method, tmp_path):
    result = converted("small_cnn", method)
    result.save(tmp_path / "network")
    loaded = stack.load(tmp_path / "network", None)
    for count in (1, 7, 300):
        x = digits().report.x[:count]
        assert torch.equal(loaded(x), result.model(x))


def test_file_is_valid_and_small(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 10)).eval()
    result = stack.quantize(network, Settings("static", "onnxruntime"), data())
    result.save(tmp_path / "network")
    torch.save(network.state_dict(), tmp_path / "float")
    onnx.checker.check_model(onnx.load(tmp_path / "network"))
    assert (tmp_path / "network").stat().st_size <= 0.3 * (tmp_path / "float").stat().st_size


def test_network_comes_back_as_it_was_and_no_file_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    network = trained("shared_relu")
    before = {name: bit_sum(value) for name, value in network.state_dict().items()}
    stack.quantize(network, Settings("static", "onnxruntime", activation_observer="percentile"), data())
    assert before == {name: bit_sum(value) for name, value in network.state_dict().items()}
    assert not any(module.training for module in network.modules())
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


class Two(nn.Module):
    """Two inputs, given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(64, 16), nn.Linear(32, 16)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


def test_network_of_two_inputs_is_calibrated_by_name():
    torch.manual_seed(0)
    network = Two().eval()
    left, right = torch.randn(40, 64), torch.randn(40, 32)
    given = Data((left[:8], right[:8]), lambda prepared: prepared(right=right, left=left))
    result = stack.quantize(network, Settings("static", "onnxruntime"), given)
    with torch.no_grad():
        expected = network(left, right)
    assert (result.model(left=left, right=right) - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "qat"}, 'use stack="eager", "fx" or "pt2e".*qexplore.fine_tune'),
        ({"engine": "x86"}, 'engine of stack="onnxruntime" must be None'),
        ({"linear_num_bits": 4}, "linear_num_bits"),
        ({"activation_observer": "histogram"}, "must be 'minmax'"),
        ({"weight_observer": "histogram"}, "weight_observer"),
        ({"method": "dynamic", "activation_observer": "minmax"}, "activation_observer must be None"),
        ({"method": "dynamic", "activations": "symmetric"}, "zero point at run time"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(settings, message):
    with pytest.raises(WorkflowError, match=message):
        asked = Settings(**{"method": "static", "stack": "onnxruntime", **settings})
        row_for(asked).home.quantize(trained("shared_relu"), asked, data())


def test_network_with_nothing_to_quantize_is_refused():
    with pytest.raises(WorkflowError, match="finds nothing in Softmax"):
        stack.quantize(nn.Softmax(dim=1), Settings("dynamic", "onnxruntime"), data())
    with pytest.raises(SelectionError):
        converted("shared_relu", "static", modules=predicates.by_name("head"))


def test_file_that_holds_something_else_is_refused(tmp_path):
    with pytest.raises(WorkflowError, match="no file"):
        stack.load(tmp_path / "none", None)
    (tmp_path / "text").write_text("text")
    with pytest.raises(WorkflowError, match="cannot run"):
        stack.load(tmp_path / "text", None)


def test_missing_package_is_named_with_the_command(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    network = copy.deepcopy(trained("shared_relu"))
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'qexplore\[onnx\]'"):
        stack.quantize(network, Settings("static", "onnxruntime"), data())


class Tied(nn.Module):
    """An embedding whose table is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(x)).relu())


def largest_range(model: nn.Module, x: torch.Tensor, **settings) -> float:
    """What the file takes to be the largest value: outputs of one large input saturate there."""
    result = stack.quantize(model, Settings("static", "onnxruntime", **settings), Data((x[:8],), lambda p: p(x)))
    return float(result.model(torch.full((1, 4), 1e6)).max())


@pytest.mark.parametrize(("observer", "activations"), [("entropy", "affine"), ("percentile", "symmetric")])
def test_ranges_of_an_observer_leave_outliers_out(observer, activations):
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    network[0].weight.data = torch.eye(4)
    x = torch.rand(50_000, 4)
    x[0, 0] = 300.0
    assert largest_range(network, x, activation_observer=observer, activations=activations) < 2.0


class TiedAtTheEnd(Tied):
    """Its head is one ``Gemm`` that reads the very table that the embedding does, along the other axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(x).mean(1)).relu())


class TwoOfOneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("granularity", ["channel", pytest.param("tensor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{}, {"activation_observer": "entropy"}, {"method": "dynamic"}])
def test_a_table_that_a_head_reads_along_the_other_axis_is_quantized(settings, granularity):
    torch.default_generator.manual_seed(0)
    network, x = TiedAtTheEnd().eval(), torch.randint(0, 20, (16, 5))
    asked = Settings(**{"method": "static", "stack": "onnxruntime", "weight_granularity": granularity, **settings})
    result = stack.quantize(network, asked, Data((x,), lambda prepared: prepared(x)))
    weights = {row.name: row.weights for row in result.strategy}
    assert {weights[name].granularity for name in ("layer", "head")} == {granularity}
    assert (weights["embedding"] is None) == (asked.method == "dynamic")
    with torch.no_grad():
        assert float((result.model(x) - network(x)).abs().max()) < 0.1


@pytest.mark.parametrize("method", ["static", pytest.param("dynamic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("chosen", [None, "first", "second"])
def test_every_layer_of_a_shared_weight_has_its_row_and_its_choice(method, chosen):
    torch.default_generator.manual_seed(0)
    network, x = TwoOfOneWeight().eval(), torch.randn(16, 8)
    modules = chosen and predicates.by_name(chosen)
    asked = Settings(method, "onnxruntime", modules=modules)
    result = stack.quantize(network, asked, Data((x,), lambda prepared: prepared(x)))
    linear = {row.name: row for row in result.strategy if row.type == "Linear"}
    assert set(linear) == {"first", "second"}
    for name, row in linear.items():
        is_chosen = chosen in (None, name)
        assert (row.weights is not None) == is_chosen
        assert ("not selected" in row.reason) == (not is_chosen)


class Debiased(nn.Module):
    """Its layers have words of the quantizer in their names."""

    def __init__(self) -> None:
        super().__init__()
        self.debiased, self.pre_quantized = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre_quantized(self.debiased(x).relu())


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_layer_may_be_called_like_what_the_quantizer_adds(method):
    settings, x = Settings(method, "onnxruntime"), torch.randn(16, 8)
    result = stack.quantize(Debiased().eval(), settings, Data((x,), lambda prepared: prepared(x)))
    weights = {row.name: str(row.weights) for row in result.strategy if row.type == "Linear"}
    assert weights == dict.fromkeys(("debiased", "pre_quantized"), f"{WEIGHTS} per channel")


@pytest.mark.slow
def test_memory_of_a_calibration_does_not_grow_with_its_batches():
    def peak(num_batches: int, observer: str) -> int:
        def calibrate(prepared: nn.Module) -> None:
            tracemalloc.start()
            try:
                for _ in range(num_batches):
                    prepared(torch.zeros(64, 1024))
                highest.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()

        highest: list[int] = []
        settings = Settings("static", "onnxruntime", activation_observer=observer)
        stack.quantize(nn.Linear(1024, 2).eval(), settings, Data((torch.zeros(2, 1024),), calibrate))
        return max(highest)

    batch = 64 * 1024 * 4
    for observer in ("minmax", "moving_average", "entropy"):
        few = peak(2, observer)
        assert peak(60, observer) < few + 20 * batch


@pytest.mark.parametrize("observer", ["minmax", "entropy"])
def test_a_head_tied_to_the_embedding_is_quantized(observer):
    torch.default_generator.manual_seed(0)
    network, x = Tied().eval(), torch.randint(0, 20, (16, 5))
    settings = Settings("static", "onnxruntime", activation_observer=observer)
    result = stack.quantize(network, settings, Data((x,), lambda prepared: [prepared(x), prepared(x[:7])]))
    assert {row.name for row in result.strategy if row.is_quantized} >= {"layer", "head"}
    with torch.no_grad():
        assert float((result.model(x) - network(x)).abs().max()) < 0.2


@pytest.mark.parametrize(("has_bias", "granularity"), [(True, "tensor"), (False, "channel")])
def test_transposed_convolutions_of_groups_have_one_scale_where_their_bias_asks_for_it(has_bias, granularity):
    torch.default_generator.manual_seed(0)
    network = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, groups=2, bias=has_bias)).eval()
    x = torch.randn(8, 4, 5, 5)
    result = stack.quantize(network, Settings("static", "onnxruntime"), Data((x,), lambda prepared: prepared(x)))
    assert [row.weights.granularity for row in result.strategy if row.name == "1"] == [granularity]
    with torch.no_grad():
        assert float((result.model(x) - network(x)).norm() / network(x).norm()) < 0.03


def test_nothing_is_written_to_the_working_folder_where_inference_of_shapes_stops(monkeypatch, tmp_path):
    class Least(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)

        def forward(self, x):
            return self.b(torch.stack([self.a(x), x * 10]).amin(dim=0))

    monkeypatch.chdir(tmp_path)
    x = torch.randn(8, 4, 3, 3)
    stack.quantize(Least().eval(), Settings("static", "onnxruntime"), Data((x,), lambda prepared: prepared(x)))
    assert not [*tmp_path.iterdir()]
