"""Quantized weights in steps: what the hooked network gives, each weight quantized once, nothing stale."""

import contextlib
import copy
from collections import Counter

import numpy as np
import pytest
import torch
from controlled_networks import TiedEmbedding
from networks import AWKWARD, EACH, batches, digits, trained, wrapping
from problems import prefix_evaluator, search_loader
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation.graph import build_steps
from qexplore.evaluation.trace import CaptureError, trace
from qexplore.evaluation.written import without_writes
from qexplore.metrics import as_metric
from qexplore.model import QuantizedModel, WeightQuantization, call
from qexplore.quant import FixedQuantizer

NOT_IN_STEPS = {
    "branching": "control flow",
    "noisy": "random",
    "never_called_unselected": "spare.weight do not appear in the traced network",
}
RELU, LINEAR = predicates.by_type(nn.ReLU, nn.ReLU6), predicates.by_type(nn.Linear) & ~predicates.by_name("*.out_proj")
MIXED = [0, 2, 3, 4, 5, 6, 8, 16, 403, 502, 304, 201, 1201, 1403]


class TiedByFunction(nn.Module):
    """The embedding's weight is also read by itself, for the last layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 8)
        self.relu = nn.ReLU()

    def forward(self, tokens):
        return F.linear(self.relu(self.fc(self.embedding(tokens).mean(dim=1))), self.embedding.weight)


class ReadByHand(nn.Module):
    """Calls no layer: reads the weights, and a bias that is parametrized."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(64, 5)
        parametrize.register_parametrization(self.conv, "bias", nn.Tanh())
        parametrize.register_parametrization(self.head, "bias", nn.Tanh())

    def forward(self, x):
        x = self.relu(F.conv2d(x, 2 * self.conv.weight, self.conv.bias))
        return self.head(x.flatten(1))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(144, 5)

    def forward(self, x):
        x = self.relu(self.conv(self.relu(self.norm(self.conv(x)))))
        return self.head(x.flatten(1))


class Own(nn.Module):
    """A weight of the user's own beside a layer inside."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.inner = nn.Linear(8, 5)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.inner(self.relu(x @ self.weight.t()))


class Encoder(nn.Module):
    """Torch's encoder layer, run as a whole: all of its points are inside."""

    def __init__(self, norm_first=False):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(dim=1))


def convolutions():
    """Every kind of layer that BatchNorm is folded into, and one that it is not."""
    body = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    body.extend([nn.ConvTranspose2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()])
    body.extend([nn.ConvTranspose2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU6()])
    body.extend([nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return body.extend([nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)])


def volumes():
    return nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


def signals():
    body = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3), nn.Flatten())
    return body.append(nn.Linear(32, 5))


def numbers(*shape):
    return torch.randn(40, *shape, generator=torch.Generator().manual_seed(1))


def tokens(count=11):
    return torch.randint(0, count, (40, 6), generator=torch.Generator().manual_seed(0))


NETWORKS = {
    "tied": (TiedEmbedding, None, lambda: tokens(16)),
    "tied by function": (TiedByFunction, RELU, tokens),
    "read by hand": (ReadByHand, RELU, lambda: numbers(4, 6, 6)),
    "called twice": (CalledTwice, RELU, lambda: numbers(4, 6, 6)),
    "own": (Own, RELU, lambda: numbers(8)),
    "encoder layer": (Encoder, LINEAR, lambda: numbers(4, 8)),
    "encoder layer, norm first": (lambda: Encoder(norm_first=True), LINEAR, lambda: numbers(4, 8)),
    "encoder layer, weights alone": (Encoder, None, lambda: numbers(4, 8)),
    "convolutions": (convolutions, RELU, lambda: numbers(4, 8, 8)),
    "volumes": (volumes, RELU, lambda: numbers(2, 4, 4, 4)),
    "signals": (signals, RELU, lambda: numbers(4, 8)),
}


def wrapped(name, granularity="channel"):
    """The network with BatchNorm that has seen something, calibrated; and its inputs."""
    build, activations, inputs = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = build().eval()
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    model = QuantizedModel(network, activations, predicates.weighted, weight_granularity=granularity)
    model.calibrate([inputs()], weight_method="max", unpack=lambda batch: (batch, None))
    return model, inputs()


def vectors(model, count=4, seed=0):
    """Some of every kind, mixed ones and everything off."""
    length = len(model.points)
    mixed = np.random.default_rng(seed).choice(MIXED, size=(count, length))
    same = [np.full(length, code) for code in (0, 4, 403, 1201)]
    return np.array([*same, *mixed])


def cloned(tree):
    return pytree.tree_map_only(torch.Tensor, torch.clone, tree)


