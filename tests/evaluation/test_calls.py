"""Points on calls of functions and on inputs of modules in the engine: what the direct evaluator measures."""

import numpy as np
import pytest
import torch
from called_networks import CALLED
from problems import prefix_evaluator
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates


def loader(num_inputs):
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(48, 1, 8, 8, generator=draw) for _ in range(num_inputs)]
    labels = torch.randint(0, 10, (48,), generator=draw)
    return [(tuple(image[part] for image in images), labels[part]) for part in (slice(0, 24), slice(24, 48))]


def wrapped(network, *, num_inputs=1, **points):
    torch.manual_seed(0)
    model = qx.QuantizedModel(network().eval(), **points)
    model.calibrate(loader(num_inputs), unpack=lambda batch: batch)
    return model


def evaluations(evaluator, model, num_inputs=1):
    rng = np.random.default_rng(0)
    rows = rng.integers(2, 9, size=(6, len(model.points)))
    rows[1, ::2] = 0
    made = evaluator(model, loader(num_inputs), qx.top1_accuracy, unpack=lambda batch: batch)
    return made, [(one.state, one.scores.tolist(), one.reason) for one in made.evaluate(rows)]


@pytest.mark.parametrize("name", CALLED)
def test_engine_measures_what_the_direct_evaluator_does(name):
    case = CALLED[name]
    model = wrapped(case.make, num_inputs=case.num_inputs, inputs=case.inputs, functions=case.functions)
    engine, found = evaluations(prefix_evaluator, model, case.num_inputs)
    _, expected = evaluations(qx.DirectEvaluator, model, case.num_inputs)
    assert engine.description.startswith("prefix: ")
    assert found == expected


def test_steps_are_shared_up_to_the_first_call_that_differs():
    case = CALLED["fused attention"]
    model = wrapped(case.make, inputs=case.inputs, functions=case.functions)
    engine, _ = evaluations(prefix_evaluator, model)
    steps = engine._engine.network.steps
    points = [step.point for step in steps.steps if step.point is not None]
    assert sorted(points) == list(range(len(model.points)))
    assert not any(step.hidden for step in steps.steps)


class Block(nn.Module):
    def forward(self, x):
        return F.relu(x + 0.1, inplace=True) + x


class Twice(nn.Module):
    """A block that is called twice, calls on whole numbers and on parameters alone, and one in place."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.shift = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        size = torch.arange(3) + 1
        x = self.block(self.block(x)) + (self.shift + x.shape[-1])
        x.add_(0.5)
        return self.head(x.flatten(1)) + size.sum()


def test_calls_of_a_block_that_runs_twice_in_place_and_of_what_no_sample_changes():
    model = wrapped(Twice, functions=predicates.by_function(torch.add, F.relu))
    assert [(point.name, point.num_calls) for point in model.points] == [
        *[(f"block.{call}", 2) for call in ("add", "relu", "add_1")],
        *[(f"add_{number}", 1) for number in (1, 2, 3, 4)],
    ]
    engine, found = evaluations(prefix_evaluator, model)
    assert engine.description.startswith("prefix: ")
    assert found == evaluations(qx.DirectEvaluator, model)[1]
