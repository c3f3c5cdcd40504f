"""What is refused about weights, by name and with what to do instead; and what is odd but right."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from controlled_networks import TiedEmbedding
from torch import nn
from torch.nn.utils import parametrize

from qexplore import predicates
from qexplore.cost import build_costs
from qexplore.errors import CalibrationError, DataError, ModelError, NumBitsError, QExploreError, SelectionError
from qexplore.model import QuantizedModel

W = predicates.weighted
RELU, LINEAR = predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear)
X = torch.linspace(-1, 1, 32).reshape(4, 8)
DATA = [(X, torch.zeros(4, dtype=torch.int64))]


def two_layers() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def both() -> QuantizedModel:
    """Points: input, 1, 0.weight, 2.weight."""
    return QuantizedModel(two_layers(), RELU, W)


def with_weight(value: float) -> QuantizedModel:
    network = two_layers()
    network[2].weight.data[1, 2] = value
    return QuantizedModel(network, weights=W)


def shared_with_a_parametrized() -> nn.Module:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    parametrize.register_parametrization(first, "weight", nn.Tanh())
    return nn.Sequential(first, second)


def set_num_bits(value: Any) -> Callable[[], None]:
    def use() -> None:
        both().num_bits = value

    return use


REFUSED: dict[str, tuple[Callable[[], Any], type[QExploreError], str]] = {
    "no weight": (
        lambda: QuantizedModel(two_layers(), weights=LINEAR | RELU),
        SelectionError,
        "every module that `weights` selects must have a parameter 'weight', but '1' (ReLU) has no parameter: select "
        "modules that have one, for example with `& predicates.weighted`",
    ),
    "a container": (
        lambda: QuantizedModel(two_layers(), weights=lambda module: True),
        SelectionError,
        "but '' (Sequential) has no parameter",
    ),
    "a lazy layer": (
        lambda: QuantizedModel(nn.Sequential(nn.LazyLinear(3)), weights=LINEAR),
        SelectionError,
        "the weight of '0' (LazyLinear) has no shape yet: call the network once before it is wrapped",
    ),
    "a lazy layer by its weight": (
        lambda: QuantizedModel(nn.Sequential(nn.LazyConv2d(3, 3)), weights=W),
        SelectionError,
        "the weight of '0' (LazyConv2d) has no shape yet: call the network once",
    ),
    "a weight shared with a parametrized one": (
        lambda: QuantizedModel(shared_with_a_parametrized(), weights=predicates.by_name("1")),
        ModelError,
        "the weight of '1' must not be what another module has parametrized",
    ),
    "a wrapped network": (
        lambda: QuantizedModel(QuantizedModel(two_layers(), weights=W).model, weights=W),
        ModelError,
        "the model (Sequential) is wrapped already: call detach()",
    ),
    "nothing at all": (lambda: QuantizedModel(two_layers()), SelectionError, "nothing is to be quantized"),
    "an unknown format": (
        lambda: QuantizedModel(two_layers(), weights=W, init_num_bits="E9M9"),
        NumBitsError,
        "`num_bits` of point '0.weight' must be an int in [2, 16] or a float format (E4M3, ",
    ),
    "one signed bit": (
        lambda: QuantizedModel(two_layers(), weights=W, init_num_bits=1),
        NumBitsError,
        "got 1: one signed bit has no levels beside zero",
    ),
    "to begin off": (
        lambda: QuantizedModel(two_layers(), weights=W, init_num_bits="off"),
        NumBitsError,
        "must be an int in [2, 16], got 'off'",
    ),
    "no data for activations": (
        lambda: both().calibrate(),
        DataError,
        "calibrating activations needs data: pass a loader, model.calibrate(loader)",
    ),
    "an empty loader": (
        lambda: QuantizedModel(two_layers(), weights=W).calibrate([]),
        DataError,
        "the calibration loader must hold at least one batch, got none",
    ),
    "entropy of weights": (
        lambda: both().calibrate(DATA, weight_method="entropy"),
        CalibrationError,
        "`weight_method` must be one of 'max', 'percentile', 'mse', 'auto', got 'entropy': entropy is for activations",
    ),
    "an unknown method": (
        lambda: both().calibrate(DATA, weight_method="minmax"),
        CalibrationError,
        "`weight_method` must be one of 'max', 'percentile', 'mse', 'auto', got 'minmax'",
    ),
    "auto without data": (
        lambda: QuantizedModel(two_layers(), weights=W).calibrate(weight_method="auto"),
        DataError,
        'weight_method "auto" compares outputs on data: pass a loader',
    ),
    "auto for all without data": (
        lambda: QuantizedModel(two_layers(), weights=W).calibrate(method="auto"),
        DataError,
        'weight_method "auto" compares outputs on data: pass a loader',
    ),
    "too short a vector": (set_num_bits([4, 4, 4]), NumBitsError, "one width for each of the 4 points"),
    "an unknown format in a vector": (
        set_num_bits([4, 4, "E9M9", 4]),
        NumBitsError,
        "`num_bits` of point '0.weight' must be an int in [2, 16] or a float format",
    ),
    "one bit in a vector": (
        set_num_bits([4, 4, 1, 4]),
        NumBitsError,
        "point '0.weight' must be an int in [2, 16], got",
    ),
    "half a bit": (set_num_bits([4, 4, 4.5, 4]), NumBitsError, "point '0.weight' must be an int in [2, 16], got 4.5"),
    "an unknown name": (set_num_bits({"0.bias": 4}), NumBitsError, "must name the points input, 1, 0.weight, 2.weight"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_what_and_why(case: tuple[Callable[[], Any], type[QExploreError], str]) -> None:
    use, kind, sentence = case
    with pytest.raises(kind, match=re.escape(sentence)):
        use()


@pytest.mark.parametrize("value", ["row", 0, -32, True, 2.5, None, [32], "32"])
def test_what_is_no_granularity_is_refused(value: Any) -> None:
    with pytest.raises(ModelError, match='must be "channel", "tensor" or a group size such as 32, 64 or 128, got'):
        QuantizedModel(two_layers(), weights=W, weight_granularity=value)


def test_numpys_integers_are_group_sizes() -> None:
    model = QuantizedModel(two_layers(), weights=W, weight_granularity=np.int64(4))
    assert [point.num_scales for point in model.points] == [16, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["max", "percentile", "mse", "auto"])
def test_a_weight_that_is_not_finite_is_refused_by_calibration_and_ranges_stay(value: float, method: str) -> None:
    model = with_weight(value)
    before = model.version()
    with pytest.raises(CalibrationError, match=r"the weight '2\.weight' must be finite to be calibrated, got NaN or"):
        model.calibrate(DATA, weight_method=method)
    assert model.version() == before


def test_nan_in_a_weight_stays_nan_where_it_is_not_calibrated() -> None:
    model = with_weight(float("nan"))
    model.num_bits = [4, 4]
    weight = model.model[2].weight
    assert bool(weight[1, 2].isnan())
    assert bool(torch.isfinite(weight[[0, 2]]).all())


def test_a_loaded_state_of_another_granularity_is_refused_by_name() -> None:
    states = {
        size: QuantizedModel(two_layers(), weights=W, weight_granularity=size).state_dict()
        for size in ("channel", "tensor", 4)
    }
    for size, other in (("channel", 4), (4, "channel"), ("tensor", "channel"), ("tensor", 4)):
        model = QuantizedModel(two_layers(), weights=W, weight_granularity=size)
        model.load_state_dict(states[other])
        with pytest.raises(ModelError, match=r"the range of '0\.weight' must have the shape .* same granularity"):
            model(X)
        model.calibrate()
        assert bool(torch.isfinite(model(X)).all())


def test_calibration_needs_no_data_where_only_weights_are_quantized() -> None:
    for method in ("max", "percentile", "mse"):
        model = QuantizedModel(two_layers(), weights=W)
        model.calibrate(weight_method=method)
        model.require_calibrated()
        assert [quantizer.amax.shape for quantizer in model.fake_quantizers.values()] == [(8, 1), (3, 1)]


def test_a_vector_takes_every_form_of_a_choice() -> None:
    model = both()
    for value, codes in (
        (["E4M3", None, "off", 4], [403, 0, 0, 4]),
        ([(2, 1), 8, "mxe2m1", 0], [201, 8, 1201, 0]),
        ({"0.weight": "E2M1", "2.weight": None, "1": 3, "input": (4, 3, 32)}, [1403, 3, 201, 0]),
        (np.array([403, 8, 0, 1201]), [403, 8, 0, 1201]),
        (torch.tensor([4, 5, 6, 7]), [4, 5, 6, 7]),
    ):
        model.num_bits = value
        assert model.num_bits.tolist() == codes
        assert bool(torch.isfinite(model(X)).all())


class TestTiedEmbedding:
    """One parameter under two modules: an embedding, and the last layer."""

    tokens = torch.arange(16).reshape(2, 8)

    def test_has_one_point_with_one_quantizer_that_both_modules_read_through(self) -> None:
        for predicate in (W, predicates.by_name("embed", "fc"), predicates.by_name("head", "fc")):
            model = QuantizedModel(TiedEmbedding(), weights=predicate)
            assert len(model.points) == 2
            model.num_bits = [2, 2]
            network = model.model
            tied = next(point for point in model.weight_points if point.name != "fc.weight")
            assert [module for module, _ in tied.holders] == [network.embed, network.head]
            assert torch.equal(network.embed.weight, network.head.weight)
            assert not torch.equal(network.embed.weight, tied.parameter)

    def test_is_named_after_the_first_and_counted_once(self) -> None:
        model = QuantizedModel(TiedEmbedding(), weights=W)
        assert [(point.name, point.num_elements) for point in model.points] == [("embed.weight", 64), ("fc.weight", 16)]
        model.calibrate([self.tokens])
        model.num_bits = [4, 8]
        costs = {cost.name: cost for cost in build_costs(("total_bits", "model_bits", "model_bytes"), model)}
        candidates = np.array([[4, 8], [2, 8]])
        assert costs["total_bits"].cost(candidates).tolist() == [12, 10]
        bits = costs["model_bits"].cost(candidates)
        assert bits[0] - bits[1] == 2 * 64
        num_bytes = costs["model_bytes"].cost(candidates)
        assert num_bytes[0] - num_bytes[1] == 2 * 64 / 8

    def test_stays_one_parameter_through_training_and_detaching(self) -> None:
        network = TiedEmbedding()
        parameter = network.embed.weight
        model = QuantizedModel(network, weights=W).train()
        model.num_bits = [3, 3]
        before = parameter.detach().clone()
        model(self.tokens).square().sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(parameter, before)
        assert torch.equal(network.embed.weight, network.head.weight)
        model.detach()
        assert network.embed.weight is network.head.weight is parameter
        assert len(list(network.parameters())) == 3
