"""An optimized network has fewer nodes and the same outputs; its graph can be read as a table."""

import copy

import pytest
import torch
import torchvision
from networks import digits, trained
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import DataError, ModelError, TraceError
from qexplore.model import QuantizedModel
from qexplore.preparation.graph_table import GraphTable, graph_table


@torch.no_grad()
def moved(before, after, x):
    expected = before(x)
    return float((after(x) - expected).abs().max() / expected.abs().max())


class Idle(nn.Module):
    """Everything that does nothing in eval mode, and one Dropout of its own class that does something."""

    class Halving(nn.Dropout):
        def forward(self, x):
            return x / 2

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(64, 16), nn.BatchNorm1d(16)
        self.skip, self.drop, self.halve = nn.Identity(), nn.Dropout(0.5), self.Halving()
        self.alpha = nn.AlphaDropout(0.5)
        self.last = nn.Linear(16, 10)

    def forward(self, x, scale=2.0):
        x = self.drop(F.relu(self.norm(self.first(self.skip(x.flatten(1))))))
        x = F.dropout(self.alpha(self.halve(self.drop(x))), 0.5, self.training)
        return self.last(x) * scale


def test_pairs_are_named_and_every_idle_node_goes():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = Idle()
    network.norm.running_mean.normal_()
    before = copy.deepcopy(network.state_dict())
    x = digits().report.x

    report = qx.optimize_graph(network, x[:8])

    assert [str(pair) for pair in report.pairs] == ["first (Linear) and norm (BatchNorm1d)"]
    assert report.dropped == {"skip": "Identity", "drop": "Dropout", "alpha": "AlphaDropout", "dropout": "dropout"}
    names = [row.name for row in report.after.rows if row.opcode == "call_module"]
    assert names == ["first", "last"] == [name for name, _ in report.network.named_children()]
    assert "operator.truediv" in {row.target for row in report.after.rows}
    assert type(report.network).__name__ == "Idle"
    assert moved(network.eval(), report.network, x) < 1e-6 and report.difference < 1e-6
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(("name", "pairs"), [("small_cnn", 2), ("resnet20", 21), ("mobilenet", 11), ("lstm", 0)])
def test_gallery_networks_give_the_same_with_fewer_nodes(name, pairs):
    network, x = trained(name), digits().report.x
    report = qx.optimize_graph(network, digits().calibration.x[:8])
    assert len(report.pairs) == pairs
    assert len(report.before) - len(report.after) == pairs + len(report.dropped)
    assert moved(network, report.network, x) < 1e-5


def test_torchvisions_resnet18_is_folded_whole():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    report = qx.optimize_graph(network, x)
    assert len(report.pairs) == 20 and not report.skipped
    assert "layer4.1.conv2 (Conv2d) and layer4.1.bn2 (BatchNorm2d)" in report.found
    assert not any("bn" in row.target for row in report.after.rows)
    assert moved(network, report.network, x) < 1e-5


def test_print_shows_what_was_found_and_both_tables():
    lines = str(qx.optimize_graph(trained("small_cnn"), digits().report.x[:4])).splitlines()
    assert "  conv1 (Conv2d) and bn1 (BatchNorm2d)" in lines and "  conv2 (Conv2d) and bn2 (BatchNorm2d)" in lines
    headers = [line.split() for line in lines if line.startswith("opcode")]
    assert headers == [["opcode", "name", "target", "args", "kwargs"]] * 2
    before, after = lines.index("Before"), lines.index("After")
    assert "call_module  bn1      bn1      conv1" in lines[before:after]
    assert "call_module  relu1    relu1    conv1" in lines[after:]
    assert any("differ by at most" in line for line in lines[:before])


class Sneaky(nn.Module):
    """Looks at what it is made of."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x)) * (1.0 if isinstance(self.norm, nn.BatchNorm2d) else 2.0)


def test_other_outputs_are_an_error():
    with pytest.raises(ModelError, match="folding BatchNorm must not change the network's output"):
        qx.optimize_graph(Sneaky().eval(), torch.randn(2, 1, 3, 3))


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_untraceable_networks_are_refused_with_the_reason():
    with pytest.raises(TraceError, match=r"Branching is not: .*control flow"):
        qx.optimize_graph(Branching(), torch.ones(2))
    with pytest.raises(TraceError, match=r"(?s)Branching is not: .*torch\.export cannot take the network apart either"):
        graph_table(Branching(), torch.ones(2))
    with pytest.raises(TraceError, match="Branching is not"):
        graph_table(Branching())


def test_bad_examples_and_wrapped_networks_are_refused():
    with pytest.raises(DataError, match="pass example_input, the inputs of one batch"):
        qx.optimize_graph(trained("small_cnn"), None)
    with pytest.raises(DataError, match="`example_input` must be a tensor"):
        qx.optimize_graph(trained("small_cnn"), "images")
    model = QuantizedModel(trained("small_cnn"), weights=predicates.weighted)
    with pytest.raises(ModelError, match="wrapped already"):
        qx.optimize_graph(model.model, digits().report.x[:4])


def test_table_tells_constants_functions_and_long_arguments():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(3))

        def forward(self, x):
            return torch.cat([x + self.table for _ in range(20)], dim=0).reshape(-1, 3)

    table = graph_table(Odd())
    assert table.source == "torch.fx" and len(table) == len(table.rows)
    rows = {row.name: row for row in table.rows}
    assert rows["table"].opcode == "get_attr" and rows["cat"].kwargs == "dim=0"
    assert rows["add"].target == "operator.add" and rows["cat"].target == "torch.cat"
    line = next(line for line in str(table).splitlines() if line.startswith("call_function  cat"))
    assert "..." in line and len(line) < 140 and "add_19" in rows["cat"].args
    assert str(table).splitlines()[1].startswith("-----")
    assert table.text(max_rows=3).splitlines()[-1] == f"... and {len(table) - 3} more rows"


def test_where_symbolic_tracing_fails_export_shows_the_graph():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2, use_cache=False)
    config.bos_token_id = config.eos_token_id = None
    network, tokens = GPT2LMHeadModel(config), torch.randint(0, 256, (2, 12))
    modes = [module.training for module in network.modules()]

    table = graph_table(network, {"input_ids": tokens})

    assert isinstance(table, GraphTable) and table.source == "torch.export"
    assert any("aten.layer_norm" in row.target or "layer_norm" in row.name for row in table.rows)
    assert "transformer.wte.weight" in {row.target for row in table.rows}
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(TraceError, match=r"forward of GPT2LMHeadModel must name its arguments"):
        graph_table(network)


def test_parts_that_cannot_be_traced_are_seen_by_export():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Looping()

        def forward(self, x):
            return self.inner(x)

    class Looping(nn.Module):
        def forward(self, x):
            return x * len(list(x))

    table = graph_table(Holder(), torch.ones(3, 2))
    assert table.source == "torch.export"
    assert "aten.mul.Tensor" in {row.target for row in table.rows}
    symbolic = graph_table(Holder())
    assert symbolic.source == "torch.fx" and "iterated" in symbolic.opaque["inner"]


@pytest.mark.parametrize("function", [qx.optimize_graph, graph_table, qx.give_own_modules])
def test_example_that_the_network_fails_on_is_refused_in_one_line(function):
    with pytest.raises(
        DataError, match=r"run on `example_input`, but with tensors of shape \(2, 3\) it fails: "
    ) as caught:
        function(trained("small_cnn"), torch.randn(2, 3))
    assert "\n" not in str(caught.value) and "While executing" not in str(caught.value)
