"""What a network says of its own quantization, by torch.ao's attribute ``qconfig``."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig
from torch.nn.utils.parametrizations import weight_norm

import qexplore as qx
from qexplore._quiet import quiet

X = torch.randn(8, 8)


def network_of(qconfig, *names):
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 4))
    for name in names:
        network.get_submodule(name).qconfig = qconfig
    return network.eval()


def quantized(network, method, stack):
    if method == "dynamic":
        return qx.quantize_dynamic(network, X, stack=stack)
    return qx.quantize_static(network, [X], stack=stack)


CALLS = [(stack, method) for stack in ("fx", "eager", "pt2e", "onnxruntime") for method in ("dynamic", "static")]


@pytest.mark.parametrize(("stack", "method"), CALLS)
def test_none_keeps_a_layer_float_in_every_stack_and_the_report_says_so(stack, method):
    network = network_of(None, "0", "2")
    report = quantized(network, method, stack).report
    rows = {row.name: row for row in report.strategy}
    for name in ("0", "2.0"):
        assert rows[name].weights is None and "its own qconfig is None" in rows[name].reason
        assert any(f"'{name}' is left float: its own qconfig is None" in note for note in report.notes)
    assert rows["3"].weights is not None and network.get_submodule("0").qconfig is None


@pytest.mark.parametrize(("stack", "method"), CALLS[:4])
def test_others_are_not_used_and_the_report_says_so(stack, method):
    with quiet():
        given = get_default_qconfig("qnnpack")
    network = network_of(given, "", "0")
    result = quantized(network, method, stack)
    plain = quantized(network_of(None), method, stack).report.strategy
    assert [row.state for row in result.report.strategy] == [row.state for row in plain]
    assert any(
        "is not used ('', '0'): observers are given by activation_observer=" in one for one in result.report.notes
    )
    assert network.qconfig is given


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_files_load_into_the_network_that_has_it(stack, tmp_path):
    network = network_of(None, "0")
    result = quantized(network, "static", stack)
    result.save(tmp_path / "network.pt")
    for given in (network, network_of(None)):
        given.load_state_dict(network.state_dict())
        assert torch.equal(qx.load_quantized(tmp_path / "network.pt", given)(X), result.model(X))


class Sharing(nn.Module):
    """A layer that is called twice, and a parametrized one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.shared, self.normed = nn.Linear(8, 8), weight_norm(nn.Linear(8, 8))
        self.shared.qconfig = self.normed.qconfig = None

    def forward(self, x):
        return self.last(self.normed(self.shared(self.shared(self.first(x)).relu()).relu()).relu())


@pytest.mark.parametrize("stack", ["fx", "eager", "pt2e", "onnxruntime"])
def test_none_keeps_every_call_float_and_a_parametrized_layer(stack):
    rows = quantized(Sharing().eval(), "static", stack).report.strategy
    assert {row.name for row in rows if row.weights} == {"first", "last"}
    left = {row.name: row for row in rows if "its own qconfig is None" in row.reason}
    assert {"shared", "normed"} <= set(left) and not any(row.is_quantized for row in left.values())
