"""What turn-key calls do with the report set: it is tried before training, and the error of the output is of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import MetricError


class Two(nn.Module):
    """Gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.fc(x)
        return y, 2 * y


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()


def test_a_metric_that_will_not_do_is_told_before_a_network_is_trained() -> None:
    steps = []

    def loss(output: Any, target: Tensor) -> Tensor:
        steps.append(1)
        return F.cross_entropy(output[0], target)

    x, y = torch.randn(16, 4), torch.zeros(16, dtype=torch.int64)
    given: dict[str, Any] = {"report_loader": [(x, y)], "epochs": 1}
    says = r"in the metric everywhere else, as in metric=dataclasses.replace\(qexplore.top1_accuracy, output=0\)"
    with pytest.raises(MetricError, match=says):
        qx.quantize_qat(Two().eval(), [(x, y)], loss, metric=qx.top1_accuracy, **given)
    with pytest.raises(MetricError, match=r"needs a target of the output's shape \(16, 1\), got \(16,\)"):
        qx.quantize_qat(_network(), [(x, y)], loss, metric=qx.squared_error, **given)
    assert not steps


def _moved(output: Any, right: Any) -> float:
    return float((output - right).norm() / right.norm())


@pytest.mark.parametrize(("times", "is_told"), [(1.0, False), (1.9, True)])
@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_the_error_of_the_output_is_of_the_report_set(stack: str, times: float, is_told: bool) -> None:
    network, x = _network(), torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    report = [(part, torch.zeros(16, 1)) for part in (times * x).split(16)]
    given: dict[str, Any] = {"report_loader": report, "metric": qx.squared_error}
    result = qx.quantize_static(network, [(x, None)], stack=stack, **given)
    with torch.no_grad():
        assert result.report.error == pytest.approx(_moved(result.model(times * x), network(times * x)), rel=1e-3)
    assert result.report.error_of == "report set"
    assert "error of the output, report set" in str(result)
    notes = [one for one in result.report.notes if one.startswith("clipped on the report set: up to ")]
    assert bool(notes) == is_told
    alone = qx.quantize_static(network, [(x, None)], stack=stack).report
    assert alone.error_of == "calibration data"
    assert "error of the output, calibration data" in str(alone)
    if is_told:
        beyond = 100 * float(((times * x > x.max()) | (times * x < x.min())).float().mean())
        worst = re.search(r"up to (\S+) % of the values that '\d' (reads|gives) are", notes[0])
        assert worst is not None and float(worst[1]) >= 0.9 * beyond > 10
        assert f"{result.report.error:.4f} there and {alone.error:.4f} on calibration data" in notes[0]


def test_data_of_the_error_is_told_without_a_report_set() -> None:
    x = torch.randn(16, 4)
    assert qx.quantize_dynamic(_network(), x).report.error_of == "the example"
    trained = qx.quantize_qat(_network(), [(x, torch.zeros(16, 1))], F.mse_loss, epochs=1)
    assert trained.report.error_of == "training data"
