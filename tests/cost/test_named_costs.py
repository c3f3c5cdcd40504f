"""Every named cost against arithmetic by hand, on three networks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qexplore import predicates
from qexplore._choices import choice_code
from qexplore.cost import COST_NAMES, build_costs
from qexplore.model import QuantizedActivationsModel, QuantizedModel


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))


class SharedLinear(nn.Module):
    """One layer called twice, the second time beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.relu1 = nn.ReLU()
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.shared(x))
        return self.head(self.relu2(self.shared(y) + y))


NETWORKS = {"mlp": (mlp, (1, 4)), "cnn": (cnn, (1, 1, 4, 4)), "shared": (SharedLinear, (1, 4))}
POINTS = {
    "mlp": ["input", "1", "0.weight", "2.weight"],  # 4, 3, 3 x 4 and 2 x 3 values; biases of 3 and 2
    "cnn": ["input", "1", "0.weight", "4.weight"],  # 16, 32, 2 x 9 and 3 x 8 values; biases of 2 and 3
    "shared": ["input", "relu1", "relu2", "shared.weight", "head.weight"],  # 4, 4, 4, 4 x 4, 2 x 4; biases of 4 and 2
}


@dataclass(frozen=True)
class ByHand:
    network: str
    choices: tuple[int | str, ...]
    total_bits: float
    weighted_bits: float
    num_elements: int
    model_bits: float
    activation_bytes: float
    peak_activation_bytes: float
    bops: float
    costs: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        named = {name: value for name, value in vars(self).items() if name in COST_NAMES}
        named |= {"mean_bits": self.weighted_bits / self.num_elements, "model_bytes": self.model_bits / 8}
        object.__setattr__(self, "costs", named)


CASES = [
    ByHand(
        "mlp",
        (8, 4, "E4M3", "MXE2M1"),
        total_bits=8 + 4 + 8 + 4.25,
        weighted_bits=4 * 8 + 3 * 4 + 12 * 8 + 6 * 4.25,
        num_elements=25,
        model_bits=(12 * 8 + 3 * 32) + 6 * 4.25 + 5 * 32,  # a scale per channel; those of MX are in its bits
        activation_bytes=4 + 3 / 2,
        peak_activation_bytes=4 + 3 * 4 + 3 / 2,  # the input, the first layer's float output, its ReLU
        bops=12 * 8 * 8 + 6 * 4 * 4,
    ),
    ByHand(
        "mlp",
        ("off", "off", "off", "off"),
        total_bits=4 * 32,
        weighted_bits=25 * 32,
        num_elements=25,
        model_bits=23 * 32,
        activation_bytes=7 * 4,
        peak_activation_bytes=(4 + 3 + 3) * 4,
        bops=18 * 32 * 32,
    ),
    ByHand(
        "mlp",
        ("off", "E4M3", 2, "off"),
        total_bits=32 + 8 + 2 + 32,
        weighted_bits=4 * 32 + 3 * 8 + 12 * 2 + 6 * 32,
        num_elements=25,
        model_bits=(12 * 2 + 3 * 32) + 6 * 32 + 5 * 32,
        activation_bytes=16 + 3,
        peak_activation_bytes=16 + 12 + 3,
        bops=12 * 32 * 2 + 6 * 8 * 32,
    ),
    ByHand(
        "cnn",
        (4, 3, 8, "E4M3"),
        total_bits=4 + 3 + 8 + 8,
        weighted_bits=16 * 4 + 32 * 3 + 18 * 8 + 24 * 8,
        num_elements=90,
        model_bits=(18 * 8 + 2 * 32) + (24 * 8 + 3 * 32) + 5 * 32,
        activation_bytes=8 + 12,
        peak_activation_bytes=8 + 32 * 4 + 12,
        bops=16 * 18 * 4 * 8 + 24 * 3 * 8,  # 16 pixels; pooling and flattening leave the ReLU's 3 bits
    ),
    ByHand(
        "cnn",
        ("off", "off", "off", "off"),
        total_bits=4 * 32,
        weighted_bits=90 * 32,
        num_elements=90,
        model_bits=47 * 32,
        activation_bytes=48 * 4,
        peak_activation_bytes=(16 + 32 + 32) * 4,
        bops=(16 * 18 + 24) * 32 * 32,
    ),
    ByHand(
        "cnn",
        ("MXE2M1", "off", "MXE2M1", 2),
        total_bits=4.25 + 32 + 4.25 + 2,
        weighted_bits=16 * 4.25 + 32 * 32 + 18 * 4.25 + 24 * 2,
        num_elements=90,
        model_bits=18 * 4.25 + (24 * 2 + 3 * 32) + 5 * 32,
        activation_bytes=16 * 4.25 / 8 + 128,
        peak_activation_bytes=8.5 + 128 + 128,
        bops=16 * 18 * 4 * 4 + 24 * 32 * 2,
    ),
    ByHand(
        "shared",
        (2, 3, 4, 5, 6),
        total_bits=2 + 3 + 4 + 5 + 6,
        weighted_bits=4 * 2 + 4 * 3 + 4 * 4 + 16 * 5 + 8 * 6,
        num_elements=36,
        model_bits=(16 * 5 + 4 * 32) + (8 * 6 + 2 * 32) + 6 * 32,
        activation_bytes=1 + 1.5 + 2,
        peak_activation_bytes=1 + 1.5 + 16 + 16,  # input and ReLU, the second call's output, the sum
        bops=16 * 2 * 5 + 16 * 3 * 5 + 8 * 4 * 6,
    ),
    ByHand(
        "shared",
        ("off", "off", "off", "off", "off"),
        total_bits=5 * 32,
        weighted_bits=36 * 32,
        num_elements=36,
        model_bits=30 * 32,
        activation_bytes=12 * 4,
        peak_activation_bytes=64,
        bops=(16 + 16 + 8) * 32 * 32,
    ),
    ByHand(
        "shared",
        ("off", "E4M3", "MXE2M1", "E4M3", "MXE2M1"),
        total_bits=32 + 8 + 4.25 + 8 + 4.25,
        weighted_bits=4 * 32 + 4 * 8 + 4 * 4.25 + 16 * 8 + 8 * 4.25,
        num_elements=36,
        model_bits=(16 * 8 + 4 * 32) + 8 * 4.25 + 6 * 32,
        activation_bytes=16 + 4 + 4 * 4.25 / 8,
        peak_activation_bytes=16 + 4 + 16 + 16,
        bops=16 * 32 * 8 + 16 * 8 * 8 + 8 * 4 * 4,
    ),
]


