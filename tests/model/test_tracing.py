"""Tracing goes round what cannot be traced, and says where it stopped."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore.errors import ModelError, TraceError
from qexplore.model import PathTracer, bound_arguments, takes_any_arguments, trace_around, without_tensors

X = torch.rand(2, 3)


class Deciding(nn.Module):
    """Asks for a value, which a proxy does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else x


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise ValueError
        return x


class Around(nn.Module):
    """A module, twice, between two that can be traced."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 3), middle, nn.Sequential(nn.ReLU(), nn.Linear(3, 3))

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.last(self.middle(self.middle(self.first(x)) * scale))


def called(network: nn.Module, **options: Any) -> tuple[list[str], dict[str, str]]:
    """Names of the modules that are called, and what could not be traced."""
    fixed = options.pop("fixed", {})
    graph, opaque = trace_around(network, PathTracer, fixed, **options)
    return [str(node.target) for node in graph.nodes if node.op == "call_module"], opaque


@pytest.mark.parametrize(
    ("middle", "names", "reason"),
    [
        (nn.Tanh(), ["middle", "middle"], None),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), ["middle.0", "middle.1"] * 2, None),
        (Deciding(), ["middle", "middle"], "control flow"),
        (nn.Sequential(nn.ReLU(), Deciding()), ["middle.0", "middle.1"] * 2, "control flow"),
        (Silent(), ["middle", "middle"], "ValueError"),
    ],
    ids=["torch's own", "container", "control flow", "control flow further inside", "error without a word"],
)
def test_what_cannot_be_traced_is_one_node_with_its_reason(
    middle: nn.Module, names: list[str], reason: str | None
) -> None:
    found, opaque = called(Around(middle), fixed={"scale": 2.0})
    assert found == ["first", *names, "last.0", "last.1"]
    assert list(opaque) == ([] if reason is None else [names[-1]])
    assert reason is None or all(reason in text for text in opaque.values())


def test_modules_can_be_closed_from_the_start_without_being_called_untraceable() -> None:
    found, opaque = called(Around(Deciding()), fixed={"scale": 2.0}, opaque=["last"])
    assert found == ["first", "middle", "middle", "last"]
    assert list(opaque) == ["middle"]


@pytest.mark.parametrize("inside", [True, False])
def test_a_network_that_cannot_be_traced_itself_is_named_with_the_reason(inside: bool) -> None:
    class Root(Around):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            y = self.middle(x) if inside else x
            return self.first(y) if y.sum() > 0 else y

    with pytest.raises(TraceError, match="can trace, but Root is not: .*control flow.*; go on$"):
        called(Root(Deciding()), hint="; go on")


def test_a_tensor_of_a_traced_size_is_told_with_what_can_be_traced() -> None:
    class Starting(nn.Module):
        def __init__(self, *, is_new: bool) -> None:
            super().__init__()
            self.cell, self.is_new = nn.GRUCell(4, 4), is_new

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(x.shape[0], 4) if self.is_new else torch.zeros(x.shape[0], 4)
            return self.cell(x, state)

    with pytest.raises(TraceError, match=r"; x\.new_zeros\(\.\.\.\) of a tensor x takes sizes that are traced\)"):
        called(Starting(is_new=False))
    assert called(Starting(is_new=True))[0] == ["cell"]


@pytest.mark.parametrize(
    "prepare",
    [
        qx.fold_batchnorm,
        qx.equalize,
        lambda network: qx.fold_batchnorm(network, X),
        lambda network: qx.optimize_graph(network, X),
        lambda network: qx.give_own_modules(network, X),
    ],
    ids=["fold", "equalize", "fold with an example", "optimize", "own modules"],
)
def test_every_preparation_refuses_it_alike_and_as_an_error_of_the_model(prepare: Any) -> None:
    with pytest.raises(TraceError, match="can trace, but Deciding is not: .*Prepare parts of it") as caught:
        prepare(Deciding())
    assert isinstance(caught.value, (ModelError, TypeError))


def forward(x: Any, mask: Any = None, scale: float = 2.0) -> None:
    pass


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (3, {"x": 3, "mask": None, "scale": 2.0}),
        ((3, 4), {"x": 3, "mask": 4, "scale": 2.0}),
        ([3], {"x": 3, "mask": None, "scale": 2.0}),
        ({"scale": 1.0, "x": 3}, {"x": 3, "mask": None, "scale": 1.0}),
    ],
    ids=repr,
)
def test_inputs_of_every_form_become_arguments_by_name(inputs: Any, expected: dict[str, Any]) -> None:
    bound = bound_arguments(inspect.signature(forward), inputs)
    assert bound == expected
    assert list(bound) == ["x", "mask", "scale"]


@pytest.mark.parametrize("inputs", [(), (1, 2, 3, 4), {"y": 3}], ids=repr)
def test_inputs_that_forward_does_not_take_are_a_type_error(inputs: Any) -> None:
    with pytest.raises(TypeError):
        bound_arguments(inspect.signature(forward), inputs)


def test_arguments_without_a_tensor_anywhere_are_settled() -> None:
    given = {"x": X, "pair": [1, {"deep": X}], "none": None, "numbers": [1, 2], "flag": True}
    assert without_tensors(given) == {"none": None, "numbers": [1, 2], "flag": True}


@pytest.mark.parametrize(
    ("function", "expected"), [(forward, False), (lambda *args: None, True), (lambda x, **options: None, True)]
)
def test_star_arguments_are_seen(function: Any, expected: bool) -> None:
    assert takes_any_arguments(inspect.signature(function)) == expected
