"""Tables in a notebook and as frames: the same cells as the text, everything escaped."""

import ast
import html.parser
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from problems import tiny_model, tiny_problem

import qexplore as qx
from qexplore._table import Framed, Tabular, text_table

SOURCE = Path(qx.__file__).parent
_CELLS = {"th", "td"}


class Cells(html.parser.HTMLParser):
    """What a browser would show: the cells of tables, and the text between."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.between, self.tags = [], "", set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in _CELLS:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.lasttag in _CELLS and data.strip():
            self.rows[-1][-1] += data
        else:
            self.between += data


class Told(Tabular):
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text()


def test_html_has_the_cells_and_the_words_of_the_text():
    told = Told(lambda: f"before\n{text_table(('a', 'b'), [('x', '1'), ('', '22')], numeric=(1,))}\nafter")
    seen = Cells(told._repr_html_())
    assert seen.rows == [["a", "b"], ["x", "1"], ["", "22"]]
    assert seen.between.split() == ["before", "after"]
    assert str(told) == "before\na   b\n-  --\nx   1\n   22\nafter"


def test_names_are_shown_and_never_run():
    name = "<script>alert(1)</script>&\u202e"
    seen = Cells(Told(lambda: f"{name}\n{text_table((name,), [(name,)])}")._repr_html_())
    assert "script" not in seen.tags
    assert seen.rows == [["<script>alert(1)</script>&\\u202e"]] * 2
    assert "<script>" in seen.between


def test_an_error_in_a_text_leaves_nothing_behind():
    def fails():
        text_table(("a",), [("x",)])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Told(fails)._repr_html_()
    assert not Cells(Told(lambda: "plain")._repr_html_()).rows


def test_whatever_prints_a_table_shows_it_in_a_notebook():
    missing = []
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        module = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        if "text_table(" not in text or file.name == "_table.py":
            continue
        classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        for node in classes:
            prints = any(isinstance(part, ast.FunctionDef) and part.name == "__str__" for part in node.body)
            if prints and not issubclass(getattr(importlib.import_module(module), node.name), Tabular):
                missing.append(f"{module}.{node.name}")
    assert not missing


@pytest.fixture(scope="module")
def explored():
    problem = tiny_problem(upper=8, min_accuracy=0.85)
    sensitivity, plan = qx.sensitivity(problem, num_samples=50), tiny_model().describe()
    return SimpleNamespace(
        exploration=qx.explore(problem, max_evaluations=40, seed=1), sensitivity=sensitivity, plan=plan
    )


def test_an_exploration_shows_its_front_in_a_notebook(explored):
    seen = Cells(explored.exploration._repr_html_())
    assert len(seen.rows) == 1 + len(explored.exploration.front)
    assert "stopped by max_evaluations" in seen.between


def test_the_frame_of_a_front_has_a_row_a_point_and_a_column_for_each_name(explored):
    front = explored.exploration.front
    frame = front.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["total_bits"].tolist() == front.total_bits.tolist()
    assert frame["accuracy"].tolist() == front.accuracy.tolist()
    assert frame[list(front.point_names)].to_numpy().tolist() == front.num_bits.tolist()
    assert list(frame.columns) == front.to_csv().splitlines()[0].split(",")


def test_a_point_of_the_name_of_another_column_is_told_apart():
    front = qx.Front(num_bits=[[403, 4]], accuracy=[0.5], costs=[[8.0]], point_names=("accuracy", "b"))
    frame = front.to_frame()
    assert frame.loc[0, ["accuracy", "accuracy (2)", "b"]].tolist() == [0.5, "E4M3", 4]


def test_the_frame_of_an_exploration_is_its_history(explored):
    exploration = explored.exploration
    frame = exploration.to_frame()
    assert frame["hypervolume"].tolist() == [one.hypervolume for one in exploration.history]
    last = exploration.history[-1].front
    assert frame.iloc[-1][["num_points", "best_accuracy", "least_total_bits"]].tolist() == [
        len(last),
        last.accuracy.max(),
        last.total_bits.min(),
    ]


def test_tables_have_frames_too(explored):
    table, plan = explored.sensitivity.to_frame(), explored.plan.to_frame()
    assert table["point"].tolist() == list(explored.sensitivity.point_names)
    assert table.iloc[:, 1:].to_numpy(dtype=float) == pytest.approx(np.array(explored.sensitivity.values))
    assert plan["name"].tolist() == ["input", "relu1", "relu2"]
    assert (plan["num_bits"] == 8).all()


def test_every_frame_can_be_had():
    """Each class says its rows: the base alone cannot."""
    kinds = Framed.__subclasses__()
    assert kinds
    assert not [kind.__name__ for kind in kinds if kind._frame_rows is Framed._frame_rows]


def test_without_pandas_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    front = qx.Front(num_bits=[[4]], accuracy=[0.5], costs=[[8.0]], point_names=("a",))
    with pytest.raises(qx.errors.MissingPackageError, match=r"qexplore\[frames\]"):
        front.to_frame()