def wrapped(name: str) -> QuantizedModel:
    build, shape = NETWORKS[name]
    model = QuantizedModel(build(), predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear, nn.Conv2d))
    model.describe(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.network}-{'-'.join(map(str, case.choices))}")
def test_named_costs_equal_arithmetic_by_hand(case):
    model = wrapped(case.network)
    assert [point.name for point in model.points] == POINTS[case.network]
    candidate = np.array([[choice_code(choice) for choice in case.choices]], dtype=np.int64)

    costs = {cost.name: float(cost.cost(candidate)[0]) for cost in build_costs(COST_NAMES, model)}

    assert costs == pytest.approx(case.costs)
    assert set(costs) == set(COST_NAMES)


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_of_a_population_are_those_of_its_candidates_alone(name):
    model = wrapped(name)
    codes = np.array([0, 2, 3, 8, 16, 403, 502, 1201, 1403])
    candidates = np.random.default_rng(0).choice(codes, (20, len(model.points)))
    for cost in build_costs(COST_NAMES, model):
        together = cost.cost(candidates)
        assert together.shape == (20,)
        assert together.dtype == np.float64
        assert together.tolist() == [float(cost.cost(row[None])[0]) for row in candidates]
        assert cost.cost(candidates[:0]).shape == (0,)
        assert cost.unit


def test_costs_of_many_points_are_the_same_to_the_last_bit_however_candidates_lie_in_memory():
    sizes = range(3, 16)
    layers = [nn.Linear(one, other) for one, other in zip(sizes[:-1], sizes[1:], strict=True)]
    model = QuantizedModel(nn.Sequential(*layers), predicates.by_type(nn.Linear), predicates.by_type(nn.Linear))
    model.describe(torch.ones(1, 3))
    candidates = np.random.default_rng(0).integers(2, 9, (200, len(model.points)))
    for cost in build_costs(COST_NAMES, model):
        alone = [float(cost.cost(row[None])[0]) for row in candidates]
        assert cost.cost(candidates).tolist() == cost.cost(np.asfortranarray(candidates)).tolist() == alone


def test_costs_do_not_depend_on_the_batch_that_was_calibrated():
    costs = []
    for size in (1, 7):
        model = QuantizedModel(cnn(), predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear, nn.Conv2d))
        model.calibrate([torch.rand(size, 1, 4, 4)])
        candidate = np.array([[8, 4, 2, 3]])
        costs.append([float(cost.cost(candidate)[0]) for cost in build_costs(COST_NAMES, model)])
    assert costs[0] == costs[1]


def test_parameters_that_are_no_point_count_in_their_own_dtype_and_buffers_do_not_count():
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU()).to(torch.float16)
    model = QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear))
    (bits,) = build_costs("model_bits", model)
    # 8 weights of 4 bits with 2 scales of 32; a bias of 2, BatchNorm's weight and bias of 2 each.
    assert bits.cost(np.array([[8, 8, 4]])).tolist() == [8 * 4 + 2 * 32 + 6 * 16]


def test_tied_weights_count_once():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    network[2].weight = network[0].weight
    model = QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear))
    model.describe(torch.ones(1, 4))
    weighted, bits, bops = build_costs(["weighted_bits", "model_bits", "bops"], model)
    candidate = np.array([[8, 4, 2]])
    assert weighted.cost(candidate).tolist() == [4 * 8 + 4 * 4 + 16 * 2]
    assert bits.cost(candidate).tolist() == [16 * 2 + 4 * 32]
    assert bops.cost(candidate).tolist() == [16 * 8 * 2 + 16 * 4 * 2]


def test_activations_alone_leave_all_weights_in_float():
    model = QuantizedActivationsModel(mlp(), predicates.by_type(nn.ReLU))
    model.describe(torch.ones(1, 4))
    bits, bops = build_costs(("model_bits", "bops"), model)
    candidates = np.array([[8, 8], [2, 4]])
    assert bits.cost(candidates).tolist() == [23 * 32, 23 * 32]
    assert bops.cost(candidates).tolist() == [18 * 8 * 32, 12 * 2 * 32 + 6 * 4 * 32]
