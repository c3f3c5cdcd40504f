"""A picture that is drawn anew while the search runs."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from problems import tiny_problem

import qexplore as qx
from qexplore.errors import ReportError
from qexplore.report import live


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook is shown: the images, in order, of one place."""
    shown = []

    def display(image, display_id):
        shown.append(image)
        return SimpleNamespace(update=shown.append)

    module = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()), version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(Image=bytes, display=display))
    return shown


def explored(callback, **options):
    options = {"max_evaluations": 12, "seed": 1, **options}
    return qx.explore(tiny_problem(upper=8, min_accuracy=0.85), callbacks=[callback], **options)


def test_a_notebook_is_shown_a_picture_at_once_and_at_the_end(notebook):
    explored(qx.LivePlot(every=1000))
    assert len(notebook) == 2
    assert all(image.startswith(b"\x89PNG") for image in notebook)


def test_the_last_picture_is_drawn_after_an_error_too(notebook):
    def fails(snapshot):
        if snapshot.num_evaluations > 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        qx.explore(tiny_problem(), max_evaluations=9, seed=1, callbacks=[qx.LivePlot(every=1000), fails])
    assert len(notebook) == 2


def test_a_script_is_told_what_it_needs(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with pytest.raises(ReportError, match=r"in a notebook, and this is none.*LivePlot\(path='live.png'\)"):
        qx.LivePlot()


def test_a_terminal_of_ipython_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace, version_info=(9, 0)))
    assert not live.is_notebook()


def test_a_script_draws_into_a_file(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    path = tmp_path / "live.png"
    explored(qx.LivePlot(path=path, every=1000))
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(("options", "said"), [({"every": 0}, "every"), ({"path": "a.gif"}, "suffix of a picture")])
def test_what_does_not_fit_is_refused_before_the_search(options, said, notebook):
    with pytest.raises(ReportError, match=said):
        qx.LivePlot(**options)


def test_before_the_first_point_the_picture_says_so():
    fields = {"point_names": ("a",), "min_accuracy": 0.999}
    empty = qx.Front(num_bits=np.zeros((0, 1), int), accuracy=[], costs=np.zeros((0, 1)), **fields)
    figure = live.draw_snapshot(qx.Snapshot(empty, 3, 2.5, 0.1, 0.0, 1), [(1.0, 0.0)])
    assert "no candidate meets what is asked yet\n(min_accuracy 0.9990)" in figure.axes[0].texts[0].get_text()
