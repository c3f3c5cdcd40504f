"""A network in steps gives what the hooked network gives, or says why it cannot be had."""

import copy
import re

import numpy as np
import pytest
import torch
from networks import AWKWARD, EACH, batches, digits, trained, wrapping
from problems import prefix_evaluator, search_loader, tiny_model, tiny_network
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import qexplore as qx
from qexplore import predicates
from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation.graph import build_steps
from qexplore.evaluation.network import Network
from qexplore.evaluation.samples import Samples
from qexplore.evaluation.softmax import log_softmax_of_few, softmax_of_few
from qexplore.evaluation.trace import CaptureError, trace
from qexplore.evaluation.written import without_writes
from qexplore.model import call
from qexplore.quant import FixedQuantizer

NOT_IN_STEPS = {"branching": "control flow", "noisy": "random"}


def wrapped(name):
    case = AWKWARD[name]
    model = qx.QuantizedActivationsModel(case.build(), case.predicate, **case.options).eval()
    model.calibrate([case.inputs()], unpack=lambda batch: (batch, None))
    return model, case.inputs()


def captured(model, inputs):
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        traced = trace(copied, inputs)
        without_writes(traced, cloned(inputs))
    return traced, build_steps(traced, traced.root)


def cloned(tree):
    return pytree.tree_map_only(torch.Tensor, torch.clone, tree)


def tensors(tree):
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", sorted(AWKWARD.keys() - NOT_IN_STEPS))
@torch.no_grad()
def test_every_awkward_network_in_steps_equals_the_hooked_one_bit_for_bit(name):
    model, inputs = wrapped(name)
    before = cloned(inputs)
    traced, steps = captured(model, cloned(inputs))
    rng = np.random.default_rng(0)
    for candidate in [*rng.integers(2, 9, size=(4, len(model.points))), np.zeros(len(model.points), dtype=int)]:
        quantizers = [
            FixedQuantizer.of(quantizer, int(width)) if width else None
            for quantizer, width in zip(model.activation_fake_quantizers.values(), candidate, strict=True)
        ]
        with model.using(candidate):
            expected = call(model, cloned(inputs))
        got = steps.run(traced.bind(cloned(inputs)), quantizers)
        assert all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(got), strict=True))
    # Nothing that the network was given, or computed on the way, has been written into.
    assert all(torch.equal(a, b) for a, b in zip(tensors(inputs), tensors(before), strict=True))


@pytest.mark.parametrize("name", EACH)
def test_counts_equal_the_direct_evaluators_on_the_folded_network_and_nearly_on_the_other(name):
    network = trained(name)
    model = qx.QuantizedActivationsModel(network, **wrapping(name))
    model.calibrate(batches(digits().calibration))
    loader = search_loader(100)
    candidates = np.random.default_rng(1).integers(3, 9, size=(12, len(model.points)))
    ours = list(prefix_evaluator(model, loader, qx.top1_accuracy, required=True).evaluate(candidates))
    direct = list(qx.DirectEvaluator(model, loader, qx.top1_accuracy).evaluate(candidates))
    for one, other in zip(ours, direct, strict=True):
        assert abs(one.scores.sum() - other.scores.sum()) <= 1  # of 400: folding may move one in a thousand
    folded = folded_model(network, model, name)
    for one, other in zip(ours, qx.DirectEvaluator(folded, loader, qx.top1_accuracy).evaluate(candidates), strict=True):
        assert one.scores.sum() == other.scores.sum()


def folded_model(network, model, name):
    """The network with BatchNorm folded by torch's own pass, ranges as they were; itself where a point forbids that."""
    points = {point.module_type for point in model.points}
    if "Conv2d" in points or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return model
    qx.detach(network)
    plain = fuse(copy.deepcopy(network))
    folded = qx.QuantizedActivationsModel(plain, **wrapping(name))
    for point, quantizer in folded.activation_fake_quantizers.items():
        quantizer.amax = model.activation_fake_quantizers[point].amax
        quantizer.unsigned = model.activation_fake_quantizers[point].unsigned
    # unsigned that was set by hand refuses negatives; here it was calibration that chose it
    for quantizer in folded.activation_fake_quantizers.values():
        quantizer._auto_sign = True
    return folded


