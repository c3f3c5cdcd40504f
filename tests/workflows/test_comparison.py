"""All workflows on one network: one table, and a row with a reason where something cannot be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import batches, digits, trained, wrapping
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import DataError, MetricError, ModelError, WorkflowError
from qexplore.stacks import STACKS


def compare(network, **options):
    calibration, report = batches(digits().calibration), batches(digits().report)
    return qx.compare_workflows(network, calibration, report, qx.top1_accuracy, **options)


class Cancelling(nn.Module):
    """Gives the small difference of two layers, which their rounding drowns."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.c.load_state_dict({name: one + 0.003 * torch.randn_like(one) for name, one in self.b.state_dict().items()})

    def forward(self, x):
        y = self.a(x)
        return self.d(self.b(y) - self.c(y)) - self.d.bias


def test_table_has_a_row_for_every_workflow_asked_for():
    seen = []
    comparison = compare(
        trained("small_cnn"),
        stacks=["fx", "float8"],
        train_loader=batches(digits().train)[:3],
        loss=F.cross_entropy,
        on_row=seen.append,
    )
    assert [(row.stack, row.method, row.weights) for row in comparison.rows] == [
        ("fx", "dynamic", "per tensor"),
        ("fx", "dynamic", "per channel"),
        ("fx", "static", "per tensor"),
        ("fx", "static", "per channel"),
        ("fx", "qat", "per tensor"),
        ("fx", "qat", "per channel"),
        *(("float8", name, "per channel") for name in ("E4M3", "E5M2", "E3M4", "mixed")),
    ]
    assert all(row.is_done for row in comparison.rows), comparison
    assert tuple(seen) == comparison.rows
    assert all(row.accuracy > 0.9 and row.size_ratio < 0.5 for row in comparison.rows)
    assert str(comparison.row("fx", "static", "per channel").report.strategy[0].weights) == "int8 per channel"
    assert comparison.row("fx", "dynamic").note == "3 steps in float"


def test_table_prints_one_line_a_row():
    comparison = compare(trained("small_cnn"), stacks=["fx"], methods=["static"], weight_granularities=["channel"])
    title, header, _, first, second = str(comparison).splitlines()
    assert title == "SmallCNN; a ratio to float below 1 is smaller or faster"
    assert header.split()[:4] == ["stack", "method", "weights", "accuracy"]
    assert first.split()[:2] == ["float", f"{comparison.accuracy_float:.4f}"]
    assert second.split()[:4] == ["fx", "static", "per", "channel"]
    other = str(replace(comparison, metric="squared error", accuracy_float=0.00004321))
    assert "accuracy" not in other and "squared error" in other and "4.321e-05" in other


def test_alarms_of_float8_stand_in_its_row(monkeypatch):
    monkeypatch.setitem(STACKS, "float8", replace(STACKS["float8"], formats=("E4M3",)))
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    options = {"stacks": ["float8"], "methods": ["static"]}
    comparison = qx.compare_workflows(Cancelling(), [x], [(x, x)], lambda output, target: output[:, 0], **options)
    row = comparison.row("float8", "E4M3")
    assert len(row.report.alarms) == 1
    assert row.note == "emulated in float, 1 alarm"


def test_what_cannot_be_done_is_a_row_with_its_reason():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(x.flatten(1)) if float(x.sum()) > 0 else x.flatten(1)[:, :10]

    comparison = compare(Deciding(), stacks=["fx"], weight_granularities=["tensor"])
    assert [
        row.note.startswith("not done: the network must be one that torch.fx can trace") for row in comparison.rows
    ] == [
        True,
        True,
        False,
    ]
    assert comparison.row("fx", "qat").note == "not done: training needs train_loader= and loss="
    assert not any(row.is_done for row in comparison.rows)


def test_stack_that_stops_in_an_unexpected_way_is_a_row_too(monkeypatch):
    import qexplore.stacks.fx as fx

    def stop(*arguments):
        raise RuntimeError("kernel on fire\nlong trace")

    monkeypatch.setattr(fx, "quantize", stop)
    comparison = compare(trained("small_cnn"), stacks=["fx", "eager"], methods=["dynamic"])
    notes = [row.note for row in comparison.rows if row.stack == "fx"]
    assert len(notes) == 2 and all("not done" in note and "RuntimeError: kernel on fire" in note for note in notes)
    assert all(row.is_done for row in comparison.rows if row.stack == "eager")


def test_an_interrupt_is_no_row():
    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(trained("small_cnn"), stacks=["fx"], methods=["dynamic"], on_row=interrupt)


def test_every_row_trains_a_copy_and_the_network_stays_as_it_is():
    network = trained("small_cnn")
    before = [parameter.clone() for parameter in network.parameters()]
    options = {
        "stacks": ["fx"],
        "methods": ["qat"],
        "weight_granularities": ["channel"],
        "train_loader": batches(digits().train)[:3],
        "loss": F.cross_entropy,
    }
    first, second = compare(network, **options), compare(network, **options)
    assert all(map(torch.equal, before, network.parameters()))
    assert first.rows[0].accuracy == second.rows[0].accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stacks": ["fx", "jax"]}, "stacks must be a sequence of some of 'eager', .*'float8', got"),
        ({"stacks": []}, "stacks must be"),
        ({"methods": "static"}, "methods must be a sequence of some of 'dynamic', 'static', 'qat'"),
        ({"weight_granularities": ["group"]}, "weight_granularities must be"),
    ],
)
def test_choices_that_do_not_exist_are_refused(options, message):
    with pytest.raises(WorkflowError, match=message):
        compare(trained("small_cnn"), **options)


def test_mistakes_that_meet_every_row_are_raised_at_once():
    network, report = trained("small_cnn"), batches(digits().report)
    with pytest.raises(DataError, match="calibration_loader must hold"):
        qx.compare_workflows(network, [], report, qx.top1_accuracy)
    with pytest.raises(WorkflowError, match="`epochs` must be an int of at least 1, got 0"):
        qx.compare_workflows(network, report, report, qx.top1_accuracy, epochs=0)
    with pytest.raises(MetricError, match="needs a metric"):
        qx.compare_workflows(network, report, report, None)
    qx.QuantizedActivationsModel(network, **wrapping("small_cnn"))
    with pytest.raises(ModelError, match="detach"):
        compare(network)


def test_row_that_is_not_there_is_named():
    comparison = compare(trained("small_cnn"), stacks=["fx"], methods=["dynamic"])
    with pytest.raises(WorkflowError, match=r"no row \(fx, static, any weights\)"):
        comparison.row("fx", "static")
