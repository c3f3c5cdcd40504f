"""Where quantizers go: points in order, one quantizer per module, the plan."""

from typing import Any

import numpy as np
import pytest
import torch
from network_state import network_state, random_state
from networks import AWKWARD, TRAINABLE, Case, digits, trained, wrapping
from torch import Tensor, nn

from qexplore import predicates
from qexplore.model import QuantizationPoint, QuantizedActivationsModel, call
from qexplore.quant import TensorQuantizer

CASES = pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD)


def wrap(case: Case, **options: Any) -> QuantizedActivationsModel:
    return QuantizedActivationsModel(case.build(), case.predicate, **{**case.options, **options})


@CASES
def test_points_stand_in_module_order_behind_the_input(case: Case) -> None:
    model = wrap(case)
    model.describe(case.inputs())
    assert tuple(model.activation_fake_quantizers) == case.points
    assert tuple(point.name for point in model.points) == case.points
    assert [point.index for point in model.points] == list(range(len(case.points)))
    assert [point.num_calls for point in model.points] == list(case.calls or [1] * len(case.points))
    assert len(model.num_bits) == len(case.points)


@CASES
def test_every_point_quantizes_every_tensor_that_passes_it(case: Case) -> None:
    model = wrap(case)
    model.describe(case.inputs())
    calls = dict.fromkeys(case.points, 0)

    def count(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1

        return note

    for name, quantizer in model.activation_fake_quantizers.items():
        quantizer.register_forward_hook(count(name))
    call(model.eval(), case.inputs())
    assert all(calls.values())
    if "outputs" not in case.options and case.points[0] == "input" and isinstance(case.inputs(), Tensor):
        assert list(calls.values()) == list(case.calls or [1] * len(case.points))


@CASES
def test_switched_off_model_gives_the_float_networks_output(case: Case) -> None:
    plain = case.build()
    model = QuantizedActivationsModel(case.build(), case.predicate, **case.options)
    model.describe(case.inputs())
    model.model.load_state_dict(plain.state_dict())
    model.num_bits = [0] * len(case.points)
    torch.manual_seed(0)
    expected = call(plain.eval(), case.inputs())
    torch.manual_seed(0)
    assert torch.equal(call(model.eval(), case.inputs()), expected)


def test_resnet20_has_its_input_and_nineteen_relus() -> None:
    model = QuantizedActivationsModel(trained("resnet20"), predicates.by_type(nn.ReLU))
    blocks = [f"layer{stage}.{block}.relu{i}" for stage in (1, 2, 3) for block in (0, 1, 2) for i in (1, 2)]
    assert list(model.activation_fake_quantizers) == ["input", "relu", *blocks]


def test_shared_module_has_one_quantizer_and_three_calls() -> None:
    model = QuantizedActivationsModel(trained("shared_relu"), predicates.by_type(nn.ReLU))
    seen: list[int] = []
    model.activation_fake_quantizers["relu"].register_forward_hook(lambda *_: seen.append(1))
    model.describe(digits().search.x[:2])
    values = 8 * 8 * 8 + 8 * 4 * 4 + 32  # of one sample, over its three calls
    assert model.points[1] == QuantizationPoint(
        "relu", "activation", 1, "ReLU", (2, 8, 8, 8), 3, num_elements=values, module="relu"
    )
    assert seen == []
    model(digits().search.x[:2])
    assert len(seen) == 3


def test_quantizers_are_a_mapping_by_name() -> None:
    model = wrap(AWKWARD["nested_sequential"])
    quantizers = model.activation_fake_quantizers
    assert isinstance(quantizers["0.1.0"], TensorQuantizer)
    assert quantizers["0.1.0"].name == "0.1.0"
    assert len(quantizers) == 4
    assert "0.1.1" not in quantizers
    with pytest.raises(KeyError, match=r"no quantization point 'relu'; there are: input, 0\.1\.0"):
        quantizers["relu"]
    assert "'0.1.0': TensorQuantizer(" in repr(quantizers)


def test_input_is_left_out_when_asked() -> None:
    case = AWKWARD["nested_sequential"]
    model = wrap(case, quantize_input=False)
    model.describe(case.inputs())
    assert tuple(model.activation_fake_quantizers) == case.points[1:]
    assert [point.kind for point in model.points] == ["activation"] * 3
    assert not model.model._forward_pre_hooks


def test_network_without_floating_input_loses_the_point() -> None:
    case = AWKWARD["tokens"]
    model = wrap(case)
    assert tuple(model.activation_fake_quantizers) == ("input", "embedding", "fc")
    model.describe(case.inputs())
    assert tuple(model.activation_fake_quantizers) == ("embedding", "fc")
    assert len(model.num_bits) == 2
    assert [point.index for point in model.points] == [0, 1]


def test_all_floating_inputs_share_the_inputs_quantizer_until_data_is_seen_and_integers_pass() -> None:
    case = AWKWARD["keyword_inputs"]
    model = wrap(case, init_num_bits=2)
    seen: list[Tensor] = []
    model.activation_fake_quantizers["input"].register_forward_hook(lambda _, args, output: seen.append(args[0]))
    inputs = case.inputs()
    model(**inputs)
    assert [tensor is inputs[key] for tensor, key in zip(seen, ("x", "other"), strict=True)] == [True, True]


def test_network_itself_can_be_a_point() -> None:
    model = QuantizedActivationsModel(AWKWARD["nested_sequential"].build(), predicates.by_name("", "2"))
    assert list(model.activation_fake_quantizers) == ["input", "output", "2"]


def test_quantizer_comes_behind_the_users_own_hooks() -> None:
    case = AWKWARD["user_hooks"]
    model = wrap(case, init_num_bits=2)
    seen: list[float] = []
    quantizer = model.activation_fake_quantizers["relu"]
    quantizer.register_forward_hook(lambda _, args, output: seen.append(float(args[0].detach().min())))
    model(case.inputs())
    assert seen == [1.0]  # the user's hook adds 1 to a ReLU
    assert model.model.num_relu_calls == 1


class TestOutputs:
    def containers(self, **options: Any) -> QuantizedActivationsModel:
        return wrap(AWKWARD["containers"], **options)

    def test_all_floating_tensors_of_containers_are_quantized_and_the_rest_is_kept(self) -> None:
        model = self.containers(init_num_bits=3)
        results: dict[str, Any] = {}
        for name in ("as_tuple", "as_list", "as_dict", "as_named"):
            module = model.model.get_submodule(name)
            module.register_forward_hook(lambda _, args, output, name=name: results.__setitem__(name, output))
        model(AWKWARD["containers"].inputs())
        assert {name: type(value).__name__ for name, value in results.items()} == {
            "as_tuple": "tuple",
            "as_list": "list",
            "as_dict": "dict",
            "as_named": "Pair",
        }
        assert results["as_list"][2:4] == ["a label", None]
        assert results["as_list"][4].dtype == torch.int64
        floats = [*results["as_tuple"], *results["as_list"][:2], *results["as_dict"].values(), *results["as_named"]]
        assert all(len(tensor.unique()) <= 8 for tensor in floats)

    def test_lstm_outputs_share_one_quantizer(self) -> None:
        model = QuantizedActivationsModel(trained("lstm"), **wrapping("lstm"))
        seen: list[tuple[int, ...]] = []
        model.activation_fake_quantizers["lstm"].register_forward_hook(lambda _, args, o: seen.append(tuple(o.shape)))
        model(digits().search.x[:5])
        assert seen == [(5, 8, 24), (1, 5, 24), (1, 5, 24)]


class TestPlan:
    def test_plan_is_known_before_anything_ran(self) -> None:
        network = trained("small_cnn").train()
        model = QuantizedActivationsModel(network, predicates.by_type(nn.ReLU), init_num_bits=6)
        before, seeds = network_state(model), random_state()
        plan = model.describe(digits().search.x[:3])
        assert network_state(model) == before
        assert random_state() == seeds
        assert [(row.point.name, row.point.shape, row.num_bits, row.amax) for row in plan.points] == [
            ("input", (3, 1, 8, 8), 6, None),
            ("relu1", (3, 8, 8, 8), 6, None),
            ("relu2", (3, 16, 4, 4), 6, None),
            ("relu3", (3, 32), 6, None),
        ]

    def test_plan_is_a_table(self) -> None:
        model = QuantizedActivationsModel(trained("shared_relu"), predicates.by_type(nn.ReLU))
        assert "?" in str(model.describe())
        example = digits().search.x[:3]
        lines = str(model.describe(example)).splitlines()
        assert lines[0] == "SharedReLU: 2 quantization points, selected by activations by_type(ReLU)"
        assert lines[1].split() == ["#", "point", "type", "shape", "calls", "num_bits", "sign", "amax"]
        cells = [cell.strip() for cell in lines[4].split("  ") if cell]
        assert cells == ["1", "relu", "ReLU", "3 x 8 x 8 x 8", "3", "8", "auto", "not calibrated"]
        model.calibrate([example])
        model.num_bits = [0, 3]
        lines = str(model.describe()).splitlines()
        assert lines[3].split()[-3:] == ["off", "unsigned", "1"]
        assert lines[4].split()[-3:-1] == ["3", "unsigned"]

    @CASES
    def test_looking_changes_neither_network_nor_example_nor_random_state(self, case: Case) -> None:
        model = wrap(case)
        model.describe(case.inputs())  # a network of tokens loses its input point here
        inputs, before, seeds = case.inputs(), network_state(model), random_state()
        model.describe(inputs)
        assert network_state(model) == before
        assert random_state() == seeds
        for given, fresh in zip(flat(inputs), flat(case.inputs()), strict=True):
            assert torch.equal(given, fresh)

    def test_looking_at_a_noisy_network_leaves_the_users_random_state(self) -> None:
        case = AWKWARD["noisy"]
        model, seeds = wrap(case), random_state()
        model.describe(case.inputs())
        assert random_state() == seeds


def flat(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, dict):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_narrow_widths_leave_few_values_at_every_point(name: str) -> None:
    model = QuantizedActivationsModel(trained(name), **wrapping(name, init_num_bits=3))
    levels: dict[str, int] = {}
    for point, quantizer in model.activation_fake_quantizers.items():
        quantizer.register_forward_hook(lambda _, args, out, p=point: levels.update({p: len(np.unique(out.detach()))}))
    model(digits().search.x[:20])
    assert set(levels) == set(model.activation_fake_quantizers)
    assert all(1 < count <= 8 for count in levels.values())


def test_input_that_an_example_left_out_is_quantized_when_calibration_sees_it() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)

        def forward(self, tokens: Any, mask: Any = None) -> Any:
            return self.embedding(tokens) if mask is None else self.embedding(tokens) * mask

    tokens, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, 1)
    model = QuantizedActivationsModel(Masked(), predicates.leaves)
    model.describe(tokens)
    model.calibrate([(tokens, mask)], unpack=lambda batch: (batch, None))

    assert tuple(point.name for point in model.points) == ("input", "embedding")
    assert model.activation_fake_quantizers["input"].is_calibrated


class TestInputThatIsLeftOut:
    def make(self, **options: Any) -> QuantizedActivationsModel:
        return QuantizedActivationsModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), predicates.leaves, **options)

    def test_its_point_goes_from_vector_and_network_until_a_calibration_finds_a_floating_input(self) -> None:
        model, x = self.make(), torch.rand(4, 2)
        names = list(model.fake_quantizers)
        model.leave_input_out()
        assert list(model.fake_quantizers) == names[1:]
        assert len(model.num_bits) == len(names) - 1
        assert not model.model._forward_pre_hooks
        model.calibrate([x])
        assert list(model.fake_quantizers) == names
        assert model.model._forward_pre_hooks

    def test_it_is_left_out_alike_by_a_state_without_it(self) -> None:
        model, other = self.make(), self.make()
        model.leave_input_out()
        other.load_state_dict(model.state_dict())
        assert list(other.fake_quantizers) == list(model.fake_quantizers)

    def test_nothing_happens_twice_or_without_one(self) -> None:
        model, without = self.make(), self.make(quantize_input=False)
        for one in (model, model, without):
            one.leave_input_out()
        assert list(model.fake_quantizers) == list(without.fake_quantizers)
