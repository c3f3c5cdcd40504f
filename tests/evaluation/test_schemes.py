"""Points of schemes in the engine: what the direct evaluator measures."""

import numpy as np
import pytest
import torch
from called_networks import CALLED
from problems import prefix_evaluator

import qexplore as qx


@pytest.mark.parametrize("name", CALLED)
def test_engine_measures_operands_as_the_direct_evaluator_does(name):
    torch.manual_seed(0)
    images = tuple(torch.randn(16, 1, 8, 8) for _ in range(CALLED[name].num_inputs))
    loader = [(images, torch.arange(16) % 10)]
    model = qx.QuantizedModel(CALLED[name].make().eval(), scheme="all-int8")
    model.calibrate(loader, weight_method="max", unpack=lambda batch: batch)
    rows = np.random.default_rng(0).integers(2, 9, size=(3, len(model.points)))
    rows[1, ::2] = 0
    found = []
    for make in (prefix_evaluator, qx.DirectEvaluator):
        evaluator = make(model, loader, qx.top1_accuracy, unpack=lambda batch: batch)
        found.append([(one.state, one.scores.tolist()) for one in evaluator.evaluate(rows)])
    assert found[0] == found[1]
