"""An evaluator that was interrupted, or has refused, knows of it the next time."""

import numpy as np
import pytest
from problems import prefix_evaluator, search_loader, tiny_model, tiny_network
from torch import nn

import qexplore as qx
from qexplore.errors import EvaluationError
from qexplore.evaluation import prefix


class Interrupting:
    """A score that interrupts instead while it is told to."""

    stops = False

    def __call__(self, output, target):
        if self.stops:
            raise KeyboardInterrupt
        return output[:, 0].sigmoid()


class Negating(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x.neg_())


def test_an_interrupted_float_pass_leaves_the_data_as_it_is():
    score = Interrupting()
    data = [(x.clone(), y) for x, y in search_loader(100)]
    evaluator = qx.DirectEvaluator(tiny_model(Negating()), data, qx.Metric(score, range=(0.0, 1.0)))
    rows = np.array([(8, 4, 4), (0, 4, 4), (0, 4, 4), (0, 4, 4)])
    before = [one.score for one in evaluator.evaluate(rows)]
    score.stops = True
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate_float()
    score.stops = False
    assert [one.score for one in evaluator.evaluate(rows)] == before


def test_an_engine_whose_building_was_interrupted_is_built_the_next_time(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    model = tiny_model()
    engine = prefix_evaluator(model, search_loader(), qx.top1_accuracy)
    before = engine.description
    model.model.fc2.weight.data.mul_(1.1)
    with monkeypatch.context() as patch:
        patch.setattr(prefix, "taken_apart", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(engine.evaluate(np.array([(4, 4, 4)])))
    assert engine.description == before


def test_an_engine_that_is_required_is_refused_each_time_that_it_cannot_be_had():
    model = tiny_model()
    engine = prefix_evaluator(model, search_loader(), qx.top1_accuracy, required=True)
    handle = model.model.register_forward_hook(lambda *_: None)
    for _ in range(2):
        with pytest.raises(EvaluationError, match='engine="prefix" cannot be used: the network itself carries hooks'):
            next(engine.evaluate(np.array([(4, 4, 4)])))
    handle.remove()
    assert next(engine.evaluate(np.array([(4, 4, 4)]))).is_complete
