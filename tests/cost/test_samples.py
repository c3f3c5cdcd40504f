"""Costs are those of one sample, wherever samples lie, in the mean over all batches that were seen."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.cost import build_costs, count_macs
from qexplore.errors import SelectionError
from qexplore.model import QuantizedModel

T, B, D = 5, 4, 8
RELU = predicates.by_type(nn.ReLU)
NAMES = ("activation_bytes", "bops", "peak_activation_bytes")


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def wrapped(network: nn.Module, data, **options) -> QuantizedModel:
    unpack = options.pop("unpack", None)
    model = QuantizedModel(network, RELU, predicates.weighted, **options)
    model.calibrate(data, unpack=unpack)
    return model


def costs(network: nn.Module, data, names=NAMES, **options) -> list[float]:
    """At 8 bits everywhere."""
    model = wrapped(network, data, **options)
    uniform = np.full((1, len(model.points)), 8)
    found = [float(cost.cost(uniform)[0]) for cost in build_costs(names, model)]
    model.detach()
    return found


class Steps(nn.Module):
    """Batches lie along the second axis of its input, as torch's own recurrent and attention layers have it."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.layer, self.relu, self.head = layer, nn.ReLU(), nn.Linear(D, 3)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        out = self.layer(x)
        return self.head(self.relu(out[0] if isinstance(out, tuple) else out)[-1])


LAYERS = {
    "lstm": lambda: nn.LSTM(D, D),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 16), 1, enable_nested_tensor=False),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("count", [B, T, 1])
def test_samples_may_lie_along_the_second_axis(layer, count):
    network = Steps(LAYERS[layer]())
    alone = costs(network, [(torch.rand(T, 1, D), labels(1))])
    assert alone[0] == T * D + T * D  # the input and the ReLU
    assert costs(network, [(torch.rand(T, count, D), labels(count))] * 2)[:2] == alone[:2]
    ragged = [(torch.rand(T, count, D), labels(count)), (torch.rand(T, 2, D), labels(2))]
    assert costs(network, ragged)[:2] == alone[:2]


def test_samples_are_counted_by_targets_by_outputs_and_in_dicts():
    network = Steps(nn.LSTM(D, D))
    x, alone = torch.rand(T, B, D), costs(network, [(torch.rand(T, 1, D), labels(1))])
    given = [
        [x],
        [(x, {"class": labels(B), "box": torch.rand(B, 4)})],
        [(x, [labels(B), torch.rand(B)])],
        [(x, [{"boxes": torch.rand(2, 4)} for _ in range(B)])],
        [{"x": x, "labels": labels(B)}],
        [{"x": x, "lengths": torch.full((B,), T), "labels": labels(B)}],
    ]
    assert [costs(network, data)[:2] for data in given] == [alone[:2]] * len(given)
    model = QuantizedModel(network, RELU)
    model.describe(x)
    assert [point.num_elements for point in model.points] == [T * D, T * D]
    assert count_macs(model).total == T * 2 * 4 * D * D + 3 * D


def test_the_example_of_one_lstm_and_one_linear_layer_over_five_steps():
    network = nn.Sequential(nn.LSTM(8, 8), Last(), nn.Linear(8, 3))
    model = QuantizedModel(network, None, predicates.by_type(nn.Linear), quantize_input=True)
    model.describe(torch.rand(5, 1, 8))
    off = np.zeros((1, len(model.points)), dtype=np.int64)
    assert build_costs("bops", model)[0].cost(off).tolist() == [2584 * 1024]


class Last(nn.Module):
    def forward(self, outputs: tuple[Tensor, object]) -> Tensor:
        return outputs[0][-1]


class OneByOne(nn.Module):
    def __init__(self, stacks: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.head, self.stacks = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 2), stacks

    def forward(self, images: list[Tensor]) -> Tensor:
        batches = [torch.stack(list(images))] if self.stacks else [image[None] for image in images]
        return torch.cat([self.head(self.relu(self.conv(batch)).mean((2, 3))) for batch in batches])


def of_lists(batch):
    return (batch[0],), batch[1]


@pytest.mark.parametrize("stacks", [False, True])
@pytest.mark.parametrize("target", [labels(4), [{"boxes": torch.rand(2, 4)} for _ in range(4)]])
def test_a_list_of_images_holds_as_many_samples_as_it_is_long(stacks, target):
    data = [([torch.rand(3, 4, 5) for _ in range(4)], target)]
    elements = 3 * 20 + 4 * 20
    macs = 20 * 4 * 27 * 64 + 8 * 32 * 8
    found = costs(OneByOne(stacks), data, unpack=of_lists)
    assert found[:2] == [elements, macs]
    assert found[2] == costs(OneByOne(stacks), [([torch.rand(3, 4, 5)], labels(1))], unpack=of_lists)[2]
    without_input = [
        costs(OneByOne(stacks), [(holds(data[0][0]), target)], unpack=of_lists, quantize_input=False)
        for holds in (list, tuple)
    ]
    assert without_input[0] == without_input[1]


def test_images_of_many_sizes_cost_their_mean_and_need_the_memory_of_the_largest():
    sizes = (4, 5, 6, 9)
    data = [([torch.rand(3, size, 5) for size in sizes], labels(4))]
    found = costs(OneByOne(), data, unpack=of_lists)
    one = [costs(OneByOne(), [([torch.rand(3, size, 5)], labels(1))], unpack=of_lists) for size in sizes]
    assert found == [np.mean([each[0] for each in one]), np.mean([each[1] for each in one]), max(e[2] for e in one)]


