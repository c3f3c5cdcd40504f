"""Awkward networks are exported like any other, or refused by a sentence (see test_export_bad_input)."""

from __future__ import annotations

import pytest
import torch
from network_state import network_state
from networks import AWKWARD
from torch import nn

import qexplore as qx
from qexplore import predicates

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

QUICK = ("user_hooks", "containers", "tokens", "keyword_inputs", "two_names", "attention")
REFUSED = ("branching",)
RANDOM = ("noisy",)
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in AWKWARD if name not in REFUSED
]


def test_each_of_several_inputs_has_its_scale_in_the_file(tmp_path):
    class Two(nn.Module):
        def forward(self, x, state, mask):
            return torch.softmax(x + state[0] / 1e4 + mask, dim=-1)

    x, t = torch.randn(6, 4), torch.linspace(1, 9999, 6).reshape(6, 1)
    mask = torch.zeros(6, 4).masked_fill(torch.eye(6, 4) > 0, torch.finfo(torch.float32).min)
    model = qx.QuantizedActivationsModel(Two(), predicates.by_name(""))
    data = [{"x": x, "state": (t, torch.arange(6)), "mask": mask}]
    model.calibrate(data)
    report = qx.export_onnx(model, tmp_path / "model.onnx", data=data)
    assert [(point.name, point.type) for point in report.points] == [
        ("input.x", "int8"),
        ("input.state.0", "uint8"),
        ("output", "uint8"),
    ]
    assert (report.num_different, report.largest_difference < 1e-6) == (0, True)


@pytest.mark.parametrize("name", NAMES)
def test_awkward_network_computes_the_same_from_its_file(name, tmp_path):
    case = AWKWARD[name]
    torch.manual_seed(0)
    model = qx.QuantizedModel(case.build(), case.predicate, predicates.weighted, asymmetric="auto", **case.options)
    data = [(case.inputs(), None)]
    model.calibrate(data)
    model.num_bits = [3 + index % 7 for index in range(len(model.points))]
    before = network_state(model.model)

    report = qx.export_onnx(model, tmp_path / "model.onnx", data=data)

    onnx.checker.check_model(str(report.path), full_check=True)
    assert report.num_points == len(model.points)
    assert network_state(model.model)[:2] == before[:2]
    if name not in RANDOM:
        assert (report.num_samples, report.num_different) == (5, 0)
        assert report.largest_difference < 1e-5
