"""Predicates: what they select, how they combine, what they say when they select nothing."""

import pickle
from typing import Any

import pytest
from networks import AWKWARD, trained
from torch import nn

from qexplore import predicates
from qexplore.errors import SelectionError
from qexplore.model import QuantizedModel
from qexplore.predicates import Predicate, as_predicate, by_name, by_regex, by_type, select_modules


def network() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU6()), nn.Linear(2, 2)
    )


def has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


def selected(predicate: Any, of: nn.Module | None = None) -> list[str]:
    return list(select_modules(network() if of is None else of, predicate))


@pytest.mark.parametrize(
    ("predicate", "names"),
    [
        (by_type(nn.ReLU), ["0.1"]),
        (by_type(nn.Linear, nn.ReLU), ["0.1", "2"]),
        (by_type(nn.Hardtanh), ["1.1"]),  # ReLU6 is one
        (by_name("0.*"), ["0.0", "0.1"]),
        (by_name("*1"), ["0.1", "1", "1.1"]),
        (by_name("[02]"), ["0", "2"]),
        (by_name("2", "0"), ["0", "2"]),
        (by_name(""), [""]),
        (by_regex(r"\d\.0"), ["0.0", "1.0"]),
        (by_regex(r"1"), ["1"]),
        (by_regex(r".*1"), ["0.1", "1", "1.1"]),
        (predicates.leaves, ["0.0", "0.1", "1.0", "1.1", "2"]),
        (predicates.everything, ["", "0", "0.0", "0.1", "1", "1.0", "1.1", "2"]),
    ],
    ids=repr,
)
def test_predicate_selects_in_order_of_named_modules(predicate: Predicate, names: list[str]) -> None:
    assert selected(predicate) == names


@pytest.mark.parametrize(
    ("predicate", "names", "shown"),
    [
        (by_type(nn.Conv2d) & by_name("1.*"), ["1.0"], "(by_type(Conv2d) & by_name('1.*'))"),
        (by_type(nn.Conv2d) | by_name("2"), ["0.0", "1.0", "2"], "(by_type(Conv2d) | by_name('2'))"),
        (predicates.leaves & ~by_type(nn.Conv2d), ["0.1", "1.1", "2"], "(leaves & ~by_type(Conv2d))"),
        (~(predicates.leaves | by_regex("0")), ["", "1"], "~(leaves | by_regex('0'))"),
        (
            by_name("0*") | by_name("2") & has_bias,
            ["0", "0.0", "0.1", "2"],
            "(by_name('0*') | (by_name('2') & has_bias))",
        ),
    ],
    ids=repr,
)
def test_predicates_combine_and_show_how(predicate: Predicate, names: list[str], shown: str) -> None:
    assert selected(predicate) == names
    assert repr(predicate) == shown


def test_a_pattern_in_the_place_of_a_predicate_is_told_of_by_name() -> None:
    for kind in ("activations", "weights"):
        with pytest.raises(SelectionError, match=r"got 'conv\*': use predicates.by_name\('conv\*'\)$"):
            QuantizedModel(nn.Sequential(nn.Linear(2, 2)), **{kind: "conv*"})


def test_plain_function_of_one_module_works_wherever_a_predicate_does() -> None:
    assert selected(has_bias) == ["0.0", "1.0", "2"]
    assert selected(by_name("0.*") & has_bias) == ["0.0"]
    assert selected(has_bias & by_name("0.*")) == ["0.0"]
    assert selected(by_type(nn.ReLU) | has_bias) == ["0.0", "0.1", "1.0", "2"]
    assert selected(has_bias | by_type(nn.ReLU)) == ["0.0", "0.1", "1.0", "2"]
    assert repr(has_bias & by_name("0.*")) == "(has_bias & by_name('0.*'))"
    assert selected(lambda module: isinstance(module, nn.ReLU6)) == ["1.1"]


def test_plain_function_may_answer_with_any_truth_value() -> None:
    assert selected(lambda module: list(module.children())) == ["", "0", "1"]


def test_predicate_of_an_own_function_sees_name_and_module() -> None:
    mine = Predicate(lambda name, module: name == "1.0" and isinstance(module, nn.Conv2d), "mine")
    assert selected(mine) == ["1.0"]
    assert as_predicate(mine) is mine
    assert repr(mine) == "mine"


def test_class_instead_of_a_predicate_is_refused_with_the_hint() -> None:
    with pytest.raises(SelectionError, match=r"got ReLU: use predicates.by_type\(ReLU\)"):
        select_modules(network(), nn.ReLU)
    with pytest.raises(SelectionError, match=r"use predicates.by_type\(Linear\)"):
        by_name("0.*") & nn.Linear


