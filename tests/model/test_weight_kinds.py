"""Weights under other names, behind parametrizations, shared in odd ways; and what stays float, with the reason."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs
from qexplore.errors import ModelError, SelectionError
from qexplore.model import QuantizedModel

W = predicates.weighted
NUM_BITS = 3


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


X = drawn(6, 3, 8)
DATA = [(X, torch.arange(6) % 3)]


class Net(nn.Module):
    """Something over sequences ``[B, 3, 8]``, then a linear layer over what it gives."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.call = inner, call
        with torch.no_grad():
            self.fc = nn.Linear(call(inner, X).flatten(1).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.call(self.inner, x).flatten(1)))


class Two(nn.Module):
    """A module of the user's own, with two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(drawn(8, 8)), nn.Parameter(drawn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).relu() @ self.other


class MyNorm(nn.Module):
    """A norm by its name, with a weight of two axes."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Scale(MyNorm):
    pass


def plain(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def normed(module: nn.Module, x: Tensor) -> Tensor:
    return module(x[:, : module.normalized_shape[0]])


def first(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)[0]


def stepped(cell: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = cell(step, state)
    return state[0] if isinstance(state, tuple) else state


def attended(attention: nn.Module, x: Tensor) -> Tensor:
    keys = x[..., : attention.kdim]
    return attention(x, keys, keys, need_weights=False)[0]


RNN_NAMES = ["weight_ih_l0", "weight_hh_l0"]
KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], list[str]]] = {
    "lstm": (lambda: nn.LSTM(8, 8, batch_first=True), first, RNN_NAMES),
    "gru of two directions": (
        lambda: nn.GRU(8, 4, bidirectional=True, bias=False, batch_first=True),
        first,
        [*RNN_NAMES, "weight_ih_l0_reverse", "weight_hh_l0_reverse"],
    ),
    "rnn of two layers": (
        lambda: nn.RNN(8, 8, 2, batch_first=True),
        first,
        [*RNN_NAMES, "weight_ih_l1", "weight_hh_l1"],
    ),
    "lstm cell": (lambda: nn.LSTMCell(8, 8), stepped, ["weight_ih", "weight_hh"]),
    "attention over keys of another size": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
        attended,
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    "bilinear": (lambda: nn.Bilinear(8, 8, 4), lambda module, x: module(x[:, 0], x[:, 1]), ["weight"]),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 4)), plain, ["weight"]),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv1d(3, 4, 3)), plain, ["weight"]),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 4)), plain, ["weight"]),
    "weight norm of a module of one's own": (lambda: parametrizations.weight_norm(Two()), plain, ["weight"]),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def network(kind: str) -> nn.Module:
    build, call, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Net(build(), call).eval()


def wrapped(kind: str, net: nn.Module | None = None) -> QuantizedModel:
    model = QuantizedModel(net or network(kind), weights=W)
    assert len(model.points) == len(KINDS[kind][2]) + 1
    model.calibrate()
    return model


def quantized(weight: Tensor) -> Tensor:
    """By hand, a scale for each row."""
    rows = weight.detach().flatten(1)
    scale = (2 ** (NUM_BITS - 1) - 1) / rows.abs().amax(dim=1, keepdim=True)
    return ((rows * scale).round() / scale).reshape(weight.shape)


def by_hand(kind: str) -> nn.Module:
    """The network with its effective weights quantized and put back as plain parameters."""
    net = network(kind)
    for module in list(net.modules()):
        for attribute in list(getattr(module, "parametrizations", ())):
            with torch.enable_grad():  # else torch leaves no parameter
                parametrize.remove_parametrizations(module, attribute)
    for name in [*(f"inner.{name}" for name in KINDS[kind][2]), "fc.weight"]:
        weight = net.get_parameter(name)
        weight.data.copy_(quantized(weight))
    return net


@EVERY_KIND
@torch.no_grad()
def test_every_weight_is_a_point_that_the_forward_reads_quantized(kind: str) -> None:
    model, float_output = wrapped(kind), network(kind)(X)
    assert [point.name for point in model.points] == [*(f"inner.{name}" for name in KINDS[kind][2]), "fc.weight"]
    model.num_bits = [NUM_BITS] * len(model.points)
    torch.testing.assert_close(model(X), by_hand(kind)(X), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copy.deepcopy(model)(X), model(X), atol=0, rtol=0)
    model.num_bits = [0] * len(model.points)
    torch.testing.assert_close(model(X), float_output, atol=1e-6, rtol=1e-6)


