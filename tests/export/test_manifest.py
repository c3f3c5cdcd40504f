"""Widths manifests: what is written, and back onto a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from awkward_networks import AWKWARD
from network_state import ranges
from networks import TRAINABLE, batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, ExportError, ManifestError, ModelError, OtherModelError
from qexplore.model import fingerprint_of

CHOICES = [7, 12, "E4M3", "off", 5, 3, "MXE2M1", 16]


def wrapped(name: str = "small_cnn", **options) -> qx.QuantizedModel:
    return qx.QuantizedModel(
        trained(name), TRAINABLE[name].predicate, predicates.weighted, **{"asymmetric": "auto", **options}
    )


def calibrated(**options) -> qx.QuantizedModel:
    model = wrapped(**options)
    model.calibrate(batches(digits().calibration), method="mse", weight_method="mse")
    return model


@pytest.fixture
def saved(tmp_path):
    model = calibrated(asymmetric=True)
    model.num_bits = CHOICES
    return model, qx.save_manifest(model, tmp_path / "model.widths.json")


def test_manifest_gives_an_uncalibrated_model_the_same_outputs(saved):
    model, path = saved
    other = wrapped()

    qx.load_manifest(path).apply(other)

    assert other.num_bits.tolist() == model.num_bits.tolist()
    x = digits().report.x
    assert torch.equal(other.eval()(x), model.eval()(x))
    for name, quantizer in other.fake_quantizers.items():
        assert (quantizer.unsigned, quantizer.asymmetric) == (
            model.fake_quantizers[name].unsigned,
            model.fake_quantizers[name].asymmetric,
        )


@pytest.mark.parametrize("options", [{}, {"inputs": predicates.by_type(nn.Linear)}, {"asymmetric": True}])
def test_a_point_of_a_study_goes_to_a_model_by_its_manifest_and_others_say_what_is_missing(options, tmp_path):
    model = calibrated(**options)
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), qx.top1_accuracy)
    list(problem.measure([[width] * problem.space.num_points for width in (4, 5, 6, 7)]))
    first, *others = problem.front()
    assert others
    first.apply_to(model)
    path, other = qx.save_manifest(model, tmp_path / "point.json"), wrapped(**options)
    with pytest.raises(OtherModelError, match=r"this one is not calibrated.*range\. .*calibrate\(.*load_manifest"):
        first.apply_to(other)

    qx.load_manifest(path).apply(other)
    first.apply_to(other)

    assert torch.equal(other.eval()(digits().report.x), model.eval()(digits().report.x))
    with pytest.raises(OtherModelError, match="those of a manifest of another point.*Calibrate as before"):
        others[0].apply_to(other)
    other.fake_quantizers[next(iter(other.fake_quantizers))].amax = 0.1
    with pytest.raises(OtherModelError, match="differs in ranges"):
        first.apply_to(other)


def test_what_else_differs_is_said_of_a_model_that_is_not_calibrated(tmp_path):
    model, other = calibrated(), wrapped()
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), qx.top1_accuracy)
    list(problem.measure([[4] * problem.space.num_points]))
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(OtherModelError, match="not calibrated.*, and differs in weights"):
        problem.front()[0].apply_to(other)


def of_tokens(seed: int = 0) -> qx.QuantizedModel:
    torch.manual_seed(seed)
    case = AWKWARD["tokens"]
    return qx.QuantizedModel(case.build(), case.predicate, predicates.weighted)


def test_uncalibrated_model_of_tokens_loses_its_input_point_as_the_manifests_model_did(tmp_path):
    model, other, tokens = of_tokens(), of_tokens(), torch.randint(0, 11, (16, 5))
    model.calibrate([tokens])
    manifest = qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json"))
    assert "input" in other.fake_quantizers and "input" not in model.fake_quantizers

    manifest.apply(other)

    assert list(other.fake_quantizers) == list(model.fake_quantizers)
    assert torch.equal(other.eval()(tokens), model.eval()(tokens))


def test_model_of_tokens_that_does_not_fit_keeps_its_input_point(tmp_path):
    model, other = of_tokens(), of_tokens(seed=1)
    model.calibrate([torch.randint(0, 11, (16, 5))])
    manifest = qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json"))

    with pytest.raises(ManifestError, match="other weights"):
        manifest.apply(other)

    assert "input" in other.fake_quantizers


def test_num_bits_take_a_manifest(saved):
    model, path = saved
    before = ranges(model)
    model.num_bits = [8] * len(CHOICES)

    model.num_bits = qx.load_manifest(path)

    assert model.num_bits.tolist() == [7, 12, 403, 0, 5, 3, 1201, 16]
    assert ranges(model) == before


def test_file_says_what_a_reader_needs(saved):
    model, path = saved
    content = json.loads(path.read_text())

    assert (content["format"], content["version"], content["network"]) == ("qexplore widths", 5, "SmallCNN")
    points = {point["name"]: point for point in content["points"]}
    assert [point["num_bits"] for point in content["points"]] == CHOICES
    assert points["conv1.weight"]["kind"] == "weight"
    assert (points["conv1.weight"]["granularity"], points["conv1.weight"]["axis"]) == ("channel", 0)
    assert points["conv1.weight"]["shape"] == [8, 1]
    low, high = (float(end) for end in model.fake_quantizers["relu1"].range)
    assert (points["relu1"]["low"], points["relu1"]["high"]) == ([low], [high])
    assert points["relu1"]["zero_point"] == round(-low * 4095 / (high - low))


def test_ranges_of_groups_come_back(tmp_path):
    model = calibrated(weight_granularity=8)
    path = qx.save_manifest(model, tmp_path / "w.json")
    other = wrapped(weight_granularity=8)

    qx.load_manifest(path).apply(other)

    x = digits().report.x[:50]
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_manifest_is_frozen_and_prints(saved):
    manifest = qx.load_manifest(saved[1])

    with pytest.raises(AttributeError):
        manifest.network = "another"
    assert str(manifest).startswith("widths of SmallCNN: input 7, relu1 12, relu2 E4M3, relu3 off, conv1.weight 5")


def test_manifest_of_another_network_is_refused_and_changes_nothing(saved):
    other = qx.QuantizedModel(trained("shared_relu"), predicates.by_type(nn.ReLU), predicates.weighted)
    before = ranges(other), other.num_bits.tolist()

    with pytest.raises(
        ManifestError, match="it has 'relu1', 'relu2', .* which the model has not; the model has 'relu'"
    ):
        qx.load_manifest(saved[1]).apply(other)

    assert (ranges(other), other.num_bits.tolist()) == before


def test_manifest_of_another_granularity_is_refused(saved):
    with pytest.raises(ManifestError, match="parameters or scales have other names or shapes"):
        qx.load_manifest(saved[1]).apply(wrapped(weight_granularity=16))


def test_manifest_of_other_weights_is_refused_unless_allowed(saved):
    model, path = saved
    with torch.no_grad():
        model.model.fc2.bias += 1
    manifest = qx.load_manifest(path)

    with pytest.raises(ManifestError, match="with other weights, to which its ranges belong"):
        manifest.apply(model)
    manifest.apply(model, other_weights=True)


def test_fingerprint_does_not_depend_on_widths_or_ranges(saved):
    model, path = saved
    before = qx.load_manifest(path)
    model.num_bits = [4] * len(CHOICES)
    model.calibrate(batches(digits().search))

    after = qx.load_manifest(qx.save_manifest(model, path))

    assert (after.structure, after.weights) == (before.structure, before.weights)
    assert np.array_equal(after.num_bits, [4] * len(CHOICES))


def damaged(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pytorch"}, 'its "format" must be "qexplore widths"'),
        ({"version": 9}, "of version 9; this qexplore reads 1 to 5"),
        ({"points": [{"name": "relu1"}]}, "damaged"),
        ({"points": None}, "damaged"),
        ({"weights": None, "points": []}, None),
    ],
)
def test_file_that_is_no_manifest_is_refused(saved, changes, message):
    damaged(saved[1], **changes)
    if message is None:
        assert qx.load_manifest(saved[1]).points == ()
        return
    with pytest.raises(ManifestError, match=message):
        qx.load_manifest(saved[1])


def test_manifest_names_the_fingerprint_that_a_front_names_and_old_ones_load_without(saved):
    model, path = saved
    assert qx.load_manifest(path).fingerprint == fingerprint_of(model)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in content if name != "fingerprint"} | {"version": 1}))

    old = qx.load_manifest(path)

    assert old.fingerprint is None
    old.apply(wrapped())


@pytest.mark.parametrize("change", [{"num_bits": "E9M9"}, {"low": [0.0, 1.0]}])
def test_damaged_point_is_named(saved, change):
    content = json.loads(saved[1].read_text())
    content["points"][1] |= change
    damaged(saved[1], points=content["points"])

    with pytest.raises(ManifestError, match="damaged.*'relu1'"):
        qx.load_manifest(saved[1])


def test_missing_or_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="holds no widths manifest"):
        qx.load_manifest(tmp_path / "nothing.json")
    (tmp_path / "torn.json").write_text('{"format": "qex')
    with pytest.raises(ManifestError, match="holds no widths manifest"):
        qx.load_manifest(tmp_path / "torn.json")


def test_what_has_no_manifest_is_refused(tmp_path):
    with pytest.raises(ModelError, match="got Linear"):
        qx.save_manifest(nn.Linear(2, 2), tmp_path / "w.json")
    with pytest.raises(CalibrationError, match="must be calibrated"):
        qx.save_manifest(wrapped(), tmp_path / "w.json")
    with pytest.raises(ExportError, match="can be written"):
        qx.save_manifest(calibrated(), tmp_path / "nowhere" / "w.json")


# ------------------------------------------------------------------------------------------------ corrected biases


def corrected() -> qx.QuantizedModel:
    model = calibrated()
    model.num_bits = [3] * 8
    qx.correct_biases(model, batches(digits().calibration), num_batches=1)
    return model


@pytest.mark.parametrize("target", ["uncalibrated", "corrected on other data"])
def test_manifest_keeps_corrected_biases(target, tmp_path):
    model = corrected()
    other = wrapped()
    if target != "uncalibrated":
        other = calibrated()
        qx.correct_biases(other, batches(digits().report), num_batches=1)
    qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json")).apply(other)
    x = digits().report.x
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_manifest_of_a_model_without_corrections_takes_them_off(tmp_path):
    model, other = calibrated(), corrected()
    qx.load_manifest(qx.save_manifest(model, tmp_path / "m.json")).apply(other)
    x = digits().report.x
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_manifest_before_version_4_leaves_corrections_as_they_are(tmp_path):
    model = corrected()
    path = qx.save_manifest(model, tmp_path / "m.json")
    content = json.loads(path.read_text())
    del content["corrections"]
    path.write_text(json.dumps(content | {"version": 3}))
    before = model.eval()(digits().report.x)
    qx.load_manifest(path).apply(model)
    assert torch.equal(model(digits().report.x), before)


@pytest.mark.parametrize("change", [{"layer": "conv9"}, {"mean_input": [1.0]}], ids=["layer", "length"])
def test_manifest_with_corrections_that_do_not_fit_is_refused(change, tmp_path):
    model = corrected()
    path = qx.save_manifest(model, tmp_path / "m.json")
    content = json.loads(path.read_text())
    content["corrections"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="'conv9', which must be|damaged widths manifest.*1 numbers"):
        qx.load_manifest(path).apply(wrapped())
