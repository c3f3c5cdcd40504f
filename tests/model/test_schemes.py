"""Schemes: what a runtime quantizes, as predicates that one can print and change; points that follow from them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from called_networks import CALLED, OneRange
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.cost import observe
from qexplore.errors import ProblemError, SelectionError
from qexplore.model import calibrating

SCHEMES = ("all-int8", "tensorrt", "onnxruntime", "xnnpack")


def seen(network, scheme, *inputs, **options):
    torch.manual_seed(0)
    model = qx.QuantizedModel(network.eval(), scheme=scheme, **options)
    model.calibrate([inputs or (torch.randn(4, 1, 8, 8),)], weight_method="max", unpack=lambda batch: (batch, None))
    return model


def names(model):
    return [point.name for point in model.points if point.kind != "weight"]


def operands_in_float(model):
    """Of products in one forward: the module and the operation, once for each operand that is at no point.

    What a bilinear layer multiplies with its second input is a product itself, inside its kernel.
    """
    made = [one for one in observe(model).operations.operations if one.name != "aten._trilinear"]
    return [(one.module, one.name) for one in made for sources in one.operands if not sources]


class TestChoicesAndTies:
    def posed(self, **options):
        model = seen(Block(), "tensorrt")
        return model, qx.plan_choices(model, **options)

    def test_plan_takes_those_of_the_scheme_and_says_so(self):
        model, plan = self.posed()
        assert set(plan.choices) == {(8, 0)} and set(plan.rules) == {"scheme 'tensorrt'"}
        assert [[model.points[index].name for index in group] for group in plan.groups] == [
            ["conv1.input", "conv1.weight"],
            ["conv2.input", "conv2.weight"],
        ]
        assert "tied by scheme 'tensorrt'" in str(plan)
        assert "a search takes its choices, 8, off, tied: weights_with_activations" in str(model.describe())

    def test_given_arguments_win(self):
        assert set(self.posed(default=range(2, 9))[1].choices) == {tuple(range(2, 9))}
        assert self.posed(tied=())[1].groups == ()
        model, plan = self.posed(choices={"conv1.weight": (4,)})
        assert dict(zip([one.name for one in model.points], plan.choices, strict=True))["conv1.weight"] == (4,)
        assert len(plan.groups) == 1
        assert "conv1.input, conv1.weight: apart, as rules ask, though scheme 'tensorrt' ties them" in str(plan)

    def test_ties_that_no_forward_has_shown_are_asked_for(self):
        model = qx.QuantizedModel(Block(), scheme="tensorrt")
        with pytest.raises(ProblemError, match=r"what one forward does.*describe.*tied=\(\)"):
            qx.plan_choices(model)
        assert set(qx.plan_choices(model, tied=()).choices) == {(8, 0)}

    @pytest.mark.parametrize(
        ("options", "choices"),
        [({}, (8, 0)), ({"num_bits_lower_limit": 4}, (4, 5, 6, 7, 8)), ({"choices": (6,)}, (6,))],
    )
    def test_problem_takes_them_unless_it_is_given_others(self, options, choices):
        network = nn.Sequential(Block(), nn.Flatten(), nn.Linear(64, 10))
        model = seen(network, dataclasses.replace(qx.scheme("tensorrt"), tied=("weights_with_activations", "residual")))
        loader = [(torch.randn(4, 1, 8, 8), torch.arange(4))]
        problem = qx.LayerwiseQuantizationProblem(model, loader, **options)
        assert set(problem.space.choices) == {choices}
        assert problem.n_var < len(model.points)
        assert ("scheme 'tensorrt'" in "".join(problem.plan.rules)) == (not options)


@pytest.mark.parametrize("name", CALLED)
def test_every_operand_of_a_product_is_at_a_point_under_all_int8(name):
    inputs = [torch.randn(4, 1, 8, 8) for _ in range(CALLED[name].num_inputs)]
    model = seen(CALLED[name].make(), "all-int8", *inputs)
    in_kernel = [
        one for one in operands_in_float(model) if one[0] == "rnn"
    ]  # what a fused layer reads of its own state
    assert operands_in_float(model) == in_kernel
    assert bool(in_kernel) == name.endswith(" classifier")
    assert model.inputs_left_float == ()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = torch.tanh(x)
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        return self.relu(y)


def test_operands_of_a_sum_are_quantized_for_it_alone_as_by_hand():
    model = seen(Block(), None, functions=predicates.by_operand(torch.add))
    assert names(model) == ["add.input", "add.input_1"]
    model.num_bits = [3, 4]
    x = torch.randn(4, 1, 8, 8)
    network, (left, right) = model.model, model.fake_quantizers.values()
    y = torch.tanh(x)
    with torch.no_grad():
        expected = F.relu(
            left(
                F.conv2d(
                    F.relu(F.conv2d(y, network.conv1.weight, network.conv1.bias, padding=1)),
                    network.conv2.weight,
                    network.conv2.bias,
                    padding=1,
                )
            )
            + right(y)
        )
        assert torch.equal(model(x), expected)
    model(x).sum().backward()
    assert network.conv1.weight.grad.isfinite().all()


def test_scheme_refuses_predicates_beside_it_and_says_how_to_change_it():
    with pytest.raises(SelectionError, match=r"without `weights`.*dataclasses\.replace"):
        qx.QuantizedModel(Block(), scheme="tensorrt", weights=predicates.weighted)


@pytest.mark.parametrize("ask", [qx.scheme, lambda name: qx.QuantizedModel(Block(), scheme=name)])
def test_unknown_scheme_is_refused_with_those_that_there_are(ask):
    with pytest.raises(SelectionError, match="'tensorrt', 'onnxruntime', 'xnnpack', got 'openvino'"):
        ask("openvino")


def test_what_is_no_scheme_is_refused():
    with pytest.raises(SelectionError, match="name of one or what qx.scheme gives, got 8"):
        qx.QuantizedModel(Block(), scheme=8)


class TestOneRange:
    """Through what moves values, as XNNPACK has it."""

    def test_points_before_and_behind_are_one(self):
        model = seen(OneRange(), "xnnpack")
        readers = {point.name: point.readers for point in model.points if point.readers}
        assert readers["mix.input"] == ("mix", "cat.input", "cat.input_1")
        assert readers["wide.input"] == ("wide", "narrow")
        apart = {point.name: point.readers for point in seen(OneRange(), "onnxruntime").points if point.readers}
        assert apart["mix.input"] == ("mix",) and apart["cat.input"] == ("cat.input",)
        assert model.fake_quantizers["mix.input"].range[1] >= model.fake_quantizers["mul.input"].range[1]

    def test_equals_a_network_in_which_each_range_is_quantized_once_by_hand(self):
        model = seen(OneRange(), "xnnpack", asymmetric=False)
        written = copy.deepcopy(model).detach()
        model.num_bits = [3 + index % 3 for index in range(len(model.points) - 6)] + [0] * 6
        x = torch.randn(4, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(model(x), written.by_hand(x, lambda name, tensor: model.fake_quantizers[name](tensor)))

    @pytest.mark.parametrize("engine", ["prefix", "direct"])
    def test_problem_searches_one_width_for_it(self, engine):
        model = seen(OneRange(), "xnnpack")
        problem = qx.LayerwiseQuantizationProblem(
            model, [(torch.randn(4, 1, 8, 8), torch.arange(4))], choices=(3, 8), tied=(), engine=engine, costs=["bops"]
        )
        assert problem.n_var == len(model.points) == 13
        found = [one.score for one in problem.measure([[3] * 13, [8] * 13])]
        assert found == [one.score for one in problem.measure_directly(np.array([[3] * 13, [8] * 13]))]


class Idle(nn.Module):
    def forward(self, x):
        return torch.tanh(x)


def test_network_with_nothing_for_a_scheme_is_refused():
    with pytest.raises(SelectionError, match="'tensorrt' must find something"):
        seen(Idle(), "tensorrt")


@pytest.mark.parametrize("name", SCHEMES)
def test_scheme_prints_and_can_be_changed(name):
    scheme = qx.scheme(name)
    assert f"scheme '{name}'" in str(scheme) and "by_operand(linear" in str(scheme)
    changed = dataclasses.replace(scheme, functions=None, inputs=predicates.by_name("conv2"))
    assert names(seen(Block(), changed)) == ["conv2.input"]
    assert not predicates.by_operand(torch.add)("add", torch.add)


def test_layer_that_data_never_reach_stays_float_under_a_scheme_and_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    network[1].unused = nn.Linear(2, 2)
    model = seen(network, "all-int8")
    assert [(one.name, one.reason) for one in model.inputs_left_float] == [("1.unused", "never called")]


def test_network_of_one_layer_has_its_input_quantized():
    assert names(seen(nn.Conv2d(1, 2, 3), "tensorrt")) == ["input"]


def test_own_arguments_win_over_a_scheme():
    model = seen(Block(), "xnnpack", asymmetric="auto", weight_granularity="tensor")
    assert model.points[-1].num_scales == 1
    assert seen(Block(), "xnnpack").points[-1].num_scales == 1


class MaskedSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        mask = torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        x = x.squeeze(1) + self.place
        return F.softmax(x @ x.transpose(1, 2) + mask, -1) @ x


def test_masks_and_parameters_stay_float_and_are_named():
    model = seen(MaskedSum(), "all-int8")
    left = {one.name: one.reason for one in model.inputs_left_float}
    assert left == {"add.input_1": "a parameter", "add_1.input_1": "an additive mask"}
    assert "add.input" in names(model) and operands_in_float(model) == []


class Product(nn.Module):
    def forward(self, x):
        x = torch.tanh(x.squeeze(1))
        return torch.bmm(x, x.transpose(1, 2)) + x @ x


def test_operands_of_products_are_quantized_as_by_hand_and_one_tensor_once():
    model = seen(Product(), None, functions=predicates.by_operand(torch.matmul))
    assert names(model) == ["bmm.input", "bmm.input_1"]
    assert [point.readers for point in model.points] == [("bmm.input", "matmul.input"), ("bmm.input_1",)]
    model.num_bits = [3, 4]
    x = torch.randn(4, 1, 8, 8)
    y = torch.tanh(x.squeeze(1))
    left, right = model.fake_quantizers.values()
    assert torch.equal(model(x), torch.bmm(left(y), right(y.transpose(1, 2))) + left(y) @ left(y))


def test_names_alone_select_calls_and_not_what_these_are_given():
    asked = predicates.by_name("bmm*") | predicates.by_function(torch.add)
    assert names(seen(Product(), None, functions=asked)) == ["bmm", "add"]
    asked = predicates.by_operand(torch.matmul) & ~predicates.by_name("bmm.input_1")
    assert names(seen(Product(), None, functions=asked)) == ["bmm.input"]


def test_call_inside_a_layer_with_a_quantized_weight_is_none_of_the_networks():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(SelectionError, match="selects none"):
        seen(network, None, functions=predicates.by_function(F.linear), weights=predicates.weighted)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(8, 2))
        self.register_buffer("rows", torch.arange(8))

    def forward(self, x):
        return x @ x + self.bias[self.rows].mean(1).unsqueeze(0)


def test_table_made_of_parameters_alone_stays_float_in_a_sum_and_is_named():
    model = seen(Table(), None, functions=predicates.by_operand(torch.add))
    assert names(model) == ["add.input"]
    assert [(one.name, one.reason) for one in model.inputs_left_float] == [
        ("add.input_1", "computed of parameters and buffers alone")
    ]


@pytest.mark.parametrize(("choices", "formats"), [((4, 8, "off"), False), ((4, "E4M3"), True)])
def test_ranges_of_float_formats_are_compared_where_a_scheme_has_them(choices, formats, monkeypatch):
    asked = set()
    best = calibrating._best
    monkeypatch.setattr(
        calibrating, "_best", lambda runs, q, name, code, ends: asked.add(code) or best(runs, q, name, code, ends)
    )
    model = qx.QuantizedModel(Block().eval(), scheme=dataclasses.replace(qx.scheme("tensorrt"), choices=choices))
    model.calibrate([torch.randn(4, 1, 8, 8)], method="auto")
    assert {8, 4, 2} <= asked and any(code > 16 for code in asked) == formats
