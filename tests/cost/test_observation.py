"""What one observed forward shows: multiplications, bytes alive, and where values come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_state import network_state, random_state
from networks import AWKWARD, TRAINABLE, BasicBlock, InvertedResidual, Transformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from qexplore import predicates
from qexplore.cost import PeakActivationBytes, build_costs, count_macs, observe
from qexplore.cost.moments import Moments
from qexplore.errors import ModelError, ProblemError
from qexplore.model import QuantizedActivationsModel, QuantizedModel

RELU = predicates.by_type(nn.ReLU)
WEIGHTED = predicates.by_type(nn.Linear, nn.Conv2d)


def observed(network: nn.Module, activations: object, weights: object, *shape: int):
    model = QuantizedModel(network, activations, weights)
    model.describe(torch.rand(shape))
    return model, observe(model)


def named(model: QuantizedModel, points: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(model.points[index].name for index in points)


# Multiply-accumulates


def test_macs_of_resnet18_are_the_published_ones():
    models = pytest.importorskip("torchvision.models")
    operations = count_macs(models.resnet18(weights=None).to("meta"), torch.empty(1, 3, 224, 224, device="meta"))
    assert operations.total == pytest.approx(1.814e9, rel=1e-3)
    assert operations.by_module["conv1"] == 112 * 112 * 64 * 3 * 7 * 7
    assert operations.by_module["fc"] == 512 * 1000
    assert sum(operations.by_module.values()) == operations.total
    assert dict(operations.not_counted)["aten._native_batch_norm_legit_no_training"] == 20


def test_report_shows_modules_total_and_what_was_not_counted():
    network = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    text = str(count_macs(network, torch.ones(5, 4)))
    assert text.splitlines()[2:] == [
        "0       aten.addmm     1    60",
        "2       aten.addmm     1    30",
        "total                       90",
        "not counted: aten.gelu x 1",
    ]


def test_moving_data_is_not_listed_as_not_counted():
    class Moves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.pad(x, (1, 1)), 2).transpose(2, 3).contiguous()
            return torch.cat([x[:, :1], torch.zeros_like(x)], dim=1).flatten(1).relu()

    assert count_macs(Moves(), torch.ones(1, 2, 8, 8)).not_counted == ()


def test_count_needs_an_input():
    with pytest.raises(ModelError, match="count_macs needs an `example_input`"):
        count_macs(nn.Linear(2, 2))
    with pytest.raises(ProblemError, match=r"call model.calibrate\(loader\) or model.describe"):
        count_macs(QuantizedActivationsModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), RELU))


def test_wrapped_network_has_the_macs_of_the_float_one():
    network = TRAINABLE["resnet20"].build()
    plain = count_macs(network, torch.ones(1, 1, 8, 8))
    model = QuantizedModel(network, RELU, WEIGHTED)
    model.describe(torch.ones(3, 1, 8, 8))
    assert count_macs(model).by_module == plain.by_module
    assert count_macs(model, torch.ones(2, 1, 8, 8)).total == 2 * plain.total


def test_operations_that_fall_apart_are_counted_by_their_parts():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.inference_mode():  # here composite operations arrive whole
        operations = count_macs(network, torch.ones(1, 4))
    assert operations.by_module == {"0": 12, "2": 6}


# Where operands come from


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        split = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


def test_attention_multiplies_queries_by_keys_and_scores_by_values():
    names = predicates.by_name("query", "key", "value")
    model, seen = observed(Attention(), names, predicates.by_type(nn.Linear), 1, 3, 8)
    attention = [one for one in seen.operations.operations if "attention" in one.name]
    assert [(one.macs, *(named(model, operand) for operand in one.operands)) for one in attention] == [
        (2 * 3 * 3 * 4, ("query",), ("key",)),
        (2 * 3 * 3 * 4, (), ("value",)),
    ]
    (bops,) = build_costs("bops", model)
    bits = dict.fromkeys(("query", "key", "value"), 4) | {"input": 8, "out.weight": 3}
    candidate = np.array([[bits.get(point.name, 2) for point in model.points]])
    by_hand = 3 * (3 * 8 * 8) * 8 * 2 + 72 * 4 * 4 + 72 * 32 * 4 + (3 * 8 * 2) * 32 * 3
    assert bops.cost(candidate).tolist() == [by_hand]


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.ReLU(), nn.ReLU()
        self.norm = nn.LayerNorm(8)
        self.head, self.tail = nn.Linear(8, 2, bias=False), nn.Linear(8, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x[:, :4]), self.right(x[:, 4:])], dim=1)
        return self.head(joined) + self.tail(self.norm(joined))


def test_concatenation_has_the_width_of_its_widest_part_and_normalisation_is_float_again():
    model, seen = observed(Joined(), RELU, WEIGHTED, 1, 8)
    operands = {one.module: named(model, one.operands[0]) for one in seen.operations.operations}
    assert operands == {"head": ("left", "right"), "tail": ()}
    (bops,) = build_costs("bops", model)
    # input, left, right, head.weight, tail.weight
    candidates = np.array([[8, 2, 6, 3, 4], [8, 6, 2, 3, 4], [8, 0, 2, 3, 4]])
    tail = 16 * 32 * 4
    assert bops.cost(candidates).tolist() == [16 * 6 * 3 + tail, 16 * 6 * 3 + tail, 16 * 32 * 3 + tail]


def test_values_written_over_in_place_lose_their_point():
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head, self.tail = nn.ReLU(), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(x)
            return self.head(x) + self.tail(x.mul_(2))

    model, seen = observed(Doubled(), RELU, WEIGHTED, 1, 4)
    operands = {one.module: named(model, one.operands[0]) for one in seen.operations.operations}
    assert operands == {"head": ("relu",), "tail": ()}
    assert {named(model, pair) for pair in seen.feeds.items()} == {("head.weight", "relu")}


def test_embedded_tokens_have_the_width_of_the_embedding():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.relu, self.decoder = nn.ReLU(), nn.Linear(8, 11, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.decoder(self.embedding(tokens)) + self.decoder(self.relu(self.embedding(tokens)))

    model = QuantizedModel(Tied(), RELU, predicates.by_type(nn.Embedding))
    model.describe(torch.tensor([[1, 2, 3]]))
    seen = observe(model)
    relu, weight = 0, 1
    assert [point.name for point in model.points] == ["relu", "embedding.weight"]
    assert [one.operands for one in seen.operations.operations] == [((weight,), (weight,)), ((relu,), (weight,))]
    assert seen.feeds == {weight: relu}


# Residual groups, and weights with their activation


def test_branches_that_are_added_meet():
    network = nn.Sequential(BasicBlock(2, 2, 1), BasicBlock(2, 4, 2))
    model, seen = observed(network.eval(), predicates.by_type(nn.ReLU, nn.BatchNorm2d), WEIGHTED, 1, 2, 8, 8)
    assert [named(model, group) for group in seen.meetings] == [
        ("input", "0.bn2"),
        ("1.bn2", "1.downsample.1"),
    ]
    assert {named(model, pair) for pair in seen.feeds.items()} == {
        ("0.conv1.weight", "input"),
        ("0.conv2.weight", "0.relu1"),
        ("1.conv1.weight", "0.relu2"),
        ("1.conv2.weight", "1.relu1"),
        ("1.downsample.0.weight", "0.relu2"),
    }


def test_sum_of_sums_is_one_group():
    network = nn.Sequential(*(InvertedResidual(4, 4, 1, 2) for _ in range(3)))
    outputs = predicates.by_name("*.layers.7")
    model, seen = observed(network.eval(), outputs, WEIGHTED, 1, 4, 6, 6)
    assert [named(model, group) for group in seen.meetings] == [("input", "0.layers.7", "1.layers.7", "2.layers.7")]


def test_weights_alone_are_fed_by_nothing_but_the_input():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model, seen = observed(network, None, WEIGHTED, 1, 4)
    assert {named(model, pair) for pair in seen.feeds.items()} <= {("0.weight", "input"), ("2.weight", "input")}
    assert [one.operands[1] for one in seen.operations.operations] == [
        (point.index,) for point in model.points if point.kind == "weight"
    ]


def test_weight_that_meets_two_activations_is_fed_by_neither():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.relu = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.relu(self.fc(x)))

    assert observed(Twice(), RELU, WEIGHTED, 1, 4)[1].feeds == {}


def test_adding_a_parameter_is_no_meeting():
    model, seen = observed(Transformer(), predicates.by_name("embed"), predicates.by_name("embed"), 1, 1, 8, 8)
    assert seen.meetings == ()


# Bytes alive


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu1(self.first(x))
        return self.third(self.relu2(hidden + self.second(hidden)))


def pointwise_cnn() -> nn.Module:
    # Convolutions of one pixel need no workspace.
    return nn.Sequential(
        *(nn.Conv2d(4, 16, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 1), nn.ReLU(inplace=True)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
    )


def deep_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))


MEASURED = {"mlp": (deep_mlp, (1, 16)), "residual": (Residual, (1, 16)), "cnn": (pointwise_cnn, (1, 4, 8, 8))}


def measured_peak(network: nn.Module, x: Tensor) -> int:
    """Most bytes that torch's allocator had handed out at once during a forward, the input included."""
    network(x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        network(x)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return x.nbytes + int(np.cumsum(steps).max())


@pytest.mark.parametrize("name", MEASURED)
def test_peak_with_all_points_off_is_that_of_a_measured_run(name):
    build, shape = MEASURED[name]
    network, x = build().eval(), torch.rand(shape)
    with torch.no_grad():
        measured = measured_peak(network, x)
    model, seen = observed(network, RELU, WEIGHTED, *shape)
    assert PeakActivationBytes(seen.moments).cost(np.zeros((1, len(model.points)), dtype=np.int64)).tolist() == [
        measured
    ]


def test_peak_of_quantized_tensors_by_hand():
    model, seen = observed(pointwise_cnn(), RELU, WEIGHTED, 1, 4, 8, 8)
    peak = PeakActivationBytes(seen.moments)
    # Values: input 256; convolution, ReLU 1024 each; pooled 256; convolution and ReLU in one memory, 256; and less.
    for bits in (2, 8, 16):
        candidates = np.array([[bits, bits, 8, 4, 4, 4]])
        assert peak.cost(candidates).tolist() == [256 * bits / 8 + 1024 * 4 + 1024 * bits / 8]
    # The third ReLU works in place, so what its convolution leaves never takes more than it.
    assert seen.moments.bytes_per_bit.shape[0] <= 3


def test_moments_left_out_never_decide_the_peak():
    rng = np.random.default_rng(0)
    sources = [(0,), (1,), (2,), (0, 2), ()]
    alive = [
        [(sources[rng.integers(5)], float(rng.integers(1, 50)), float(rng.integers(1, 200))) for _ in range(4)]
        for _ in range(60)
    ]
    moments = Moments.of(alive)
    bits = rng.choice([2.0, 4.25, 8.0, 16.0, 32.0], (50, 3))

    def bytes_of(row, source, elements, own):
        return elements * max(row[list(source)]) / 8 if source else own

    by_hand = [max(sum(bytes_of(row, *value) for value in values) for values in alive) for row in bits]
    assert moments.peak(bits).tolist() == pytest.approx(by_hand)
    assert len(moments.constant) < 60


def test_indices_that_nothing_reads_take_no_memory_and_read_ones_do():
    class Unpooled(nn.Module):
        def __init__(self, reads: bool) -> None:
            super().__init__()
            self.relu, self.reads = nn.ReLU(), reads

        def forward(self, x: Tensor) -> Tensor:
            pooled, indices = F.max_pool2d(self.relu(x), 2, return_indices=True)
            return F.max_unpool2d(pooled, indices, 2) if self.reads else pooled

    peaks = []
    for reads in (False, True):
        model, seen = observed(Unpooled(reads), RELU, None, 1, 1, 4, 4)
        peaks.append(float(PeakActivationBytes(seen.moments).cost(np.array([[8, 8]]))[0]))
    # Input, ReLU and pooled values of a byte; four indices of eight; the unpooled values again as wide as the pooled.
    assert peaks == [16 + 16 + 4, 16 + 16 + 4 + 4 * 8]


# Any network, left as it was


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_networks_can_be_observed_and_are_left_as_they_were(name):
    case = AWKWARD[name]
    model = QuantizedActivationsModel(case.build(), case.predicate, **case.options)
    model.describe(case.inputs())
    before = network_state(model), random_state(), model.num_bits.tolist()
    costs = build_costs(["bops", "peak_activation_bytes", "activation_bytes", "model_bytes"], model)
    assert (network_state(model), random_state(), model.num_bits.tolist()) == before
    narrow, wide = np.full((1, len(model.points)), 2), np.full((1, len(model.points)), 0)
    for cost in costs:
        assert 0 <= float(cost.cost(narrow)[0]) <= float(cost.cost(wide)[0])


@pytest.mark.parametrize("name", ["transformer", "lstm", "mobilenet", "shared_relu"])
def test_networks_cost_less_with_narrower_widths(name):
    entry = TRAINABLE[name]
    model = QuantizedModel(entry.build(), entry.predicate, predicates.by_type(nn.Linear), **entry.options)
    model.describe(torch.rand(2, 1, 8, 8))
    for cost in build_costs(["bops", "peak_activation_bytes", "weighted_bits"], model):
        by_width = [float(cost.cost(np.full((1, len(model.points)), bits))[0]) for bits in (2, 4, 8, 16, 0)]
        assert by_width == sorted(by_width)
        assert by_width[0] < by_width[-1]


def test_network_that_raises_leaves_no_trace():
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.fails = nn.ReLU(), False

        def forward(self, x: Tensor) -> Tensor:
            if self.fails:
                raise RuntimeError("the network gave up")
            return self.relu(x)

    network = Gives()
    model = QuantizedActivationsModel(network, RELU)
    model.describe(torch.ones(1, 2))
    network.fails = True
    tables = torch.nn.modules.module._global_forward_hooks, torch.nn.modules.module._global_forward_pre_hooks
    with pytest.raises(RuntimeError, match="the network gave up"):
        observe(model)
    assert [len(table) for table in tables] == [0, 0]
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]


def test_compiled_functions_inside_a_network_are_counted():
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.part = torch.compile(lambda x: self.fc(x).relu(), backend="eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x)

    assert count_macs(Compiled(), torch.ones(2, 4)).by_module == {"fc": 24}
