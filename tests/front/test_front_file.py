"""Fronts on disk: what is saved loads again, of every version, and what is damaged is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fronts import FURTHER, a_front, reported, with_further
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qexplore._coverage import Coverage, CoveredShare
from qexplore._fingerprint import Fingerprint
from qexplore.errors import FrontError, FrontFileError
from qexplore.front import Front

ASSETS = Path(__file__).parent / "assets"
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def assert_same(one, other):
    for name in one.__dataclass_fields__:
        first, second = getattr(one, name), getattr(other, name)
        if isinstance(first, Front):
            assert_same(first, second)
        elif isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second, strict=True)
        else:
            assert first == second, name


@settings(deadline=None, derandomize=True, max_examples=40)
@given(arrays(float, 4, elements=FINITE), st.one_of(st.none(), FINITE), st.booleans())
def test_saved_front_loads_equal_to_the_last_bit(tmp_path_factory, numbers, float_accuracy, verified):
    front = a_front(
        accuracy=numbers[:2], costs=numbers[2:, None], cost_names=("energy",), interval=None,
        float_accuracy=float_accuracy, verified=verified,
    )  # fmt: skip
    file = tmp_path_factory.mktemp("front") / "front.json"

    front.save(file)

    assert_same(front, Front.load(file))


def test_empty_front_is_saved_too(tmp_path):
    empty = Front(num_bits=np.zeros((0, 2), int), accuracy=[], costs=np.zeros((0, 1)), point_names=("a", "b"))

    empty.save(tmp_path / "front.json")

    assert_same(empty, Front.load(tmp_path / "front.json"))


def test_front_written_by_the_first_version_loads():
    front = Front.load(ASSETS / "front-v1.json")

    assert front.total_bits.tolist() == [12.0, 15.0]
    assert front.verified
    assert np.isnan(front.report_accuracy[1])


def test_front_written_by_the_second_version_loads():
    front = Front.load(ASSETS / "front-v2.json")

    assert front.num_bits.tolist() == [[403, 4, 0], [8, 1203, 5]]
    assert front.cost_names == ("total_bits", "bops")
    assert [str(choice) for choice in front[0].widths.values()] == ["E4M3", "4", "0"]


def test_front_written_by_the_second_version_with_all_its_fields_loads():
    front = Front.load(ASSETS / "front-v2-lower.json")

    assert (front.metric_name, front.higher_is_better, front.min_accuracy) == ("loss", False, 0.6)
    assert front.report_interval.tolist()[2] == [0.39, 0.61]
    assert (front.further, front.further_scores, front[0].further) == ((), None, {})


def test_front_written_by_the_third_version_loads():
    assert_same(Front.load(ASSETS / "front-v3.json"), with_further())


def test_front_written_by_the_fourth_version_loads(tmp_path):
    front = reported()
    front.save(tmp_path / "front.json")
    content = json.loads((tmp_path / "front.json").read_text())
    for known in (content, content["uniform"]):
        del known["report_between"], known["broken_limits"]
    (tmp_path / "old.json").write_text(json.dumps(content | {"version": 4}))

    assert_same(Front.load(tmp_path / "old.json"), front)


def test_front_written_before_arithmetic_was_told_loads_without_it(tmp_path):
    front = Front.load(ASSETS / "front-v5.json")

    assert front.arithmetic == ""
    told = replace(front, arithmetic="full float32, deterministic")
    told.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").arithmetic == "full float32, deterministic"


def test_front_written_before_models_were_told_apart_loads_without_a_fingerprint(tmp_path):
    front = Front.load(ASSETS / "front-v6.json")

    assert front.fingerprint is None and front.uniform.fingerprint is None
    assert front.is_reported and len(front) == 2
    told = replace(front, fingerprint=Fingerprint("Net", "a", "b", "c", "d"))
    told.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").fingerprint == told.fingerprint


COVERAGE = Coverage(
    CoveredShare(60, 67, (("stem.bias", 2), ("conv.bias", 2)), 3),
    CoveredShare(870, 870),
    CoveredShare(864.5, 870, (("head", 5.5),), 1),
    not_counted="products of aten.x (4) numbers, for which there is no formula",
)


def test_front_written_before_coverage_was_told_loads_without_it(tmp_path):
    front = Front.load(ASSETS / "front-v7.json")

    assert front.coverage is None and "coverage" not in str(front)
    told = replace(front, coverage=COVERAGE)
    told.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").coverage == COVERAGE
    assert (
        "coverage: parameters 89.6%, MACs by weight 100.0%, MACs by activation 99.4%; left float: parameters stem.bias "
        "(2), conv.bias (2) and 1 more; MACs by activation head (5.5)"
    ) in str(told).splitlines()


def test_a_coverage_that_does_not_say_of_what_loads_as_of_a_search(tmp_path):
    file = tmp_path / "front.json"
    told = json.loads(saved_text(replace(a_front(), coverage=COVERAGE), file))
    assert told["version"] == 8
    for name in ("is_searched", "num_may_be_off"):
        del told["coverage"][name]
    file.write_text(json.dumps(told))
    front = Front.load(file)
    assert front.coverage == replace(COVERAGE, is_searched=True) and "coverage at points: parameters" in str(front)


@pytest.mark.parametrize("wrong", [{"is_searched": 1}, {"num_may_be_off": -1}, {"num_may_be_off": True}])
def test_a_coverage_of_no_search_is_refused(wrong):
    with pytest.raises(FrontError, match="coverage must be that of a model"):
        a_front(coverage={"parameters": {"quantized": 1, "total": 1}} | wrong)


PARAMETERS = {"quantized": 1, "total": 2, "largest_float": [["fc.weight", 1]]}
SPOILED = ({"quantized": "x"}, {"largest_float": [["fc.weight", "x"]]}, {"largest_float": [["fc.weight"]]})


@pytest.mark.parametrize(
    "coverage", ["all", {}, 7, {"parameters": 1}, *({"parameters": PARAMETERS | x} for x in SPOILED)]
)
def test_a_coverage_that_is_none_is_refused(coverage, tmp_path):
    with pytest.raises(FrontError, match="coverage must be that of a model"):
        a_front(coverage=coverage)
    file = tmp_path / "front.json"
    file.write_text(json.dumps(json.loads(saved_text(a_front(), file)) | {"coverage": coverage}))
    with pytest.raises(FrontFileError, match="is damaged.*coverage"):
        Front.load(file)


@pytest.mark.parametrize("fingerprint", ["3f2a", {"network": "Net"}, {"network": 1}, 7])
def test_a_fingerprint_that_is_none_is_refused(fingerprint, tmp_path):
    with pytest.raises(FrontError, match="fingerprint must be that of a model"):
        a_front(fingerprint=fingerprint)
    file = tmp_path / "front.json"
    file.write_text(json.dumps(json.loads(saved_text(a_front(), file)) | {"fingerprint": fingerprint}))
    with pytest.raises(FrontFileError, match="is damaged.*fingerprint"):
        Front.load(file)


def saved_text(front, file):
    front.save(file)
    return file.read_text()


def test_saved_formats_come_back_and_are_named_in_the_file(tmp_path):
    front = a_front(num_bits=[[403, 1201, 0], [8, 5, 403]])
    front.save(tmp_path / "front.json")

    assert_same(front, Front.load(tmp_path / "front.json"))
    assert json.loads((tmp_path / "front.json").read_text())["formats"] == {"403": "E4M3", "1201": "MXE2M1"}


@pytest.mark.parametrize("formats", [{}, {"403": "E5M2"}, None])
def test_a_code_that_the_file_does_not_name_as_this_format_is_refused(formats, tmp_path):
    file = tmp_path / "front.json"
    file.write_text(changed(version=2, num_bits=[[403, 4, 4], [5, 5, 5]], formats=formats))

    with pytest.raises(FrontFileError, match="must name the float format E4M3 for the code 403"):
        Front.load(file)


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "front.json"
    a_front().save(file)
    before = file.read_bytes()

    def refuse(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        a_front(points=4).save(file)

    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["front.json"]


def changed(**fields):
    content = json.loads((ASSETS / "front-v1.json").read_text())
    return json.dumps({name: value for name, value in (content | fields).items() if value != "DROPPED"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[1, 2]",
        '{"format": "recipe"}',
        changed(version=99),
        changed(accuracy="DROPPED"),
        changed(accuracy=[0.9]),
        changed(accuracy=["high", "low"]),
        changed(num_bits=[[4, 4], [5]]),
        changed(num_bits=None),
        changed(num_bits=[[403, 4, 4], [5, 5, 5]]),
        changed(num_bits=[[99, 4, 4], [5, 5, 5]]),
        changed(version=2, num_bits=[["E4M3", 4, 4], [5, 5, 5]], formats={}),
    ],
)
def test_file_that_holds_no_front_is_refused_by_its_name(text, tmp_path):
    file = tmp_path / "broken.json"
    file.write_text(text)

    with pytest.raises(FrontFileError, match=r"broken\.json"):
        Front.load(file)


def test_newer_version_says_so(tmp_path):
    (tmp_path / "new.json").write_text(changed(version=99))

    with pytest.raises(FrontFileError, match="99"):
        Front.load(tmp_path / "new.json")


@pytest.mark.parametrize("error", [FileNotFoundError, FrontFileError])
def test_missing_file_is_the_usual_error_and_a_fronts(tmp_path, error):
    with pytest.raises(error, match=r"nowhere.json' does not exist. Give a file written by Front.save"):
        Front.load(tmp_path / "nowhere.json")


def test_a_folder_is_no_file(tmp_path):
    for write in (a_front().save, a_front().to_csv):
        with pytest.raises(FrontFileError, match=r"is a folder.*name one in it"):
            write(tmp_path)
    with pytest.raises(FrontFileError, match=r"is a folder\. Give a file"):
        Front.load(tmp_path)
    assert not list(tmp_path.iterdir())


def test_further_scores_come_back_from_a_file(tmp_path):
    for front in (with_further(), with_further(report_further_scores=None), a_front(further=FURTHER)):
        front.save(tmp_path / "front.json")

        assert_same(front, Front.load(tmp_path / "front.json"))


def test_uniform_candidates_and_what_the_report_set_says_come_back_from_a_file(tmp_path):
    front = reported()
    front.save(tmp_path / "front.json")
    loaded = Front.load(tmp_path / "front.json")

    assert_same(front, loaded)
    assert str(loaded) == str(front)
    assert [one.saved for one in loaded.bits_saved()] == [one.saved for one in front.bits_saved()]
    assert json.loads((tmp_path / "front.json").read_text())["formats"] == {"403": "E4M3"}


@pytest.mark.parametrize("fields", [{"uniform": 3}, {"uniform": {}}, {"report_from_uniform": [[1]]}])
def test_damaged_uniform_candidates_are_refused_by_the_files_name(fields, tmp_path):
    reported().save(tmp_path / "front.json")
    content = json.loads((tmp_path / "front.json").read_text())
    (tmp_path / "broken.json").write_text(json.dumps(content | fields))

    with pytest.raises(FrontFileError, match=r"broken\.json.*uniform"):
        Front.load(tmp_path / "broken.json")


def third(**fields):
    content = json.loads((ASSETS / "front-v3.json").read_text())
    return json.dumps({name: value for name, value in (content | fields).items() if value != "DROPPED"})


@pytest.mark.parametrize(
    "fields",
    [
        {"further": "DROPPED"},
        {"further": None},
        {"further": [1, 2]},
        {"further": [{"name": "f1", "direction": "up"}]},
        {"further": [{"name": ""}]},
        {"further": [{"name": "f1"}]},
        {"further_scores": [[0.7, 0.4]]},
        {"report_further_scores": "DROPPED"},
    ],
)
def test_damaged_further_metrics_in_a_file_are_refused_by_its_name(fields, tmp_path):
    (tmp_path / "broken.json").write_text(third(**fields))

    with pytest.raises(FrontFileError, match=r"broken\.json.*further"):
        Front.load(tmp_path / "broken.json")
