"""The strategy names what runs in integers, and nothing else: told from the operators that torch is asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import qexplore as qx
from qexplore.errors import WorkflowError

WEIGHTED = ("linear", "conv", "lstm", "gru", "rnn")
MOVES = (
    "quantize_per_tensor",
    "dequantize",
    "view",
    "reshape",
    "flatten",
    "copy",
    "clone",
    "contiguous",
    "scale",
    "zero_point",
)


class Kernels(TorchDispatchMode):
    """Names of the operators that give integers, or hold weights in integers."""

    def __init__(self):
        super().__init__()
        self.weighted, self.others = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        name = str(func)
        gives = any(isinstance(one, torch.Tensor) and one.is_quantized for one in pytree.tree_leaves(output))
        if any(kind in name for kind in WEIGHTED) and "quantized" in name:
            self.weighted.append(name)
        elif gives and not any(kind in name for kind in MOVES):
            self.others.append(name)
        return output


class Plain(nn.Linear):
    """Another name, and another way of being made."""

    def __init__(self, width):
        super().__init__(width, width)


class PlainConvolution(nn.Conv2d):
    pass


class PlainLSTM(nn.LSTM):
    pass


class Doubling(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Functional(nn.Module):
    def __init__(self, *shape, function=F.linear):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(*shape) / 4), function
        self.bias = nn.Parameter(torch.randn(shape[0]))

    def forward(self, x):
        return self.function(x, self.weight, self.bias)


class ReadsElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(F.linear(self.first(x), self.first.weight))


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(x @ self.weight)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x)[0])


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(Functional(8, 8), nn.Sequential(Plain(8)))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.cat([self.inner(x), x], 1)[:, :8] + x)


ROWS, IMAGES, STEPS = torch.randn(16, 8), torch.randn(4, 3, 6, 6), torch.randn(4, 5, 8)
NETWORKS = {
    "bare Linear": (lambda: nn.Linear(8, 4), ROWS),
    "bare convolution": (lambda: nn.Conv2d(3, 4, 3), IMAGES),
    "bare BatchNorm": (lambda: nn.BatchNorm2d(3), IMAGES),
    "bare LSTM": (lambda: nn.LSTM(8, 4, batch_first=True), STEPS),
    "bare GRU": (lambda: nn.GRU(8, 4), STEPS),
    "bare LSTMCell": (lambda: nn.LSTMCell(8, 4), ROWS),
    "bare attention layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), STEPS),
    "bare subclass": (lambda: Plain(8), ROWS),
    "subclasses": (lambda: nn.Sequential(Plain(8), nn.ReLU(), nn.Linear(8, 4)), ROWS),
    "subclass of a convolution": (lambda: nn.Sequential(PlainConvolution(3, 4, 3), nn.ReLU()), IMAGES),
    "subclass that computes more": (lambda: nn.Sequential(Doubling(8, 8), nn.ReLU(), nn.Linear(8, 4)), ROWS),
    "functional": (lambda: Functional(4, 8), ROWS),
    "functional and a layer": (lambda: nn.Sequential(Functional(4, 8), nn.ReLU(), nn.Linear(4, 4)), ROWS),
    "functional convolution": (lambda: Functional(4, 3, 3, 3, function=F.conv2d), IMAGES),
    "own parameter": (OwnParameter, ROWS),
    "nested": (Nested, ROWS),
    "LSTM": (lambda: Recurrent(nn.LSTM), STEPS),
    "RNN": (lambda: Recurrent(nn.RNN), STEPS),
    "subclass of LSTM": (lambda: Recurrent(PlainLSTM), STEPS),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), torch.arange(8).reshape(4, 2)),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Sigmoid()), IMAGES),
    "flattened": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4)), IMAGES),
}


def made(name):
    torch.manual_seed(0)
    make, x = NETWORKS[name]
    return make().eval(), x


def quantized(method, network, x, **settings):
    if method == "dynamic":
        return qx.quantize_dynamic(network, x, **settings)
    if method == "static":
        return qx.quantize_static(network, [x], **settings)

    def loss(output, _):
        return sum((one**2).mean() for one in pytree.tree_leaves(output))

    return qx.quantize_qat(network, [(x, torch.zeros(len(x)))], loss, learning_rate=1e-6, **settings)


CASES = [(name, method) for name in NETWORKS for method in ("dynamic", "static")]
CASES += [(name, "qat") for name in ("bare Linear", "subclasses", "functional and a layer", "nested", "norm first")]


@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize(("name", "method"), CASES)
def test_integers_in_the_strategy_are_the_kernels_that_run(name, method, stack):
    network, x = made(name)
    try:
        result = quantized(method, network, x, stack=stack)
    except WorkflowError as error:
        assert "needs a" in str(error) and stack == "eager"
        return
    with Kernels() as kernels, torch.no_grad():
        result.model(x)
    rows = [row for row in result.report.strategy if row.is_quantized]
    assert len([row for row in rows if row.weights]) == len(kernels.weighted), kernels.weighted
    computes = [row for row in rows if not row.weights and row.type != "Flatten"]
    assert len(computes) == len(kernels.others), kernels.others
    said_nothing = any("nothing is quantized" in note for note in result.report.notes)
    assert said_nothing == (not kernels.weighted and not kernels.others)
    modules = dict(network.named_modules())
    assert all(type(modules[row.name]).__name__ == row.type for row in rows if row.name in modules)


@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize(
    ("name", "method"),
    [("bare Linear", "dynamic"), ("bare LSTM", "dynamic"), ("bare subclass", "static"), ("subclasses", "static")],
)
def test_files_of_bare_layers_and_subclasses_give_the_model_again(name, method, stack, tmp_path):
    network, x = made(name)
    result = quantized(method, network, x, stack=stack)
    result.save(tmp_path / "network.pt")
    loaded = qx.load_quantized(tmp_path / "network.pt", network)
    outputs = zip(pytree.tree_leaves(loaded(x)), pytree.tree_leaves(result.model(x)), strict=True)
    assert all(torch.equal(one, other) for one, other in outputs)
    assert type(network) is type(made(name)[0]) and result.report.error < 0.05


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_a_bare_layer_takes_all_its_arguments(stack):
    network, x = nn.LSTM(8, 4).eval(), torch.randn(5, 3, 8)
    model = qx.quantize_dynamic(network, x, stack=stack).model
    state = torch.ones(1, 3, 4), torch.ones(1, 3, 4)
    if stack == "eager":
        assert torch.allclose(model(x, state)[0], network(x, state)[0], atol=0.05)
    assert torch.allclose(model(x)[0], network(x)[0], atol=0.05)


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_a_predicate_chooses_the_network_itself(stack):
    result = qx.quantize_dynamic(nn.Linear(8, 4).eval(), ROWS, modules=qx.predicates.by_type(nn.Linear), stack=stack)
    assert [(row.name, row.is_quantized) for row in result.report.strategy] == [("", True)]


FLOAT = {
    ("fx", "dynamic", "norm first", "0"): "dynamic quantization has integer kernels for Linear and recurrent",
    ("fx", "dynamic", "RNN", "body"): "torch has no integer kernel for it",
    ("fx", "static", "own parameter", "matmul"): "FX has no integer form of it",
    ("fx", "static", "bare attention layer", ""): "taken as a whole",
    ("fx", "static", "embedding", "0"): "an embedding looks rows up",
    ("fx", "static", "LSTM", "body"): "recurrent layers have integer kernels in dynamic quantization only",
    ("eager", "dynamic", "RNN", "body"): "torch has no integer kernel for it",
    ("eager", "dynamic", "subclass that computes more", "0"): "its class computes something of its own",
    ("eager", "dynamic", "functional and a layer", "0"): "functions read its own parameters",
    ("eager", "dynamic", "own parameter", ""): "functions read its own parameters",
    ("eager", "static", "functional and a layer", "linear"): "this is a function with weights",
    ("eager", "static", "norm first", "0"): "what it reads is float",
    ("eager", "static", "LSTM", "body"): "recurrent layers have integer kernels in dynamic quantization only",
}


@pytest.mark.parametrize(("stack", "method", "name", "layer"), FLOAT)
def test_reasons_are_those_that_decided(stack, method, name, layer):
    result = quantized(method, *made(name), stack=stack)
    row = next(row for row in result.report.strategy if row.name == layer)
    assert row.state == "float" and FLOAT[stack, method, name, layer] in row.reason, row.reason


def test_a_layer_whose_weights_are_read_elsewhere_stays_float_in_eager_dynamic():
    result = qx.quantize_dynamic(ReadsElsewhere().eval(), ROWS, stack="eager")
    first, last = result.report.strategy
    assert first.reason == "the network reads its parameters without calling it" and last.is_quantized


def test_functions_of_a_module_that_was_not_chosen_say_so():
    network, x = made("functional and a layer")
    result = quantized("static", network, x, modules=qx.predicates.by_name("2"))
    reasons = {row.name: row.reason for row in result.report.strategy if not row.is_quantized}
    assert "not selected" in reasons["linear"]
