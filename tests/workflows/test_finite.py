"""NaN and infinities in what turn-key calls are shown are told by the batch that holds them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore.errors import DataError


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def _batches(place: int, value: float) -> list[Tensor]:
    batches = [torch.randn(16, 4) for _ in range(7)]
    batches[place][3, 1] = value
    return batches


_STACKS = ["fx", "eager", "pt2e", "onnxruntime", "float8"]


@pytest.mark.parametrize("stack", _STACKS)
@pytest.mark.parametrize(("place", "value"), [(0, math.nan), (6, math.nan), (6, math.inf)])
def test_calibration_batch_that_is_not_finite_is_named(stack: str, place: int, value: float) -> None:
    what = "NaN" if math.isnan(value) else "an infinity"
    with pytest.raises(DataError, match=f"batch {place} of calibration_loader must hold finite inputs, got {what}"):
        qx.quantize_static(_network(), _batches(place, value), stack=stack)


def test_training_batch_that_is_not_finite_is_named() -> None:
    batches = [(x, torch.zeros(16, 3)) for x in _batches(5, math.nan)]
    with pytest.raises(DataError, match="batch 5 of train_loader"):
        qx.quantize_qat(_network(), batches, nn.functional.mse_loss)


def test_example_input_that_is_not_finite_is_named() -> None:
    with pytest.raises(DataError, match="example_input must hold finite inputs"):
        qx.quantize_dynamic(_network(), torch.full((2, 4), math.nan))


def test_batch_that_packed_weights_are_calibrated_on_is_named() -> None:
    with pytest.raises(DataError, match="batch 6 of calibration_loader"):
        qx.pack_linear_weights(_network(), calibration_loader=_batches(6, math.nan))


class Masked(nn.Module):
    """Takes a mask of zeros and minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(self.fc(x) + mask, 1)


def test_mask_of_minus_infinity_is_no_fault() -> None:
    mask = torch.zeros(8, 4).masked_fill(torch.eye(4).repeat(2, 1) > 0, -math.inf)
    batches = [((torch.randn(8, 4), mask), 0) for _ in range(2)]
    assert qx.quantize_dynamic(_network(), torch.randn(2, 4)).report.alarms == ()
    result = qx.quantize_dynamic(Masked(), batches[0][0])
    assert bool(torch.isfinite(result.model(*batches[0][0])).all())


def _agreement(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) == target).float()


def _report(batches: list[Tensor]) -> dict[str, object]:
    labelled = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in batches]
    return {"report_loader": labelled, "metric": _agreement}


def test_report_batch_that_is_not_finite_is_named() -> None:
    with pytest.raises(DataError, match="batch 3 of report_loader must hold finite inputs, got NaN"):
        qx.quantize_dynamic(_network(), torch.randn(2, 4), **_report(_batches(3, math.nan)))


@pytest.mark.parametrize(("factor", "is_told"), [(1, False), (100, True)])
def test_report_set_far_outside_of_what_ranges_were_taken_from_is_noted(factor: int, is_told: bool) -> None:
    batches = _batches(0, 0.0)
    given = _report([batches[0], factor * batches[1]])
    notes = qx.quantize_static(_network(), [(x, None) for x in batches], **given).report.notes
    assert any(note.startswith("inputs of report_loader reach ") for note in notes) == is_told


def test_metric_of_a_whole_set_gets_the_users_own_loader() -> None:
    given = _report(_batches(0, 0.0))
    metric = qx.whole_set(lambda network, loader: float(loader is given["report_loader"]))
    report = qx.quantize_dynamic(
        _network(), torch.randn(2, 4), report_loader=given["report_loader"], metric=metric
    ).report
    assert report.accuracy_after == 1
