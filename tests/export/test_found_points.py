"""Points on inputs of modules and on calls in files: ONNX beside the model, and the manifest onto another."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from called_networks import CALLED
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ManifestError
from qexplore.model import Found, FoundPoint


def wrapped(name, **options):
    case = CALLED[name]
    torch.manual_seed(0)
    return qx.QuantizedModel(case.make().eval(), **case.points | {"weights": predicates.weighted} | options)


def calibrated(name):
    model = wrapped(name)
    draw = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(6, 1, 8, 8, generator=draw) for _ in range(CALLED[name].num_inputs))
    model.calibrate([inputs], unpack=lambda batch: (batch, None))
    return model, inputs


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLED)
def test_file_computes_what_the_model_does_with_one_pair_for_each_call_of_a_point(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    model, inputs = calibrated(name)
    model.num_bits = [3 + index % 6 for index in range(len(model.points))]
    report = qx.export_onnx(model, tmp_path / "m.onnx", data=[inputs], unpack=lambda batch: (batch, None))
    assert report.parity.num_different == 0
    assert not report.not_represented
    counted = Counter(node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node)
    assert counted["QuantizeLinear"] == sum(point.num_calls for point in model.points if point.kind != "weight")


@pytest.mark.parametrize("name", ["fused attention", "two inputs", "shared reads"])
def test_manifest_brings_its_points_to_a_model_that_has_seen_no_data(name, tmp_path):
    model, inputs = calibrated(name)
    model.num_bits = [3 + index % 6 for index in range(len(model.points))]
    path = qx.save_manifest(model, tmp_path / "m.json")
    other = wrapped(name)
    qx.load_manifest(path).apply(other)
    assert other.points != () and [p.name for p in other.points] == [p.name for p in model.points]
    assert torch.equal(other(*inputs), model(*inputs))


def test_manifest_of_an_earlier_version_loads(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model = qx.QuantizedModel(network, weights=predicates.weighted)
    content = json.loads(qx.save_manifest(model, tmp_path / "m.json").read_text())
    content["version"] = 2
    del content["left"]
    for point in content["points"]:
        del point["sites"]
    (tmp_path / "m.json").write_text(json.dumps(content))
    qx.load_manifest(tmp_path / "m.json").apply(model)


def test_manifest_in_which_calls_have_points_of_their_own_gives_these_to_a_model(tmp_path):
    model, inputs = calibrated("shared reads")
    found = model.found
    apart = [FoundPoint(".".join(site).lstrip("."), "function", (site,)) for site in found.calls]
    model.set_found(Found((*(replace(point, operands=()) for point in found.points[:2]), *apart)))
    for quantizer in model.activation_fake_quantizers.values():
        quantizer.set_amax(torch.tensor(1.5))
    assert len(model.activation_fake_quantizers) == 7 + 3
    content = json.loads(qx.save_manifest(model, tmp_path / "m.json").read_text())
    assert not content.pop("calls")
    for point in content["points"]:
        assert not point.pop("operands")
    (tmp_path / "m.json").write_text(json.dumps(content | {"version": 4}))
    other = wrapped("shared reads")
    qx.load_manifest(tmp_path / "m.json").apply(other)
    assert [point.name for point in other.points] == [point.name for point in model.points]
    assert torch.equal(other(*inputs), model(*inputs))


def test_manifest_of_other_points_is_refused_and_changes_nothing(tmp_path):
    model, _ = calibrated("transformer")
    path = qx.save_manifest(model, tmp_path / "m.json")
    other = wrapped("transformer", functions=None)
    before = list(other.fake_quantizers)
    with pytest.raises(ManifestError, match=r"it has .*'add'"):
        qx.load_manifest(path).apply(other)
    assert list(other.fake_quantizers) == before
