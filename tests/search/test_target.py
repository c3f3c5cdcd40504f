"""What a target can run, from a file or a dict."""

import pytest
import yaml
from controlled_networks import ACTIVATIONS, by_name, refusal, small_cnn
from networks import SmallCNN, batches, digits
from torch import nn

from qexplore import predicates
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel
from qexplore.search.control import plan_choices
from qexplore.search.target import read_target

E4M3, E5M2 = 403, 502

NPU = """\
name: my-npu
weights: [2, 4, 8]
activations: [8, 16]
rules:
  - {types: [Linear], kind: weights, choices: [8]}
  - {names: ["fc2"], choices: [16]}
limits: {model_bytes: 200000, bops: 1.0e9}
"""


@pytest.fixture(scope="module")
def model():
    return small_cnn()


@pytest.fixture
def npu(tmp_path):
    path = tmp_path / "npu.yaml"
    path.write_text(NPU, encoding="utf-8")
    return path


def test_a_file_narrows_every_point_and_hands_its_limits_on(model, npu):
    plan = plan_choices(model, range(2, 17), target=npu)
    assert by_name(plan) == {
        **dict.fromkeys(ACTIVATIONS, (8, 16)),
        "fc2": (16,),
        "conv1.weight": (2, 4, 8),
        "conv2.weight": (2, 4, 8),
        "fc1.weight": (8,),
        "fc2.weight": (8,),
    }
    assert plan.limits == {"model_bytes": 200000.0, "bops": 1e9}
    assert set(plan.rules) == {"choices"}
    assert plan.notes == (
        f"input, relu1, relu2, relu3: 2-7,9-15 of choices left out (target my-npu ({npu}), activations)",
        f"fc2: 2-15 of choices left out (target my-npu ({npu}), rules[1])",
        f"conv1.weight, conv2.weight: 3,5-7,9-16 of choices left out (target my-npu ({npu}), weights)",
        f"fc1.weight, fc2.weight: 2-7,9-16 of choices left out (target my-npu ({npu}), rules[0])",
    )


def test_a_path_as_text_and_a_dict_give_the_same(model, npu):
    content = yaml.safe_load(NPU)
    plans = [plan_choices(model, range(2, 17), target=target) for target in (npu, str(npu), content)]
    assert plans[0] == plans[1]
    assert plans[0].choices == plans[2].choices
    assert "(target my-npu, weights)" in plans[2].notes[2]
    assert content == yaml.safe_load(NPU)


def test_an_empty_target_narrows_nothing(model):
    assert plan_choices(model, target={}) == plan_choices(model)


def test_later_rules_of_the_target_win(model):
    rules = [
        {"types": ["Linear", "Conv2d"], "choices": [4, 8]},
        {"names": ["fc*"], "kind": "activations", "choices": [16]},
        {"names": ["*.weight"], "types": ["Linear"], "choices": [2]},
        {"types": ["_ConvNd"], "names": ["conv1.*"], "choices": [8]},  # a base class, and both must match
    ]
    plan = plan_choices(model, range(2, 17), target={"weights": [3], "rules": rules})
    assert by_name(plan) == {
        **dict.fromkeys(["input", "relu1", "relu2", "relu3"], tuple(range(2, 17))),
        "fc2": (16,),
        "conv1.weight": (8,),
        "conv2.weight": (4, 8),
        "fc1.weight": (2,),
        "fc2.weight": (2,),
    }


def test_a_rule_of_the_target_that_is_about_nothing_here_is_noted(model):
    target = {"name": "npu", "rules": [{"types": ["LSTM", "GRU"], "choices": [8]}]}
    assert plan_choices(model, target=target).notes == ("target npu: rules[0] (8) matches no point",)


def test_float_formats_and_off_are_listed_like_widths(model, tmp_path):
    path = tmp_path / "fp8.yaml"
    path.write_text("weights: [8, E4M3, [5, 2]]\nactivations: [8, off]\n", encoding="utf-8")
    plan = plan_choices(model, (4, 8, "E4M3", "E5M2", "off"), target=path)
    found = by_name(plan)
    assert found["conv1.weight"] == (8, E4M3, E5M2)
    assert found["relu1"] == (8, 0)
    # Weights may have the formats, so a rule for all points is narrowed at the others.
    assert f"4,E4M3,E5M2 of choices left out (target fp8 ({path}), activations)" in plan.notes[0]


@pytest.mark.parametrize(
    ("options", "rule", "names"),
    [
        ({"choices": (8, "E4M3")}, "choices", "input, relu1, relu2, relu3 and 5 more"),
        ({"choices": {"fc?.weight": (8, (4, 3))}}, "choices['fc?.weight']", "fc1.weight, fc2.weight"),
        ({"pinned": {"fc2.weight": "E4M3"}}, "pinned['fc2.weight']", "fc2.weight"),
        ({"first_last": "E4M3"}, "first_last=E4M3", "input, fc2, conv1.weight, fc2.weight"),
    ],
)
def test_a_float_format_that_the_target_forbids_is_refused(model, npu, options, rule, names):
    message = refusal(model, target=npu, default=(8, 16), **options)
    assert message == f"target my-npu ({npu}) does not list E4M3, which {rule} asks for at {names}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"choices": {"conv1.weight": (3, 5)}},
            "leaves nothing at 'conv1.weight': choices['conv1.weight'] asks for 3,5, and its weights allow 2,4,8",
        ),
        (
            {"pinned": {"fc1.weight": 4}},
            "leaves nothing at 'fc1.weight': pinned['fc1.weight'] asks for 4, and its rules[0] allow 8",
        ),
        (
            {"pinned": {"relu1": "off"}},
            "leaves nothing at 'relu1': pinned['relu1'] asks for off, and its activations allow 8,16",
        ),
        ({"first_last": 8}, "leaves nothing at 'fc2': first_last=8 asks for 8, and its rules[1] allow 16"),
    ],
)
def test_a_point_that_the_target_leaves_nothing_is_refused(model, npu, options, message):
    assert refusal(model, target=npu, default=(8, 16), **options) == f"target my-npu ({npu}) {message}"


