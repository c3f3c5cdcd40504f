"""Multiply-accumulates of every operation that multiplies two tensors, against hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs, count_macs, observe
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel

T, B, D, H = 5, 2, 8, 6


class Function(nn.Module):
    """A function of inputs and parameters as a network."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.held = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, *inputs: Tensor):
        return self.function(*inputs, *self.held)


def rows(*shape: int) -> tuple[Tensor, ...]:
    return (torch.randn(shape),)


def packed() -> tuple[object, ...]:
    return (pack_padded_sequence(torch.randn(T, B, D), torch.tensor([5, 3])),)


def self_attention(**options):
    attention = nn.MultiheadAttention(D, 2, batch_first=True).eval()
    return Function(lambda x: attention(x, x, x, **options)[0])


def encoder_layer(rows: int, length: int, width: int, hidden: int) -> int:
    products = 4 * width * width + 2 * length * width + 2 * width * hidden
    return rows * length * products


RECURRENT = {
    "lstm": (nn.LSTM(D, H), rows(T, B, D), T * B * 4 * H * (D + H)),
    "lstm, one layer, one sample": (nn.LSTM(D, D), rows(T, 1, D), 2560),
    "lstm of two layers both ways": (
        nn.LSTM(D, H, 2, bidirectional=True, batch_first=True),
        rows(B, T, D),
        2 * T * B * 4 * H * ((D + H) + (2 * H + H)),
    ),
    "lstm with a projection": (nn.LSTM(D, H, proj_size=3), rows(T, B, D), T * B * (4 * H * (D + 3) + 3 * H)),
    "lstm in double": (nn.LSTM(D, H).double(), rows(T, B, D), T * B * 4 * H * (D + H)),
    "lstm, packed": (nn.LSTM(D, H), packed(), (5 + 3) * 4 * H * (D + H)),
    "lstm without biases": (nn.LSTM(D, H, bias=False, bidirectional=True), rows(T, B, D), 2 * T * B * 4 * H * (D + H)),
    "gru without biases": (nn.GRU(D, H, bias=False), rows(T, B, D), T * B * 3 * H * (D + H)),
    "gru": (nn.GRU(D, H, bidirectional=True), rows(T, B, D), 2 * T * B * 3 * H * (D + H)),
    "gru, packed": (nn.GRU(D, H), packed(), (5 + 3) * 3 * H * (D + H)),
    "rnn": (nn.RNN(D, H, nonlinearity="relu"), rows(T, B, D), T * B * H * (D + H)),
    "lstm cell": (nn.LSTMCell(D, H), rows(B, D), B * 4 * H * (D + H)),
    "gru cell": (nn.GRUCell(D, H), rows(B, D), B * 3 * H * (D + H)),
}
ATTENTION = {
    "attention": (self_attention(), rows(B, T, D), B * T * (4 * D * D + 2 * T * D)),
    "attention without weights": (self_attention(need_weights=False), rows(B, T, D), B * T * (4 * D * D + 2 * T * D)),
    "attention, keys and values of their own": (
        nn.MultiheadAttention(D, 2, kdim=6, vdim=4, batch_first=True),
        (torch.randn(B, T, D), torch.randn(B, T, 6), torch.randn(B, T, 4)),
        B * T * (D * (D + 6 + 4 + D) + 2 * T * D),
    ),
    "encoder layer": (
        nn.TransformerEncoderLayer(D, 2, 16, batch_first=True),
        rows(B, T, D),
        encoder_layer(B, T, D, 16),
    ),
    "encoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), 2),
        rows(B, T, D),
        2 * encoder_layer(B, T, D, 16),
    ),
    "scaled dot product": (Function(F.scaled_dot_product_attention), rows(B, 2, T, 4) * 3, 2 * B * 2 * T * T * 4),
}
PRODUCTS = {
    "bilinear": (nn.Bilinear(3, 4, 5), (*rows(B, 3), *rows(B, 4)), B * 5 * 3 * 4 + B * 5 * 4),
    "matrix by vector": (Function(torch.matmul, (D,)), rows(B, D), B * D),
    "matrices by vector": (Function(torch.matmul, (D,)), rows(B, 3, D), B * 3 * D),
    "vector by vector": (Function(torch.matmul, (D,)), rows(D), D),
    "mv": (Function(torch.mv, (D,)), rows(B, D), B * D),
    "dot": (Function(torch.dot, (D,)), rows(D), D),
    "vecdot": (Function(torch.linalg.vecdot, (D,)), rows(B, D), B * D),
    "a product summed up": (Function(lambda x, v: (x * v).sum(-1), (D,)), rows(B, D), B * D),
    "a product in place, summed up": (Function(lambda x, v: x.clone().mul_(v).sum(-1), (D,)), rows(B, D), B * D),
    "a product laid out anew, summed up": (
        Function(lambda x, v: (x * v).t().contiguous().mean(0), (D,)),
        rows(B, D),
        B * D,
    ),
    "samples of a grid": (
        Function(lambda x: F.grid_sample(x, torch.zeros(1, 3, 3, 2), align_corners=False)),
        rows(1, 2, 4, 4),
        0,
    ),
    "vector by matrix": (Function(lambda x, v: x[0] @ v, (D, 3)), rows(1, D), D * 3),
    "inner": (Function(torch.inner, (3, D)), rows(B, D), B * D * 3),
    "addmv": (Function(lambda x, v, b: torch.addmv(b, x, v), (D,), (B,)), rows(B, D), B * D),
    "addr": (Function(lambda x, v, b: torch.addr(b, x, v), (4,), (D, 4)), rows(D), D * 4),
    "addmm": (Function(lambda x, v, b: torch.addmm(b, x, v), (D, 3), (3,)), rows(B, D), B * D * 3),
    "addbmm": (Function(lambda x, v, b: torch.addbmm(b, x, v), (B, D, 3), (4, 3)), rows(B, 4, D), B * 4 * D * 3),
    "baddbmm": (Function(lambda x, v, b: torch.baddbmm(b, x, v), (B, D, 3), (4, 3)), rows(B, 4, D), B * 4 * D * 3),
    "bmm": (Function(torch.bmm, (B, D, 3)), rows(B, 4, D), B * 4 * D * 3),
    "einsum": (Function(lambda x, v: torch.einsum("bi,io->bo", x, v), (D, 3)), rows(B, D), B * D * 3),
    "tensordot": (Function(lambda x, v: torch.tensordot(x, v, 1), (D, 3)), rows(B, D), B * D * 3),
    "multi_dot": (Function(lambda *m: torch.linalg.multi_dot(m), (D, 3), (3, 4)), rows(B, D), B * D * 3 + B * 3 * 4),
    "sparse": (Function(lambda x: torch.sparse.mm(torch.eye(D).to_sparse(), x)), rows(D, 3), D * 3),
    "distances": (Function(torch.cdist, (3, D)), rows(B, D), B * 3 * D),
    "conv_tbc": (
        Function(lambda x, v, b: torch.conv_tbc(x, v, b, 0), (3, D, 4), (4,)),
        rows(T, B, D),
        (T - 2) * B * 4 * 3 * D,
    ),
    "convolution": (nn.Conv2d(4, 8, 3, groups=2), rows(B, 4, 6, 6), B * 8 * 16 * 2 * 9),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3, stride=2), rows(1, 3, 5, 5), 3 * 4 * 9 * 25),
    "transposed convolution in groups": (nn.ConvTranspose1d(4, 4, 3, groups=2), rows(1, 4, 5), 4 * 2 * 3 * 5),
    "weighted bags": (
        Function(lambda i, w: F.embedding_bag(i, w, mode="sum", per_sample_weights=torch.ones(2, 3)), (10, 4)),
        (torch.ones(2, 3, dtype=torch.long),),
        2 * 3 * 4,
    ),
}
COUNTED = RECURRENT | ATTENTION | PRODUCTS


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", COUNTED)
def test_every_product_of_two_tensors_is_counted(name):
    network, inputs, by_hand = COUNTED[name]
    operations = count_macs(network.eval(), inputs)
    assert (operations.total, operations.missing) == (by_hand, ())


