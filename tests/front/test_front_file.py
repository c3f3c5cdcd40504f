"""Fronts on disk and as text."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qexplore._coverage import Coverage, CoveredShare
from qexplore._fingerprint import Fingerprint
from qexplore.errors import FrontError, FrontFileError
from qexplore.front import Front, FurtherMetric

ASSETS = Path(__file__).parent / "assets"
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def a_front(points=3, **fields):
    num_bits = np.array([[4] * points, [5] * points])
    known = {
        "num_bits": num_bits,
        "accuracy": [0.91, 0.95],
        "costs": num_bits.sum(axis=1, keepdims=True),
        "point_names": tuple(f"layer{index}" for index in range(points)),
        "interval": [(0.9, 0.92), (0.94, 0.96)],
        "report_accuracy": [0.9, np.nan],
        "min_accuracy": 0.9,
        "float_accuracy": 0.96,
        "verified": True,
    }
    return Front(**known | fields)


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


def test_csv_holds_the_numbers(tmp_path):
    front = a_front()
    text = front.to_csv(tmp_path / "front.csv")

    rows = list(csv.DictReader(io.StringIO(text)))

    assert (tmp_path / "front.csv").read_text() == text
    assert [float(row["accuracy"]) for row in rows] == front.accuracy.tolist()
    assert [float(row["total_bits"]) for row in rows] == front.total_bits.tolist()
    assert [[int(row[name]) for name in front.point_names] for row in rows] == front.num_bits.tolist()


def test_csv_names_formats_and_keeps_widths_as_numbers():
    rows = list(csv.DictReader(io.StringIO(a_front(num_bits=[[403, 0, 4], [8, 1201, 5]]).to_csv())))

    assert [[row[name] for name in ("layer0", "layer1", "layer2")] for row in rows] == [
        ["E4M3", "0", "4"],
        ["8", "MXE2M1", "5"],
    ]


def test_table_names_formats_and_means_stored_bits():
    lines = str(a_front(num_bits=[[403, 0, 1201], [8, 4, 502]])).splitlines()

    assert lines[3].endswith("6.12    E4M3    off MXE2M1")
    assert lines[4].endswith("6.67       8      4   E5M2")


@pytest.mark.parametrize("points", [12, 60])
def test_table_of_many_formats_and_costs_is_short(points):
    num_bits = np.array([[403, 2, 1201] * (points // 3), [8, 0, 403] * (points // 3)])
    costs = [[4.5e2, 1.25e9, 123456], [5e2, 1.5e9, 234567]]
    front = a_front(points, num_bits=num_bits, costs=costs, cost_names=("total_bits", "bops", "peak_activation_bytes"))

    lines = str(front).splitlines()

    assert max(map(len, lines)) <= 150
    assert lines[3].endswith("  E4M3 2 MXE2M1 … 2 MXE2M1 (2..E4M3)")
    assert "1,250,000,000" in lines[3]


@pytest.mark.parametrize("points", [1, 8, 30, 120])
def test_table_keeps_to_its_width(points):
    table = str(a_front(points))

    assert "verified" in table
    assert "float 0.9600" in table
    assert max(map(len, table.splitlines())) <= 110
    assert len(table.splitlines()) == 5


def test_table_shows_what_is_off_and_which_way_is_better():
    front = a_front(num_bits=[[0, 4, 4], [5, 5, 5]], metric_name="perplexity", higher_is_better=False)

    assert "off" in str(front)
    assert "perplexity (lower is better)" in str(front)


def test_table_of_an_empty_front_says_why():
    front = a_front(min_accuracy=0.9)
    empty = Front.from_candidates(
        num_bits=front.num_bits, accuracy=[0.1, 0.2], costs=front.costs, point_names=front.point_names, min_accuracy=0.9
    )

    assert "no evaluated candidate has accuracy of at least 0.9000" in str(empty)


def test_total_bits_are_asked_for_only_where_they_are():
    with pytest.raises(FrontError, match="must hold 'total_bits'"):
        _ = a_front(cost_names=("energy",)).total_bits


FURTHER = (FurtherMetric("f1", True, 0.7, 0.8), FurtherMetric("loss", False, 0.5))


def with_further(**fields):
    known = {"further": FURTHER, "further_scores": [[0.71, 0.4], [np.nan, 0.3]]}
    return a_front(**known | {"report_further_scores": [[0.69, np.nan], [np.nan, 0.31]]} | fields)


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


def test_further_scores_come_back_from_a_file(tmp_path):
    for front in (with_further(), with_further(report_further_scores=None), a_front(further=FURTHER)):
        front.save(tmp_path / "front.json")

        assert_same(front, Front.load(tmp_path / "front.json"))


def reported():
    uniform = a_front(
        num_bits=[[6] * 3, [403] * 3], report_accuracy=[0.9, 0.91], report_float_accuracy=0.92, min_accuracy=None
    )
    return a_front(
        uniform=uniform,
        report_float_accuracy=0.92,
        report_from_float=[(-0.03, 0.01), (np.nan, np.nan)],
        report_from_uniform=[[(-0.01, 0.01), (-0.02, 0.0)], [(np.nan, np.nan)] * 2],
    )


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


def test_csv_holds_the_difference_from_float():
    rows = list(csv.DictReader(io.StringIO(reported().to_csv())))

    assert float(rows[0]["report_from_float"]) == pytest.approx(-0.02)
    assert (rows[0]["report_from_float_low"], rows[0]["report_from_float_high"]) == ("-0.03", "0.01")
    assert (rows[1]["report_from_float"], rows[1]["report_from_float_low"]) == ("", "")


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


def test_csv_holds_further_scores_after_the_first_metric():
    rows = list(csv.DictReader(io.StringIO(with_further().to_csv())))

    assert [*rows[0]][:8] == ["index", "accuracy", "accuracy_low", "accuracy_high", "report_accuracy", "f1", "loss"] + [
        "report_f1"
    ]
    assert [(row["f1"], row["loss"], row["report_f1"], row["report_loss"]) for row in rows] == [
        ("0.71", "0.4", "0.69", ""),
        ("", "0.3", "", "0.31"),
    ]


def test_table_shows_further_scores_and_what_was_asked_of_them():
    lines = str(with_further()).splitlines()

    assert lines[1:3] == [
        "further: f1 (higher is better), min_accuracy 0.7000, float 0.8000",
        "further: loss (lower is better), min_accuracy 0.5000",
    ]
    assert "f1    loss  report f1  report loss" in lines[3]
    assert "0.7100  0.4000     0.6900            -" in lines[5]


def test_line_of_a_point_holds_the_further_scores_that_are_known():
    first, second = map(str, with_further())

    assert "f1 0.7100, f1 on the report set 0.6900, loss 0.4000, total_bits 12" in first
    assert "f1" not in second
    assert "loss 0.3000, loss on the report set 0.3100" in second


def test_an_empty_front_names_the_minima_of_further_metrics():
    empty = Front(
        num_bits=np.zeros((0, 1), int), accuracy=[], costs=np.zeros((0, 1)), point_names=("a",), further=FURTHER
    )

    assert "no evaluated candidate has f1 of at least 0.7000 and loss of at most 0.5000 (min_accuracy)" in str(empty)
