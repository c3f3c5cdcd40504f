"""Progress bars are seen on a terminal, or when asked for, and nowhere else."""

import io
import sys
import time

import pytest
from problems import Watched, search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore._progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, wanted):
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(3, description="explore", unit="evaluation", shown=wanted) as bar:
        bar.advance()
        bar.advance(2, front=5, hypervolume="1.25")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "wanted", "is_shown"),
    [
        (io.StringIO, None, False),
        (io.StringIO, False, False),
        (io.StringIO, True, True),
        (Terminal, None, True),
        (Terminal, False, False),
        (Terminal, True, True),
    ],
)
def test_a_bar_is_shown_on_a_terminal_or_when_asked_for(monkeypatch, stream, wanted, is_shown):
    assert ("explore" in shown(monkeypatch, stream(), wanted)) == is_shown


def test_a_bar_shows_the_unit_and_leaves_nothing_behind(monkeypatch):
    text = shown(monkeypatch, Terminal(), True)
    assert "evaluation" in text
    assert text.rsplit("\r", 1)[-1].strip() == ""


@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_process_without_stderr_has_no_bar(monkeypatch, wanted):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(1, description="explore", unit="evaluation", shown=wanted) as bar:
        bar.advance()


def test_a_bar_of_unknown_length_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress(None, description="calibrate", unit="batch", shown=True) as bar:
        bar.advance()
    assert "calibrate" in sys.stderr.getvalue()


def test_exploring_shows_evaluations_front_and_hypervolume_when_asked(capsys):
    # A bar is drawn every tenth of a second.
    slow = Watched(at=range(3, 15), do=lambda scores: time.sleep(0.12) or scores)
    qx.explore(tiny_problem(slow, engine="direct"), max_evaluations=12, seed=1, progress=True)
    captured = capsys.readouterr()
    for word in ("explore", "evaluation", "front=", "hypervolume=", "verify the front"):
        assert word in captured.err
    assert captured.out == ""


def test_nothing_is_written_when_no_terminal_is_there(capsys):
    model = tiny_model()
    model.calibrate(search_loader())
    qx.explore(tiny_problem(model=model), max_evaluations=5, seed=1, report_loader=search_loader())
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
