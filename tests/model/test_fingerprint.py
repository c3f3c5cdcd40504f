"""What tells one wrapped network from another, and what does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from networks import batches, digits
from problems import Tiny, tiny_network
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import FrontError, NumBitsError, OtherModelError
from qexplore.model import fingerprint_of


def wrapped(network: nn.Module | None = None, *, method: str = "mse", **options) -> qx.QuantizedModel:
    model = qx.QuantizedModel(
        tiny_network() if network is None else network, predicates.by_type(nn.ReLU), predicates.weighted, **options
    )
    model.calibrate(batches(digits().calibration), method=method, weight_method="mse")
    return model


def changed(model: qx.QuantizedModel, what: str) -> None:
    quantizer = model.fake_quantizers["relu1"]
    if what == "weights":
        model.model.fc2.parametrizations.weight.original.data[3, 4] += 1e-6
    elif what == "a range of one width":
        quantizer.ranges.high[2] *= 1.0001
    elif what == "one range for all widths":
        quantizer.amax = 1.0
    elif what == "the sign":
        quantizer.unsigned = not quantizer.unsigned
    elif what == "narrow_range":
        quantizer.narrow_range = not quantizer.narrow_range
    elif what == "disabled by hand":
        quantizer.disable()
    elif what == "a corrected bias":
        qx.correct_biases(model, batches(digits().calibration), progress=False)


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ("weights", "weights"),
        ("a range of one width", "ranges"),
        ("one range for all widths", "ranges"),
        ("the sign", "ranges"),
        ("narrow_range", "ranges"),
        ("disabled by hand", "ranges"),
        ("a corrected bias", "ranges"),
    ],
)
def test_a_change_shows_in_its_own_field_alone(what, field):
    model = wrapped()
    before = fingerprint_of(model)

    changed(model, what)

    after = fingerprint_of(model)
    assert before.differences(after) == (field,)
    assert str(before) != str(after)


def test_layers_with_other_settings_are_another_structure():
    first, second = (wrapped(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Softmax(d))) for d in (0, 1))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())

    assert fingerprint_of(first).differences(fingerprint_of(second)) == ("structure",)


def test_other_points_and_another_class_are_told():
    class Other(Tiny):
        pass

    network = Other()
    network.load_state_dict(tiny_network().state_dict())
    model = qx.QuantizedModel(network.eval(), predicates.by_name("relu1"), predicates.weighted)
    model.calibrate(batches(digits().calibration))

    assert set(fingerprint_of(wrapped()).differences(fingerprint_of(model))) == {
        "network",
        "structure",
        "points",
        "ranges",
    }


def test_widths_and_where_tensors_lie_in_memory_play_no_part():
    model = wrapped()
    before = fingerprint_of(model)

    model.num_bits = [3] * len(model.points)
    weight = model.model.fc1.parametrizations.weight.original
    weight.data = weight.data.t().contiguous().t()

    assert fingerprint_of(model) == before


def test_moved_network_has_the_same_fingerprint(accelerator):
    model = wrapped()
    before = fingerprint_of(model)

    assert fingerprint_of(model.to(accelerator)) == before


def test_saved_and_loaded_state_has_the_same_fingerprint(tmp_path):
    model = wrapped()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = qx.QuantizedModel(Tiny().eval(), predicates.by_type(nn.ReLU), predicates.weighted)

    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert fingerprint_of(other) == fingerprint_of(model)


IN_ANOTHER_PROCESS = """
import torch
from torch import nn
import qexplore as qx
from qexplore import predicates
from qexplore.model import fingerprint_of

torch.manual_seed(3)
network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2)).eval()
model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
model.calibrate([torch.linspace(-1, 1, 24).reshape(4, 6)], method="mse", weight_method="mse", progress=False)
print(fingerprint_of(model))
"""


@pytest.mark.slow
def test_the_same_model_built_in_another_process_has_the_same_fingerprint(capsys):
    other = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True)
    with torch.random.fork_rng(devices=[]):
        exec(IN_ANOTHER_PROCESS, {})

    assert other.stdout == capsys.readouterr().out != ""


@pytest.fixture
def found():
    model = wrapped()
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), num_bits_lower_limit=3)
    list(problem.measure([[4] * problem.space.num_points]))
    return model, problem.front()


def test_a_front_knows_its_model_and_its_points_go_to_the_same_one_built_again(found, tmp_path):
    model, front = found
    front.save(tmp_path / "front.json")
    front = qx.Front.load(tmp_path / "front.json")
    again = wrapped()

    front[0].apply_to(again)

    assert front.fingerprint == fingerprint_of(model)
    assert again.num_bits.tolist() == list(front[0].num_bits)


@pytest.mark.parametrize(("what", "words"), [("weights", "weights .*other weights"), ("the sign", "ranges .*ranges")])
def test_a_point_is_refused_by_another_model_unless_told_otherwise(found, what, words):
    model, front = found
    changed(model, what)
    point, before = front[0], model.num_bits.tolist()

    for give in (
        lambda: point.apply_to(model),
        lambda: setattr(model, "num_bits", point),
        lambda: model.using(point).__enter__(),
        lambda: qx.fine_tune(model, point, batches(digits().train), nn.functional.cross_entropy, epochs=1),
    ):
        with pytest.raises(OtherModelError, match=f"{words}.*other_model=True"):
            give()
        assert model.num_bits.tolist() == before

    point.apply_to(model, other_model=True)
    assert model.num_bits.tolist() == list(point.num_bits)


def test_a_problem_sees_that_its_model_changed(found):
    model, _ = found
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), num_bits_lower_limit=3)
    changed(model, "weights")

    list(problem.measure([[4] * problem.space.num_points]))

    problem.front()[0].apply_to(model)


def test_a_point_with_no_fingerprint_is_taken_as_it_was(found):
    model, front = found
    changed(model, "weights")

    model.num_bits = replace(front, fingerprint=None)[0]

    assert model.num_bits.tolist() == list(front[0].num_bits)


def test_apply_to_refuses_what_is_not_wrapped_and_other_points(found):
    _, front = found
    with pytest.raises(FrontError, match="must be a QuantizedModel, got Tiny"):
        front[0].apply_to(tiny_network())
    with pytest.raises(NumBitsError, match="unknown"):
        front[0].apply_to(wrapped(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU())), other_model=True)
