"""`version()` says whether anything moved that remembered numbers depend on; widths are no such thing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import batches, digits, trained
from torch import nn

from qexplore import predicates
from qexplore.model import QuantizedActivationsModel, content_version
from qexplore.quant import QuantDescriptor

RELU = predicates.by_type(nn.ReLU)


def calibrated(**options: Any) -> QuantizedActivationsModel:
    model = QuantizedActivationsModel(trained("small_cnn"), RELU, **options)
    model.calibrate(batches(digits().calibration))
    return model


def edit(target: str) -> Callable[[QuantizedActivationsModel], Any]:
    """What a user's line of code does to a model or to its quantizer ``q``."""

    def run(model: QuantizedActivationsModel) -> None:
        q = model.activation_fake_quantizers["relu2"]
        exec(target, {"model": model, "net": model.model, "q": q, "torch": torch, "x": digits().search.x[:50]})

    return run


EDITS = [
    "q.amax = 0.5",
    "q.amax = q.amax * 2",
    "q.amax.data.mul_(0.5)",
    "q.set_amax(torch.ones(1, 16, 1, 1))",
    "q.unsigned = False",
    "q.narrow_range = True",
    "q.disable()",
    "q.disable_quant()",
    "model.calibrate([x * 0.5])",
    "net.fc1.weight.data.mul_(1.001)",
    "net.fc1.weight.data.neg_()",
    "net.fc1.weight.data[0, 0] = 7.0",
    "net.fc1.weight.data[[0, 1]] = net.fc1.weight.data[[1, 0]]",
    "net.fc1.weight.data = net.fc1.weight.data.clone() + 1e-3",
    "net.fc2.bias = torch.nn.Parameter(torch.zeros(10))",
    "net.bn1.running_mean.data.add_(0.01)",
    "net.bn1.running_var.mul_(1.01)",
    "net.train(); net(x); net.eval()",
    "torch.nn.init.zeros_(net.conv1.weight)",
    "net.fc1.weight.requires_grad_(); net(x).sum().backward(); torch.optim.SGD(net.parameters(), 0.1).step()",
]


@pytest.mark.parametrize("target", EDITS)
def test_edit_by_hand_is_noticed(target: str) -> None:
    model = calibrated()
    before = model.version()
    assert model.version() == before
    edit(target)(model)
    assert model.version() != before


def test_learned_range_that_moved_is_noticed() -> None:
    model = calibrated(quant_desc=QuantDescriptor(learn_amax=True), unsigned=False)
    before = model.version()
    model.activation_fake_quantizers["relu1"].clip.clip_value_max.data.mul_(0.9)
    assert model.version() != before


@pytest.mark.parametrize(
    "target",
    [
        "model.num_bits = [2, 3, 0, 5]",
        "model.num_bits = [0] * 4; model.num_bits = [8] * 4",
        "q.num_bits = 3",
        "model(x)",
        "model.describe(x)",
        "model.train(); model.eval()",
        "with model.using([2, 2, 2, 2]): model(x)",
    ],
)
def test_widths_and_plain_use_are_no_edits(target: str) -> None:
    model = calibrated()
    before = model.version()
    edit(f"with torch.no_grad():\n    pass\n{target}")(model)
    assert model.version() == before


def test_inference_tensors_have_a_version_too() -> None:
    with torch.inference_mode():
        network = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model = QuantizedActivationsModel(network, RELU)
    before = model.version()
    assert model.version() == before
    with torch.inference_mode():
        network[0].bias.fill_(3.0)
    assert model.version() != before


@pytest.mark.parametrize("size", [5_000, 70_000])  # put together with others, and alone
@pytest.mark.parametrize("places", [(0, 1), (5, 5 + 1020), (3, 3 + 1021), (7, 4_999)])
def test_elements_that_change_places_are_noticed(size: int, places: tuple[int, int]) -> None:
    network = nn.Linear(1, size)
    before = content_version(network)
    first, second = places
    bias = network.bias.data
    bias[first], bias[second] = bias[second].clone(), bias[first].clone()
    assert content_version(network) != before


def test_values_that_move_between_tensors_are_noticed() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = content_version(network)
    first, second = (layer.bias.data for layer in network)
    first[2], second[0] = second[0].clone(), first[2].clone()
    assert content_version(network) != before
