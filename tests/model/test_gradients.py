"""Fine-tuning through the quantizers, from the wrapped network's point of view."""

import pytest
import torch
from networks import TRAINABLE, batches, digits, trained, wrapping
from torch import nn
from torch.nn import functional as F

from qexplore.model import QuantizedActivationsModel

NAMES = pytest.mark.parametrize("name", list(TRAINABLE))


def calibrated(name: str, num_bits: int = 4) -> QuantizedActivationsModel:
    model = QuantizedActivationsModel(trained(name), **wrapping(name, init_num_bits=num_bits))
    model.calibrate(batches(digits().calibration))
    return model


def loss(model: nn.Module) -> torch.Tensor:
    split = digits().train
    return F.cross_entropy(model(split.x[:128]), split.y[:128])


@NAMES
def test_step_of_fine_tuning_moves_every_weight_and_no_range(name: str) -> None:
    model = calibrated(name).train()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    amaxes = [float(quantizer.amax) for quantizer in model.activation_fake_quantizers.values()]
    loss(model).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    unmoved = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert unmoved == []
    assert [float(quantizer.amax) for quantizer in model.activation_fake_quantizers.values()] == amaxes


@pytest.mark.parametrize("name", ["small_cnn", "shared_relu"])
def test_fine_tuning_at_narrow_widths_lowers_the_loss(name: str) -> None:
    model = calibrated(name, num_bits=3)
    before = float(loss(model).detach())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert float(loss(model).detach()) < 0.9 * before


def test_gradients_of_a_switched_off_model_are_the_float_networks() -> None:
    model, plain = calibrated("resnet20"), trained("resnet20")
    model.num_bits = [0] * len(model.num_bits)
    loss(model).backward()
    loss(plain).backward()
    for ours, theirs in zip(model.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