@EVERY_KIND
def test_detaching_gives_every_parameter_back_in_its_place(kind: str) -> None:
    net = network(kind)
    before, expected = list(net.named_parameters()), net(X)
    state, kinds = list(net.state_dict()), [type(module).__name__ for module in net.modules()]
    model = wrapped(kind, net)
    model.to(torch.float64).to(torch.float32)
    net = model.detach()
    assert [(name, id(tensor)) for name, tensor in net.named_parameters()] == [(n, id(t)) for n, t in before]
    assert list(net.state_dict()) == state
    assert [type(module).__name__ for module in net.modules()] == kinds
    assert torch.equal(net(X), expected)
    if isinstance(net.inner, nn.RNNBase):
        assert [id(one) for one in net.inner._flat_weights] == [id(one) for one in net.inner.parameters()]


@EVERY_KIND
def test_the_engine_equals_the_direct_evaluator_and_bits_are_those_of_the_weights(kind: str) -> None:
    model = wrapped(kind)
    net = by_hand(kind)
    held = sum(net.get_parameter(point.name).numel() for point in model.points)
    scales = sum(point.num_scales for point in model.points)
    (cost,) = build_costs(("model_bits",), model)
    others = sum(tensor.numel() for tensor in net.parameters()) - held
    size = len(model.points)
    assert cost.cost(np.array([[4] * size]))[0] == 4 * held + 32 * (scales + others)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(output, target, reduction="none")

    rows = np.stack([np.arange(size) % 3, np.zeros(size, dtype=int)])
    found = [
        qx.LayerwiseQuantizationProblem(model, DATA, loss, choices=[2, 4, 8], engine=engine).evaluate(
            rows, return_values_of=["F"]
        )
        for engine in ("auto", "direct")
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize("kind", ["lstm cell", "weight norm", "spectral norm"])
def test_fine_tuning_trains_what_stands_behind_the_weight_and_a_manifest_brings_it_back(
    kind: str, tmp_path: Path
) -> None:
    model = wrapped(kind)
    before = {name: tensor.clone() for name, tensor in model.model.named_parameters()}
    qx.fine_tune(model, [NUM_BITS] * len(model.points), DATA, F.cross_entropy)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.model.named_parameters())
    expected = model(X)
    path = qx.save_manifest(model, tmp_path / "widths.json")
    model.num_bits = [8] * len(model.points)
    qx.load_manifest(path).apply(model)
    assert torch.equal(model(X), expected)


def test_the_bias_beside_a_parametrized_weight_is_corrected() -> None:
    model = wrapped("weight norm")
    qx.correct_biases(model, DATA)
    model.num_bits = [NUM_BITS, 0]
    inner = model.model.inner
    with torch.no_grad():
        change = inner.weight - network("weight norm").inner.weight
    expected = network("weight norm").inner.bias - change @ X.flatten(0, 1).mean(dim=0)
    torch.testing.assert_close(inner.bias, expected, atol=1e-5, rtol=1e-5)


STAY_FLOAT: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "norm of two axes": (lambda: nn.LayerNorm([1, 8]), "weight", "norms stay float"),
    "norm of two long axes": (lambda: nn.LayerNorm([3, 8]), "weight", "norms stay float"),
    "norm by its name": (lambda: MyNorm(3, 8), "weight", "norms stay float"),
    "scale": (lambda: Scale(1, 1, 8), "weight", "one axis is longer than 1: a scale"),
    "weight norm by a hook": (lambda: weight_norm(nn.Linear(8, 8)), "weight", "torch.nn.utils.remove_weight_norm"),
    "spectral norm by a hook": (lambda: spectral_norm(nn.Linear(8, 8)), "weight", "remove_spectral_norm"),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "weight", "prune.remove"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", STAY_FLOAT.values(), ids=STAY_FLOAT)
def test_what_stays_float_is_listed_with_the_reason(case: tuple[Callable[[], nn.Module], str, str]) -> None:
    build, attribute, reason = case
    call = normed if isinstance(build(), nn.LayerNorm) else plain
    plan = QuantizedModel(Net(build(), call), weights=W).describe()
    assert [planned.point.name for planned in plan.points] == ["fc.weight"]
    assert [one.name for one in plan.left_float] == [f"inner.{attribute}"]
    assert reason in plan.left_float[0].reason
    assert f"weights left float: inner.{attribute} (" in str(plan)
    with pytest.raises(SelectionError, match="(?s)selects no module.*weights left float: 0.weight.*" + reason):
        QuantizedModel(nn.Sequential(build()), weights=W)


def test_a_chosen_module_whose_weight_a_hook_makes_is_refused_with_the_way_out() -> None:
    network = nn.Sequential(prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5))
    with pytest.raises(SelectionError, match=r"its 'weight' is computed by a hook .*prune\.remove"):
        QuantizedModel(network, weights=predicates.by_type(nn.Linear))


def test_matrices_that_look_like_vectors_are_weights_where_their_kind_says_so() -> None:
    layers = nn.Linear(8, 1), nn.Conv1d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=4), nn.Embedding(5, 1), nn.LSTMCell(1, 1)
    assert all(W(str(place), layer) for place, layer in enumerate(layers))
    chosen = QuantizedModel(nn.Sequential(Scale(1, 8)), weights=predicates.by_type(Scale))
    assert [point.name for point in chosen.points] == ["0.weight"]