def tensors(tree):
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def require_equal_in_steps(model, inputs):
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    traced = trace(copied, cloned(inputs))
    without_writes(traced, cloned(inputs))
    steps = build_steps(traced, traced.root)
    for candidate in vectors(model):
        quantizers = [
            FixedQuantizer.of(quantizer, int(code)) if code else None
            for quantizer, code in zip(model.fake_quantizers.values(), candidate, strict=True)
        ]
        with model.using(candidate):
            expected = call(model, cloned(inputs))
        for _ in range(2):
            got = steps.run(traced.bind(cloned(inputs)), quantizers)
            assert all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(got), strict=True))


def scores(evaluations):
    return [(evaluation.state, evaluation.score) for evaluation in evaluations]


# -------------------------------------------------------------------------------------------------- bit for bit


def awkward(name):
    case = AWKWARD[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = case.build()
    model = QuantizedModel(network, case.predicate, predicates.weighted, **case.options).eval()
    model.calibrate([case.inputs()], unpack=lambda batch: (batch, None))
    return model, case.inputs()


@pytest.mark.parametrize("name", sorted(AWKWARD.keys() - NOT_IN_STEPS))
def test_every_awkward_network_in_steps_equals_the_hooked_one_bit_for_bit(name):
    require_equal_in_steps(*awkward(name))


@pytest.mark.parametrize("granularity", ["channel", "tensor", 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_awkward_about_weights_in_steps_equal_the_hooked_ones_bit_for_bit(name, granularity):
    require_equal_in_steps(*wrapped(name, granularity))


@pytest.mark.parametrize("name", EACH)
def test_trained_networks_in_steps_equal_the_hooked_ones_bit_for_bit(name):
    model = of_trained(name)
    require_equal_in_steps(model, digits().search.x[:20])


def of_trained(name, **options):
    entry = {"activations" if key == "predicate" else key: value for key, value in wrapping(name).items()}
    model = QuantizedModel(trained(name), weights=predicates.weighted, **entry, **options)
    model.calibrate(batches(digits().calibration), weight_method="max")
    return model


@pytest.mark.parametrize("name", NOT_IN_STEPS)
def test_networks_that_cannot_be_had_in_steps_say_why_and_are_answered_directly(name):
    model, inputs = awkward(name)
    data = [(inputs, torch.zeros(len(inputs), dtype=torch.int64))]
    is_passed = name != "never_called_unselected"
    with contextlib.nullcontext() if is_passed else pytest.warns(RuntimeWarning, match="never passes.*spare.weight"):
        ours = prefix_evaluator(model, data, as_metric(qx.top1_accuracy))
        direct = qx.DirectEvaluator(model, data, as_metric(qx.top1_accuracy))
    assert ours.description.startswith("direct: ")
    assert NOT_IN_STEPS[name] in ours.description
    candidates = vectors(model)
    assert scores(ours.evaluate(candidates)) == scores(direct.evaluate(candidates))
    if name != "noisy":
        with pytest.raises(CaptureError, match=NOT_IN_STEPS[name]):
            require_equal_in_steps(model, inputs)


# -------------------------------------------------------------------------------------------------- whole evaluations


def of_untrained(name, granularity="channel"):
    """The network, and a loader whose targets are its own answers."""
    model, inputs = wrapped(name, granularity)
    with torch.no_grad(), model.using([0] * len(model.points)):
        targets = call(model.eval(), cloned(inputs)).flatten(1).argmax(dim=1)
    return model, list(zip(inputs.split(10), targets.split(10), strict=True))


def top1_flat(output, target):
    return (output.flatten(1).argmax(dim=1) == target).float()


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_the_direct_evaluators(name):
    model, loader = of_untrained(name)
    candidates = vectors(model, 12)
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    direct = qx.DirectEvaluator(model, loader, as_metric(top1_flat))
    assert scores(ours.evaluate(candidates)) == scores(direct.evaluate(candidates))
    folded = {"convolutions": 4, "volumes": 1, "signals": 1}.get(name, 0)
    assert ours._engine.network.num_folded == folded


@pytest.mark.parametrize("name", EACH)
def test_counts_on_trained_networks_equal_the_direct_evaluators_but_for_one_that_folding_may_move(name):
    model = of_trained(name)
    candidates = np.random.default_rng(1).choice([3, 4, 5, 6, 8, 403, 1403, 0], size=(12, len(model.points)))
    ours = prefix_evaluator(model, search_loader(100), as_metric(qx.top1_accuracy), required=True)
    direct = qx.DirectEvaluator(model, search_loader(100), as_metric(qx.top1_accuracy))
    for one, other in zip(ours.evaluate(candidates), direct.evaluate(candidates), strict=True):
        assert one.state == other.state == "complete"
        assert abs(one.scores.sum() - other.scores.sum()) <= 1  # of 400
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.model.modules())
    has_quantized_convolutions = any(point.module_type == "Conv2d" for point in model.points if point.kind != "weight")
    assert ours._engine.network.num_folded == (0 if has_quantized_convolutions else norms)


@torch.no_grad()
def test_the_folded_network_agrees_with_the_unfolded_within_the_tolerance_at_every_choice():
    model, loader = of_untrained("convolutions")
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    network, x = ours._engine.network, torch.cat([x for x, _ in loader])
    quantizes_weights = np.array([point.kind == "weight" for point in model.points])
    for code in MIXED:
        # Activations float: a value that folding moves across the edge of a step would move by a whole step.
        candidate = np.where(quantizes_weights, code, 0)
        with model.using(candidate):
            expected = model(x)
        got = network.run(x, candidate)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# -------------------------------------------------------------------------------------------------- once a choice


@pytest.fixture
def quantized(monkeypatch):
    """Counts what is quantized, by weight and choice."""
    counts = Counter()
    real = WeightQuantization.quantize

    def counting(self, weight, quantizer):
        counts[self.name, getattr(quantizer, "quantizer", quantizer).code] += 1
        return real(self, weight, quantizer)

    monkeypatch.setattr(WeightQuantization, "quantize", counting)
    return counts


@pytest.mark.parametrize("name", ["convolutions", "encoder layer", "tied by function", "called twice", "own"])
def test_a_weight_is_quantized_once_for_each_reader_and_choice_and_not_once_a_batch(name, quantized):
    model, loader = of_untrained(name)
    ours = prefix_evaluator(model, loader, as_metric(top1_flat), required=True)
    candidates = vectors(model, 12)
    quantized.clear()
    readers = 2 if name == "tied by function" else 1  # the layer, and the weight alone
    for _ in range(2):
        list(ours.evaluate(candidates))
        list(ours.evaluate(candidates[::-1], must_beat=[0.5] * len(candidates)))
    assert max(quantized.values()) <= readers
    asked = {
        (point.name, int(code))
        for point in model.points
        if point.kind == "weight"
        for code in candidates[:, point.index]
        if code
    }
    assert set(quantized) <= asked
    assert len(quantized) > 10


# -------------------------------------------------------------------------------------------------- company


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["encoder layer", "convolutions", "tied by function"])
def test_two_workers_give_what_one_gives(two_threads, name):
    model, loader = of_untrained(name)
    candidates = vectors(model, 8)

    def evaluator():
        return prefix_evaluator(model, loader, as_metric(top1_flat), required=True)

    ours = evaluator()
    assert "2 workers" in ours.description
    together = [scores(ours.evaluate(candidates)) for _ in range(2)]
    torch.set_num_threads(1)
    assert together == [scores(evaluator().evaluate(candidates))] * 2


@pytest.mark.parametrize("name", ["transformer", "small_cnn"])
def test_a_small_budget_of_memory_changes_nothing(name):
    model = of_trained(name)
    candidates = vectors(model, 3)
    loader = [(x[:40], y[:40]) for x, y in search_loader(100)[:1]]
    ours = [
        prefix_evaluator(model, loader, as_metric(qx.top1_accuracy), budget_bytes=budget, required=True)
        for budget in (None, 2**18, 1)
    ]
    found = [scores(evaluator.evaluate(candidates)) for evaluator in ours]
    assert found[0] == found[1] == found[2]
    kept = [evaluator._engine._variants.nbytes for evaluator in ours]
    assert kept[0] > kept[2] == 0
    assert kept[1] <= 2**17


# -------------------------------------------------------------------------------------------------- nothing stale


def a_step_of_training(model):
    model.train()
    model.num_bits = [4] * len(model.points)
    x, y = batches(digits().train)[0]
    F.cross_entropy(model(x), y).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    model.zero_grad()
    model.eval()


CHANGES = {
    "a step of training": a_step_of_training,
    "another range": lambda model: model.weight_fake_quantizers["conv2.weight"].set_amax(torch.full((16, 1), 0.05)),
    "another calibration": lambda model: model.calibrate(batches(digits().report), method="mse"),
    "data behind torch's back": lambda model: model.weight_points[0].parameter.data[0].mul_(-3),
    "a switch by hand": lambda model: model.weight_fake_quantizers["fc1.weight"].disable(),
    "a state dict": lambda model: model.load_state_dict(
        {name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_makes_the_engine_drop_its_copies(change):
    model, loader = of_trained("small_cnn"), search_loader(100)
    metric = qx.negative_log_likelihood  # the order of the outputs alone would not tell
    evaluator = prefix_evaluator(model, loader, metric, required=True)
    candidates = vectors(model, 4)[1:]
    before = scores(evaluator.evaluate(candidates))
    change(model)
    after = scores(evaluator.evaluate(candidates))
    assert after == scores(prefix_evaluator(model, loader, metric, required=True).evaluate(candidates))
    direct = qx.DirectEvaluator(model, loader, metric).evaluate(candidates)
    assert [score for _, score in after] == pytest.approx([evaluation.score for evaluation in direct], rel=0.05)
    assert before != after
