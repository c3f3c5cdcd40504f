"""The pretended accelerator behaves as a GPU does where the two of them differ from the CPU."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from pretended_device import PretendedTensor, num_transfers
from torch import Tensor, nn


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x.clamp(torch.tensor(0.0), torch.tensor(1.0)),
        lambda x: x + x.to("pretended:1"),
        lambda x: nn.functional.embedding(torch.tensor([0]), x[:, None]),
        lambda x: x.numpy(),
    ],
)
def test_tensors_of_several_devices_are_refused(accelerator: torch.device, mixed: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match="device"):
        mixed(torch.ones(3, device=accelerator))


def test_a_single_number_of_the_cpu_passes_in_arithmetic(accelerator: torch.device) -> None:
    x = torch.arange(3.0, device=accelerator)
    number = torch.tensor(2.0)
    assert [(x * number).tolist(), (number + x).tolist(), x.masked_fill(x > 1, number).tolist()] == [
        [0.0, 2.0, 4.0],
        [2.0, 3.0, 4.0],
        [0.0, 1.0, 2.0],
    ]
    assert x[torch.tensor([2, 0])].tolist() == [2.0, 0.0]  # indices may lie on the CPU, as for CUDA


@pytest.mark.parametrize("divide", [lambda x, d: x / d, lambda x, d: x.clone().div_(d)])
def test_a_divisor_that_lies_elsewhere_is_taken_as_its_reciprocal(
    accelerator: torch.device, divide: Callable[[Tensor, object], Tensor]
) -> None:
    numbers = torch.arange(1.0, 200.0)
    x, divisor = numbers.to(accelerator), torch.tensor(3.3)
    by_product = numbers * (1 / divisor)
    assert not torch.equal(by_product, numbers / divisor)
    assert torch.equal(divide(x, divisor).cpu(), by_product)
    assert torch.equal(divide(x, divisor.item()).cpu(), by_product)
    assert torch.equal(divide(x, divisor.to(accelerator)).cpu(), numbers / divisor)


def test_a_network_trains_moves_and_is_copied_there(accelerator: torch.device) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    expected = copy.deepcopy(network)
    weight, x = network[0].weight, torch.randn(8, 3)
    network.to(accelerator)
    assert network[0].weight is weight and isinstance(weight, PretendedTensor)
    for one, at in ((network, accelerator), (expected, torch.device("cpu"))):
        optimizer = torch.optim.AdamW(one.parameters(), 0.1)
        one(x.to(at)).square().sum().backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    assert all(copied[0].weight.device == accelerator for copied in copies)
    network.to("cpu")
    for state in (torch.load(file), *(copied.state_dict() for copied in copies), network.state_dict()):
        assert all(torch.allclose(state[name].cpu(), value, atol=1e-6) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_give_what_they_give_on_the_cpu(accelerator: torch.device, kind: type[nn.Module]) -> None:
    network, x = kind(3, 4), torch.randn(2, 5, 3)  # type: ignore[call-arg]
    expected = network(x)[0].detach()
    assert torch.allclose(network.to(accelerator)(x.to(accelerator))[0].cpu(), expected, atol=1e-6)


def test_each_device_draws_from_a_state_of_its_own(accelerator: torch.device) -> None:
    torch.manual_seed(3)
    first = torch.rand(4, device=accelerator)
    on_cpu = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), on_cpu)
    assert torch.equal(torch.rand(4, device=accelerator), first)


def test_bringing_numbers_to_the_cpu_is_counted(accelerator: torch.device) -> None:
    x = torch.ones(3, device=accelerator)
    before = num_transfers()
    y = (x * 2 + 1).relu()
    assert num_transfers() == before
    assert [bool((y > 0).all()), float(y.sum()), y.cpu().tolist()] == [True, 9.0, [3.0] * 3]
    assert num_transfers() >= before + 3


def test_views_of_plain_tensors_can_be_taken_in_inference_mode(accelerator: torch.device) -> None:
    x = torch.arange(6.0, device=accelerator)
    with torch.inference_mode():
        assert torch.arange(3, device=accelerator).shape == (3,)  # made empty, and resized
        assert (x[:3, None] * x[3:5]).tolist() == [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]
        assert (x + 1)[:2, None].tolist() == [[1.0], [2.0]]
