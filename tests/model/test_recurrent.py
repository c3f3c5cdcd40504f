"""Weights of recurrent layers in all that points go through: engines, costs, manifest, training, files."""

import copy
import pickle

import numpy as np
import pytest
import torch
from problems import prefix_evaluator
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs
from qexplore.errors import ExportError

# Of torch, on its way through another kernel.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

STEPS, IN, HIDDEN = 5, 4, 6


class Sequences(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(IN, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size") or HIDDEN * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


CASES = {
    "LSTM": (nn.LSTM, {}),
    "LSTM, deep": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "LSTM, projected": (nn.LSTM, {"proj_size": 3}),
    "GRU": (nn.GRU, {}),
    "RNN": (nn.RNN, {}),
    "RNN of ReLUs": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
}
UNROLLED = "LSTM, unrolled"


def sequences():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, STEPS, IN, generator=draw), torch.randint(0, 3, (12,), generator=draw)


def wrapped(network, is_unrolled=False):
    if is_unrolled:
        return qx.QuantizedModel(network, predicates.by_type(nn.Sigmoid, nn.Tanh), predicates.weighted)
    inputs = predicates.by_type(nn.RNNBase, nn.Linear)
    return qx.QuantizedModel(network, inputs=inputs, weights=predicates.weighted)


def calibrated(name):
    torch.manual_seed(0)
    kind, options = CASES.get(name, CASES["LSTM"])
    network = Sequences(kind, **options).eval()
    network = qx.unroll_recurrent(network) if name == UNROLLED else network
    other = wrapped(copy.deepcopy(network), name == UNROLLED)
    model = wrapped(network, name == UNROLLED)
    model.calibrate([sequences()[0]], weight_method="max")
    model.num_bits = [2 + index % 7 for index in range(len(model.points))]
    return model, other


@pytest.mark.parametrize("name", [*CASES, UNROLLED])
def test_engine_measures_what_the_direct_evaluator_does(name):
    model, _ = calibrated(name)
    rows = np.random.default_rng(0).integers(2, 9, size=(4, len(model.points)))
    rows[1, ::2] = 0
    found = [
        [(one.state, one.scores.tolist()) for one in make(model, [sequences()], qx.top1_accuracy).evaluate(rows)]
        for make in (prefix_evaluator, qx.DirectEvaluator)
    ]
    assert found[0] == found[1] and {state for state, _ in found[1]} == {"complete"}


@pytest.mark.parametrize("name", [*CASES, UNROLLED])
def test_manifest_brings_widths_and_ranges_of_every_matrix(name, tmp_path):
    model, other = calibrated(name)
    qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json")).apply(other)
    assert other.num_bits.tolist() == model.num_bits.tolist()
    assert torch.equal(other(sequences()[0]), model(sequences()[0]))


@pytest.mark.parametrize("name", [*CASES, UNROLLED])
def test_model_comes_back_from_pickle_with_its_widths(name):
    model, _ = calibrated(name)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(sequences()[0]), model(sequences()[0]))
    for each in (model, again):
        each.num_bits = [3] * len(model.points)
    assert torch.equal(again(sequences()[0]), model(sequences()[0]))


@pytest.mark.parametrize(("name", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_costs_equal_hand_counts(name, gates):
    model, _ = calibrated(name)
    bits = dict(zip(model.fake_quantizers, model.num_bits.tolist(), strict=True))
    read, step = IN * HIDDEN * gates, HIDDEN * HIDDEN * gates
    (bops,) = build_costs(("bops",), model)
    rnn = STEPS * (read * bits["rnn.input"] * bits["rnn.weight_ih_l0"] + step * 32 * bits["rnn.weight_hh_l0"])
    assert float(bops.cost(model.num_bits[None])[0]) == rnn + 3 * HIDDEN * bits["head.input"] * bits["head.weight"]
    sizes = {"rnn.weight_ih_l0": read, "rnn.weight_hh_l0": step, "head.weight": 3 * HIDDEN}
    assert {point.name: point.num_elements for point in model.points if point.kind == "weight"} == sizes


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", UNROLLED])
def test_training_reaches_every_matrix_through_its_quantizer(name):
    model, _ = calibrated(name)
    before = copy.deepcopy(model).detach()
    done = qx.fine_tune(
        model, None, [sequences()], nn.functional.cross_entropy, epochs=3, learning_rate=1e-2, learn_step_sizes=True
    )
    losses = [epoch.loss for epoch in done.epochs]
    assert losses[-1] < losses[0]
    trained = dict(model.detach().named_parameters())
    assert not any(torch.equal(one, trained[name]) for name, one in before.named_parameters() if one.dim() > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if "projected" not in name] + [UNROLLED])
def test_file_computes_what_the_model_does(name, tmp_path):
    pytest.importorskip("onnxruntime")
    model, _ = calibrated(name)
    report = qx.export_onnx(model, tmp_path / "m.onnx", data=[sequences()[0]])
    assert report.parity.num_different == 0 and not report.not_represented


def test_file_of_a_projection_in_a_layer_is_refused_before_it_is_written(tmp_path):
    pytest.importorskip("onnx")
    model, _ = calibrated("LSTM, projected")
    with pytest.raises(ExportError, match=r"ONNX has no LSTM with a projection, got 'rnn'.*unroll_recurrent"):
        qx.export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "says"), [("GRU", True), (UNROLLED, False)])
def test_plan_says_that_states_stay_float_in_a_kernel(name, says):
    model, _ = calibrated(name)
    said = "states and gates stay float in the kernels of 'rnn': qexplore.unroll_recurrent"
    assert (said in str(model.describe())) == says
