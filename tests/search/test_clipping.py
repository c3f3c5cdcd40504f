import math

import numpy as np
import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore import predicates


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def batches(scale, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.rand(25, 4, generator=generator) * scale + shift for _ in range(4)]
    return [(x, torch.arange(25) % 3) for x in inputs]


def values_of(data):
    return np.concatenate([x.numpy().ravel() for x, _ in data])


@qx.whole_set
def whole(model, loader):
    return sum(float((model(x).argmax(1) == y).float().mean()) for x, y in loader) / len(loader)


def calibrated(data, predicate=None, **options):
    model = qx.QuantizedActivationsModel(network(), predicate or predicates.by_type(nn.ReLU))
    model.calibrate(data, **options)
    return model


def lines_of(text):
    return [line for line in str(text).splitlines() if line.startswith(("clipped", "negative"))]


@pytest.mark.parametrize("engine", ["direct", "auto"])
@pytest.mark.parametrize("metric", [qx.top1_accuracy, whole])
@pytest.mark.parametrize("present", [0, 2, 8])
def test_values_of_the_search_set_beyond_a_range_are_counted_and_told(engine, metric, present):
    calibration, search = batches(1.0), batches(3.0, seed=1)
    model = calibrated(calibration)
    model.num_bits = [present] * 2
    problem = qx.LayerwiseQuantizationProblem(model, search, metric, engine=engine, num_bits_upper_limit=3)
    told = {one.name: one for one in problem.clipping}
    values, largest = values_of(search), values_of(calibration).max()
    assert told["input"].num_values == values.size
    assert told["input"].num_clipped == (values > largest).sum()
    assert (told["input"].num_negative, told["input"].in_calibration) == (0, 0.0)
    share = f"input {100 * told['input'].clipped:.3g} % (0 % in calibration)"
    assert [share in line and "calibrate on data that is like it" in line for line in lines_of(problem.describe())] == [
        True
    ]
    assert list(model.num_bits) == [present] * 2
    exploration = qx.explore(problem, max_evaluations=2, seed=1, algorithm="random")
    assert exploration.clipping == problem.clipping
    assert lines_of(exploration) == lines_of(problem.describe())


def test_negative_values_at_a_point_without_a_sign_are_counted_and_told():
    calibration, search = batches(1.0), batches(1.0, shift=-0.5, seed=1)
    with pytest.warns(RuntimeWarning, match="never negative"):
        problem = qx.LayerwiseQuantizationProblem(calibrated(calibration), search, engine="direct", min_accuracy=0.0)
        list(problem.measure(problem.space.widest))
    found = {one.name: one for one in problem.clipping}["input"]
    assert (found.num_negative, found.num_clipped) == ((values_of(search) < 0).sum(), 0)
    (line,) = (line for line in lines_of(problem.describe()) if line.startswith("negative"))
    assert f"input {100 * found.negative:.3g} % of the values" in line
    assert "unsigned=False" in line


@pytest.mark.parametrize("method", ["max", "mse", "percentile", "entropy"])
def test_nothing_is_asked_for_where_the_search_set_is_like_the_calibration_set(method):
    data = batches(1.0)
    options = {"percentile": 90.0} if method == "percentile" else {}
    problem = qx.LayerwiseQuantizationProblem(calibrated(data, method=method, **options), data)
    assert "calibrate on" not in str(problem.describe())
    assert "negative" not in str(problem.describe())
    if method == "percentile":
        for one in problem.clipping:
            assert one.in_calibration == pytest.approx(one.clipped, abs=2e-3)
        amax = float(problem.model.fake_quantizers["input"].amax)
        found = {one.name: one for one in problem.clipping}["input"]
        assert found.clipped == np.mean(values_of(data) > amax)
    if method == "max":
        assert problem.clipping == ()


def test_the_share_of_values_beyond_a_range_of_two_ends_is_numpys():
    generator = torch.Generator().manual_seed(0)
    calibration = [(torch.randn(200, 4, generator=generator) + 0.8,) for _ in range(3)]
    search = [(2 * x, torch.zeros(200, dtype=torch.long)) for (x,) in calibration]
    model = qx.QuantizedActivationsModel(network(), predicates.by_type(nn.ReLU), asymmetric=True)
    model.calibrate(calibration, method="percentile", percentile=98.0)
    found = {one.name: one for one in qx.LayerwiseQuantizationProblem(model, search).clipping}["input"]
    low, high = (float(end) for end in model.fake_quantizers["input"].range)
    values, seen = values_of(search), np.concatenate([x.numpy().ravel() for (x,) in calibration])
    assert found.num_clipped == ((values < np.float32(low)) | (values > np.float32(high))).sum()
    assert found.in_calibration == pytest.approx(np.mean((seen < low) | (seen > high)), abs=2e-3)


def test_a_new_calibration_counts_anew_and_a_range_by_hand_knows_no_calibration():
    search = batches(3.0, seed=1)
    model = calibrated(batches(1.0))
    problem = qx.LayerwiseQuantizationProblem(model, search)
    assert problem.clipping
    model.calibrate(search, method="max")
    assert (problem.clipping, lines_of(problem.describe())) == ((), [])
    model.activation_fake_quantizers["input"].amax = 1.0
    (one,) = problem.clipping
    assert (one.name, one.num_clipped) == ("input", (values_of(search) > 1).sum())
    assert math.isnan(one.in_calibration)
    assert "in calibration" not in str(problem.describe())


def test_only_points_that_are_quantized_with_a_range_are_told():
    search = batches(3.0, seed=1)
    model = calibrated(batches(1.0))
    pinned = qx.LayerwiseQuantizationProblem(model, search, pinned={"input": "off"})
    assert [one.name for one in pinned.clipping] == ["1"]
    model.activation_fake_quantizers["input"].disable()
    assert [one.name for one in qx.LayerwiseQuantizationProblem(model, search).clipping] == ["1"]
    weights = qx.QuantizedModel(network(), weights=predicates.weighted, quantize_input=False)
    weights.calibrate(batches(1.0))
    assert qx.LayerwiseQuantizationProblem(weights, search).clipping == ()
