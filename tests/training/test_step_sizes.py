"""Learned step sizes: the paper's gradient by hand, and what is left in the quantizers."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.quant import StepSize, TensorQuantizer
from qexplore.training.step_sizes import TrainedRanges, trained_ranges


def by_hand(v, s, quant_min, quant_max, upstream):
    """Equations 1 to 3 and 5 of arXiv 1902.08153, one value at a time: output, gradient of v, summed gradient of s."""
    output, of_v, of_s = [], [], 0.0
    for value, gradient in zip(v, upstream, strict=True):
        ratio = value / s
        output.append(min(max(round(ratio), quant_min), quant_max) * s)  # Python rounds half to even, as torch does
        if ratio <= quant_min:
            slope, passes = quant_min, 0.0
        elif ratio >= quant_max:
            slope, passes = quant_max, 0.0
        else:
            slope, passes = -ratio + round(ratio), 1.0
        of_v.append(gradient * passes)
        of_s += gradient * slope
    return np.array(output), np.array(of_v), of_s


VALUES = np.array([-3.3, -1.01, -0.74, -0.2, -0.05, 0.0, 0.07, 0.31, 0.55, 0.85, 1.7, 6.0])
UPSTREAM = np.array([0.3, -1.0, 2.0, 0.7, -0.4, 5.0, 1.3, -0.6, 0.9, -2.2, 0.1, 0.8])


def model_of(unsigned=False, asymmetric=False, num_bits=3, amax=0.9):
    """One point, the input of a network that does nothing."""
    model = qx.QuantizedModel(
        nn.Identity(), quantize_input=True, unsigned=unsigned, asymmetric=asymmetric, init_num_bits=num_bits
    )
    quantizer = model.fake_quantizers["input"]
    if asymmetric:
        quantizer.set_amax_table({num_bits: 1.8}, {num_bits: -0.6})
    else:
        quantizer.amax = amax
    return model, quantizer


@pytest.mark.parametrize(
    ("options", "quant_min", "quant_max", "step"),
    [
        ({}, -4, 3, 0.3),
        ({"num_bits": 2}, -2, 1, 0.9),
        ({"unsigned": True}, 0, 7, 0.9 / 7),
        ({"asymmetric": True}, -2, 5, 2.4 / 7),
    ],
)
def test_gradients_are_those_of_the_paper(options, quant_min, quant_max, step):
    values = np.abs(VALUES) if options.get("unsigned") else VALUES
    expected, of_v, of_s = by_hand(values, step, quant_min, quant_max, UPSTREAM)
    model, _ = model_of(**options)
    x = torch.tensor(values, dtype=torch.float32)[None].requires_grad_()

    with trained_ranges(model, learned=True) as ranges:
        output = model(x)
        (output * torch.tensor(UPSTREAM, dtype=torch.float32)).sum().backward()
        (learned,) = ranges.steps

    factor = 1 / math.sqrt(len(values) * quant_max)
    np.testing.assert_allclose(output.detach()[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x.grad[0], of_v, rtol=1e-6)
    assert float(learned.grad) == pytest.approx(of_s * factor, rel=1e-4)


def test_each_channel_has_the_gradient_of_its_own_step():
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(12, 3, bias=False)
    network.weight.data = torch.randn(3, 12, generator=generator)
    upstream = torch.randn(3, 12, generator=generator)
    model = qx.QuantizedModel(network, weights=predicates.weighted, init_num_bits=3)
    model.fake_quantizers["weight"].amax = torch.tensor([[0.5], [1.0], [1.5]])

    with trained_ranges(model, learned=True) as ranges:
        (network.weight * upstream).sum().backward()
        (learned,) = ranges.steps

    for row in range(3):
        step = 0.5 * (row + 1) / 3
        weight = network.parametrizations.weight.original
        _, of_v, of_s = by_hand(weight[row].tolist(), step, -4, 3, upstream[row].tolist())
        assert float(learned.grad[row]) == pytest.approx(of_s / math.sqrt(12 * 3), rel=1e-4)
        np.testing.assert_allclose(weight.grad[row], of_v, rtol=1e-6)


def test_gradient_is_that_of_a_finite_difference_of_a_float_format():
    # Where no value changes its place on the grid, q(v; s) = s * k: only the input's straight-through part differs.
    quantizer = TensorQuantizer(name="x")
    quantizer.num_bits = "E2M1"
    quantizer.amax = 6.0
    quantizer.own_range()
    quantizer.set_step_size(StepSize(torch.tensor(1.0), -6.0, 6.0, per_sample=False))
    x = torch.tensor([0.6, 2.2, 4.4, 9.0])
    quantizer(x).sum().backward()
    expected = (0.5 - 0.6) + (2.0 - 2.2) + (4.0 - 4.4) + 6.0
    assert float(quantizer.step_size.step.grad) == pytest.approx(expected / math.sqrt(4 * 6), rel=1e-5)


def test_upstreams_learned_range_is_another_gradient():
    """PACT's: what lies within the range says nothing about it. So it cannot stand in for LSQ."""
    quantizer = TensorQuantizer(qx.QuantDescriptor(num_bits=3, amax=0.9, learn_amax=True))
    quantizer.init_learn_amax()
    x = torch.tensor([0.1, 0.2, 0.7, -0.5])
    quantizer(x).sum().backward()
    assert float(quantizer.clip.clip_value_max.grad) == 0.0
    assert by_hand(x.tolist(), 0.3, -4, 3, [1] * 4)[2] != pytest.approx(0.0, abs=0.1)


