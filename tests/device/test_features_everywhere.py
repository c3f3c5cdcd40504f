"""Every feature gives on an accelerator what it gives on the CPU.

Each function of `FEATURES` takes a device, has a network there, and returns what came out: the same to the last bit on
both, but for what divides by numbers (`ROUGHLY`): optimizers, and the scales of packed weights.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import EACH, batches, digits, trained, wrapping
from problems import search_loader, tiny_model, tiny_network, tiny_problem, weighted_model
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.cost import COST_NAMES, build_costs

CPU = torch.device("cpu")
CALIBRATION = [digits().calibration.x[:60].clone()]
REPORT = batches(digits().report)
RELU = predicates.by_type(nn.ReLU)
MIXED = [(4, 3, 4, 8, 3, 403), (2, 3, 4, 5, 6, 7), (0, 403, 1201, 4, 1403, 302)]

Feature = Callable[..., Any]
FEATURES: dict[str, Feature] = {}


def feature(function: Feature) -> Feature:
    FEATURES[function.__name__] = function
    return function


def outputs(model: nn.Module, at: torch.device, *choices: Any) -> list[Tensor]:
    """What ``model`` gives, at each of ``choices`` where there are any."""
    found = []
    for choice in choices or [None]:
        if choice is not None:
            model.num_bits = choice
        with torch.no_grad():
            found.append(model(digits().report.x[:50].to(at)).cpu())
    return found


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in model.state_dict().items()}


def small(at: torch.device) -> nn.Module:
    return trained("small_cnn").to(at)


def tiny(at: torch.device) -> Any:
    return tiny_model(tiny_network().to(at))


def weighted(at: torch.device) -> Any:
    return weighted_model(tiny_network().to(at))


def scores(evaluator: Any, candidates: Any) -> list[float]:
    return [found.score for found in evaluator.evaluate(np.array(candidates))]


def calibrated(at: torch.device, *, method: str, **options: Any) -> Any:
    model = qx.QuantizedActivationsModel(tiny_network().to(at), RELU, **options)
    report = model.calibrate(CALIBRATION, method=method)
    found = outputs(model, at, *([code] * 3 for code in (2, 3, 8, 403)))
    return state(model), found, str(report), str(model.describe(CALIBRATION[0][:2]))


def by_the_problem(at: torch.device, *, metric: Any, **options: Any) -> Any:
    problem = tiny_problem(metric, model=tiny(at), **options)
    return [found.score for found in problem.measure(np.array([(2, 3, 4), (4, 4, 4)]))]


def stacked(at: torch.device, *, call: Any, data: Any, **options: Any) -> Any:
    network = tiny_network().requires_grad_(True).to(at)
    result = call(network, *data, report_loader=REPORT, metric=qx.top1_accuracy, **options)
    assert {parameter.device for parameter in network.parameters()} == {at}
    return result.report.accuracy_before, result.report.accuracy_after


def whole(model: nn.Module, loader: Any) -> float:
    at = next(model.parameters()).device
    right = sum(int((model(x.to(at)).argmax(1).cpu() == y).sum()) for x, y in loader)
    return right / 400


for method in ("max", "percentile", "mse", "entropy", "auto"):
    for kind in ({}, {"asymmetric": True}, {"unsigned": False}):
        if method != "auto" or not kind:
            FEATURES[f"calibrate by {method} {kind}"] = partial(calibrated, method=method, **kind)
for name, metric in {
    "top1": qx.top1_accuracy,
    "topk": qx.topk_accuracy(3),
    "nll": qx.negative_log_likelihood,
    "perplexity": qx.perplexity,
    "whole set": qx.whole_set(whole),
    "squared error": qx.Metric(
        lambda output, target: F.mse_loss(output, F.one_hot(target, 10).float(), reduction="none").mean(1),
        "error",
        False,
    ),
}.items():
    FEATURES[f"metric {name}"] = partial(by_the_problem, metric=metric)
for stack in ("fx", "eager"):
    FEATURES[f"{stack} dynamic"] = partial(stacked, call=qx.quantize_dynamic, data=[CALIBRATION[0][:4]], stack=stack)
    FEATURES[f"{stack} static"] = partial(
        stacked, call=qx.quantize_static, data=[batches(digits().calibration)], stack=stack
    )
    trains = [batches(digits().calibration), F.cross_entropy]
    FEATURES[f"{stack} qat"] = partial(stacked, call=qx.quantize_qat, data=trains, stack=stack)
for stack in ("pt2e", "onnxruntime"):
    FEATURES[f"{stack} static"] = partial(
        stacked, call=qx.quantize_static, data=[batches(digits().calibration)], stack=stack
    )
FEATURES["float8"] = partial(stacked, call=qx.quantize_float8, data=[batches(digits().calibration)])


@feature
def weights(at: torch.device, *, tmp_path: Path) -> Any:
    found = []
    for granularity in ("channel", "tensor", 8):
        model = qx.QuantizedModel(tiny_network().to(at), RELU, predicates.weighted, weight_granularity=granularity)
        model.calibrate(CALIBRATION, method="mse")
        found += outputs(model, at, *MIXED)
    return found, state(model)


@feature
def formats(at: torch.device, *, tmp_path: Path) -> Any:
    return outputs(tiny(at), at, *([code] * 3 for code in (403, 304, 502, 201, 203, 302, 1201, 1403, 1304, 0)))


@feature
def analysis_and_sensitivity(at: torch.device, *, tmp_path: Path) -> Any:
    model = tiny(at)
    return str(qx.analyze(model, search_loader(), num_bits=4)), str(qx.sensitivity(tiny_problem(model=model)))


@feature
def costs(at: torch.device, *, tmp_path: Path) -> Any:
    return [cost.cost(np.array(MIXED)) for cost in build_costs(tuple(COST_NAMES), weighted(at))]


@feature
def front_file(at: torch.device, *, tmp_path: Path) -> Any:
    problem = tiny_problem(model=tiny(at), upper=5, min_accuracy=0.5)
    qx.explore(problem, max_evaluations=20, seed=1).front.save(tmp_path / "front.json")
    point = qx.Front.load(tmp_path / "front.json").cheapest(min_accuracy=0.8)
    return point.num_bits, outputs(problem.model, at, point)


@feature
def fine_tuning(at: torch.device, *, tmp_path: Path) -> Any:
    return _fine_tuned(at, learn_step_sizes=False)


@feature
def learned_step_sizes(at: torch.device, *, tmp_path: Path) -> Any:
    return _fine_tuned(at, learn_step_sizes=True)


def _fine_tuned(at: torch.device, **options: Any) -> Any:
    model = weighted(at)
    model.model.requires_grad_(True)
    data: Any = {"report_loader": REPORT, "validation_loader": search_loader(), "metric": qx.top1_accuracy}
    result = qx.fine_tune(model, [4] * 6, batches(digits().calibration), F.cross_entropy, epochs=1, **data, **options)
    assert {parameter.device for parameter in model.parameters()} == {at}
    return state(model), [epoch.loss for epoch in result.epochs]


@feature
def refinement(at: torch.device, *, tmp_path: Path) -> Any:
    model = tiny(at)
    model.model.requires_grad_(True)
    front = qx.explore(tiny_problem(model=model, upper=4, min_accuracy=0.5), max_evaluations=15, seed=1).front
    data: Any = {"report_loader": REPORT, "count": 1, "metric": qx.top1_accuracy}
    return qx.refine(front, model, batches(digits().calibration), F.cross_entropy, epochs=1, **data).after.accuracy


@feature
def preparation(at: torch.device, *, tmp_path: Path) -> Any:
    network = small(at)
    said = [qx.graph_table(network, CALIBRATION[0][:4]), qx.optimize_graph(network, CALIBRATION[0][:4])]
    said += [qx.fold_batchnorm(network), qx.equalize(network, CALIBRATION[0][:8])]
    shared = trained("shared_relu").to(at)
    return (
        list(map(str, [*said, qx.give_own_modules(shared, CALIBRATION[0][:4])])),
        state(network),
        outputs(network, at),
    )


@feature
def corrections(at: torch.device, *, tmp_path: Path) -> Any:
    model = qx.QuantizedModel(small(at), RELU, predicates.weighted)
    model.calibrate(CALIBRATION)
    model.num_bits = [4] * len(model.points)
    said = [str(qx.correct_biases(model, CALIBRATION)), outputs(model, at)]
    qx.remove_bias_corrections(model)
    said += [str(qx.recalibrate_batchnorm(model, CALIBRATION))]
    return said, state(model), outputs(model, at), outputs(model.detach(), at)


@feature
def export(at: torch.device, *, tmp_path: Path) -> Any:
    model = weighted(at)
    model.num_bits = [8] * 6
    report = qx.export_onnx(model, tmp_path / "m.onnx", CALIBRATION[0][:2], data=REPORT)
    return str(report).replace(str(tmp_path), ""), str(qx.check_tensorrt(tmp_path / "m.onnx")).replace(
        str(tmp_path), ""
    )


@feature
def copies(at: torch.device, *, tmp_path: Path) -> Any:
    model = weighted(at)
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), qx.top1_accuracy, choices=range(2, 9))
    problems = (problem, copy.deepcopy(problem), pickle.loads(pickle.dumps(problem)))
    measured = [[found.score for found in one.measure(np.array([[4] * 6, [3, 3, 4, 5, 6, 7]]))] for one in problems]
    assert measured[0] == measured[1] == measured[2]
    return measured, outputs(copy.deepcopy(model), at, *MIXED), outputs(pickle.loads(pickle.dumps(model)), at, *MIXED)


@feature
def packing(at: torch.device, *, tmp_path: Path) -> Any:
    report = qx.pack_linear_weights(tiny_network().to(at), num_bits=4, calibration_loader=CALIBRATION)
    return outputs(report.network, at)


@feature
def comparison(at: torch.device, *, tmp_path: Path) -> Any:
    options: Any = {"stacks": ("fx",), "methods": ("static",)}
    found = qx.compare_workflows(tiny_network().to(at), CALIBRATION, REPORT, qx.top1_accuracy, **options)
    return found.accuracy_float, [row.accuracy for row in found.rows]


ALIKE = {
    "fx qat",
    "eager qat",
    "pt2e static",
    "onnxruntime static",
    "comparison",
    "export",
    "refinement",
    "learned_step_sizes",
}
"""What goes the way of another one and takes longer: tried with the slow tests."""
ROUGHLY = {"fine_tuning", "learned_step_sizes", "packing"}


def assert_alike(one: Any, other: Any, tolerance: float) -> None:
    if isinstance(one, dict):
        assert_alike(list(one.items()), list(other.items()), tolerance)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_alike(*pair, tolerance)
    elif isinstance(one, (Tensor, np.ndarray, float)) and tolerance:
        assert np.allclose(np.asarray(one), np.asarray(other), rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(one, (Tensor, np.ndarray)):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    else:
        assert one == other


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in FEATURES])
def test_it_gives_what_it_gives_on_the_cpu(accelerator: torch.device, tmp_path: Path, name: str) -> None:
    given = {} if isinstance(FEATURES[name], partial) else {"tmp_path": tmp_path}
    torch.manual_seed(0)
    expected = FEATURES[name](CPU, **given)
    torch.manual_seed(0)
    found = FEATURES[name](accelerator, **given)
    assert_alike(found, expected, 1e-5 if name in ROUGHLY else 0)


@pytest.mark.parametrize("name", EACH)
def test_the_engine_engages_there_and_equals_the_direct_evaluator(accelerator: torch.device, name: str) -> None:
    said = []
    for at in (CPU, accelerator):
        model = qx.QuantizedActivationsModel(trained(name).to(at), **wrapping(name))
        model.calibrate(CALIBRATION)
        problem = qx.LayerwiseQuantizationProblem(
            model, batches(digits().report), qx.top1_accuracy, num_bits_lower_limit=4, num_bits_upper_limit=8
        )
        candidates = np.random.default_rng(0).integers(4, 9, size=(2, len(model.points)))
        direct = scores(qx.DirectEvaluator(model, batches(digits().report), qx.top1_accuracy), candidates)
        assert [found.score for found in problem.measure(candidates)] == direct
        said.append((str(problem.describe()).split("engine: ")[1].split(":")[0], direct))
    assert said[0] == said[1]
    assert said[0][0] == "prefix"


def test_a_manifest_goes_to_the_device_and_comes_from_it(accelerator: torch.device, tmp_path: Path) -> None:
    for source, target in ((accelerator, CPU), (CPU, accelerator)):
        model, other = weighted(source), qx.QuantizedModel(tiny_network().to(target), RELU, predicates.weighted)
        model.num_bits = [4] * 6
        qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json")).apply(other)
        assert_alike(outputs(other, target), outputs(model, source), 0)
