"""One arithmetic on a device that is not the CPU."""

from __future__ import annotations

import pytest
import torch
from problems import search_loader, tiny_model
from torch import Tensor

import qexplore as qx


@pytest.mark.parametrize("engine", ["prefix", "direct"])
def test_settings_are_ours_on_an_accelerator_and_the_users_afterwards(accelerator: torch.device, engine: str) -> None:
    model, seen = tiny_model(), []
    model.to(accelerator)

    def metric(output: Tensor, target: Tensor) -> Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic))
        return (output.argmax(1) == target).float()

    before = torch.backends.cudnn.deterministic
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), metric, engine=engine)
    list(problem.measure(problem.space.widest))
    assert set(seen) == {("highest", True)}
    assert torch.backends.cudnn.deterministic == before
    assert "arithmetic: full float32, deterministic" in str(problem.describe())