def test_gradients_of_a_fixed_step_pass_wherever_the_grid_has_levels():
    model, _ = model_of(num_bits=2, amax=1.0)  # levels -2, -1, 0, 1
    x = torch.tensor([[-2.1, -1.9, -0.3, 0.9, 1.1]]).requires_grad_()
    model(x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 1, 0]]  # pytorch-quantization's own
    x.grad = None
    with trained_ranges(model, learned=False) as ranges:
        model(x).sum().backward()
        assert not ranges.steps
    assert x.grad.tolist() == [[0, 1, 1, 1, 0]]


def wrapped(**options):
    model = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted, **options)
    model.calibrate(batches(digits().calibration), method="mse")
    return model


def test_values_are_the_quantizers_own_while_it_learns():
    model = wrapped(init_num_bits=3)
    expected = model(digits().search.x[:50]).detach()
    with trained_ranges(model, learned=True):
        assert torch.equal(model(digits().search.x[:50]), expected)
    assert torch.equal(model(digits().search.x[:50]), expected)


def test_nothing_but_plain_quantizers_is_left():
    model = wrapped(init_num_bits=3)
    names = set(model.state_dict())
    with trained_ranges(model, learned=True):
        assert any("step" in name for name in model.state_dict())
    assert set(model.state_dict()) == names
    assert all(quantizer.step_size is None for quantizer in model.fake_quantizers.values())


def test_learned_range_is_written_back_for_its_width_only():
    model = wrapped(init_num_bits=4)
    quantizer = model.fake_quantizers["relu1"]
    before = copy.deepcopy(quantizer)
    with trained_ranges(model, learned=True) as ranges:
        with torch.no_grad():
            for step in ranges.steps:
                step *= 1.5
        ranges.update()
    for width in (2, 3, 4, 5, 8):
        quantizer.num_bits = before.num_bits = width
        assert float(quantizer.amax) == pytest.approx(float(before.amax) * (1.5 if width == 4 else 1.0))


def test_one_range_for_all_widths_becomes_one_for_the_learned_width_beside_it():
    model, quantizer = model_of(num_bits=4, amax=0.7)
    with trained_ranges(model, learned=True) as ranges:
        with torch.no_grad():
            ranges.steps[0].mul_(2)
        ranges.update()
    assert float(quantizer.amax) == pytest.approx(1.4)
    quantizer.num_bits = 5
    assert float(quantizer.amax) == pytest.approx(0.7)
    # And a state dict takes it along.
    other, loaded = model_of(num_bits=4)
    quantizer.num_bits = 4
    other.load_state_dict(model.state_dict())
    assert float(loaded.amax) == pytest.approx(1.4)


def test_asymmetric_range_keeps_its_zero_point_while_its_step_grows():
    model, quantizer = model_of(asymmetric=True)
    before = quantizer.affine_parameters
    with trained_ranges(model, learned=True) as ranges:
        with torch.no_grad():
            ranges.steps[0].mul_(2)
        ranges.update()
    after = quantizer.affine_parameters
    assert float(after[0]) == pytest.approx(float(before[0]) / 2)
    assert (float(after[1]), float(after[2])) == (float(before[1]), float(before[2])) == (-2, 5)


@pytest.mark.parametrize("granularity", ["channel", "tensor", 8])
@pytest.mark.parametrize("method", ["max", "mse"])
def test_ranges_of_weights_follow_them_at_every_width(granularity, method):
    model = qx.QuantizedModel(trained("small_cnn"), weights=predicates.weighted, weight_granularity=granularity)
    model.calibrate(weight_method=method)
    quantizer = model.fake_quantizers["fc1.weight"]
    before = {}
    for width in (2, 4, 8):
        quantizer.num_bits = width
        before[width] = quantizer.amax.clone()
    with trained_ranges(model, learned=False) as ranges:
        with torch.no_grad():
            model.model.fc1.parametrizations.weight.original *= 3
        ranges.update()
    for width, amax in before.items():
        quantizer.num_bits = width
        torch.testing.assert_close(quantizer.amax, 3 * amax)


def test_steps_do_not_fall_to_zero():
    model, quantizer = model_of()
    with trained_ranges(model, learned=True) as ranges:
        with torch.no_grad():
            ranges.steps[0].fill_(-1.0)
        ranges.update()
        assert 0 < float(ranges.steps[0].detach()) < 0.01
    assert float(quantizer.amax) > 0


def test_dead_rows_stay_finite():
    network = nn.Linear(4, 2, bias=False)
    network.weight.data[0] = 0.0
    model = qx.QuantizedModel(network, weights=predicates.weighted, init_num_bits=3)
    with trained_ranges(model, learned=True) as ranges:
        network.weight.sum().backward()
        ranges.update()
        assert bool(torch.isfinite(ranges.steps[0].grad).all())
    assert not model(torch.ones(1, 4))[0, 0]


@pytest.mark.parametrize("choice", [0, "MXE4M3"])
def test_choices_without_a_range_have_no_step(choice):
    model, _ = model_of()
    model.num_bits = [choice]
    with trained_ranges(model, learned=True) as ranges:
        assert not ranges.steps


def test_disabled_quantizers_and_fixed_ranges_are_not_learned():
    model = qx.QuantizedModel(
        nn.Identity(), quantize_input=True, quant_desc=qx.QuantDescriptor(num_bits=4, amax=0.5), unsigned=False
    )
    with trained_ranges(model, learned=True) as ranges:
        assert not ranges.steps
    other, quantizer = model_of()
    quantizer.disable()
    assert not TrainedRanges(other, learned=True).steps
