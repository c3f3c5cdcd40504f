"""BatchNorm and ReLU are folded only where nothing else reads what is between, whichever stack it is."""

import itertools

import pytest
import torch
from stack_runs import Made, converted, relative_error, with_statistics
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


def conv():
    return nn.Conv2d(2, 4, 3, padding=1)


def both(*outputs):
    return torch.cat([one.flatten(1) for one in outputs], 1)


def norm(channels=4):
    return nn.BatchNorm2d(channels)


def read(network, x, function):
    return function(network.a(x))


IMAGES, ROWS = (8, 2, 5, 5), (32, 8)
FOLDS = {
    "called twice": (lambda: Made(lambda s, x: s.n(s.a(x)) + s.a(x), a=conv(), n=norm()), IMAGES),
    "Linear called twice": (
        lambda: Made(lambda s, x: s.n(s.a(x)) + s.a(x), a=nn.Linear(8, 8), n=nn.BatchNorm1d(8)),
        ROWS,
    ),
    "a norm for each call": (
        lambda: Made(lambda s, x: s.n(s.a(x)) * s.m(s.a(x)), a=conv(), n=norm(), m=norm()),
        IMAGES,
    ),
    "read by two norms": (
        lambda: Made(lambda s, x: read(s, x, lambda y: s.n(y) + s.m(y)), a=conv(), n=norm(), m=norm()),
        IMAGES,
    ),
    "a norm of two layers": (
        lambda: Made(lambda s, x: s.n(s.a(x)) + s.n(s.b(x)), a=conv(), b=conv(), n=norm()),
        IMAGES,
    ),
    "output is used": (lambda: Made(lambda s, x: read(s, x, lambda y: s.n(y) + y), a=conv(), n=norm()), IMAGES),
    "output is returned": (
        lambda: Made(lambda s, x: read(s, x, lambda y: both(s.n(y), y)), a=conv(), n=norm()),
        IMAGES,
    ),
    "weight is read": (
        lambda: Made(
            lambda s, x: s.n(s.a(x)) + F.conv2d(x, s.a.weight, s.a.bias, padding=1),
            a=conv(),
            n=norm(),
        ),
        IMAGES,
    ),
    "transposed": (
        lambda: Made(lambda s, x: s.n(s.t(s.a(x))), a=conv(), t=nn.ConvTranspose2d(4, 3, 2, stride=2), n=norm(3)),
        IMAGES,
    ),
    "other axis": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 3)),
        (16, 4, 8),
    ),
    "ReLU and not": (lambda: Made(lambda s, x: s.r(s.a(x)) - s.a(x), a=conv(), r=nn.ReLU()), IMAGES),
    "relu and not": (lambda: Made(lambda s, x: F.relu(s.a(x)) + s.a(x), a=nn.Linear(8, 8)), ROWS),
    "plain": (
        lambda: nn.Sequential(conv(), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3), nn.BatchNorm1d(3)),
        IMAGES,
    ),
}
STACKS = ["fx", "eager"]


def network_of(kind):
    torch.manual_seed(0)
    make, shape = FOLDS[kind]
    x = torch.rand(shape)
    return with_statistics(make(), x), x


METHODS = ("dynamic", "static", "qat")
FOLDING = [
    (stack, method, kind)
    for stack, method, kind in itertools.product(STACKS, METHODS, FOLDS)
    if stack != "eager" or (method != "dynamic" and kind != "weight is read")  # it folds nothing, or has no layer
]


@pytest.mark.parametrize(("stack", "method", "kind"), FOLDING)
def test_what_stands_behind_a_layer_is_folded_where_it_may(stack, method, kind):
    network, x = network_of(kind)
    assert relative_error(stack, method, network, x) < 0.06


def test_norms_that_stay_are_layers_of_the_report():
    network, x = network_of("output is used")
    rows = {row.name: row.state for row in converted("fx", "static", network, x).strategy}
    assert rows["n"] != "absorbed"
    network, x = network_of("a norm for each call")
    made = converted("fx", "static", network, x)
    assert {row.name: row.state for row in made.strategy} == {
        "a": "integers",
        "n": "absorbed",
        "m": "absorbed",
        "mul": "integers",
    }
    assert any("every call has a range of its own" in note and "'a'" in note for note in made.notes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Linear called twice", "read by two norms", "output is used", "transposed", "plain"])
def test_exported_graphs_are_folded_by_the_same_rule(kind):
    pytest.importorskip("torchao")
    network, x = network_of(kind)
    assert relative_error("pt2e", "static", network, x) < 0.03


COMPUTED = {
    "weight": lambda: Made(lambda s, x: s.n(s.b(s.a(x))), a=conv(), b=weight_norm(nn.Conv2d(4, 4, 1)), n=norm()),
    "bias": lambda: Made(
        lambda s, x: s.n(F.conv2d(s.a(x), s.b.weight, 2 * s.b.bias)), a=conv(), b=nn.Conv2d(4, 4, 1), n=norm()
    ),
}


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize("what", COMPUTED)
def test_a_norm_behind_a_computed_weight_or_bias_stays_in_exported_graphs(what, method):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    x = torch.rand(IMAGES)
    assert relative_error("pt2e", method, with_statistics(COMPUTED[what](), x), x) < 0.03


@pytest.mark.slow  # torchao looks for traced patterns where it trains BatchNorm
@pytest.mark.parametrize("kind", ["a norm for each call", "weight is read"])
def test_exported_graphs_are_trained_and_folded_by_the_same_rule(kind):
    pytest.importorskip("torchao")
    network, x = network_of(kind)
    assert relative_error("pt2e", "qat", network, x) < 0.03
