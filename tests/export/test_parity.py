"""What the comparison of a file with its model says, on outputs and inputs of every form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore._onnx import OnnxModel
from qexplore.errors import ExportError
from qexplore.export.parity import _difference, _require_alike

pytest.importorskip("onnxruntime")

A, B = torch.randn(8, 4), 1.0 + torch.randn(8, 4)
LABELS = torch.zeros(8, dtype=torch.long)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.relu = nn.Linear(4, 3), nn.Linear(4, 3), nn.ReLU()

    def forward(self, a: Tensor, scale: Tensor | None = None, b: dict[str, Tensor] | Tensor | None = None) -> Tensor:
        other = b["x"] * 2 + b["y"] if isinstance(b, dict) else b
        return self.relu(self.left(a)) - self.right(other)


class Returns(nn.Module):
    def __init__(self, function, width: int = 3) -> None:
        super().__init__()
        self.linear, self.relu, self.function = nn.Linear(4, width), nn.ReLU(), function

    def forward(self, x: Tensor):
        return self.function(self.relu(self.linear(x)))


def exported(network: nn.Module, tmp_path, example, data):
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU))
    model.calibrate(data)
    return qx.export_onnx(model, tmp_path / "network.onnx", example, data=data)


@pytest.mark.parametrize(
    ("example", "batch"),
    [
        ({"b": B, "a": A}, ((A, None, B), LABELS)),
        ((A, None, B), {"b": B, "a": A, "labels": LABELS}),
        ({"b": {"x": A, "y": B}, "a": A}, {"a": A, "b": {"y": B, "x": A}, "labels": LABELS}),
    ],
)
def test_inputs_meet_those_of_the_file_by_their_names_in_any_order(tmp_path, example, batch):
    report = exported(Two(), tmp_path, example, [batch])
    assert (report.num_different, report.num_samples) == (0, 8)
    assert report.largest_difference < 1e-5
    assert OnnxModel(report.path).input_names[0] == "a"


@pytest.mark.parametrize(
    ("function", "names", "left_out"),
    [
        (lambda t: {"logits": t, "n": 3, "aux": {"b": t * 2, "p": (t * 3, None)}}, "logits aux_b aux_p_0", "n (int)"),
        (lambda t: {"x": t, "n": t.shape[0], "z": 0.5, "s": "a"}, "x_out", "n (int) z (float) s (str)"),
    ],
)
def test_dict_outputs_keep_their_names_and_what_is_no_tensor_is_left_out(tmp_path, function, names, left_out):
    report = exported(Returns(function), tmp_path, A, [(A, LABELS)])
    assert OnnxModel(report.path).output_names == tuple(names.split())
    assert " ".join(report.left_out).replace("output ", "").replace("'", "") == left_out
    assert "left out, for it is no tensor: output 'n' (int)" in str(report)
    assert "on 8 samples: 0 predictions differ, largest difference" in str(report)


@pytest.mark.parametrize(
    ("output", "target", "says"),
    [
        (A[:, :1], torch.zeros(8, 1), "8 samples: largest difference 0"),
        (A[:, 0], LABELS, "8 samples: largest difference 0"),
        (A, torch.zeros(8, 4), "8 samples: largest difference 0"),
        (A, None, "8 samples: 0 samples have their greatest output at another place, largest difference 0"),
        (A, LABELS, "8 samples: 0 predictions differ, largest difference 0"),
        (LABELS, None, "8 samples: 0 predictions differ, largest difference 0"),
        (A / 0 - A / 0, LABELS, "8 samples, 8 of them with NaN or infinite outputs: 0 predictions differ"),
    ],
)
def test_predictions_are_said_to_differ_only_of_outputs_that_hold_some(output, target, says):
    assert str(_difference([output], [output], 8, target)).startswith(says)


def compared(want, got, target=LABELS[:2]):
    found = _difference([torch.tensor(want)], [torch.tensor(got)], 2, target)
    return found.num_different, found.largest_difference, found.num_not_finite


@pytest.mark.parametrize(
    ("want", "got", "expected"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [4.5, 4.0]], (1, 1.5, 0)),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [math.nan, 4.0]], (1, math.inf, 1)),
        ([[1.0, 2.0], [math.nan, 4.0]], [[1.0, 2.0], [math.nan, 4.0]], (0, 0.0, 1)),
        ([[1.0, math.inf], [3.0, 4.0]], [[1.0, math.inf], [3.0, 4.0]], (0, 0.0, 1)),
        ([[1.0, math.inf], [3.0, 4.0]], [[1.0, -math.inf], [3.0, 4.0]], (1, math.inf, 1)),
        ([[1.0, math.inf], [3.0, 4.0]], [[1.0, 5.0], [3.0, 4.0]], (0, math.inf, 1)),
        ([1, 2], [1, 3], (1, 0.0, 0)),
        ([1, 2, 3], [1, 2, 4], (2, 0.0, 0)),  # no axis of samples: all of them may be meant
    ],
)
def test_numbers_that_are_not_finite_are_equal_to_themselves_alone_and_counted(want, got, expected):
    assert compared(want, got) == expected


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(ExportError, match=r"gives, \(8, 3\), but gives \(8, 1\), \(8,\)"):
        _require_alike([torch.zeros(8, 3)], [torch.zeros(8, 1), torch.zeros(8)])


def test_parts_add_up():
    whole = _difference([A], [B], 8, LABELS)
    parts = [_difference([A[i]], [B[i]], 4, LABELS[i]) for i in (slice(0, 4), slice(4, 8))]
    assert parts[0] + parts[1] == whole
    assert whole.num_different == int((A.argmax(1) != B.argmax(1)).sum())
    assert whole.largest_difference == np.abs(A.double().numpy() - B.double().numpy()).max()


@dataclasses.dataclass
class Unregistered:
    x: torch.Tensor


class TakesOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x.x)


class GivesOne(TakesOne):
    def forward(self, x):
        return Unregistered(self.relu(x))


@pytest.mark.parametrize(
    ("network", "example", "way_out"),
    [
        (TakesOne(), (Unregistered(torch.ones(2, 3)),), "takes <class .*forward makes <class .* of plain tensors"),
        (GivesOne(), torch.ones(2, 3), "gives <class .*forward gives the tensors in it"),
    ],
)
def test_objects_that_export_does_not_know_are_named_with_the_way_out(tmp_path, network, example, way_out):
    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))
    model.calibrate([example if isinstance(example, tuple) else (example,)])
    with pytest.raises(qx.QExploreError, match=way_out):
        qx.export_onnx(model, tmp_path / "m.onnx", example)
