"""What decides a measurement: told apart field by field, equal for the same model and data built again."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from network_state import ranges
from networks import batches, digits
from problems import Tiny, Watched, tiny_network
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import StudyMismatchError
from qexplore.study.contents import Contents, code_digest, digest_of
from qexplore.study.fingerprint import ABSENT, measured_by, mismatches, require_same

SHARED = Path(__file__).parents[1] / "shared"


def right(output, target):
    return (output.argmax(dim=1) == target).float()


def nearly_right(output, target):
    return (output.topk(3).indices == target[:, None]).any(dim=1).float()


class Padded(Tiny):
    def forward(self, x):
        return super().forward(x) + 0.0


def a_problem(*, network=None, data=None, metric=right, change=None, points=nn.ReLU, **options):
    model = qx.QuantizedModel(tiny_network() if network is None else network, predicates.by_type(points))
    model.calibrate(batches(digits().calibration))
    if change is not None:
        change(model)
    given = {"num_bits_lower_limit": 3, "num_bits_upper_limit": 6, **options}
    return qx.LayerwiseQuantizationProblem(model, batches(digits().search) if data is None else data, metric, **given)


@functools.cache
def plain():
    return measured_by(a_problem())


def with_the_weights_of_tiny(network):
    network.load_state_dict(tiny_network().state_dict())
    return network.eval()


def one_pixel_changed():
    pairs = [(x.clone(), y) for x, y in batches(digits().search)]
    pairs[1][0][7, 0, 3] += 1e-4
    return pairs


def one_target_changed():
    pairs = [(x, y.clone()) for x, y in batches(digits().search)]
    pairs[0][1][5] = (pairs[0][1][5] + 1) % 10
    return pairs


def trained_further(model):
    model.model.fc2.weight.data[0, 0] += 1e-6


def range_changed(model):
    model.fake_quantizers["relu1"].amax = 2.0


def switched_off(model):
    model.fake_quantizers["relu1"].disable()


def swapped(pairs):
    return [pairs[1], pairs[0], *pairs[2:]]


CHANGES = {
    "weights": ({"change": trained_further}, {"weights"}),
    "a range": ({"change": range_changed}, {"ranges"}),
    "a quantizer switched off by hand": ({"change": switched_off}, {"ranges", "space"}),
    "the class": (
        {"network": lambda: with_the_weights_of_tiny(type("Padded", (Tiny,), {})())},
        {"network", "network code", "structure"},
    ),
    "the code of forward": (
        {"network": lambda: with_the_weights_of_tiny(type("Tiny", (Padded,), {})())},
        {"network code"},
    ),
    "points": ({"points": nn.Linear}, {"points", "ranges", "space"}),
    "an input": ({"data": one_pixel_changed}, {"data"}),
    "a target": ({"data": one_target_changed}, {"data"}),
    "the order": ({"data": lambda: swapped(batches(digits().search))}, {"data"}),
    "sizes of batches": ({"data": lambda: batches(digits().search, 50)}, {"data", "batches"}),
    "the metric's function": ({"metric": lambda: qx.Metric(nearly_right, "right")}, {"metric code"}),
    "the metric's name": ({"metric": lambda: qx.Metric(right, "correct")}, {"metric"}),
    "its direction": (
        {"metric": lambda: qx.Metric(right, "right", higher_is_better=False)},
        {"metric"},
    ),
    "its range": ({"metric": lambda: qx.Metric(right, "right", range=(0.0, 1.0))}, {"metric"}),
    "a further metric": (
        {"metric": lambda: [right, nearly_right], "min_accuracy": [None, 0.1]},
        {"metric 1", "metric 1 code"},
    ),
    "limits of widths": ({"num_bits_upper_limit": 7}, {"space"}),
    "ties": ({"tied": [["relu1", "relu2"]]}, {"ties"}),
    "precision": ({"precision": "as set"}, {"precision", "settings"}),
    "the engine": ({"engine": "direct"}, {"engine", "batch size"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_shows_in_the_fields_that_it_is_of(name):
    options, fields = CHANGES[name]
    made = {key: value() if key in ("network", "data", "metric") else value for key, value in options.items()}

    found = measured_by(a_problem(**made))

    assert {field for field, *_ in mismatches(plain(), found)} == fields


def test_what_decides_no_measurement_is_not_in_it():
    problem = a_problem(min_accuracy=0.5, costs=("total_bits", "mean_bits"), limits={"total_bits": 15})
    problem.model.num_bits = [4, 4, 4]
    list(problem.measure([[3, 3, 3], [6, 4, 5]]))

    assert measured_by(problem) == plain()


def test_it_is_readable_text_that_json_holds():
    found = plain()

    assert json.loads(json.dumps(found)) == found
    assert found["metric"] == "right (higher is better, from -inf to inf)"
    assert found["batches"] == "4 of 100"
    assert found["threads"] == "1"
    assert max(map(len, found.values())) < 120


def test_measuring_leaves_model_and_random_state_as_they_were():
    problem = a_problem()
    problem.model.num_bits = [3, 4, 5]
    before, state = ranges(problem.model), torch.get_rng_state()

    measured_by(problem)

    assert ranges(problem.model) == before and problem.model.num_bits.tolist() == [3, 4, 5]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_the_same_built_again_in_another_process_is_the_same(tmp_path):
    weights = tmp_path / "weights.pt"  # trained there, under other threads, it would be another network
    torch.save(tiny_network().state_dict(), weights)
    code = f"""
