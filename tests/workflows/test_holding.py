"""Every turn-key result is held against the float network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qexplore as qx


class Nested(nn.Module):
    """A dict of a tensor, a list with one, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = torch.relu(self.bn(self.conv(x)))
        return {"classes": self.fc(y.mean((2, 3))), "maps": [y], "places": y.flatten(1).argmax(1)}


def _flat(output: dict) -> torch.Tensor:
    return torch.cat([output["classes"].flatten(), output["maps"][0].flatten()])


@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_report_tells_relative_error_of_all_floating_outputs(stack: str, method: str) -> None:
    network, batch = Nested().eval(), torch.randn(16, 3, 8, 8)
    quantize = qx.quantize_static if method == "static" else qx.quantize_dynamic
    result = quantize(network, [batch] if method == "static" else batch, stack=stack)
    with torch.no_grad():
        right, given = _flat(network(batch)), _flat(result.model(batch))
    assert result.report.error == pytest.approx(float((given - right).norm() / right.norm()), rel=1e-4)
    assert 0 < result.report.error < 0.1
    assert result.report.alarms == ()


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_error_of_a_layer_is_of_the_inputs_that_it_got(stack: str) -> None:
    network, batches = Nested().eval(), [torch.randn(8, 3, 8, 8) for _ in range(2)]
    strategy = {row.name: row for row in qx.quantize_static(network, batches, stack=stack).report.strategy}
    assert 0 < strategy["conv"].error < 0.05
    assert 0 < strategy["fc"].error < 0.05
    assert strategy["bn"].error is None
