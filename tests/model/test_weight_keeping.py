"""A network with quantized weights keeps what is its own: in memory, in files and copies, in training, and detached."""

import copy
from typing import Any

import pytest
import torch
from network_state import hooks, network_state, weights
from networks import AWKWARD, Case, batches, digits, trained
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from weighted_modules import EVERY_MODULE, built, seeded, wrapped

import qexplore
from qexplore import predicates
from qexplore.errors import SelectionError
from qexplore.model import QuantizedModel, call
from qexplore.quant import QuantDescriptor, TensorQuantizer

CALIBRATION = batches(digits().calibration)
RELU_AND_LAST = predicates.by_type(nn.ReLU) | predicates.by_name("fc2")


def calibrated(network: nn.Module | None = None, method: str = "mse", **options: Any) -> QuantizedModel:
    """Five activations with per-width ranges, four weights."""
    model = QuantizedModel(network or trained("small_cnn"), RELU_AND_LAST, predicates.weighted, **options).eval()
    model.calibrate(CALIBRATION, method=method)
    return model


VECTORS: list[list[Any]] = [
    [8] * 9,
    [2, 3, 4, 5, 6, 2, 3, 4, 5],
    [0, 4, 0, 4, 8, 0, 3, 0, 2],
    ["E4M3", 4, "MXE2M1", 8, "off", "E2M1", 4, "MXE4M3", "E3M4"],
]


@torch.no_grad()
def outputs(model: QuantizedModel) -> list[Tensor]:
    """Of all `VECTORS`, one below the other."""
    found = []
    for vector in VECTORS:
        with model.using(vector):
            found.append(model(digits().report.x[:20]))
    return found


def all_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestKeeping:
    @pytest.mark.parametrize("granularity", ["channel", "tensor", 32])
    @EVERY_MODULE
    def test_a_quantized_weight_lies_in_memory_as_the_float_one_does(self, name: str, granularity: Any) -> None:
        model, weight, read = wrapped(name, granularity)
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        model.num_bits = [3] * len(model.points)
        assert read().stride() == weight.stride()
        assert torch.equal(read().view(-1), read().flatten())
        if weight.dim() in formats:
            expected = read()
            model.to(memory_format=formats[weight.dim()])
            assert read().is_contiguous(memory_format=formats[weight.dim()])
            assert torch.equal(read(), expected)

    @pytest.mark.parametrize("granularity", ["channel", "tensor", 32])
    @pytest.mark.parametrize("asymmetric", [False, "auto", True])
    def test_a_state_dict_gives_a_fresh_wrapper_the_same_outputs(self, asymmetric: Any, granularity: Any) -> None:
        options = {"asymmetric": asymmetric, "weight_granularity": granularity}
        model = calibrated(**options)
        model.num_bits = VECTORS[3]
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        other = QuantizedModel(seeded(type(model.model)), RELU_AND_LAST, predicates.weighted, **options).eval()
        before = outputs(other)
        other.load_state_dict(state, strict=True)
        assert other.num_bits.tolist() == model.num_bits.tolist()
        assert all_equal(outputs(other), outputs(model))
        assert not all_equal(before, outputs(model))
        assert len({str(output) for output in outputs(model)}) == len(VECTORS)
        assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())

    def test_a_loaded_wrapper_is_calibrated_on_the_weights_that_it_loaded(self) -> None:
        for assign in (False, True):
            model = calibrated()
            other = QuantizedModel(seeded(type(model.model)), RELU_AND_LAST, predicates.weighted).eval()
            other.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
            other.calibrate(CALIBRATION, method="mse")
            assert all_equal(outputs(other), outputs(model))

    def test_a_deep_copy_has_weights_and_quantizers_of_its_own(self) -> None:
        model = calibrated()
        expected = outputs(model)
        copied = copy.deepcopy(model)
        assert all_equal(outputs(copied), expected)
        copied.num_bits = [2] * 9
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(1.5)
        copied.calibrate(CALIBRATION, method="max")
        assert model.num_bits.tolist() == [8] * 9
        assert all_equal(outputs(model), expected)
        assert not all_equal(outputs(copied), expected)
        before = outputs(copied)
        network = copied.detach()
        assert not any(parametrize.is_parametrized(module) for module in network.modules())
        assert all_equal(outputs(model), expected)
        again = calibrated(network, "max")
        assert all_equal(outputs(again), before)

    @pytest.mark.parametrize("granularity", ["channel", "tensor", 32])
    @EVERY_MODULE
    def test_gradients_pass_straight_through_to_the_float_weight(self, name: str, granularity: Any) -> None:
        model, weight, _ = wrapped(name, granularity)
        module = model.model
        attribute = "in_proj_weight" if name == "attention" else "weight"
        parameter = model.weight_points[0].parameter
        factors = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        for choice in (3, "E4M3", "MXE2M1", 0):
            model.num_bits = [choice] * len(model.points)
            parameter.grad = None
            (getattr(module, attribute) * factors).sum().backward()
            assert torch.equal(parameter.grad, factors)

    def test_gradients_stop_where_a_weight_is_clipped(self) -> None:
        model, weight, read = wrapped("linear")
        amax = weight.abs().amax(dim=1, keepdim=True) / 2
        model.weight_fake_quantizers["weight"].set_amax(amax)
        parameter = model.weight_points[0].parameter
        model.num_bits = [4]
        model.model.weight.sum().backward()
        assert torch.equal(parameter.grad, (weight.abs() <= amax).float())

    def test_a_step_of_training_moves_the_float_weights_and_so_what_is_quantized(self) -> None:
        model = calibrated().train()
        model.num_bits = [4] * 9
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        quantized = model.model.fc1.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        x, y = CALIBRATION[0]
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
        assert not torch.equal(model.model.fc1.weight, quantized)
        rows = [torch.arange(256) + 256 * channel for channel in range(32)]
        with torch.no_grad():
            ranges = model.weight_fake_quantizers["fc1.weight"].amax.flatten()
            float_weight = model.weight_points[2].parameter.flatten()
            for row, amax in zip(rows, ranges.tolist(), strict=True):
                quantizer = TensorQuantizer(QuantDescriptor(num_bits=4, amax=amax))
                assert torch.equal(model.model.fc1.weight.flatten()[row], quantizer(float_weight[row]))