import json, sys
sys.path[:0] = [{str(SHARED)!r}, {str(Path(__file__).parent)!r}]
import torch
torch.set_num_threads(1)
from test_fingerprint import *
network = tiny_network()
network.load_state_dict(torch.load({str(weights)!r}, weights_only=True))
print(json.dumps(measured_by(a_problem(network=network))))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(other.stdout) == plain()


def test_a_set_that_is_read_anew_is_the_same_as_one_that_is_held():
    found = measured_by(a_problem(hold_bytes=0))

    assert {field for field, *_ in mismatches(plain(), found)} == {"engine", "batch size", "divergence"}


def test_a_whole_set_metric_has_data_and_code_of_its_own():
    def share(model, loader):
        return float(np.mean([right(model(x), y).mean() for x, y in loader]))

    found = measured_by(a_problem(metric=qx.whole_set(share)))

    assert found["metric"] == "share (of the whole set, higher is better, from -inf to inf)"
    assert found["data"] == plain()["data"]
    assert found["engine"] == "direct"


def test_moved_network_differs_in_its_device_alone(accelerator):
    problem = a_problem(engine="direct")
    here = measured_by(problem)
    problem.model.to(accelerator)

    assert {field for field, *_ in mismatches(here, measured_by(problem))} <= {"device", "settings"}


def test_a_mismatch_names_fields_values_meaning_and_the_ways_out():
    new = plain() | {"threads": "2", "metric 1": "loss"}

    with pytest.raises(StudyMismatchError) as caught:
        require_same("runs/a.db", plain(), new)

    text = str(caught.value)
    assert "'runs/a.db'" in text and "2 differences" in text
    assert "threads: 1 in the study, 2 now (sums are split" in text
    assert f"metric 1: {ABSENT} in the study, loss now (another metric" in text
    assert 'on_mismatch="new"' in text
    require_same("runs/a.db", plain(), dict(plain()))


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (np.arange(3), np.arange(3) + 1),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
        ({"x": torch.ones(2)}, {"y": torch.ones(2)}),
        ([["ab", "c"]], [["a", "bc"]]),
        (Pair(1, [2]), Pair(1, [3])),
        ({1, 2}, {1, 3}),
        ([], [[]]),
        (True, 1),
    ],
)
def test_contents_that_differ_have_different_digests(one, other):
    assert digest_of(one) != digest_of(other)
    assert len(digest_of(one)) == 16


def test_contents_are_equal_however_they_lie():
    x = torch.arange(6.0).reshape(2, 3)

    assert digest_of((x, "a")) == digest_of([x.t().contiguous().t(), "a"])
    assert digest_of({"b", "a", "c"}) == digest_of({"c", "a", "b"})
    assert digest_of(torch.tensor([1 + 2j]).conj()) == digest_of(torch.tensor([1 - 2j]))
    assert digest_of(torch.eye(3).to_sparse()) == digest_of(torch.eye(3))


def test_what_has_no_content_to_read_is_named_by_its_type():
    contents = Contents()
    contents.add([1, object(), iter([2])])

    assert str(contents).endswith("known by type alone: object, list_iterator")


class Top:
    def __init__(self, k):
        self.k = k
        self.calls = 0

    def __call__(self, output, target):
        self.calls += 1
        return (output.topk(self.k).indices == target[:, None]).any(dim=1).float()


def weighed(weights, power=1):
    def score(output, target):
        return right(output, target) * weights[target] ** power

    return score


def counting(seen):
    def score(output, target):
        seen.append(len(target))
        return right(output, target)

    return score


THRESHOLD = 0.5


def above(output, target):
    return (output > THRESHOLD).float().mean(dim=1)


def test_code_tells_closures_defaults_globals_and_attributes_apart(monkeypatch):
    ones = torch.ones(10)
    different = [
        right,
        nearly_right,
        weighed(ones),
        weighed(ones * 2),
        weighed(ones, power=2),
        functools.partial(right, target=1),
        Top(1),
        Top(2),
        above,
        qx.topk_accuracy(1).function,
        qx.topk_accuracy(2).function,
        lambda output, target: output[:, 0],
        lambda output, target: output[:, 1],
        torch.relu,
        Top(1).__call__,
    ]
    digests = [code_digest(one) for one in different]
    assert len(set(digests)) == len(digests)

    monkeypatch.setitem(above.__globals__, "THRESHOLD", 0.6)
    assert code_digest(above) not in digests


def test_code_is_the_same_for_equal_functions_and_whatever_they_noted_down():
    assert code_digest(weighed(torch.ones(10))) == code_digest(weighed(torch.ones(10)))
    assert code_digest(Top(3)) == code_digest(Top(3))
    used, noted = Top(3), [1, 2]
    used(torch.eye(4), torch.arange(4))
    assert code_digest(used) == code_digest(Top(3))
    assert code_digest(counting(noted)) == code_digest(counting([]))
    watched = Watched()
    before = code_digest(watched)
    watched(torch.eye(4), torch.arange(4))
    assert code_digest(watched) == before


def test_a_recursive_function_and_a_value_that_holds_itself_come_to_an_end():
    def deep(x, y):
        return deep(x, y) if len(x) > 1 else x

    around = [1]
    around.append(around)

    assert code_digest(deep)
    assert digest_of(around)
