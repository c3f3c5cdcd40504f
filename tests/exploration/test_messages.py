"""What a user of a search is told when something is not as it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import raising, search_loader, tiny_model, tiny_network, tiny_problem
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import FrontError, MetricError, ProblemError, ReportError, WorkflowError
from qexplore.export import exporting
from qexplore.pipeline import Options


def explored(problem, **options):
    return qx.explore(problem, **{"max_evaluations": 8, "seed": 1, "progress": False, **options})


def hits(output, target):
    return (output.argmax(1) == target).float()


def test_the_direct_evaluator_takes_a_plain_function_and_refuses_what_is_none():
    evaluators = [qx.DirectEvaluator(tiny_model(), search_loader(), one) for one in (hits, qx.top1_accuracy)]
    assert evaluators[0].float_evaluation.score == evaluators[1].float_evaluation.score


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("accuracy", "a metric must be .* got 'accuracy': qexplore.top1_accuracy, topk"),
        (qx.topk_accuracy, r"a metric must be .* got topk_accuracy\(k.*call it, as in qexplore.topk_accuracy\(5\)"),
        (nn.functional.cross_entropy, r'one score per sample.*of shape \(\)\. Losses .* with reduction="none"'),
    ],
)
def test_what_is_no_metric_is_refused_with_the_one_that_is(metric, sentence):
    with pytest.raises(MetricError, match=sentence):
        qx.DirectEvaluator(tiny_model(), search_loader(), metric)
    with pytest.raises(TypeError, match=r"Metric\(\) got .* 'higher_is_beter', did you mean 'higher_is_better'"):
        qx.Metric(hits, higher_is_beter=False)


def test_what_a_search_spent_and_did_not_measure_is_said():
    text = str(explored(tiny_problem(), max_evaluations=2))
    assert "2 candidates for 2 full evaluations in" in text
    assert "left out: uniform candidates at 2 bit, which a larger budget has" in text


@pytest.mark.parametrize("as_initial", [lambda e: e, lambda e: e.front, lambda e: list(e.front), lambda e: e.front[0]])
def test_a_search_begins_with_a_front_or_points_of_an_earlier_one(as_initial):
    first = explored(tiny_problem(upper=8), max_evaluations=14)
    given = as_initial(first)
    problem = tiny_problem(upper=8)
    explored(problem, max_evaluations=14, initial=given)
    rows = np.atleast_2d(getattr(getattr(given, "front", given), "num_bits", [p.num_bits for p in first.front]))
    assert set(map(tuple, rows.tolist())) <= {one.candidate for one in problem.evaluations}


@pytest.mark.parametrize(
    ("initial", "sentence"),
    [
        (qx.Front(num_bits=[[3]] * 9, accuracy=[0.5] * 9, costs=[[3]] * 9, point_names=("a",)), "one of a: wrap"),
        ({"input": 3}, "got {'input': 3}: a front or points of the same network"),
        (list(range(500)), r"got \[0, 1, 2, 3, 4, 5, \.\.\.\]"),
    ],
)
def test_what_is_no_start_is_refused_in_a_short_sentence(initial, sentence):
    with pytest.raises(ProblemError, match=sentence) as raised:
        explored(tiny_problem(), initial=initial)
    assert len(str(raised.value)) < 250


def calls():
    model, x = tiny_model(), search_loader()[0][0]
    problem, front = tiny_problem(), explored(tiny_problem()).front
    return {
        "max_evaluations": lambda **wrong: explored(problem, **wrong),
        "min_accuracy": lambda **wrong: tiny_problem(**wrong),
        "opset": lambda **wrong: exporting.export_onnx(model, "x.onnx", x, **wrong),
        "limits": lambda **wrong: front.most_accurate(**wrong),
        "cost": lambda **wrong: front.bits_saved(**wrong),
        "max_drop": lambda **wrong: qx.fit(model, search_loader(), **wrong),
        "choices": lambda **wrong: qx.fit(model, search_loader(), max_drop=0.1, **wrong),
    }


@pytest.mark.parametrize("meant", ["max_evaluations", "min_accuracy", "opset", "limits", "cost", "max_drop", "choices"])
def test_a_misspelt_keyword_is_refused_with_the_nearest_one(meant):
    with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{meant}x', did you mean '{meant}'"):
        calls()[meant](**{f"{meant}x": 3})


def test_a_minimum_that_is_no_number_is_refused_with_the_way_to_further_metrics():
    front = explored(tiny_problem()).front
    for wrong in ("0.9", float("nan"), True):
        with pytest.raises(FrontError, match="Front.cheapest: min_accuracy must be a finite number or None"):
            front.cheapest(min_accuracy=wrong)
    with pytest.raises(FrontError, match=r"got \[0.9, 0.4\]. It is of the first metric; .* front.further_scores"):
        front.cheapest(min_accuracy=[0.9, 0.4])
    with pytest.raises(FrontError, match="other must be a Front, such as `exploration.uniform`, got 'total_bits'"):
        front.bits_saved("total_bits")


def test_an_empty_front_names_what_failed_and_what_was_missed():
    model = tiny_model()
    problem = tiny_problem(model=model, engine="direct", min_accuracy=0.93, upper=8)
    list(problem.measure([[2, 2, 2], [3, 2, 2]]))
    broken = raising(RuntimeError("broken"))
    model.model.fc2.register_forward_pre_hook(lambda *_: broken(None) if model.num_bits.min() > 2 else None)
    model.model.fc1.weight.mul_(1.0)  # what was measured before is forgotten
    front = explored(problem, max_evaluations=20, initial=[[2, 2, 3]]).front
    assert not len(front)
    said = str(front)
    assert "failed, the first with: RuntimeError: broken" in said and "missed min_accuracy" in said
    assert "Look at what failed" in said
    for refused in (lambda: front.cheapest(), lambda: qx.plot_pareto_front(front)):
        with pytest.raises(FrontError, match="failed, the first with: RuntimeError: broken"):
            refused()


def test_files_in_a_folder_that_is_not_there_are_refused_by_one_sentence(tmp_path):
    front, path = explored(tiny_problem()).front, tmp_path / "no" / "folder"
    result = qx.quantize_dynamic(tiny_network(), search_loader()[0][0])
    for write, error in (
        (lambda: front.save(path / "front.json"), FileNotFoundError),
        (lambda: front.to_csv(path / "front.csv"), FrontError),
        (lambda: qx.plot_pareto_front(front, path=path / "front.png"), ReportError),
        (lambda: result.save(path / "network.pt"), WorkflowError),
    ):
        with pytest.raises(error, match="cannot be written: its folder .* is not there and cannot be made"):
            write()
    result.save(tmp_path / "made" / "network.pt")
    assert (tmp_path / "made" / "network.pt").exists()


def test_a_loss_that_is_no_function_or_lacks_its_target_is_told_so():
    model = qx.QuantizedModel(tiny_network().requires_grad_(), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([search_loader()[0][0]])
    loader, images = search_loader(), [search_loader()[0][0]]
    trains = [
        lambda data, loss: qx.fine_tune(model, None, data, loss, epochs=1, progress=False),
        lambda data, loss: qx.quantize_qat(tiny_network().requires_grad_(), data, loss, epochs=1, progress=False),
    ]
    for train in trains:
        with pytest.raises(WorkflowError, match="`loss` must be a function .* such as .*cross_entropy, got 'ce'"):
            train(loader, "ce")
        with pytest.raises(WorkflowError, match="hold no target, and the loss cannot do without .* or unpack="):
            train(images, nn.functional.cross_entropy)


def test_a_seed_below_zero_is_refused_by_its_name():
    with pytest.raises(WorkflowError, match=r"seed must be an int in \[0, 4294967295\], got -1"):
        Options(seed=-1)


def test_words_in_a_target_file_are_words(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.no, self.on, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(self.on(self.no(x.flatten(1))))

    model = qx.QuantizedActivationsModel(Net(), predicates.by_type(nn.ReLU))
    model.calibrate([search_loader()[0][0]])
    path = tmp_path / "device.yaml"
    path.write_text("symmetric_only: no\nactivations: [8, off]\nrules:\n- {names: [no, on], choices: [4, off]}\n")
    plan = qx.plan_choices(model, choices=(4, 8, "off"), target=path)
    assert [list(one) for one in plan.choices] == [[8, 0], [4, 0], [4, 0]]


def test_only_what_onnxruntime_runs_is_offered_as_an_opset(tmp_path):
    model, x = tiny_model(), torch.zeros(2, 1, 8, 8)
    with pytest.raises(qx.errors.ExportError, match="`opset` must be an int in .* onnxruntime runs") as raised:
        qx.export_onnx(model, tmp_path / "model.onnx", x, opset=99)
    highest = int(str(raised.value).split(", ")[1].split("]")[0])
    report = qx.export_onnx(model, tmp_path / "model.onnx", x, opset=highest, data=search_loader())
    assert report.opset == highest