def test_a_symmetric_target_refuses_zero_points_by_name():
    model = small_cnn(asymmetric=predicates.by_name("fc2", "relu1"))
    assert refusal(model, target={"name": "npu", "symmetric_only": True}) == (
        "target npu is symmetric_only, but these points have a zero point: relu1, fc2. Wrap the network with "
        "asymmetric=False"
    )
    plan_choices(model, target={"symmetric_only": False})
    model.fake_quantizers["relu1"].disable()
    assert refusal(model, target={"symmetric_only": True}).startswith(
        "target is symmetric_only, but these points have a zero point: fc2."
    )


def test_a_symmetric_target_takes_symmetric_quantizers(model):
    assert plan_choices(model, target={"symmetric_only": True}).notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": [8]}, "unknown key 'weight': known are name, weights, activations, rules, symmetric_only, limits"),
        (
            {"rules": [{"types": ["Linear"], "choises": [8]}]},
            "unknown key 'rules[0].choises': known are types, names, kind, choices",
        ),
        ({"weights": 8}, "weights must be a list such as [4, 8, E4M3], got 8"),
        ({"weights": []}, "weights must hold at least one choice, got none"),
        ({"rules": {"types": ["Linear"]}}, "rules must be a list, got {'types': ['Linear']}"),
        ({"rules": ["Linear"]}, "rules[0] must be a mapping such as {types: [Linear], choices: [8]}, got 'Linear'"),
        ({"rules": [{"choices": [8]}]}, "rules[0] must be about some types or names, got {'choices': [8]}"),
        ({"rules": [{"types": ["Linear"]}]}, "rules[0].choices must be a list such as [4, 8, E4M3], got None"),
        ({"rules": [{"types": "Linear", "choices": [8]}]}, "rules[0].types must be a list of words, got 'Linear'"),
        ({"rules": [{"names": [], "choices": [8]}]}, "rules[0].names must be a list of words, got []"),
        ({"rules": [{"names": [3], "choices": [8]}]}, "rules[0].names must be a list of words, got [3]"),
        (
            {"rules": [{"names": ["*"], "kind": "bias", "choices": [8]}]},
            "rules[0].kind must be weights or activations, got 'bias'",
        ),
        ({"symmetric_only": "yes"}, "symmetric_only must be true or false, got 'yes'"),
        ({"limits": [5]}, "limits must be a mapping from cost to number, got [5]"),
        ({"limits": {3: 5}}, "limits must be a mapping from names of costs, got 3"),
        ({"limits": {"bops": "many"}}, "limits.bops must be a number above 0, got 'many'"),
        ({"limits": {"bops": True}}, "limits.bops must be a number above 0, got True"),
        ({"limits": {"bops": None}}, "limits.bops must be a number above 0, got None"),
        ({"limits": {"bops": -1}}, "limits.bops must be a number above 0, got -1"),
        ({"limits": {"bops": float("nan")}}, "limits.bops must be a number above 0, got nan"),
    ],
)
def test_a_target_is_read_strictly(content, message):
    with pytest.raises(ProblemError) as caught:
        read_target({"name": "npu", **content})
    assert str(caught.value) == f"target npu: {message}"


@pytest.mark.parametrize("value", [17, 0.5, True, "E9M9", [9, 9]])
def test_an_unknown_choice_is_refused_with_where_it_stands(value):
    for content, path in (
        ({"weights": [8, value]}, "weights"),
        ({"rules": [{"names": ["*"], "choices": [value]}]}, "rules[0].choices"),
    ):
        with pytest.raises(ProblemError) as caught:
            read_target({"name": "npu", **content})
        assert str(caught.value).startswith(f"`num_bits` of target npu: {path} must be an int")
        assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "`target` must be the path of a YAML file or a dict, got 5"),
        ({"name": 5}, "target: name must be text, got 5"),
    ],
)
def test_what_is_no_target_is_refused(target, message):
    with pytest.raises(ProblemError) as caught:
        read_target(target)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "start"),
    [
        (None, "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"weights: [8", "is no YAML: "),
        (b"weights: !!python/object:os.system [8]", "is no YAML: "),
        (b"", "must hold keys (name, weights, activations, rules, symmetric_only, limits), got None"),
        (b"[8, 4]", "must hold keys (name, weights, activations, rules, symmetric_only, limits), got [8, 4]"),
    ],
)
def test_a_file_that_holds_no_target_is_refused_by_its_path(tmp_path, content, start):
    path = tmp_path / "npu.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProblemError) as caught:
        read_target(path)
    assert str(caught.value).startswith(f"target file '{path}' {start}")


def test_an_error_in_a_file_names_file_and_target(tmp_path):
    path = tmp_path / "npu.yaml"
    path.write_text("wieghts: [8]\n", encoding="utf-8")
    with pytest.raises(ProblemError, match="unknown key 'wieghts'") as caught:
        read_target(path)
    assert str(caught.value).startswith(f"target npu ({path}): ")


def test_types_are_those_of_the_network_as_it_was_before_it_was_wrapped():
    model = QuantizedModel(SmallCNN().eval(), weights=predicates.by_type(nn.Conv2d))
    model.calibrate(batches(digits().calibration)[:1])
    plan = plan_choices(model, target={"rules": [{"types": ["Conv2d"], "choices": [4]}]})
    assert by_name(plan) == {"conv1.weight": (4,), "conv2.weight": (4,)}
