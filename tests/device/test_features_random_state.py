"""Random state and free memory are those of the device that a network lies on, whichever kind that is."""

from __future__ import annotations

import pytest
import torch
from problems import search_loader, tiny_model, tiny_network
from torch import Tensor, nn

import qexplore as qx
from qexplore._random import isolated, random_state
from qexplore.evaluation.batches import free_memory


def draw(device: torch.device) -> list[float]:
    return torch.rand(3, device=device).tolist()


@pytest.mark.parametrize("drawn_on", [0, 1])
def test_a_block_is_isolated_on_every_device_of_the_kind(accelerator: torch.device, drawn_on: int) -> None:
    other = torch.device(accelerator.type, drawn_on)
    with isolated(accelerator):
        first = draw(other)
    draw(other)
    before = random_state(accelerator)
    with isolated(accelerator):
        assert draw(other) == first
    with isolated(accelerator, seed=1):
        assert draw(other) != first
    assert random_state(accelerator) == before


def test_what_is_drawn_on_a_device_is_seen_in_its_state(accelerator: torch.device) -> None:
    before = random_state(accelerator)
    draw(torch.device(accelerator.type, 1))
    assert random_state(accelerator) != before


def test_the_states_of_the_device_are_given_back_after_an_error(accelerator: torch.device) -> None:
    before = random_state(accelerator)
    with pytest.raises(KeyError), isolated(accelerator):
        draw(accelerator)
        raise KeyError
    assert random_state(accelerator) == before


def test_a_device_without_numbers_of_its_own_is_left_alone() -> None:
    with isolated(torch.device("meta")):
        first = draw(torch.device("cpu"))
    with isolated(torch.device("meta")):
        assert draw(torch.device("cpu")) == first


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.3 * torch.randn_like(x))


def test_a_network_that_draws_answers_the_same_there_and_the_state_comes_back(accelerator: torch.device) -> None:
    model = tiny_model(Noisy().to(accelerator))
    before = random_state(accelerator)
    evaluator = qx.DirectEvaluator(model, search_loader(), qx.top1_accuracy)
    scores = []
    for _ in range(2):
        scores.append([found.score for found in evaluator.evaluate([(4, 4, 4), (3, 3, 3), (4, 4, 4)])])
        assert random_state(accelerator) == before
        draw(accelerator)
        before = random_state(accelerator)
    assert scores[0] == scores[1]
    assert scores[0][0] == scores[0][2] != scores[0][1]


def test_free_memory_is_what_the_device_has_and_what_torch_keeps_there(
    accelerator: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = torch.get_device_module(accelerator)
    free = module.mem_get_info(accelerator)[0]
    monkeypatch.setattr(module, "memory_reserved", lambda device=None: 300, raising=False)
    monkeypatch.setattr(module, "memory_allocated", lambda device=None: 100, raising=False)
    assert free_memory(accelerator) == free + 200