def test_a_second_weight_of_a_module_is_listed_and_one_row_quantizes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = QuantizedModel(Net(Two(), plain), weights=W).describe()
    assert [(one.name, "predicates.WEIGHT_NAMES" in one.reason) for one in plan.left_float] == [("inner.other", True)]
    monkeypatch.setitem(predicates.WEIGHT_NAMES, Two, ("weight", "other"))
    plan = QuantizedModel(Net(Two(), plain), weights=W).describe()
    assert [planned.point.name for planned in plan.points] == ["inner.weight", "inner.other", "fc.weight"]
    assert plan.left_float == ()


def test_weights_that_a_predicate_passes_over_are_listed() -> None:
    plan = QuantizedModel(Net(Two(), plain), weights=predicates.by_name("inner")).describe()
    assert [(one.name, one.reason) for one in plan.left_float][-1] == ("fc.weight", "not selected by `weights`")
    assert QuantizedModel(Net(Two(), plain), predicates.by_name("fc")).describe().left_float == ()


def pair(second: Tensor) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    net[2].weight = nn.Parameter(second) if second.shape else net[0].weight
    return net


def test_two_parameters_in_one_memory_are_one_weight() -> None:
    net = pair(drawn(8, 8))
    net[0].weight = nn.Parameter(net[2].weight.data)
    assert net[0].weight is not net[2].weight
    model = QuantizedModel(net, weights=W)
    assert [point.name for point in model.points] == ["0.weight"]
    model.num_bits = [NUM_BITS]
    assert torch.equal(net[0].weight, net[2].weight) and len(net[2].weight[0].unique()) <= 2**NUM_BITS
    assert build_costs(("model_bits",), model)[0].cost(np.array([[4]]))[0] == 4 * 64 + 32 * 8


def test_memory_that_is_shared_otherwise_is_said() -> None:
    net = pair(drawn(8, 8))
    net[0].weight = nn.Parameter(net[2].weight.data.t())
    model = QuantizedModel(net, weights=W)
    plan = model.describe()
    assert len(plan.points) == 2
    assert plan.notes[0].startswith("0.weight and 2.weight share memory") and plan.notes[0] in str(plan)
    assert len(plan.notes) == 1
    model.detach()
    flat = drawn(128)
    net[0].weight, net[2].weight = nn.Parameter(flat[:64].view(8, 8)), nn.Parameter(flat[64:].view(8, 8))
    model = QuantizedModel(net, weights=W)
    assert model.describe().notes == ()
    model.detach()
    net.append(nn.Linear(8, 16, bias=False)).append(nn.Linear(16, 8))
    net[3].weight = nn.Parameter(flat.view(16, 8))
    notes = QuantizedModel(net, weights=W).describe().notes
    assert [note.partition(" share")[0] for note in notes] == ["0.weight and 3.weight", "3.weight and 2.weight"]


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_tie_that_loading_undoes_is_noticed(is_copied: bool) -> None:
    model = QuantizedModel(pair(torch.tensor(0.0)), weights=W)
    state = model.state_dict()
    model.load_state_dict({name: one.clone() if is_copied else one for name, one in state.items()}, assign=True)
    if not is_copied:  # two parameters in one memory
        model(X)
        return
    for use in (lambda: model(X), lambda: model.calibrate(), lambda: model.describe()):
        with pytest.raises(ModelError, match=r"the weight '0\.weight' must be the one that 2 modules share"):
            use()


def test_a_file_holds_the_weight_that_parametrizations_make(tmp_path: Path) -> None:
    model: Any = wrapped("weight norm")
    model.num_bits = [4] * len(model.points)
    parity = qx.export_onnx(model, tmp_path / "model.onnx", X, data=DATA).parity
    assert parity is not None and parity.num_different == 0 and parity.largest_difference < 1e-5


class Kernel(nn.Module):
    """A module of the user's own, whose weight has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 40))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel.t()


def test_a_module_kind_for_weights_is_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = nn.Sequential(Kernel(), nn.ReLU()), torch.randn(4, 40)
    with pytest.raises(SelectionError, match="selects no module"):
        QuantizedModel(network, weights=predicates.weighted)
    monkeypatch.setitem(predicates.WEIGHT_NAMES, Kernel, "kernel")
    model = QuantizedModel(network, weights=predicates.weighted)
    model.calibrate([x])
    assert [point.name for point in model.points if point.kind == "weight"] == ["0.kernel"]
    float_output = model.detach()(x)
    model = QuantizedModel(network, weights=predicates.weighted)
    model.num_bits = [3]
    assert not torch.allclose(model(x), float_output) and len(network[0].kernel[0].unique()) <= 8
