"""Which share of a network is at points, against counts by hand; what stays float is named."""

from __future__ import annotations

import copy

import pytest
import torch
from counted_networks import Counted, Encoder, Functional, Recurrent, Residual, counted
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates

NETWORKS = counted()


def amounts(coverage: qx.Coverage) -> tuple[float, ...]:
    shares = coverage.parameters, coverage.weight_macs, coverage.activation_macs, coverage.activation_elements
    return tuple(share.quantized for share in shares if share is not None)


@pytest.mark.parametrize("name", NETWORKS)
class TestByHand:
    def of(self, name: str, **points: object) -> tuple[Counted, qx.Coverage]:
        one = NETWORKS[name]
        model = qx.QuantizedModel(one.make().eval(), **points)  # type: ignore[arg-type]
        coverage = model.coverage(one.example)
        assert tuple(share.total for share in coverage.shares.values()) == one.total
        return one, coverage

    def test_of_outputs_alone(self, name: str) -> None:
        one, coverage = self.of(name, activations=NETWORKS[name].outputs, outputs="all")
        assert amounts(coverage) == one.by_outputs

    def test_of_weights_alone(self, name: str) -> None:
        one, coverage = self.of(name, weights=predicates.weighted)
        assert amounts(coverage) == one.by_weights

    def test_of_all_operands(self, name: str) -> None:
        one, coverage = self.of(name, scheme="all-int8")
        assert amounts(coverage) == one.by_all
        elements = coverage.activation_elements
        assert elements is not None and dict(elements.largest_float) == one.left_by_all

    @pytest.mark.parametrize("by", ["hand", "width"])
    def test_of_points_that_are_off(self, name: str, by: str) -> None:
        one = NETWORKS[name]
        model = qx.QuantizedModel(one.make().eval(), scheme="all-int8")
        before = model.describe(one.example)
        if by == "width":
            model.num_bits = [0] * len(model.points)
        for quantizer in model.fake_quantizers.values() if by == "hand" else ():
            quantizer.disable()
        plan = model.describe()
        assert amounts(plan.coverage) == (0, 0, 0, 0)  # type: ignore[arg-type]
        assert plan.left_out == before.left_out  # nothing that has a point already
        assert [left.name for left in plan.left_float if left.kind == "point"] == [one.name for one in model.points]

    def test_of_points_of_which_some_are_off(self, name: str) -> None:
        one = NETWORKS[name]
        model = qx.QuantizedModel(one.make().eval(), scheme="all-int8")
        model.describe(one.example)
        model.num_bits = [8 * (point.kind == "weight") for point in model.points]
        assert amounts(model.coverage())[:2] == one.by_all[:2] and amounts(model.coverage())[2] == one.by_weights[2]
        model.num_bits = [8 * (point.kind != "weight") for point in model.points]
        assert amounts(model.coverage())[0] == 0 and amounts(model.coverage())[2] == one.by_all[2]


def left_of(plan: qx.Plan) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in plan.left_out:
        found.setdefault(one.kind, {})[one.name] = one.num_elements
    return found


class TestWhatCouldBe:
    def test_is_listed_by_kind_the_largest_first(self) -> None:
        model = qx.QuantizedActivationsModel(Residual().eval(), predicates.by_type(nn.ReLU))
        plan = model.describe(torch.randn(3, 1, 4, 4))
        assert left_of(plan) == {
            "activation": {"stem": 32, "conv": 32, "head": 3},
            "argument": {"head": 2},
            "function": {"add": 32, "mean": 2},
            "weight": {"conv.weight": 36, "stem.weight": 18, "head.weight": 6},
        }
        for kind in ("activation", "argument", "function", "weight"):
            sizes = [one.num_elements for one in plan.left_out if one.kind == kind]
            assert sizes == sorted(sizes, reverse=True)
        assert "  functions: add (32), mean (2)" in str(plan).splitlines()

    def test_is_taken_by_the_names_that_are_told(self) -> None:
        example = torch.randn(3, 5, 8)
        model = qx.QuantizedModel(Encoder().eval(), weights=predicates.by_name("up"))
        left = left_of(model.describe(example))
        network = model.detach()
        model = qx.QuantizedModel(
            network,
            activations=predicates.by_name(*left["activation"]),
            inputs=predicates.by_name(*left["argument"]),
            functions=predicates.by_name(*left["function"]),
            weights=predicates.weighted,
        )
        plan = model.describe(example)
        assert plan.left_out == ()
        assert model.coverage().activation_macs.share == 1.0  # type: ignore[union-attr]

    def test_many_are_counted(self) -> None:
        layers = [nn.Linear(4, 4) for _ in range(9)]
        model = qx.QuantizedModel(nn.Sequential(*layers).eval(), weights=predicates.by_name("0"))
        text = str(model.describe(torch.randn(2, 4)))
        assert "  inputs: 0 (4), 1 (4), 2 (4), 3 (4), 4 (4) and 4 more" in text
        assert "MACs by weight left float: 1 (16)" in text and text.count("7 (16)") == 2

    def test_a_tensor_is_told_once_whatever_holds_it(self) -> None:
        inner = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Flatten()), nn.Dropout())
        model = qx.QuantizedModel(nn.Sequential(inner, nn.Linear(4, 2)).eval(), weights=predicates.weighted)
        left = left_of(model.describe(torch.randn(2, 4)))
        assert left == {"activation": {"0.0.0": 4, "1": 2}, "argument": {"0.0.0": 4, "1": 4}}

    def test_what_a_kernel_hides_is_said(self) -> None:
        model = qx.QuantizedModel(Recurrent().eval(), scheme="all-int8")
        coverage = model.coverage(torch.randn(3, 5, 8))
        assert "within lstm" in coverage.not_counted and "unroll_recurrent" in coverage.not_counted
        assert dict(coverage.activation_macs.largest_float) == {"lstm": 5 * 144}  # type: ignore[union-attr]

    def test_a_weight_under_a_name_of_its_own_is_told_with_the_way_out(self) -> None:
        plan = qx.QuantizedModel(Functional().eval(), scheme="all-int8").describe(torch.randn(3, 8))
        assert dict(plan.coverage.weight_macs.largest_float) == {"linear": 40}  # type: ignore[union-attr]
        assert any(one.name == "first" and "WEIGHT_NAMES" in one.reason for one in plan.left_float)


