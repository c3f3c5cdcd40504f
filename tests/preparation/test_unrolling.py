"""Recurrent layers written out: equal outputs, and gates and states that are points."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # of torch's

KINDS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"num_layers": 2, "proj_size": 2, "bias": False}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"batch_first": True, "bias": False}),
    (nn.RNN, {"num_layers": 2, "dropout": 0.5}),
    (nn.RNN, {"nonlinearity": "relu", "bidirectional": True, "batch_first": True}),
]


def both(kind, options):
    torch.manual_seed(0)
    layer = kind(3, 4, **options).eval()
    return layer, qx.unroll_recurrent(layer)


def states_for(layer, batch):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or 4, 4] if isinstance(layer, nn.LSTM) else [4]
    states = [torch.randn(count, *([batch] if batch else []), size) for size in sizes]
    return tuple(states) if len(states) == 2 else states[0]


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("batch", [5, None])
@pytest.mark.parametrize("with_states", [False, True])
def test_written_out_layer_gives_the_same_outputs_and_states(kind, options, batch, with_states):
    layer, written = both(kind, options)
    x = torch.randn(5, 6, 3) if batch and layer.batch_first else torch.randn(6, *([batch] if batch else []), 3)
    arguments = (x, states_for(layer, batch)) if with_states else (x,)
    torch.testing.assert_close(written(*arguments), layer(*arguments), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences_are_taken_and_given(kind, options, is_sorted):
    layer, written = both(kind, options)
    lengths = torch.tensor([6, 4, 2] if is_sorted else [2, 6, 4])
    packed = pack_padded_sequence(torch.randn(6, 3, 3), lengths, enforce_sorted=is_sorted)
    states = states_for(layer, 3)
    (expected, last), (output, own_last) = layer(packed, states), written(packed, states)
    torch.testing.assert_close(pad_packed_sequence(output), pad_packed_sequence(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own_last, last, rtol=1e-5, atol=1e-6)


class Classifier(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.fc = kind(3, 4, batch_first=True), nn.Linear(4, 3)
        self.again = self.rnn

    def forward(self, x):
        return self.fc(self.again(x)[0][:, -1])


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 5), (nn.GRU, 3), (nn.RNN, 1)])
def test_gates_and_states_are_points_in_both_engines(kind, gates):
    network = Classifier(kind).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    written = qx.unroll_recurrent(network)
    assert written.again is written.rnn and set(network.state_dict()) == set(before)
    x = torch.randn(24, 5, 3)
    loader = [(x[i : i + 8], network(x[i : i + 8]).argmax(1)) for i in (0, 8, 16)]
    model = qx.QuantizedModel(
        written, activations=predicates.by_type(nn.Sigmoid, nn.Tanh, nn.Identity), weights=predicates.weighted
    )
    model.calibrate(loader)
    of_steps = [point for point in model.points if point.kind == "activation" and point.num_calls == 5]
    states = 2 if kind is nn.LSTM else 1
    assert len(of_steps) == gates + states
    assert {p.name: p.num_scales for p in model.points if p.name.endswith("l0.hidden.weight")}.popitem()[1] == len(
        written.rnn.cells["l0"].hidden.weight
    )
    results = []
    for engine in ("auto", "direct"):
        problem = qx.LayerwiseQuantizationProblem(model, loader, engine=engine)
        assert problem.float_accuracy == 1.0
        found = list(problem.measure([[4] * problem.space.num_points, [8] * problem.space.num_points]))
        results.append([(one.score, round(one.divergence, 5)) for one in found])
    assert results[0] == results[1]


@pytest.mark.parametrize("kind, sums_and_products", [(nn.LSTM, 10), (nn.GRU, 12), (nn.RNN, 2)])
def test_sums_and_products_of_a_step_are_points_of_all_steps_whatever_their_number(kind, sums_and_products):
    model = qx.QuantizedModel(qx.unroll_recurrent(Classifier(kind).eval()), scheme="onnxruntime")
    model.calibrate([torch.randn(2, 5, 3), torch.randn(2, 7, 3)], weight_method="max")
    of_steps = [point for point in model.points if point.name.startswith("rnn.cells.l0.") and point.kind == "function"]
    assert len(of_steps) == sums_and_products and {point.num_calls for point in of_steps} == {5}
    assert model(torch.randn(2, 9, 3)).shape == (2, 3)
    assert model.coverage().activation_macs.share == 1.0


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nn.Linear(2, 2), "without any"),
        (lambda: 3, "an nn.Module, got int"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.LSTM(2, 2), "weight_hh_l0"), "parametrized"),
        (lambda: type("Mine", (nn.GRU,), {})(2, 2), "got Mine"),
        (lambda: _hooked(), "without hooks"),
    ],
)
def test_what_cannot_be_written_out_is_refused(make, words):
    with pytest.raises(ModelError, match=words):
        qx.unroll_recurrent(make())


def _hooked():
    layer = nn.LSTM(2, 2)
    layer.register_forward_hook(lambda *_: None)
    return layer
