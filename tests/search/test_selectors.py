"""What the selectors of layer control mean: words, names, globs and predicates."""

import pytest
import torch
from controlled_networks import ACTIVATIONS, WEIGHTS, TiedEmbedding, by_name, refusal, small_cnn
from networks import ResNet20, SmallCNN, batches, digits
from torch import nn

from qexplore import predicates
from qexplore.model import QuantizedModel
from qexplore.search.control import plan_choices

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def model():
    return small_cnn()


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("weights", WEIGHTS),
        ("activations", ACTIVATIONS),
        ("input", ["input"]),
        ("everything", [*ACTIVATIONS, *WEIGHTS]),
        ("*.weight", WEIGHTS),
        ("fc*", ["fc2", "fc1.weight", "fc2.weight"]),
        ("relu?", ["relu1", "relu2", "relu3"]),
        ("relu1", ["relu1"]),
        (predicates.by_type(nn.Linear), ["fc2", "fc1.weight", "fc2.weight"]),
        (predicates.by_type(nn.Conv2d), ["conv1.weight", "conv2.weight"]),
        (predicates.by_name("fc2"), ["fc2", "fc2.weight"]),
        (predicates.leaves & ~predicates.weighted, ["relu1", "relu2", "relu3"]),
        (lambda module: getattr(module, "out_channels", 0) == 16, ["conv2.weight"]),
    ],
)
def test_a_selector_means_the_points_of_its_modules_names_or_kind(model, selector, names):
    plan = plan_choices(model, {selector: (4, 8)})
    assert [name for name, codes in by_name(plan).items() if codes == (4, 8)] == names


def test_the_output_of_the_network_itself_is_matched_by_name_and_by_predicate():
    network = SmallCNN().eval()
    model = QuantizedModel(network, predicates.Predicate(lambda name, module: module is network, "root"))
    model.calibrate(batches(digits().calibration)[:1])
    expected = {"input": WIDTHS, "output": (8,)}
    assert by_name(plan_choices(model, {"output": [8]})) == expected
    assert by_name(plan_choices(model, {lambda module: module is network: [8]})) == expected


def test_a_points_own_name_comes_before_words_and_globs():
    network = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("input", "weights", "a[b]", "ab")})
    model = QuantizedModel(network, predicates.by_type(nn.Linear), quantize_input=True)
    names = [point.name for point in model.points]
    assert names == ["(input)", "input", "weights", "a[b]", "ab"]
    for name in names:
        assert [at for at, codes in by_name(plan_choices(model, {name: [8]})).items() if codes == (8,)] == [name]


def test_a_shared_weight_is_matched_by_all_modules_that_hold_it():
    model = QuantizedModel(TiedEmbedding(), weights=predicates.weighted)
    for module, name in ((nn.Embedding, "embed"), (nn.Linear, "head")):
        chosen = predicates.by_type(module) & predicates.by_name(name)
        assert by_name(plan_choices(model, {chosen: [8]})) == {"embed.weight": (8,), "fc.weight": WIDTHS}


@pytest.mark.parametrize("name", ["head.weight", "head.*", "embed.weight"])
def test_a_shared_weight_is_matched_by_its_name_at_any_module_that_holds_it(name):
    model = QuantizedModel(TiedEmbedding(), weights=predicates.weighted)
    assert by_name(plan_choices(model, {name: [8]})) == {"embed.weight": (8,), "fc.weight": WIDTHS}
    target = {"name": "npu", "rules": [{"names": [name], "choices": [8]}]}
    assert by_name(plan_choices(model, target=target)) == {"embed.weight": (8,), "fc.weight": WIDTHS}


@pytest.mark.parametrize("argument", ["choices", "pinned"])
def test_a_rule_that_matches_nothing_is_named_beside_what_there_is(model, argument):
    value = (4, 8) if argument == "choices" else 8
    message = refusal(model, **{argument: {"layer9.*": value}})
    assert message.startswith(
        f"{argument}['layer9.*'] matches no point. There are:\n  input\n  relu1 (activation, ReLU)"
    )
    assert message.endswith("  fc2.weight (weight, Linear)")
    assert f"{argument}[by_type(LSTM)] matches no point" in refusal(
        model, **{argument: {predicates.by_type(nn.LSTM): value}}
    )


def test_a_long_list_of_points_is_cut():
    network = ResNet20().eval()
    model = QuantizedModel(network, predicates.by_type(nn.ReLU, nn.BatchNorm2d), predicates.weighted)
    message = refusal(model, {"nothing": [8]})
    assert len(message.splitlines()) == 42
    assert message.endswith(f"  ... and {len(model.points) - 40} more")


def test_words_and_predicates_choose_among_inputs_of_modules_and_calls():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), Doubled(), nn.Linear(4, 2))
    model = QuantizedModel(
        network,
        inputs=predicates.by_type(nn.Linear),
        functions=predicates.by_function(torch.add, torch.mul),
        weights=predicates.weighted,
    )
    model.describe(torch.randn(2, 4))
    plan = plan_choices(
        model,
        choices={"inputs": (3,), "functions": (4,), predicates.by_function(torch.mul): (5,), "3.input": (6,)},
        default=(8,),
    )
    chosen = dict(zip(model.fake_quantizers, plan.choices, strict=True))
    assert chosen == {
        "1.input": (3,),
        "3.input": (6,),
        "2.add": (4,),
        "2.mul": (5,),
        "1.weight": (8,),
        "3.weight": (8,),
    }


class Doubled(nn.Module):
    def forward(self, x):
        return torch.cat([(x + x) * 2, x], 1)[:, :4]