# ------------------------------------------------------------------------------------------------------ fallbacks


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny_network()
        self.register_buffer("num_calls", torch.zeros(()))

    def forward(self, x):
        self.num_calls += 1
        return self.inner(x)


class Starred(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, *inputs):
        return self.inner(*inputs)


class Writes(nn.Module):
    """Writes into a part of a tensor."""

    def __init__(self, write):
        super().__init__()
        self.inner, self.write = tiny_network(), write

    def forward(self, x):
        x = x * 1.0
        self.write(x)
        return self.inner(x)


def assign(x):
    x[:, :, 0] = 0.0


def through_a_view(x):
    x[:, :, 2].zero_()


class Sneaks(nn.Module):
    """Cannot be looked into, and writes into what it is given."""

    def forward(self, x):
        if x.sum() != 0:
            x.mul_(2.0)
        return x.sum()


def hooked_root():
    network = tiny_network()
    network.register_forward_hook(lambda module, args, output: output * 2)
    return tiny_model(network)


def hooked_after():
    model = tiny_model()
    model.model.relu1.register_forward_hook(lambda module, args, output: output * 2)
    return model


FALLBACKS = {
    "random numbers": (lambda: tiny_model(Noisy()), "draws random numbers"),
    "own buffers": (lambda: tiny_model(Counting()), "changes its own buffers"),
    "star arguments": (lambda: tiny_model(Starred()), r"\*args or \*\*kwargs"),
    "assignment": (lambda: tiny_model(Writes(assign)), "does not support item assignment"),
    "write through a view": (lambda: tiny_model(Writes(through_a_view)), "does not equal the hooked one"),
    "sneaky write": (lambda: tiny_model(Writes(Sneaks())), "writes into a tensor that it does not return"),
    "hook on the network": (hooked_root, "the network itself carries hooks"),
    "hook after a quantizer": (hooked_after, "'relu1' carries a hook that was added after its quantizer"),
    "control flow": (lambda: tiny_model(Branches()), "Branches is not: .*control flow"),
}


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x + 0.1 * torch.randn_like(x))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


@pytest.mark.parametrize("case", FALLBACKS.values(), ids=FALLBACKS)
def test_where_it_cannot_be_had_the_direct_evaluator_answers_and_the_reason_is_told(case):
    build, sentence = case
    model = build()
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(100))
    direct = qx.DirectEvaluator(model, search_loader(100), qx.top1_accuracy)
    candidates = np.array([(2, 3, 4), (5, 5, 5)])
    assert [e.score for e in problem.measure(candidates)] == [e.score for e in direct.evaluate(candidates)]
    assert re.search(f"engine: direct: .*{sentence}", str(problem.describe()))
    exploration = qx.explore(problem, max_evaluations=8, seed=1, progress=False)
    assert exploration.engine == problem.describe().engine
    assert "off: the direct evaluator runs every candidate to its end" in str(exploration)
    with pytest.raises(EvaluationError, match=f'engine="prefix" cannot be used: .*{sentence}'):
        qx.LayerwiseQuantizationProblem(model, search_loader(100), engine="prefix")


def test_a_set_too_large_to_hold_and_a_whole_set_metric_are_left_to_the_direct_evaluator():
    streamed = qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(100), hold_bytes=0)
    assert "too large to be held" in streamed.describe().engine
    metric = qx.whole_set(lambda model, loader: 0.5)
    whole = qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(100), metric)
    assert "whole-set metric runs the model itself" in whole.describe().engine


def test_an_unknown_engine_is_refused():
    with pytest.raises(ProblemError, match="`engine` must be one of 'auto', 'prefix', 'direct', got 'fast'"):
        qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(), engine="fast")
    assert (
        qx.LayerwiseQuantizationProblem(tiny_model(), search_loader(), engine="direct")
        .describe()
        .engine.startswith("direct: the hooked network runs")
    )


# ------------------------------------------------------------------------------------------------ company, layout


class BatchStatistics(nn.Module):
    """Normalizes by the batch at hand, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6 * 36, 10)

    def forward(self, x):
        return self.head(self.relu(self.norm(self.conv(x))).flatten(1))


class Views(nn.Module):
    """Takes views that only one memory layout allows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6 * 36, 10)

    def forward(self, x):
        x = self.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build().eval()