def test_before_data_parameters_alone_are_told_and_how_to_see_the_rest() -> None:
    coverage = qx.QuantizedModel(Residual(), weights=predicates.weighted).coverage()
    assert list(coverage.shares) == ["parameters"] and coverage.parameters.quantized == 60
    assert "model.describe(example_input)" in coverage.not_counted


def test_copies_and_views_are_the_same_numbers() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(x)
            return self.layer(x) + self.layer(x.clone()) + x.view(-1, 2, 2).transpose(1, 2).reshape(-1, 4)

    coverage = qx.QuantizedModel(Copies().eval(), weights=predicates.weighted).coverage(torch.randn(3, 4))
    # tanh, what the layer gives for each of two, their sum; each once
    assert coverage.activation_elements.total == 4 + 4 + 4 + 4  # type: ignore[union-attr]
    assert coverage.weight_macs.total == 32  # type: ignore[union-attr]


def test_a_network_that_cannot_be_followed_is_described_all_the_same() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            if torch.utils._python_dispatch.is_in_torch_dispatch_mode():
                raise RuntimeError("no modes in here\nreally")
            return self.relu(x)

    plan = qx.QuantizedActivationsModel(Odd(), predicates.by_type(nn.ReLU)).describe(torch.randn(2, 3))
    assert len(plan.points) == 2 and list(plan.coverage.shares) == ["parameters"]  # type: ignore[union-attr]
    assert "RuntimeError: no modes in here)" in str(plan) and "really" not in str(plan)


def test_looking_leaves_network_and_numbers_as_they_were() -> None:
    model = qx.QuantizedModel(Encoder(), scheme="all-int8")
    example = torch.randn(3, 5, 8)
    model.calibrate([example])
    model.num_bits = [5] * len(model.points)
    before, version = model(example), model.version()
    random, forwards = torch.get_rng_state(), {one: one.forward for one in model.model.modules()}
    first = model.coverage()
    assert model.version() == version and torch.equal(torch.get_rng_state(), random)
    assert {one: one.forward for one in model.model.modules()} == forwards
    assert torch.equal(model(example), before) and model.coverage() == first
    assert copy.deepcopy(model).coverage() == first


def test_kinds_of_samples_give_their_mean() -> None:
    class Cuts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = qx.QuantizedModel(Cuts().eval(), inputs=predicates.by_name("layer"), weights=predicates.weighted)
    model.calibrate([torch.randn(2, 3, 2), torch.randn(2, 5, 2)])
    assert model.coverage().weight_macs == qx.CoveredShare(16, 16)


@pytest.mark.parametrize(
    ("quantized", "total", "words"),
    [(0, 10, "0.0%"), (10, 10, "100.0%"), (99_999, 100_000, ">99.9%"), (1, 100_000, "<0.1%"), (0, 0, "none")],
)
def test_a_share_is_rounded_to_all_or_nothing_only_where_it_is(quantized: int, total: int, words: str) -> None:
    coverage = qx.Coverage(qx.CoveredShare(quantized, total))
    assert coverage.line == f"parameters {words}" and words in str(coverage)
    assert words.strip("<>") in coverage._repr_html_()