def test_attention_runs_as_before_after_it_was_counted():
    attention = self_attention()
    assert torch.backends.mha.get_fastpath_enabled()
    count_macs(attention, rows(B, T, D))
    assert torch.backends.mha.get_fastpath_enabled()


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu, self.attention, self.head = nn.ReLU(), nn.MultiheadAttention(D, 2, batch_first=True), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.head(self.attention(x, x, x)[0].mean(1))


def seen(network, *shape: int, outputs_of: str):
    model = QuantizedModel(network, predicates.by_name(outputs_of), predicates.weighted)
    model.calibrate([torch.rand(shape)])
    return model, observe(model)


def bops(model: QuantizedModel, **bits: int) -> float:
    named = {name.replace("_dot_", "."): width for name, width in bits.items()}
    candidate = np.array([[named.get(point.name, 0) for point in model.points]])
    return float(build_costs("bops", model)[0].cost(candidate)[0])


def test_bit_operations_of_attention_follow_the_bits_of_its_weights_and_tie_them_to_what_feeds_it():
    model, watched = seen(Attending(), 1, T, D, outputs_of="relu")
    projections, inner, head = T * 3 * D * D, 2 * T * T * D, T * D * D + D * 3
    assert bops(model) == (projections + inner + head) * 1024
    assert bops(model, relu=4, attention_dot_in_proj_weight=3) == projections * 12 + (inner + head) * 1024
    names = {model.points[weight].name: model.points[feed].name for weight, feed in watched.feeds.items()}
    assert names["attention.in_proj_weight"] == "relu"


