"""Fronts as text: the table, the line of a point, and CSV."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from fronts import FURTHER, a_front, reported, with_further

from qexplore.front import Front


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


def test_csv_holds_the_difference_from_float():
    rows = list(csv.DictReader(io.StringIO(reported().to_csv())))

    assert float(rows[0]["report_from_float"]) == pytest.approx(-0.02)
    assert (rows[0]["report_from_float_low"], rows[0]["report_from_float_high"]) == ("-0.03", "0.01")
    assert (rows[1]["report_from_float"], rows[1]["report_from_float_low"]) == ("", "")


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
