"""Training in other dtypes than float32, on float32 data."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.quant import StepSize
from qexplore.training import TrainingOptions
from qexplore.training.loop import made_optimizer
from qexplore.training.step_sizes import trained_ranges


def data(dtype=torch.float32):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.arange(64) % 3
    return list(zip(x.split(16), y.split(16), strict=True))


def model_in(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(data(), weight_method="max")
    model.num_bits = [4] * len(model.points)
    return model


def loss(output, target):
    return F.cross_entropy(output.float(), target)


def steps_of(model):
    return torch.cat([quantizer.amax.flatten() for quantizer in model.fake_quantizers.values()])


@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_any_dtype_is_trained_on_data_of_another(dtype, learned, given):
    model, plain = model_in(dtype), model_in(torch.float32)
    before = steps_of(model)
    found = [
        qx.fine_tune(one, None, data(given), loss, epochs=2, learn_step_sizes=learned, metric=qx.top1_accuracy)
        for one in (model, plain)
    ]
    for one, other in zip(found[0].epochs, found[1].epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.02)
    assert all(parameter.dtype == dtype for parameter in model.model.parameters())
    assert (steps_of(model) != before).any()
    assert steps_of(model).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_of_the_default_optimizer_is_at_most_the_learning_rate(dtype):
    """In float16 a thousandth of a small gradient's square is 0, which would leave the step without a limit."""
    held = [nn.Parameter(torch.zeros(8, dtype=dtype))]
    made = made_optimizer(held, TrainingOptions(learning_rate=0.01))
    held[0].grad = torch.logspace(-5, 0, 8).to(dtype)
    made.step()
    assert 0.9 < float(held[0].detach().abs().max()) / 0.01 < 1.05


def test_gradients_of_steps_are_not_summed_in_half_precision():
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(4, 5000, generator=generator) * 300).half()
    upstream = (torch.randn(4, 5000, generator=generator) * 300).half()

    def gradient(dtype):
        step_size = StepSize(torch.tensor(150.0), -4, 3, per_sample=True)
        inputs = values.to(dtype, copy=True).requires_grad_()
        quantized = (values.float() / 150).round().clamp(-4, 3) * 150
        output = step_size(inputs, quantized.to(dtype), torch.tensor(-600.0), torch.tensor(450.0))
        output.backward(upstream.to(dtype))
        assert inputs.grad.dtype == dtype
        return step_size.step.grad

    torch.testing.assert_close(gradient(torch.float16), gradient(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_are_learned_under_autocast(dtype):
    model = model_in(torch.float32)
    x, y = data()[0]

    def gradients(enabled):
        copied = copy.deepcopy(model)
        with trained_ranges(copied, learned=True) as ranges:
            with torch.autocast("cpu", dtype, enabled=enabled):
                loss(copied(x), y).backward()
            return torch.cat([step.grad.flatten() for step in ranges.steps])

    assert gradients(True).dtype == torch.float32
    torch.testing.assert_close(gradients(True), gradients(False), rtol=0.2, atol=0.02)