def test_bit_operations_of_a_fused_transformer_layer_follow_its_bits():
    network = nn.Sequential(nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), nn.Linear(D, 3))
    model, _ = seen(network, 1, T, D, outputs_of="1")
    total = encoder_layer(1, T, D, 16) + T * D * 3
    assert bops(model) == total * 1024
    weight = "0.self_attn.in_proj_weight"
    assert bops(model, **{weight: 4, "input": 8}) == (total - T * 3 * D * D) * 1024 + T * 3 * D * D * 32


def test_weights_that_share_memory_keep_points_of_their_own():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
            memory = torch.randn(2, D, D)
            self.first.weight, self.second.weight = nn.Parameter(memory[0]), nn.Parameter(memory[1])

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model, _ = seen(Flat(), 1, D, outputs_of="second")
    assert bops(model, first_dot_weight=4) == D * D * (32 * 4 + 32 * 32)
    assert bops(model, second_dot_weight=4) == D * D * (32 * 4 + 32 * 32)


# What cannot be counted


class Solved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu, self.head = nn.ReLU(), nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        system = self.relu(x).unflatten(-1, (4, 4)) + 4 * torch.eye(4)
        return self.head(torch.linalg.solve(system, torch.ones(4, 2)).mean(1))


def problem(**options):
    model = QuantizedModel(Solved(), predicates.by_type(nn.ReLU), predicates.weighted)
    data = [(torch.rand(8, 16), torch.zeros(8, dtype=torch.long))]
    model.calibrate(data)
    return qx.LayerwiseQuantizationProblem(model, data, **options)


def test_what_could_not_be_counted_is_named_with_its_share():
    gap = "there is no formula for aten._linalg_solve_ex x 1: at least 8 of 12 MACs are missing (0.67 of all)"
    described = str(problem(costs=("total_bits", "bops")).describe())
    assert f"bops lacks something: {gap}" in described
    assert gap in str(problem(limits={"bops": 1e6}).describe())
    assert "lacks something" not in str(problem().describe())


def test_a_limit_that_what_could_not_be_counted_breaks_alone_is_refused():
    with pytest.raises(ProblemError, match=r"what could not be counted takes at least 8192 more, for there is no fo"):
        problem(limits={"bops": 8000})


@pytest.mark.parametrize("function", [torch.fft.fft, lambda x: torch.fft.rfft(x).real])
def test_operations_on_complex_numbers_are_missing_too(function):
    assert count_macs(Function(function), rows(B, D)).missing != ()


class LowRank(nn.Module):
    """An update of a weight, as a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(D, 2)), nn.Parameter(torch.randn(2, D))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def updated(linear: nn.Linear) -> nn.Linear:
    parametrize.register_parametrization(linear, "weight", LowRank())
    return linear


COMPUTED = {
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "orthogonal, householder": lambda linear: parametrizations.orthogonal(linear, orthogonal_map="householder"),
    "orthogonal, cayley": lambda linear: parametrizations.orthogonal(linear, orthogonal_map="cayley"),
    "orthogonal, matrix_exp": lambda linear: parametrizations.orthogonal(linear, orthogonal_map="matrix_exp"),
    "low rank": updated,
    "low rank in the forward": lambda linear: Function(
        lambda x, weight, up, down: F.linear(x, weight + up @ down), (D, D), (D, 2), (2, D)
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_what_a_weight_is_computed_by_is_no_product_of_a_sample(kind):
    network = nn.Sequential(COMPUTED[kind](nn.Linear(D, D)), nn.Linear(D, 2))
    counted = count_macs(network, torch.randn(B, D))
    assert counted.total == B * (D * D + 2 * D)
    assert not counted.gap
    model = QuantizedModel(network, None, predicates.by_name("1"), quantize_input=True)
    model.describe(torch.randn(B, D))
    assert count_macs(model).total == D * D + 2 * D
    off = np.zeros((1, len(model.points)), dtype=np.int64)
    assert build_costs("bops", model)[0].cost(off).tolist() == [(D * D + 2 * D) * 1024]


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("per_sample", [lambda q, x: q.expand(len(x), -1, -1), lambda q, x: q.repeat(len(x), 1, 1)])
def test_a_learned_query_is_multiplied_for_each_sample(rows, per_sample):
    attention = nn.MultiheadAttention(D, 2, batch_first=True)
    network = Function(lambda x, query: attention(per_sample(query, x), x, x, need_weights=False)[0], (1, 1, D))
    assert count_macs(network, torch.randn(rows, T, D)).total == rows * (D * D * (2 + 2 * T) + 2 * T * D)


def test_a_buffer_that_data_is_written_into_holds_data():
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys = nn.Parameter(torch.randn(D, D))
            self.register_buffer("held", torch.zeros(B, D))

        def forward(self, x: Tensor) -> Tensor:
            self.held.copy_(x)
            return self.held @ self.keys

    assert count_macs(Cache(), torch.randn(B, D)).total == B * D * D
