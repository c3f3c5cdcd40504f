"""Points that share one choice."""

import itertools

import pytest
import torch
from controlled_networks import TwoHeads, small_cnn, two_heads
from hypothesis import given
from hypothesis import strategies as st
from networks import ResNet20, SmallCNN, batches, digits
from torch import nn

from qexplore import predicates
from qexplore.cost import unite
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel
from qexplore.search.control import plan_choices


@pytest.fixture(scope="module")
def model():
    return small_cnn()


@pytest.fixture(scope="module")
def attention():
    return two_heads()


def groups(model, tied, **options):
    plan = plan_choices(model, tied=tied, **options)
    return [tuple(plan.points[index].name for index in group) for group in plan.groups]


def refusal(model, tied, *arguments, **options):
    with pytest.raises(ProblemError) as caught:
        plan_choices(model, *arguments, tied=tied, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tied", "expected"),
    [
        ([("relu1", "relu3")], [("relu1", "relu3")]),
        ([["relu1", predicates.by_type(nn.Conv2d)]], [("relu1", "conv1.weight", "conv2.weight")]),
        ([predicates.by_type(nn.Conv2d)], [("conv1.weight", "conv2.weight")]),
        (predicates.by_type(nn.Conv2d), [("conv1.weight", "conv2.weight")]),
        (
            ["relu?", "*.weight"],
            [("relu1", "relu2", "relu3"), ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight")],
        ),
        ([("input", "relu1"), ("relu3", "fc2")], [("input", "relu1"), ("relu3", "fc2")]),
        ([("input", "relu1"), ("relu3", "fc2"), ("relu1", "fc2")], [("input", "relu1", "relu3", "fc2")]),
        ("activations", [("input", "relu1", "relu2", "relu3", "fc2")]),
        ([], []),
        (None, []),
    ],
)
def test_groups_are_what_their_selectors_mean_and_overlapping_ones_are_one(model, tied, expected):
    assert groups(model, tied) == expected


def test_weights_share_with_the_point_that_feeds_them(model):
    assert groups(model, ["weights_with_activations"]) == [
        ("input", "conv1.weight"),
        ("relu1", "conv2.weight"),
        ("relu2", "fc1.weight"),
        ("relu3", "fc2.weight"),
    ]


def test_weights_fed_by_the_same_point_share_with_each_other(attention):
    found = groups(attention, "weights_with_activations")
    assert ("input", "embed.weight") in found
    # The projections of the first block read one tensor; that of the second, a sum, is no point.
    assert ("embed", *(f"blocks.0.{name}.weight" for name in ("q_proj", "k_proj", "v_proj"))) in found


def test_branches_that_are_added_share(attention):
    assert groups(attention, ["residual"]) == [("embed", "blocks.0.out_proj", "blocks.1.out_proj")]


def test_additions_that_have_an_operand_in_common_are_united():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.alone = (nn.ReLU() for _ in range(4))

        def forward(self, x):
            a = self.a(x)
            return self.alone(a + self.b(x - 1)) * (a + self.c(x - 2))

    model = QuantizedModel(Chain(), predicates.by_type(nn.ReLU))
    model.describe(digits().search.x[:1])
    assert groups(model, ["residual"]) == [("a", "b", "c")]


def test_a_residual_networks_branches_share():
    model = QuantizedModel(ResNet20(), predicates.by_type(nn.ReLU, nn.BatchNorm2d))
    model.describe(digits().search.x[:1])
    assert groups(model, "residual")[:4] == [
        ("relu", "layer1.0.bn2"),
        ("layer1.0.relu2", "layer1.1.bn2"),
        ("layer1.1.relu2", "layer1.2.bn2"),
        ("layer2.0.bn2", "layer2.0.downsample.1"),
    ]


def test_projections_beside_each_other_share_their_weights_and_their_outputs(attention):
    names = ("q_proj", "k_proj", "v_proj")
    expected = [tuple(f"blocks.{block}.{name}{end}" for name in names) for end in ("", ".weight") for block in (0, 1)]
    assert groups(attention, ["qkv"]) == expected
    assert groups(attention, "qkv") == expected


@pytest.mark.parametrize("names", ["q k v", "query key value", "to_q to_k to_v"])
def test_projections_go_by_their_usual_names(names):
    network = nn.ModuleDict({name: nn.Linear(8, 8) for name in names.split()})
    network["conv_v"], network["q"] = nn.Conv2d(1, 1, 1), network["q"] if "q" in network else nn.Identity()
    model = QuantizedModel(nn.ModuleDict({"attention": network}), weights=predicates.by_type(nn.Linear))
    assert groups(model, "qkv") == [tuple(f"attention.{name}.weight" for name in names.split())]


def test_words_and_groups_unite(attention):
    first = [f"blocks.0.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    found = groups(attention, ["qkv", ("blocks.0.q_proj", "blocks.0.q_proj.weight")])
    assert (*first, *(f"{name}.weight" for name in first)) in found


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("residual", "no two points meet in an addition"),
        (
            "qkv",
            "no two points belong to Linear modules beside each other that are named q/k/v, or q_proj/k_proj/v_proj, "
            "or query/key/value, or to_q/to_k/to_v",
        ),
    ],
)
def test_a_word_that_finds_no_group_is_refused(model, word, reason):
    assert refusal(model, [word]) == f"tied['{word}'] finds no group: {reason}"


