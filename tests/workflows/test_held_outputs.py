"""Outputs of a network in integers that are hard to hold or to time: looked up, next to nothing, several, in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore.workflows.measuring import measure_latency


class Cancelling(nn.Module):
    """Two layers that are nearly alike, of which the difference is left; with a coded column, or with two outputs."""

    def __init__(self, unlike: float, *, is_coded: bool = False, outputs: int = 1) -> None:
        super().__init__()
        self.is_coded, self.outputs = is_coded, outputs
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.c.load_state_dict(
            {name: one + unlike * torch.randn_like(one) for name, one in self.b.state_dict().items()}
        )
        self.embedding = nn.Embedding(10, 8) if is_coded else nn.Identity()

    def forward(self, x: Tensor, code: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.a(x + self.embedding(code.long()) if self.is_coded else x)
        z = self.d(self.b(y) - self.c(y)) - self.d.bias
        return z if self.outputs == 1 else tuple(z * (1 + place) for place in range(self.outputs))


def _report(network: nn.Module, **options: str) -> qx.WorkflowReport:
    batch = torch.randn(16, 8), torch.randint(0, 10, (16,)).float()
    return qx.quantize_static(network.eval(), [(batch, None)], **options).report


@pytest.mark.parametrize("is_coded", [False, True])
def test_codes_that_are_looked_up_hide_no_error(is_coded: bool) -> None:
    # A number a last bit below a code is another code once it is cut off.
    with pytest.warns(UserWarning, match="of the float norm away"):
        report = _report(Cancelling(0.002, is_coded=is_coded), stack="onnxruntime")
    assert report.error > 0.3
    assert report.error in [alarm.error for alarm in report.alarms if not alarm.layer]


@pytest.mark.parametrize(("stack", "outputs"), [("fx", 1), ("eager", 1), ("fx", 2)])
def test_layers_that_round_most_are_left_float_where_outputs_are_off_and_none_of_them(stack: str, outputs: int) -> None:
    report = _report(Cancelling(0.03, outputs=outputs), stack=stack)
    assert not report.alarms
    assert report.error < 0.1
    rows = {row.name: row for row in report.strategy}
    assert any(row.is_quantized for row in report.strategy)
    assert "one of the layers that round most" in rows["a"].reason
    assert sum(note.startswith("'a' is left float: ") for note in report.notes) == 1


def test_an_output_that_is_off_stays_so_where_nothing_would_be_left_to_quantize() -> None:
    network = Cancelling(0.03)
    network.d = nn.Identity()
    network.d.bias = torch.zeros(8)
    with pytest.warns(UserWarning, match="the output is 0.1"):
        report = _report(network, stack="fx")
    assert [alarm.layer for alarm in report.alarms] == [""]
    assert all(row.is_quantized for row in report.strategy if row.type == "Linear")


class Gated(nn.Module):
    """Its second output is behind a gate that is all but shut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        z = self.a(x) * torch.sigmoid(x.mean(1, keepdim=True) * 0.1 - 22)
        return self.head(z), z


def test_an_output_below_the_least_step_of_any_range_is_no_alarm() -> None:
    report = _report(Gated(), stack="fx")
    assert report.error < 0.05
    assert report.alarms == ()


def test_the_times_of_a_forward_that_writes_into_its_input_are_those_of_one_input() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    x = torch.ones(4)
    measure_latency(Doubling(), Doubling(), (x,), batch=4)
    assert x.tolist() == [1.0] * 4
