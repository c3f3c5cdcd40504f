"""Tensors given by keyword: a traced network has them in the places where readers of a graph look."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qexplore.model import PathTracer, trace_around

X = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, call: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.call = call
        self.fc, self.attend = nn.Linear(8, 8), nn.MultiheadAttention(8, 2)
        self.w, self.b = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.kernel = nn.Parameter(torch.randn(6, 4, 3))

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


CALLS: dict[str, tuple[Callable[[Net, Tensor], Any], list[str], list[str]]] = {
    "module": (lambda net, x: net.fc(input=x), ["x"], []),
    "module of several arguments": (
        lambda net, x: net.attend(query=x, key=x, value=x, need_weights=False)[0],
        ["x", "x", "x"],
        ["need_weights"],
    ),
    "linear": (lambda net, x: F.linear(x, weight=net.w, bias=net.b), ["x", "w", "b"], []),
    "linear without a bias": (lambda net, x: F.linear(input=x, bias=None, weight=net.w), ["x", "w"], ["bias"]),
    "convolution": (
        lambda net, x: F.conv1d(input=x, weight=net.kernel, padding=1),
        ["x", "kernel"],
        ["padding"],
    ),
    "sum": (lambda net, x: torch.add(input=x, other=x, alpha=2), ["x", "x"], ["alpha"]),
    "product": (lambda net, x: torch.matmul(input=x, other=net.w), ["x", "w"], []),
    "concatenation": (lambda net, x: torch.cat(dim=1, tensors=[x, x]), ["[x, x]"], ["dim"]),
    "flatten": (lambda net, x: torch.flatten(input=x, start_dim=1), ["x"], ["start_dim"]),
    "python function": (lambda net, x: F.relu(input=x, inplace=False), ["x"], ["inplace"]),
    "overloaded function": (lambda net, x: torch.max(input=x, other=net.b), ["x", "b"], []),
    "method": (lambda net, x: x.add(other=x), ["x", "x"], []),
    "where": (lambda net, x: torch.where(condition=x > 0, input=x, other=net.b), ["gt", "x", "b"], []),
    "a gap": (lambda net, x: torch.clamp(input=x, max=net.b), ["x"], ["max"]),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
def test_tensors_given_by_keyword_stand_in_their_places_and_options_stay(
    case: tuple[Callable[[Net, Tensor], Any], list[str], list[str]],
) -> None:
    call, places, options = case
    network = Net(call)
    graph, _ = trace_around(network, PathTracer, {})
    node = next(one for one in graph.nodes if one.op.startswith("call_") and one.name not in ("gt", "getitem"))
    assert [str(argument) for argument in node.args] == places
    assert list(node.kwargs) == options
    assert torch.equal(fx.GraphModule(network, graph)(X), network(X))


def test_a_module_with_hooks_keeps_its_call_for_they_see_it() -> None:
    network = Net(lambda net, x: net.fc(input=x))
    network.fc.register_forward_pre_hook(lambda module, args: None)

    class Tracer(PathTracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    graph, _ = trace_around(network, Tracer, {})
    assert [list(node.kwargs) for node in graph.nodes if node.op == "call_module"] == [["input"]]
