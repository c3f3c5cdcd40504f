"""What a search does between evaluations waits for an accelerator only to see whether the model changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from pretended_device import num_transfers
from problems import search_loader, tiny_model, tiny_network

import qexplore as qx
from qexplore.evaluation import Evaluation
from qexplore.model import QuantizedModel


class Answering:
    """Knows scores without running anything: the more bits, the better."""

    description, early_stop = "made up", "on"

    def evaluate(self, candidates: np.ndarray, **_: Any) -> Iterator[Evaluation]:
        for row in map(tuple, candidates.tolist()):
            yield Evaluation(row, "complete", 1 - sum(0.3 * 2.0**-bits for bits in row), num_samples=400)

    def scores_on_subset(self, candidates: np.ndarray, metric: Any, num_samples: int, **_: Any) -> np.ndarray:
        return np.repeat((4.0**-candidates).sum(axis=1)[:, None], num_samples, axis=1)

    def subset_size(self, num_samples: int) -> int:
        return num_samples

    divergence_gap = "nothing is run"


def waits(accelerator: torch.device, max_evaluations: int) -> tuple[int, int]:
    """Of a search of so many passes: numbers that were fetched, and versions that were asked for."""
    model = tiny_model(tiny_network().to(accelerator))
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), engine="direct")
    answering, versions, plain = Answering(), list[None](), QuantizedModel.version
    problem.evaluator = problem._memory._evaluator = answering
    problem.direct.evaluate = answering.evaluate
    before = num_transfers()
    with mock.patch.object(QuantizedModel, "version", lambda self: (versions.append(None), plain(self))[1]):
        found = qx.explore(problem, max_evaluations=max_evaluations, seed=1, progress=False)
    assert found.num_evaluations > max_evaluations / 2
    return num_transfers() - before, len(versions)


def test_a_longer_search_waits_for_the_device_twice_a_version_however_many_points_there_are(
    accelerator: torch.device,
) -> None:
    short, long = waits(accelerator, 20), waits(accelerator, 60)
    assert long[1] > short[1]
    assert long[0] - short[0] == 2 * (long[1] - short[1])  # what has changed, and which ranges are of nothing
