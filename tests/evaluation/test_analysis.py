"""Layer analysis, against a loop by hand with pytorch-quantization's own arithmetic."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import batches, digits, trained, wrapping
from problems import random_state, search_loader, state_of, tiny_model, tiny_network
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, EvaluationError, ModelError, NumBitsError


def decibels(signal, error):
    return math.inf if error == 0 else 10 * math.log10(signal / error)


def seen_by_hand(model, loader, widths):
    """Tensors at each point: in the float network, each quantized alone, and in the quantized network."""
    names = list(model.activation_fake_quantizers)
    floats, alone, together = ({name: [] for name in names} for _ in range(3))

    def run(collected, candidate):
        copied = copy.deepcopy(model)
        copied.num_bits = candidate
        modules = dict(copied.model.named_modules())
        handles = [
            modules[name].register_forward_hook(lambda m, i, output, n=name: collected[n].append(output.clone()))
            for name in names
            if name != "input"
        ]
        outputs = []
        with torch.no_grad():
            for x, _ in loader:
                quantizer = copied.activation_fake_quantizers["input"]
                collected["input"].append(quantizer(x) if candidate[0] else x)
                outputs.append(copied(x.clone()))
        for handle in handles:
            handle.remove()
        return torch.cat(outputs)

    outputs = run(floats, [0] * len(names)), run(together, widths)
    for name, width in zip(names, widths, strict=True):
        quantizer = copy.deepcopy(model.activation_fake_quantizers[name])
        if width:
            quantizer.num_bits = width
        alone[name] = [quantizer(x) if width else x for x in floats[name]]
    return floats, alone, together, outputs


def ratio(reference, others):
    pairs = [(a.double(), b.double()) for a, b in zip(reference, others, strict=True)]
    return decibels(sum(float((a**2).sum()) for a, _ in pairs), sum(float(((a - b) ** 2).sum()) for a, b in pairs))


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "mobilenet", "shared_relu"])
def test_every_point_is_what_a_loop_by_hand_sees(name):
    model = qx.QuantizedActivationsModel(trained(name), **wrapping(name))
    model.calibrate(batches(digits().calibration))
    loader = batches(digits().search, 150)
    widths = [3 + index % 5 for index in range(len(model.points))]
    analysis = qx.analyze(model, loader, widths)
    floats, alone, together, outputs = seen_by_hand(model, loader, widths)
    assert [point.name for point in analysis.points] == list(model.activation_fake_quantizers)
    assert analysis.num_batches == len(loader)
    for point, width in zip(analysis.points, widths, strict=True):
        values = torch.cat([x.flatten() for x in floats[point.name]])
        quantizer = model.activation_fake_quantizers[point.name]
        bound = 2 ** (width - 1 + quantizer.unsigned) - 1
        scale = bound / float(quantizer.amax)
        lowest = 0 if quantizer.unsigned else -(bound + 1) / scale
        assert point.num_bits == width
        assert point.sqnr == pytest.approx(ratio(floats[point.name], alone[point.name]), abs=1e-3)
        assert point.sqnr_accumulated == pytest.approx(ratio(floats[point.name], together[point.name]), abs=1e-3)
        outside = ((values < lowest - 1e-6) | (values > bound / scale + 1e-6)).float().mean()
        assert point.clipped == pytest.approx(float(outside), abs=1e-6)
        assert point.range_used == pytest.approx(float(values.abs().max()) / float(quantizer.amax), rel=1e-5)
        assert (point.lowest, point.highest) == pytest.approx((float(values.min()), float(values.max())))
    assert analysis.output_sqnr == pytest.approx(ratio([outputs[0]], [outputs[1]]), abs=1e-3)


def test_errors_build_up_and_more_bits_are_better():
    model = tiny_model()
    few, many = qx.analyze(model, search_loader(), 3), qx.analyze(model, search_loader(), 8)
    for low, high in zip(few.points, many.points, strict=True):
        assert high.sqnr > low.sqnr + 20
        assert low.sqnr_accumulated <= low.sqnr + 0.5
    assert many.output_sqnr > few.output_sqnr + 20


def test_a_quantizer_that_is_off_does_nothing_and_present_widths_are_the_default():
    model = tiny_model()
    model.num_bits = [4, 0, 5]
    analysis = qx.analyze(model, search_loader())
    assert [point.num_bits for point in analysis.points] == [4, 0, 5]
    assert analysis.points[1].sqnr == math.inf
    assert analysis.points[1].clipped == 0
    assert math.isfinite(analysis.points[1].sqnr_accumulated)
    assert qx.analyze(model, search_loader(), 0).output_sqnr == math.inf


def test_a_point_without_signal_has_no_ratio():
    model = tiny_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()))
    with torch.no_grad():
        model.model[1].weight.zero_()
        model.model[1].bias.fill_(-1.0)
    model.calibrate([digits().calibration.x.clone()])
    point = qx.analyze(model, search_loader(), 4).points[1]
    assert math.isnan(point.sqnr)
    assert math.isnan(point.range_used)
    assert "-" in str(qx.analyze(model, search_loader(), 4))


def test_the_worst_points_come_first_and_the_table_is_text_and_csv(tmp_path):
    analysis = qx.analyze(tiny_model(), search_loader(), [8, 2, 4])
    assert [point.name for point in analysis.worst(2)] == ["relu1", "relu2"]
    assert len(analysis.worst()) == 3
    assert analysis.worst(0) == ()
    assert "relu1" in str(analysis)
    text = analysis.to_csv(tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_text() == text
    assert text.splitlines()[0].startswith("name,num_bits,unsigned,amax")
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(fails):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if fails and self.calls > 3:
                raise ArithmeticError("broken")
            return self.inner(x)

    model = tiny_model(Failing()).train()
    model.num_bits = [5, 0, 7]
    before, drawn = state_of(model), random_state()
    if fails:
        with pytest.raises(ArithmeticError):
            qx.analyze(model, search_loader(100), 4)
    else:
        qx.analyze(model, search_loader(100), 4)
    assert state_of(model) == before
    assert random_state() == drawn


def test_bad_input_is_refused_by_name():
    model = tiny_model()
    with pytest.raises(DataError, match="at least one batch"):
        qx.analyze(model, [])
    with pytest.raises(NumBitsError):
        qx.analyze(model, search_loader(), [4, 4])
    with pytest.raises(DataError):
        qx.analyze(model, search_loader(), num_batches=0)
    with pytest.raises(EvaluationError, match="point 'input' must see finite values"):
        qx.analyze(model, [torch.full((2, 1, 8, 8), math.nan)])
    with pytest.raises(ModelError, match="wrap it"):
        qx.analyze(tiny_network(), search_loader())
    raw = qx.QuantizedActivationsModel(tiny_network(), predicates.by_type(nn.ReLU))
    with pytest.raises(CalibrationError, match="calibrate"):
        qx.analyze(raw, search_loader())


def test_a_network_whose_way_depends_on_its_values_is_named():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = x.flatten(1)
            return self.inner(x) if bool((x == x.round()).all()) else self.inner(self.relu(x))

    model = tiny_model(Branching())
    with pytest.raises(EvaluationError, match="must see the same tensors, call by call"):
        # One bit of an unsigned input leaves zeros and ones, which take the shorter way.
        qx.analyze(model, search_loader(), [1, 4, 4, 4])


def test_batches_are_limited_and_unpacked():
    model = tiny_model()
    loader = [{"pixels": x} for x, _ in search_loader(100)]
    analysis = qx.analyze(model, loader, 4, num_batches=2, unpack=lambda batch: (batch["pixels"], None))
    same = qx.analyze(model, search_loader(100)[:2], 4)
    assert analysis.num_batches == 2
    assert np.allclose([p.sqnr for p in analysis.points], [p.sqnr for p in same.points])
