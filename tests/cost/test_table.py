"""Look-up tables of measured costs."""

from __future__ import annotations

import numpy as np
import pytest

from qexplore.cost import CostTable
from qexplore.errors import ProblemError

POINTS = ("input", "relu")


def written(tmp_path, text: str):
    path = tmp_path / "latency.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_table_of_a_file_is_looked_up_and_summed(tmp_path):
    path = written(
        tmp_path,
        "point,num_bits,cost,remark\ninput,8,1.5,\ninput,E4M3,2,measured twice\nrelu,MXE2M1,0.25,\nrelu,off,1e1,\n",
    )
    table = CostTable.from_csv(path, unit="ms")
    assert (table.name, table.unit) == ("latency", "ms")
    assert str(table).splitlines() == [
        "latency (ms) by point and choice",
        "point  off    8  E4M3  MXE2M1",
        "-----  ---  ---  ----  ------",
        "input    -  1.5     2       -",
        "relu    10    -     -    0.25",
    ]
    cost = table.bound_to(POINTS)
    assert cost.cost(np.array([[8, 1201], [403, 0], [8, 0]])).tolist() == [1.75, 12.0, 11.5]
    assert cost.cost(np.empty((0, 2), dtype=np.int64)).shape == (0,)
    cost.check(((8, 403), (1201, 0)))


def test_table_of_a_mapping_takes_every_form_of_a_choice():
    rows = {("input", 8): 1, ("input", (4, 3)): 2, ("relu", None): 3, ("relu", "mxe2m1"): 4, ("relu", "8"): 5}
    cost = CostTable(rows, name="energy", unit="nJ").bound_to(POINTS)
    assert (cost.name, cost.unit) == ("energy", "nJ")
    assert cost.cost(np.array([[8, 0], [403, 1201], [8, 8]])).tolist() == [4.0, 6.0, 6.0]


def test_byte_order_mark_of_a_spreadsheet_does_no_harm(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("point,num_bits,cost\ninput,8,1\n", encoding="utf-8-sig")
    assert CostTable.from_csv(path, name="latency").costs == {("input", 8): 1.0}


def test_missing_rows_are_listed_before_a_search_and_when_a_candidate_takes_one():
    cost = CostTable({("input", 8): 1, ("relu", 8): 1}).bound_to(POINTS)
    message = r"the cost table 'table' must have a row for every choice .* missing: \(relu, 4\), \(relu, E4M3\)"
    with pytest.raises(ProblemError, match=message):
        cost.check(((8,), (4, 8, 403)))
    with pytest.raises(ProblemError, match=r"missing: \(input, off\)"):
        cost.cost(np.array([[8, 8], [0, 8]]))


def test_rows_of_unknown_points_are_refused():
    with pytest.raises(ProblemError, match="rows for points that the model lacks: conv9. Its points are input, relu"):
        CostTable({("input", 8): 1, ("conv9", 8): 1}).bound_to(POINTS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("input,8,-1\n", r"not negative, got '-1' for \(input, 8\) in line 2 of the cost table 'latency'"),
        ("input,8,nan\n", "must be finite and not negative, got 'nan'"),
        ("input,8,inf\n", "must be finite and not negative, got 'inf'"),
        ("input,8,fast\n", "must be finite and not negative, got 'fast'"),
        ("input,8\n", "must be finite and not negative, got None"),
        ("input,E9M9,1\n", "`num_bits` in line 2 .* must be a width, a float format or \"off\", got 'E9M9'"),
        ("input,,1\n", "`num_bits` in line 2 .* got ''"),
        ("input,8,1\nrelu,8,1\ninput, 8,2\n", r"one row for each point and choice, .* \(input, 8\) in line 4"),
        ("", "the cost table 'latency' must have rows, got none"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path, rows, message):
    with pytest.raises(ProblemError, match=message):
        CostTable.from_csv(written(tmp_path, f"point,num_bits,cost\n{rows}"))


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ProblemError, match="must have the columns point, num_bits, cost, got point, bits"):
        CostTable.from_csv(written(tmp_path, "point,bits\ninput,8\n"))
    with pytest.raises(ProblemError, match="must have the columns point, num_bits, cost, got none"):
        CostTable.from_csv(written(tmp_path, ""))
    with pytest.raises(ProblemError, match=r"the cost table .*nowhere.csv cannot be read"):
        CostTable.from_csv(tmp_path / "nowhere.csv")


def test_bad_mapping_is_refused_by_row():
    with pytest.raises(ProblemError, match=r"got -0.5 for \(relu, off\) in row \('relu', 'off'\)"):
        CostTable({("relu", "off"): -0.5})
    with pytest.raises(ProblemError, match="one row for each point and choice"):
        CostTable({("relu", 0): 1.0, ("relu", None): 2.0})
