"""Which of several outputs is judged, and outputs that are probabilities already."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import MetricError, WorkflowError
from qexplore.metrics import Output, kl_divergence, logits_of


class TwoHeads(nn.Module):
    """Two heads on one body; ``kind`` makes a container of what they give."""

    def __init__(self, kind=lambda a, b: (a, b)):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.relu, self.a, self.b = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(8, 4)
        self.kind = kind

    def forward(self, x):
        h = self.relu(self.body(x))
        return self.kind(self.a(h), self.b(h))


X = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))


def in_a_dict(a, b):
    return {"face": a, "landmarks": {"points": b}}


def data_of(network):
    labels = torch.randint(3, (48,), generator=torch.Generator().manual_seed(2))
    return [(X[i : i + 16], labels[i : i + 16]) for i in (0, 16, 32)]


def wrapped(network, **options):
    model = qx.QuantizedModel(
        network.eval(), activations=predicates.by_type(nn.ReLU), weights=predicates.weighted, **options
    )
    model.calibrate(data_of(network))
    return model


def second(outputs):
    return outputs[1]


@pytest.mark.parametrize(
    "kind, output",
    [
        (lambda a, b: (a, b), 1),
        (lambda a, b: [a, b], -1),
        (in_a_dict, "landmarks.points"),
        (lambda a, b: (a, b), second),
        (lambda a, b: {"face": a, "b": b}, 1),
        (lambda a, b: b, None),
        (lambda a, b: (b, 3, a.argmax(1)), None),
        (lambda a, b: {"out": b}, None),
        (lambda a, b: {"boxes": a, "logits": b}, None),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_chosen_output_is_judged_as_that_of_a_network_which_gives_nothing_else(kind, output, engine):
    results = []
    for kind_of, chosen in ((kind, output), (lambda a, b: b, None)):
        model = wrapped(TwoHeads(kind_of))
        problem = qx.LayerwiseQuantizationProblem(model, data_of(model), output=chosen, engine=engine)
        candidates = [[3, 3, 3, 8, 3], [2, 8, 8, 2, 8]]
        found = list(problem.measure(candidates))
        table = qx.sensitivity(problem, "kl")
        values = dict(zip(table.point_names, table.values, strict=True))
        told = [number for one in found for number in (one.score, one.divergence)]
        rows = [value for name in ("relu", "body.weight", "b.weight") for value in values[name]]
        results.append([problem.float_accuracy, *told, *rows])
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-7)


def test_sensitivity_to_the_other_head_is_found_when_it_is_asked_for():
    problem = qx.LayerwiseQuantizationProblem(wrapped(TwoHeads()), data_of(None), output=0)
    by_head = []
    for output in (None, 1):
        table = qx.sensitivity(problem, "kl", output=output)
        worst = {name: max(row) for name, row in zip(table.point_names, table.values, strict=True)}
        by_head.append((worst["a.weight"] > 1e-4, worst["b.weight"] > 1e-4))
    assert by_head == [(True, False), (False, True)]


@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_several_floating_outputs_and_none_chosen_are_refused_with_names_and_shapes(engine):
    model = wrapped(TwoHeads(in_a_dict))
    with pytest.raises(MetricError, match=r"'face' of shape \(16, 3\), 'landmarks.points' of shape \(16, 4\)"):
        qx.LayerwiseQuantizationProblem(model, data_of(None), engine=engine)


@pytest.mark.parametrize(
    "output, words",
    [
        (2, r"0 of shape \(16, 3\), 1 of shape \(16, 4\), got 2"),
        ("face", "got 'face'"),
        ("1.0", "got '1.0'"),
        (True, "must be the place of an output, its name, or a function"),
        (lambda outputs: outputs["face"], "raised TypeError"),
    ],
)
def test_output_that_is_not_there_is_refused(output, words):
    with pytest.raises(MetricError, match=words):
        qx.LayerwiseQuantizationProblem(wrapped(TwoHeads()), data_of(None), output=output)


def test_each_metric_may_have_its_own_output_and_a_whole_set_metric_has_none():
    model, data = wrapped(TwoHeads()), data_of(None)
    by_b = qx.Metric(qx.top1_accuracy.function, "b", range=(0, 1), output=1)
    problem = qx.LayerwiseQuantizationProblem(
        model, data, [qx.top1_accuracy, by_b], min_accuracy=[None, 0.0], max_drop=None, output=0
    )
    assert [str(one.output) for one in (problem.metric, *problem.further.metrics)] == ["0", "1"]
    assert "accuracy of output 0 (higher is better) against" in str(problem.describe())
    with pytest.raises(MetricError, match="runs the network itself"):
        qx.LayerwiseQuantizationProblem(model, data, qx.whole_set(lambda m, loader: 1.0), output=0)


def test_metric_over_labels_chooses_its_output_once():
    tokens = qx.Metric(qx.token_accuracy.function, ignored=-100, output=1)
    logits, target = torch.randn(2, 4, 3), torch.randint(3, (2, 4))
    scores = qx.over_labels(tokens)((None, logits), target)
    assert scores.tolist() == qx.over_labels(qx.token_accuracy)(logits, target).tolist()


def test_output_that_is_a_nameless_function_is_refused_by_pickle_alone():
    assert pickle.loads(pickle.dumps(Output(second))) == Output(second)
    with pytest.raises(MetricError, match="cannot be pickled"):
        pickle.dumps(Output(lambda outputs: outputs[0]))


def test_fine_tuning_trains_the_chosen_output_alone():
    model = wrapped(TwoHeads())
    before = copy.deepcopy(model.model.state_dict())
    with pytest.raises(WorkflowError, match=r"0 of shape \(16, 3\), 1 of shape \(16, 4\)"):
        qx.fine_tune(model, [4] * 5, data_of(None), F.cross_entropy, epochs=1)
    tuned = qx.fine_tune(
        model, [4] * 5, data_of(None), F.cross_entropy, epochs=1, output=1, report_loader=data_of(None)
    )
    changed = {name for name, value in model.model.state_dict().items() if not torch.equal(value, before[name])}
    assert tuned.accuracy_after is not None
    assert {name.split(".")[0] for name in changed} == {"body", "b"}


def test_export_compares_predictions_of_the_chosen_output(tmp_path):
    pytest.importorskip("onnxruntime")
    model = wrapped(TwoHeads(in_a_dict))
    with pytest.raises(MetricError, match="got 'none'"):
        qx.export_onnx(model, tmp_path / "m.onnx", data=data_of(None), output="none")
    report = qx.export_onnx(model, tmp_path / "m.onnx", data=data_of(None), output="landmarks.points")
    with torch.no_grad():
        largest = max(float(model(x)["landmarks"]["points"].abs().max()) for x, _ in data_of(None))
    assert report.parity.num_different == 0 and report.parity.largest_output == pytest.approx(largest)
    with pytest.raises(MetricError, match="'face' of shape"):
        qx.export_onnx(model, tmp_path / "m.onnx", data=data_of(None))


@pytest.mark.parametrize("shape, axis", [((8, 5), 1), ((4, 3, 5), -1), ((2, 5, 3, 3), 1)])
def test_kl_divergence_of_probabilities_is_that_of_their_logits(shape, axis):
    torch.manual_seed(0)
    reference = torch.randn(shape)
    output = reference + 0.1 * torch.randn(shape)
    of_logits = kl_divergence(output, reference)
    assert torch.allclose(kl_divergence(output.softmax(axis), reference.softmax(axis)), of_logits, rtol=1e-3, atol=1e-6)
    halves = output.softmax(axis).half(), reference.softmax(axis).half()
    assert torch.allclose(kl_divergence(*halves), of_logits, rtol=0.1, atol=1e-4)
    assert kl_divergence(reference.softmax(axis), reference.softmax(axis)).abs().max() < 1e-6


def test_probabilities_that_quantization_made_nothing_are_a_finite_distance_away():
    reference = torch.tensor([[0.5, 0.49, 0.01]] * 4)
    rounded = torch.tensor([[0.5, 0.5, 0.0]] * 4)
    assert 0.01 < float(kl_divergence(rounded, reference).max()) < 0.2


@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_a_softmax_at_the_end_changes_no_divergence_and_is_said(engine):
    told = []
    for end in (nn.Softmax(-1), nn.Identity()):
        torch.manual_seed(0)
        model = wrapped(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), end))
        problem = qx.LayerwiseQuantizationProblem(model, data_of(None), engine=engine)
        table = qx.sensitivity(problem)
        found = next(iter(problem.measure([[4] * problem.space.num_points])))
        told.append([found.divergence, *table.values[0]])
        is_said = "probabilities" in table.metric_name and "probabilities" in problem.describe().divergence
        assert is_said == isinstance(end, nn.Softmax)
    assert told[0] == pytest.approx(told[1], rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("metric", [qx.perplexity, qx.negative_log_likelihood])
def test_likelihood_of_probabilities_is_refused_and_taken_of_their_logarithm(metric):
    logits, target = torch.randn(8, 3), torch.randint(3, (8,))
    with pytest.raises(MetricError, match="are probabilities"):
        metric(logits.softmax(1), target)
    by_logarithm = qx.Metric(metric.function, "nll", output=torch.log, ignored=-100)
    assert torch.allclose(by_logarithm(logits.softmax(1), target), metric(logits, target), atol=1e-5)


def test_logits_are_the_one_floating_tensor_with_an_axis():
    logits = torch.randn(2, 3)
    assert logits_of((torch.tensor(0.5), torch.arange(2), logits)) is logits
    with pytest.raises(MetricError, match="hold one, got NoneType"):
        logits_of(None)