class Experts(nn.Module):
    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU()) for _ in range(count))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        expert, out = (x[:, 0] > 0).long(), x.new_zeros(len(x), 8)
        for number, layers in enumerate(self.experts):
            rows = (expert == number).nonzero()[:, 0]
            if len(rows):
                out[rows] = layers(x[rows])
        return self.head(out)


def signed(*signs: int) -> tuple[Tensor, Tensor]:
    """A sample of each sign: a negative one goes to the first expert."""
    x = torch.rand(len(signs), 4) + 0.1
    x[:, 0] *= torch.tensor(signs)
    return x, labels(len(signs))


def test_an_expert_that_the_first_batch_misses_costs_what_it_does_in_the_mean_in_any_order_of_batches():
    data = [signed(-1, -1, -1), signed(-1, 1, 1), signed(1, 1)]
    model = wrapped(Experts(), data)
    elements = {point.name: point.num_elements for point in model.points if point.kind == "activation"}
    assert elements == {"experts.0.1": 8 * 4 / 8, "experts.1.1": 8 * 4 / 8}
    names = [point.name for point in model.points]
    candidate = np.array([[{"experts.0.0.weight": 4, "experts.1.0.weight": 2}.get(name, 8) for name in names]])
    # Half of the samples go to each expert; what is gathered from their ReLUs keeps the bits.
    half = 0.5 * 32 * 8
    assert build_costs("bops", model)[0].cost(candidate).tolist() == [half * 4 + half * 2 + 16 * 8 * 8]
    model.detach()
    assert costs(Experts(), data) == costs(Experts(), data[::-1]) == costs(Experts(), [data[1], data[0], data[2]])


def test_what_no_batch_passes_is_named():
    with pytest.raises(SelectionError, match=r"no batch of the calibration data calls: .experts.1.1."):
        wrapped(Experts(), [signed(-1, -1)])
    model = QuantizedModel(Experts(3), weights=predicates.weighted)
    model.calibrate([signed(-1, 1)])
    with pytest.warns(RuntimeWarning, match=r"never passes the points 'experts.2.0.weight'"):
        problem = qx.LayerwiseQuantizationProblem(model, [signed(-1, 1)], costs="bops")
    assert "bops lacks something: no data meets experts.2.0.weight, whose" in str(problem.describe())


def test_an_example_of_one_expert_is_described_and_costs_keep_to_what_calibration_saw():
    data = [signed(-1, 1, 1)]
    model = wrapped(Experts(), data)
    before, number = build_costs("bops", model)[0].cost(model.num_bits[None]).tolist(), len(model.examples)
    rows = {row.point.name: row.point.num_calls for row in model.describe(signed(-1)[0]).points}
    assert (rows["experts.0.1"], rows["experts.1.1"]) == (1, 0)
    assert build_costs("bops", model)[0].cost(model.num_bits[None]).tolist() == before and len(model.examples) == number
    fresh = QuantizedModel(Experts(), activations=predicates.by_type(nn.ReLU))
    with pytest.raises(SelectionError, match=r"nothing in the example calls: 'experts.1.1'.*model.calibrate\(loader\)"):
        fresh.describe(signed(-1)[0])


class WithPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.head = nn.Embedding(9, 4), nn.Embedding(5, 4), nn.Linear(4, 3)
        self.register_buffer("places", torch.arange(5))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.words(tokens) + self.positions(self.places)).mean(1)


def test_a_table_of_positions_is_nothing_that_bops_lack():
    data = [(torch.randint(0, 9, (4, 5)), torch.zeros(4, dtype=torch.int64))]
    model = QuantizedModel(WithPositions(), weights=predicates.weighted)
    model.calibrate(data)
    problem = qx.LayerwiseQuantizationProblem(model, data, costs="bops", engine="direct")
    assert "lacks" not in str(problem.describe())


def test_what_all_samples_share_is_not_divided_among_them():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.relu, self.head = nn.Parameter(torch.rand(1, 6)), nn.ReLU(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.relu(self.table))

    model = wrapped(Positions(), [(torch.rand(3, 6), labels(3)), (torch.rand(2, 6), labels(2))])
    assert [point.num_elements for point in model.points if point.kind != "weight"] == [6, 6]


@pytest.mark.parametrize("count", [2, 3, D])
def test_an_input_that_all_samples_share_is_whole_whatever_its_length(count):
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.time, self.head = nn.ReLU(), nn.Linear(D, D), nn.Linear(D, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.head(self.relu(x + self.time(t)))

    data = [((torch.rand(count, D), torch.rand(1, D)), labels(count))]
    assert costs(Timed(), data)[:2] == [3 * D, (D * D + 2 * D) * 64]


def test_a_peak_is_the_same_whenever_garbage_is_collected():
    network, data = OneByOne(stacks=True), [([torch.rand(3, 4, 5) for _ in range(4)], labels(4))]
    thresholds, found = gc.get_threshold(), set()
    try:
        for often in (1, 20, 700, 10_000):
            gc.set_threshold(often, 1, 1)
            found.add(tuple(costs(network, data, unpack=of_lists)))
    finally:
        gc.set_threshold(*thresholds)
    assert len(found) == 1