def test_weights_without_activations_cannot_share_with_them():
    model = QuantizedModel(SmallCNN(), weights=predicates.weighted)
    model.calibrate(batches(digits().calibration)[:1])
    message = refusal(model, "weights_with_activations")
    assert message == (
        "tied['weights_with_activations'] finds no group: no quantized activation or input feeds a quantized weight"
    )


@pytest.mark.parametrize("word", ["residual", "weights_with_activations"])
def test_a_word_about_the_forward_needs_one(word):
    model = QuantizedModel(TwoHeads(), predicates.by_type(nn.Linear), predicates.by_type(nn.Linear))
    assert refusal(model, word) == (
        f"tied['{word}'] must know what one forward does, but none was observed yet: call model.calibrate(loader) or "
        "model.describe(example_input) first"
    )


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        (
            ("relu1", "relu2"),
            "tied['relu1'] matches 'relu1' alone, and a group needs two points or more: put the selectors of one group "
            'into a sequence of their own, as in tied=[("conv1.weight", "conv2.weight")]',
        ),
        (
            [("relu1", "relu1")],
            "tied[('relu1', 'relu1')] matches 'relu1' alone, and a group needs two points or more: put the selectors "
            'of one group into a sequence of their own, as in tied=[("conv1.weight", "conv2.weight")]',
        ),
        (5, "`tied` must be a sequence of groups, each a sequence of selectors, got 5"),
        (
            {"relu1": "relu2"},
            "`tied` must be a sequence of groups, each a sequence of selectors, got {'relu1': 'relu2'}",
        ),
        ([5], "tied[5] is no selector: a predicate must be a Predicate or a function of one module, got 5"),
    ],
)
def test_bad_groups_are_refused(model, tied, message):
    assert refusal(model, tied) == message


@pytest.mark.parametrize("tied", [["layer9.*"], [("relu1", "layer9.*")]])
def test_a_selector_of_a_group_that_matches_nothing_is_named(model, tied):
    assert refusal(model, tied).startswith("tied['layer9.*'] matches no point. There are:\n  input\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"choices": {"relu1": (4, 8), "relu2": (2, 4, 8)}},
            "tied points must have the same choices, but 'relu1' has 4,8 (choices['relu1']) and 'relu2' has 2,4,8 "
            "(choices['relu2']): give them the same choices, or pin all of them to one",
        ),
        (
            {"pinned": {"relu2": 8}},
            "tied points must have the same choices, but 'relu1' has 2-8 (default) and 'relu2' has 8 (pinned['relu2'])"
            ": give them the same choices, or pin all of them to one",
        ),
    ],
)
def test_tied_points_with_different_choices_are_refused(model, options, message):
    assert refusal(model, [("relu1", "relu2")], **options) == message


def test_tied_points_pinned_alike_are_fine(model):
    assert groups(model, [("relu1", "relu2")], pinned={"relu1": 8, "relu2": 8}) == [("relu1", "relu2")]


def test_where_only_the_sign_differs_the_group_has_what_all_can_have(model):
    plan = plan_choices(model, (1, 2, 4), tied=[("relu1", "conv1.weight")])
    assert [plan.choices[1], plan.choices[5], plan.choices[2]] == [(2, 4), (2, 4), (1, 2, 4)]
    assert plan.notes[-1] == "relu1, conv1.weight: tied, so 2,4"
    same = plan_choices(model, {"weights": (1, 2, 4), "activations": (1, 2, 4)}, tied=[("relu1", "conv1.weight")])
    assert same.choices == plan.choices


def test_where_the_target_differs_the_group_has_what_all_may_have(model):
    target = {"name": "npu", "weights": [2, 4, 8], "activations": [8, 16]}
    plan = plan_choices(model, range(2, 17), tied=[("relu1", "conv1.weight")], target=target)
    assert (plan.choices[1], plan.choices[5]) == ((8,), (8,))
    assert plan.notes[-1] == "relu1, conv1.weight: tied, so 8"


def test_tied_points_of_which_the_target_leaves_nothing_in_common_are_refused(model):
    target = {"name": "npu", "weights": [2, 4], "activations": [8, 16]}
    assert refusal(model, [("relu1", "conv1.weight")], range(2, 17), target=target) == (
        "tied points must have the same choices, but 'relu1' has 8,16 (choices) and 'conv1.weight' has 2,4 (choices): "
        "nothing is left for both, do not tie them"
    )


@given(st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=4), max_size=8), st.randoms())
def test_united_groups_are_the_connected_components(given_groups, random):
    found = unite(given_groups)
    shuffled = [list(group) for group in given_groups]
    random.shuffle(shuffled)
    assert unite(shuffled) == found == unite(found)

    # Powers of the adjacency matrix say who reaches whom.
    adjacency = torch.eye(10, dtype=torch.bool)
    for group in given_groups:
        for one, other in itertools.product(group, repeat=2):
            adjacency[one, other] = True
    reached = torch.linalg.matrix_power(adjacency.double(), 10) > 0
    components = {tuple(row.nonzero().flatten().tolist()) for row in reached}
    assert set(found) == {component for component in components if len(component) > 1}
    assert found == tuple(sorted(found))