@pytest.mark.parametrize("build", [BatchStatistics, Views])
def test_networks_that_ask_for_their_own_batches_or_layout_get_them(build):
    model = tiny_model(seeded(build))
    evaluator = prefix_evaluator(model, search_loader(100), qx.top1_accuracy, required=True)
    direct = qx.DirectEvaluator(model, search_loader(100), qx.top1_accuracy)
    candidates = np.random.default_rng(0).integers(2, 9, size=(6, 2))
    for one, other in zip(evaluator.evaluate(candidates), direct.evaluate(candidates), strict=True):
        assert one.scores.tolist() == other.scores.tolist()
    kept = "the loader's batches" in evaluator.description
    assert kept == (build is BatchStatistics)


def test_batches_of_different_shapes_stay_as_they_are():
    model = qx.QuantizedActivationsModel(seeded(lambda: nn.LazyLinear(10)), predicates.by_type(nn.Linear))
    loader = [(x[..., :8].mean(dim=(1, 2)), y) for x, y in search_loader(100)]
    model.calibrate(loader)
    samples = Samples([(loader[0][0], loader[0][1]), (loader[1][0][:, None].repeat(1, 3, 1), loader[1][1])], [100, 100])
    assert not samples.can_be_cut
    assert [len(batch) for batch in samples.cut(10)] == [100, 100]


def test_samples_are_cut_evenly_and_reordered():
    samples = Samples(search_loader(150), [150, 150, 100])
    assert [len(batch) for batch in samples.cut(128)] == [100, 100, 100, 100]
    order = np.random.default_rng(0).permutation(400)
    samples.reorder(order)
    samples.reorder(order[::-1].copy())
    for batch in samples.cut(64):
        assert torch.equal(batch.inputs, digits().search.x[batch.samples])
        assert torch.equal(batch.target, digits().search.y[batch.samples])


def test_a_capture_that_does_not_equal_the_hooked_network_is_not_used(monkeypatch):
    # The tracer sees a constant where the network looks at the clock of its own calls.
    class Aging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.age = tiny_network(), 0

        def forward(self, x):
            self.age += 1
            return self.inner(x) * self.age

    model = tiny_model(Aging())
    data = qx.DirectEvaluator(model, search_loader(), qx.top1_accuracy).data
    with pytest.raises(CaptureError, match="random numbers|does not equal"):
        Network(model, Samples(list(data), [len(y) for _, y in data]))


def test_acceptance_runs_the_network_on_few_batches_beside_the_float_pass(monkeypatch):
    rows, forward, model = [], nn.Linear.forward, tiny_model()
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    evaluator = prefix_evaluator(model, search_loader(), qx.top1_accuracy, required=True)
    assert "steps" in evaluator.description
    # By layer: the float pass, 25 samples as they are hooked three times, traced once, in steps twice, with fewer steps
    # once, in other company once, and two candidates of 8.
    assert sum(rows) <= 3 * (400 + 8 * 25 + 2 * 8)


ENDS = {
    "module": nn.Softmax(1),
    "function": lambda x: F.softmax(x, -1),
    "of torch": lambda x: torch.softmax(x, dim=1),
    "logarithm": nn.LogSoftmax(dim=-1),
}


@pytest.mark.parametrize("end", [*ENDS, "over samples", "many classes"])
def test_a_softmax_of_few_classes_at_the_end_is_quick_and_gives_what_torchs_gives_but_for_rounding(end):
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.more = tiny_network(), nn.Linear(10, 10 if end != "many classes" else 128)
            self.end = ENDS.get(end, nn.Softmax(0 if end == "over samples" else 1))

        def forward(self, x):
            return self.end(self.more(self.inner(x)))

    x = search_loader()[0][0]
    model = qx.QuantizedActivationsModel(Ends().eval(), predicates.by_type(nn.ReLU) | predicates.by_name("more"))
    model.calibrate([x])
    network = Network(model, Samples(search_loader(), [400]))
    quick = [node for node in network._trace.graph.nodes if node.target in (softmax_of_few, log_softmax_of_few)]
    assert len(quick) == (end in ENDS)
    candidate = [3, 4, 5, 4]
    with model.using(candidate), torch.no_grad():
        expected = model(x)
    assert torch.allclose(network.run(x, candidate), expected, rtol=1e-4, atol=1e-6)
    assert bool(network.steps.tail) or end not in ENDS  # all widths of the last point still go through it together