def test_module_instead_of_a_predicate_is_refused_with_the_hint() -> None:
    with pytest.raises(SelectionError, match=r"got ReLU\(\): use predicates.by_type\(ReLU\)"):
        select_modules(network(), nn.ReLU())


@pytest.mark.parametrize("wrong", ["relu*", (nn.ReLU, nn.Linear), 3, None], ids=repr)
def test_what_is_no_predicate_is_refused(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="a predicate must be a Predicate or a function of one module, got"):
        select_modules(network(), wrong)


@pytest.mark.parametrize("wrong", [(), (nn.ReLU(),), ("ReLU",), (int,), (nn.ReLU, 3)], ids=repr)
def test_by_type_takes_module_classes_only(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="by_type takes nn.Module classes"):
        by_type(*wrong)


@pytest.mark.parametrize("wrong", [(), (3,), (None,), (["a", "b"],)], ids=repr)
def test_by_name_takes_strings_only(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="by_name takes glob strings"):
        by_name(*wrong)


@pytest.mark.parametrize("wrong", ["(", "*", None, 3], ids=repr)
def test_by_regex_takes_a_regular_expression_only(wrong: Any) -> None:
    with pytest.raises(SelectionError, match="by_regex takes a regular expression"):
        by_regex(wrong)


def test_selecting_nothing_lists_what_there_was_to_select() -> None:
    with pytest.raises(SelectionError) as caught:
        select_modules(network(), by_type(nn.Sigmoid) & by_name("0.*"))
    assert str(caught.value).splitlines() == [
        "the predicate (by_type(Sigmoid) & by_name('0.*')) selects no module of Sequential. There are:",
        "  (the network itself): Sequential",
        "  0: Sequential",
        "  0.0: Conv2d",
        "  0.1: ReLU",
        "  1: Sequential",
        "  1.0: Conv2d",
        "  1.1: ReLU6",
        "  2: Linear",
    ]
    assert isinstance(caught.value, ValueError)


def test_long_list_of_what_there_was_is_cut_and_summed_up() -> None:
    with pytest.raises(SelectionError) as caught:
        select_modules(trained("resnet20"), by_type(nn.Sigmoid))
    lines = str(caught.value).splitlines()
    assert len(lines) == 42
    assert lines[-1].startswith("  ... and 38 more (")
    assert "21 Conv2d" in lines[-1]
    assert "19 ReLU" in lines[-1]


class Holder(nn.Module):
    """Containers that cannot be called beside one module that can."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.ModuleList([nn.Linear(2, 2)])
        self.table = nn.ModuleDict({"a": nn.Linear(2, 2)})

    def forward(self, x: Any) -> Any:
        return self.table["a"](self.items[0](x))


def test_containers_that_cannot_be_called_are_never_selected() -> None:
    assert selected(predicates.everything, Holder()) == ["", "items.0", "table.a"]
    assert selected(~predicates.leaves, Holder()) == [""]


def test_parametrizations_are_never_selected() -> None:
    assert selected(predicates.everything, AWKWARD["weight_norm"].build()) == ["", "0", "1", "2"]


def test_module_under_two_names_is_selected_once_under_the_first() -> None:
    assert selected(by_type(nn.Linear), AWKWARD["two_names"].build()) == ["first"]


def test_selection_gives_the_modules_themselves() -> None:
    net = network()
    assert select_modules(net, by_type(nn.Linear)) == {"2": net[2]}


def test_function_of_name_and_module_is_refused_with_the_way_out() -> None:
    with pytest.raises(SelectionError, match="must take one module.*Predicate\\(function, 'description'\\)"):
        as_predicate(lambda name, module: True)


def test_built_in_function_without_a_signature_is_taken() -> None:
    assert selected(callable) == selected(predicates.everything)


@pytest.mark.parametrize(
    "predicate",
    [
        predicates.by_type(nn.ReLU) | predicates.by_name("fc*") & ~predicates.by_regex("fc2"),
        predicates.weighted,
        predicates.leaves & has_bias,
        predicates.everything,
    ],
    ids=repr,
)
def test_a_predicate_pickles(predicate):
    network, again = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), pickle.loads(pickle.dumps(predicate))
    assert repr(again) == repr(predicate)
    assert [again(*one) for one in network.named_modules()] == [predicate(*one) for one in network.named_modules()]
