"""Which choices each point has, and by which rule."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from controlled_networks import ACTIVATIONS, WEIGHTS, by_name, refusal, small_cnn
from networks import TRAINABLE, SmallCNN, digits
from torch import nn

from qexplore import predicates
from qexplore._choices import FLOAT_FORMATS, FloatFormat
from qexplore.model import QuantizedActivationsModel, QuantizedModel
from qexplore.search.control import plan_choices

ROOT = Path(__file__).resolve().parents[2]
E4M3, E5M2, E2M1, MXE2M1 = 403, 502, 201, 1201
WIDTHS = (2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def model():
    return small_cnn()


def rule_of(plan, name):
    return plan.rules[[point.name for point in plan.points].index(name)]


def test_without_rules_every_point_has_the_default(model):
    plan = plan_choices(model)
    assert by_name(plan) == dict.fromkeys([*ACTIVATIONS, *WEIGHTS], WIDTHS)
    assert set(plan.rules) == {"default"}
    assert (plan.groups, plan.notes, plan.limits) == ((), (), {})
    assert set(plan_choices(model, default=(4, 8)).choices) == {(4, 8)}
    assert set(plan_choices(model, {}).choices) == {WIDTHS}


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ((2, 3, 4, 6, 8), (2, 3, 4, 6, 8)),
        (range(2, 9), WIDTHS),
        (("E4M3", (5, 2), 8, "off"), (8, E4M3, E5M2, 0)),
        ([8, 4, 4, np.int64(2)], (2, 4, 8)),
        (np.array([8, 4]), (4, 8)),
        ({8, 2}, (2, 8)),
        (("mxe2m1", (2, 1), 4, 5, None), (4, E2M1, MXE2M1, 5, 0)),
        ((FloatFormat(4, 3), 16), (E4M3, 16)),
    ],
)
def test_a_sequence_of_any_form_is_for_all_points(model, choices, expected):
    plan = plan_choices(model, choices)
    assert set(plan.choices) == {expected}
    assert set(plan.rules) == {"choices"}


def test_later_entries_override_earlier_ones_and_the_plan_says_so(model):
    plan = plan_choices(model, {"weights": (2, 4, 8), predicates.by_type(nn.Linear): (4, 8), "fc1.weight": (8,)})
    found = by_name(plan)
    assert [found[name] for name in WEIGHTS] == [(2, 4, 8), (2, 4, 8), (8,), (4, 8)]
    assert found["fc2"] == (4, 8)
    assert rule_of(plan, "fc2.weight") == "choices[by_type(Linear)]"
    assert plan.notes == (
        "fc1.weight, fc2.weight: choices['weights'] overridden by choices[by_type(Linear)]",
        "fc1.weight: choices[by_type(Linear)] overridden by choices['fc1.weight']",
    )


def test_rules_that_agree_are_no_override(model):
    assert plan_choices(model, {"weights": (4, 8), "*.weight": [8, 4]}).notes == ()


def test_names_of_many_points_are_shortened_in_notes(model):
    (note,) = plan_choices(model, {"everything": (4, 8), "*": (8,)}).notes
    assert note == "input, relu1, relu2, relu3 and 5 more: choices['everything'] overridden by choices['*']"


def test_pinned_beats_first_last_and_first_last_beats_choices(model):
    plan = plan_choices(model, {"*": (2, 4)}, first_last=8, pinned={"conv1.weight": (4, 3), "relu2": "off"})
    found = by_name(plan)
    assert found == {
        **dict.fromkeys(["relu1", "relu3", "conv2.weight", "fc1.weight"], (2, 4)),
        **dict.fromkeys(["input", "fc2", "fc2.weight"], (8,)),
        "relu2": (0,),
        "conv1.weight": (E4M3,),
    }
    assert rule_of(plan, "input") == "first_last=8"
    assert plan.notes == (
        "input, fc2, conv1.weight, fc2.weight: choices['*'] overridden by first_last=8",
        "conv1.weight: first_last=8 overridden by pinned['conv1.weight']",
        "relu2: choices['*'] overridden by pinned['relu2']",
    )


def test_first_and_last_are_those_that_there_are():
    activations = QuantizedActivationsModel(SmallCNN().eval(), predicates.by_type(nn.ReLU))
    weights = QuantizedModel(SmallCNN().eval(), weights=predicates.weighted)
    assert by_name(plan_choices(activations, [4], first_last=8)) == {
        "input": (8,),
        "relu1": (4,),
        "relu2": (4,),
        "relu3": (8,),
    }
    assert list(plan_choices(weights, [4], first_last="E4M3").choices) == [(E4M3,), (4,), (4,), (E4M3,)]


def test_the_last_activation_is_the_one_that_is_called_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.last(self.first(x) - 1)

    model = QuantizedModel(Backwards(), predicates.by_type(nn.ReLU))
    model.describe(digits().search.x[:1])
    assert by_name(plan_choices(model, [4], first_last=8)) == {"input": (8,), "last": (8,), "first": (4,)}


def test_a_shared_weight_is_first_and_last_where_its_holders_are():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.mid, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x):
            return self.head(self.mid(self.emb(x)))

    model = QuantizedModel(Tied(), weights=predicates.by_type(nn.Embedding, nn.Linear))
    assert by_name(plan_choices(model, [4], first_last=8)) == {"emb.weight": (8,), "mid.weight": (4,)}


def test_what_is_tied_to_an_end_follows_it(model):
    plan = plan_choices(model, [4], first_last=8, tied=[("relu3", "fc2.weight")])
    assert by_name(plan)["relu3"] == (8,)
    assert rule_of(plan, "relu3") == "first_last=8, tied"
    assert "relu3: choices overridden by first_last=8, tied" in plan.notes


def test_one_bit_is_left_out_at_signed_points_under_a_rule_over_several(model):
    plan = plan_choices(model, range(1, 4))
    found = by_name(plan)
    signed = [name for name, quantizer in model.fake_quantizers.items() if quantizer.min_num_bits == 2]
    assert set(WEIGHTS) | {"fc2"} == set(signed)
    assert {name: found[name] for name in signed} == dict.fromkeys(signed, (2, 3))
    assert found["relu1"] == found["input"] == (1, 2, 3)
    assert plan.notes == ("fc2, conv1.weight, conv2.weight, fc1.weight and 1 more: 1 bit of choices left out (signed)",)


def test_an_asymmetric_point_may_have_one_bit():
    model = small_cnn(asymmetric=predicates.by_name("fc2"))
    assert by_name(plan_choices(model, {"activations": (1, 2)}))["fc2"] == (1, 2)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"choices": {"conv1.weight": (1, 4)}}, "choices['conv1.weight']"),
        ({"choices": {"weights": (1,)}}, "choices['weights']"),
        ({"pinned": {"fc1.weight": 1}}, "pinned['fc1.weight']"),
        ({"first_last": 1}, "first_last=1"),
    ],
)
def test_one_bit_at_a_signed_point_is_refused_where_it_is_meant_for_it_or_alone(model, options, rule):
    message = refusal(model, **options)
    assert message.startswith(f"{rule} gives 1 bit to '")
    assert message.endswith("', which is signed: one signed bit has no levels beside zero, take 2 or more")


def test_a_quantizer_disabled_by_hand_stays_off():
    model = small_cnn()
    model.fake_quantizers["relu2"].disable()
    target = {"activations": [8]}
    plan = plan_choices(
        model, pinned={"relu2": 8}, tied=[("relu1", "relu2", "relu3"), ("relu2", "input")], target=target
    )
    assert by_name(plan)["relu2"] == (0,)
    assert rule_of(plan, "relu2") == "disabled by hand"
    assert plan.groups == ((0, 1, 3),)  # what it joined stays together
    assert plan.notes[0] == "relu2: pinned['relu2'] overridden by disabled by hand"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": (2, 17)}, "`num_bits` of choices must be an int in [1, 16], got 17"),
        ({"choices": (2, True)}, "`num_bits` of choices must be an int in [1, 16], got True"),
        ({"pinned": {"fc2": 2.5}}, "`num_bits` of pinned['fc2'] must be an int in [1, 16], got 2.5"),
        ({"first_last": -1}, "`num_bits` of first_last must be an int in [1, 16], got -1"),
        ({"default": (40,)}, "`num_bits` of default must be an int in [1, 16], got 40"),
        ({"choices": {"fc2": ()}}, "choices['fc2'] must hold at least one choice, got none"),
        ({"choices": 8}, "choices must be a sequence of choices, got 8: write (8,) for one"),
        (
            {"choices": {"fc2": "E4M3"}},
            "choices['fc2'] must be a sequence of choices, got 'E4M3': write ('E4M3',) for one",
        ),
        ({"pinned": 8}, "`pinned` must be a mapping from selectors to one choice each, got 8"),
        (
            {"pinned": {predicates.by_type(nn.Linear): 8, "fc2*": 4}},
            "rules in conflict at 'fc2': pinned[by_type(Linear)] gives 8, and pinned['fc2*'] gives 4. Let one of them "
            "leave it out",
        ),
        (
            {"choices": {predicates.by_name("fc2"): (4, 8), predicates.by_name("fc2"): (2,)}},  # two keys
            "rules in conflict at 'fc2': choices[by_name('fc2')] gives 4,8, and choices[by_name('fc2')] gives 2. Let "
            "one of them leave it out",
        ),
        (
            {"choices": {nn.Linear: (4, 8)}},
            "choices[<class 'torch.nn.modules.linear.Linear'>] is no selector: a predicate must be a Predicate or a "
            "function of one module, got Linear: use predicates.by_type(Linear)",
        ),
        (
            {"pinned": {3: 8}},
            "pinned[3] is no selector: a predicate must be a Predicate or a function of one module, got 3",
        ),
    ],
)
def test_bad_rules_are_refused_with_their_name(model, options, message):
    assert refusal(model, **options) == message


def test_an_unknown_format_is_refused_with_the_rule_and_the_known_ones(model):
    message = refusal(model, {"fc*": ("E9M9", 8)})
    assert message.startswith("`num_bits` of choices['fc*'] must be an int")
    assert all(known.name in message for known in FLOAT_FORMATS)
    assert message.endswith("got 'E9M9'")
    assert refusal(model, pinned={"fc2": (9, 9)}).endswith("got (9, 9)")


def test_points_pinned_twice_to_the_same_are_no_conflict(model):
    plan = plan_choices(model, pinned={predicates.by_type(nn.Linear): 8, "fc2*": 8})
    assert by_name(plan)["fc2"] == (8,)


def test_the_plan_shows_as_a_table_with_notes_below(model):
    plan = plan_choices(
        model,
        {"weights": (2, 4, 8, "E4M3"), "fc1.weight": (8, "off")},
        tied=[("relu1", "relu2")],
        target={"name": "npu", "limits": {"model_bytes": 4096, "bops": 1e9}},
    )
    assert str(plan).splitlines() == [
        "#  point         kind        choices     tied  rule",
        "-  ------------  ----------  ----------  ----  ---------------------",
        "0  input         input       2-8               default",
        "1  relu1         activation  2-8         A     default",
        "2  relu2         activation  2-8         A     default",
        "3  relu3         activation  2-8               default",
        "4  fc2           activation  2-8               default",
        "5  conv1.weight  weight      2,4,8,E4M3        choices['weights']",
        "6  conv2.weight  weight      2,4,8,E4M3        choices['weights']",
        "7  fc1.weight    weight      8,off             choices['fc1.weight']",
        "8  fc2.weight    weight      2,4,8,E4M3        choices['weights']",
        "",
        "limit: model_bytes at most 4096",
        "limit: bops at most 1e+09",
        "fc1.weight: choices['weights'] overridden by choices['fc1.weight']",
    ]
    assert str(plan_choices(model)).endswith("default")


def test_a_plan_travels(model):
    plan = plan_choices(model, (4, "E4M3"), target={"limits": {"bops": 5}})
    assert pickle.loads(pickle.dumps(plan)) == plan == copy.deepcopy(plan)


def test_planning_changes_nothing_about_the_model():
    model = small_cnn()
    before = model.num_bits.tolist(), model.version()
    plan_choices(model, (2, "E4M3"), pinned={"weights": 4}, first_last=8, tied=[("relu1", "relu2")])
    assert (model.num_bits.tolist(), model.version()) == before


@pytest.mark.parametrize("name", [*TRAINABLE])
def test_every_network_of_the_gallery_can_be_planned(name):
    entry = TRAINABLE[name]
    model = QuantizedModel(entry.build(), entry.predicate, predicates.by_type(nn.Linear), **entry.options)
    plan = plan_choices(model, {"weights": (2, 4, 8), "activations": range(2, 9)}, first_last=8)
    assert len(plan.choices) == len(plan.rules) == len(model.points)
    assert plan.choices[0] == (8,)


def test_code_of_the_layer_control_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "layer_control.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (file,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (printed,) = re.findall(r"^```text\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("my-npu.yaml").write_text(file, encoding="utf-8")

    exec(compile(example, "docs/layer_control.md", "exec"), {})

    assert capsys.readouterr().out == printed
