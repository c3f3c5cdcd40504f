"""In-place operations give new tensors, and who reads the old ones behind them reads the new ones."""

import operator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qexplore.preparation import as_graph_module, reads_what_was_written, take_out_writes, trace_network


class Written(nn.Module):
    """Reads a tensor by its former name after ``write``."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        y = x * 2 - 1
        self.write(y)
        return y + x


class Chained(nn.Module):
    """Goes on with the result of ``write``, so that the edges tell all."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        y = self.write(x * 2 - 1)
        return y + x


WRITES = {
    "module": nn.ReLU(inplace=True),
    "function": F.relu_,
    "argument": lambda x: F.hardtanh(x, -0.5, 0.5, inplace=True),
    "torch function": torch.sigmoid_,
    "method": lambda x: x.clamp_(0, 0.2),
    "activation as a method": lambda x: x.relu_(),
    "method with a number": lambda x: x.add_(1.0),
}
x = torch.linspace(-2, 2, 12).reshape(3, 4)


def graph_of(network):
    connections = trace_network(network, x)
    return connections, as_graph_module(connections)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_later_readers_read_what_was_written(write):
    network = Written(write).eval()
    expected = network(x)
    connections, graph = graph_of(network)
    assert reads_what_was_written(network, connections.graph)
    take_out_writes(graph)
    graph.recompile()
    assert torch.equal(graph(x), expected)
    assert not reads_what_was_written(graph, graph.graph)
    nodes = list(graph.graph.nodes)
    readers = [user for node in nodes if node.name == "sub" for user in node.users]
    assert len(readers) == 1  # the write itself, whose result the addition reads now


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_in_the_graph_writes_any_more(write):
    _, graph = graph_of(Chained(write).eval())
    take_out_writes(graph)
    graph.recompile()
    seen = {}

    class Watching(fx.Interpreter):
        def run_node(self, node):
            seen[node] = super().run_node(node)
            versions = {one: value._version for one, value in seen.items() if isinstance(value, Tensor)}
            assert not any(versions.values()), versions
            return seen[node]

    Watching(graph).run(x)
    assert len(seen) == len(graph.graph.nodes)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_result_that_is_taken_needs_no_rewriting(write):
    network = Chained(write).eval()
    assert not reads_what_was_written(network, trace_network(network, x).graph)


def test_readers_before_the_write_go_on_reading_the_old_tensor():
    class Before(nn.Module):
        def forward(self, x):
            y = x * 2
            z = y - 1
            y.relu_()
            return z + y

    network = Before().eval()
    expected = network(x)
    _, graph = graph_of(network)
    take_out_writes(graph)
    graph.recompile()
    assert torch.equal(graph(x), expected)


def test_names_that_only_end_in_an_underscore_write_nothing():
    class Dunder(nn.Module):
        def forward(self, x):
            return x.__add__(x) + torch.relu(x)

    network = Dunder().eval()
    connections, graph = graph_of(network)
    assert not reads_what_was_written(network, connections.graph)
    before = [node.target for node in graph.graph.nodes]
    take_out_writes(graph)
    assert [node.target for node in graph.graph.nodes] == before


@pytest.mark.parametrize(("write", "plain"), [("iadd", "add"), ("imul", "mul"), ("isub", "sub")])
def test_operators_that_write_in_a_graph_made_by_hand_become_plain_ones(write, plain):
    graph = fx.Graph()
    given = graph.placeholder("x")
    tensor = graph.call_function(operator.mul, (given, 2))
    graph.call_function(getattr(operator, write), (tensor, given))
    graph.output(graph.call_function(operator.sub, (tensor, given)))
    network = fx.GraphModule(nn.Module(), graph)
    expected = network(x)
    assert reads_what_was_written(network, graph)
    take_out_writes(network)
    network.recompile()
    assert torch.equal(network(x), expected)
    assert [node.target for node in graph.nodes][2] is getattr(operator, plain)
