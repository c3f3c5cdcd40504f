"""Points in series: known from the network's graph, and broken by whatever mixes."""

import pytest
import torch
from problems import search_loader, tiny_problem
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import PrefixEvaluator

IMAGES = torch.randn(16, 1, 8, 8)


def series(network, predicate, **options):
    model = qx.QuantizedModel(network.eval(), predicate, **options)
    model.calibrate([IMAGES])
    metric = qx.Metric(lambda output, target: output.flatten(1).mean(1))
    evaluator = PrefixEvaluator(qx.DirectEvaluator(model, [(IMAGES, None)], metric), required=True)
    names = list(model.fake_quantizers)
    return [tuple(names[point] for point in chain) for chain in evaluator.series]


def test_a_convolution_its_relu_and_the_pooling_behind_it_are_one_and_weights_are_in_none():
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Dropout(), nn.ReLU6()),
        *(nn.Flatten(), nn.Linear(4, 3), nn.Identity(), nn.Softmax(1)),
    )
    every = predicates.by_type(nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.ReLU6, nn.Linear, nn.Softmax, nn.Flatten)
    assert series(network, every, weights=predicates.weighted) == [("0", "1", "2"), ("3", "5", "6")]


class Branches(nn.Module):
    """What a point gives goes into a sum, or is read twice, or is reshaped by its own size."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.other, self.late = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.last = nn.AvgPool2d(2), nn.Sigmoid()

    def forward(self, x):
        y = self.relu(self.conv(x))
        y = self.other(y + x)
        z = self.pool(F.relu(self.late(y)) * 0.5)
        return self.last(z.view(z.size(0), -1)) + y.mean()


def test_a_sum_and_a_second_reader_break_a_series_and_reading_a_shape_does_not():
    every = predicates.by_type(nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Sigmoid)
    assert series(Branches(), every) == [("conv", "relu"), ("late", "pool", "last")]


def test_a_point_that_is_passed_twice_is_in_none():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x):
            return self.pool(self.relu(self.relu(x)))

    assert series(Twice(), predicates.by_type(nn.ReLU, nn.MaxPool2d)) == []


@pytest.mark.parametrize(("engine", "expected"), [("prefix", ((1, 2),)), ("direct", ())])
def test_a_problem_tells_what_its_evaluator_knows(engine, expected):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)

        def forward(self, x):
            return self.last(self.relu(self.first(x.flatten(1))))

    model = qx.QuantizedActivationsModel(Deep(), predicates.by_name("first", "relu"))
    model.calibrate([search_loader()[0][0]])
    assert tiny_problem(model=model, engine=engine).series == expected