def picture(network: nn.Module) -> tuple[Any, ...]:
    """All that detaching must bring back: state, classes, parameters themselves and their order."""
    kinds = {name: (type(module).__name__, type(module).__bases__) for name, module in network.named_modules()}
    parameters = [(name, id(parameter)) for name, parameter in network.named_parameters(remove_duplicate=False)]
    return network_state(network), kinds, parameters, list(network.state_dict())


class TestDetach:
    @pytest.mark.parametrize("by_function", [False, True])
    @pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD)
    def test_the_network_comes_back_as_it_was(self, case: Case, by_function: bool) -> None:
        network = built(case.build)
        before = picture(network)
        for granularity in ("channel", "tensor", 4):
            model = QuantizedModel(
                network, case.predicate, predicates.weighted, weight_granularity=granularity, **case.options
            )
            model.calibrate([case.inputs()], unpack=lambda batch: (batch, None))
            model.num_bits = [2] * len(model.points)
            call(model, case.inputs())
            assert picture(network)[1] != before[1]
            assert (qexplore.detach(network) if by_function else model.detach()) is network
            # A network may have state that its own calls change.
            assert picture(network)[1:] == before[1:]
            assert hooks(network) == before[0][1]
            assert weights(network) == before[0][2]

    def test_an_optimizers_state_fits_the_network_that_was_wrapped_and_detached(self) -> None:
        network = trained("small_cnn")
        shapes = [parameter.shape for parameter in network.parameters()]
        calibrated(network).detach()
        assert [parameter.shape for parameter in network.parameters()] == shapes

    def test_a_parametrization_of_the_users_own_stays(self) -> None:
        class Doubled(nn.Module):
            def forward(self, bias: Tensor) -> Tensor:
                return bias * 2

        network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
        parametrize.register_parametrization(network[0], "bias", Doubled())
        x = torch.linspace(-1, 1, 16).reshape(2, 8)
        before, expected = picture(network), network(x)
        model = QuantizedModel(network, weights=predicates.by_type(nn.Linear))
        model.num_bits = [3, 3]
        assert not torch.equal(model(x), expected)
        model.detach()
        assert picture(network) == before
        assert torch.equal(network(x), expected)

    def test_deep_copies_are_wrapped_and_detached_apart(self) -> None:
        network = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
        parametrize.register_parametrization(network[0], "bias", nn.ReLU())
        x = torch.linspace(-1, 1, 16).reshape(2, 8)
        other, expected = copy.deepcopy(network), network(x)
        model = QuantizedModel(other, weights=predicates.by_type(nn.Linear))
        assert torch.equal(network(x), expected)
        model.num_bits = [3, 3]
        quantized, third = model(x), copy.deepcopy(model)
        model.detach()
        assert torch.equal(third(x), quantized)
        assert torch.equal(other(x), expected)
        third.detach()
        assert torch.equal(third.model(x), expected)
        assert torch.equal(network(x), expected)

    def test_a_wrapping_that_fails_leaves_the_network_untouched(self) -> None:
        network = trained("small_cnn")
        before = picture(network)
        bad: list[dict[str, Any]] = [
            {"weights": predicates.weighted | predicates.by_name("relu3")},
            {"activations": RELU_AND_LAST, "weights": predicates.by_name("nothing")},
            {"activations": predicates.by_name("nothing"), "weights": predicates.weighted},
            {"weights": predicates.weighted, "init_num_bits": "E9M9"},
            {"weights": predicates.weighted, "init_num_bits": 1},
            {"weights": predicates.weighted, "weight_granularity": 0},
        ]
        for options in bad:
            with pytest.raises(qexplore.QExploreError):
                QuantizedModel(network, **options)
            assert picture(network) == before
        with pytest.raises(SelectionError, match="'relu3' .ReLU. has no parameter"):
            QuantizedModel(network, **bad[0])
        assert picture(calibrated(network).detach()) == before

    def test_a_network_can_be_wrapped_again_and_again(self) -> None:
        network = trained("small_cnn")
        before = picture(network)
        expected = outputs(calibrated(copy.deepcopy(network)))
        for _ in range(3):
            model = calibrated(network)
            assert all_equal(outputs(model), expected)
            model.detach()
            assert picture(network) == before
