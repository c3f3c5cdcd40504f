"""Progress bars are seen on a terminal, or when asked for; elsewhere long work tells of itself line by line."""

import io
import sys
import time

import pytest
from networks import batches, digits
from problems import Watched, search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore import _progress
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


def test_a_search_without_a_limit_on_passes_has_no_length(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    qx.explore(tiny_problem(), max_seconds=60, patience=2, seed=1, progress=True)
    bar = sys.stderr.getvalue()
    assert "explore: " in bar and "/2147483648" not in bar and "/27" not in bar


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
    qx.explore(tiny_problem(model=model), max_evaluations=5, seed=1, report_loader=batches(digits().report))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class Clock:
    """Each look at it is ten seconds after the last."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 10
        return self.now


def told(monkeypatch, stream, wanted, total=3000):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "time", Clock())
    with Progress(total, description="explore", unit="evaluation", shown=wanted) as bar:
        for _ in range(12):
            bar.advance(2.25, front=5)
    return stream.getvalue().splitlines()


def test_long_work_without_a_terminal_is_told_a_line_every_half_minute(monkeypatch):
    first, *others = told(monkeypatch, io.StringIO(), None)
    assert first == "explore: 7 of 3000 evaluations after 40 s, front=5"
    assert 1 <= len(others) <= 4
    assert told(monkeypatch, io.StringIO(), None, total=None)[0].startswith("explore: 7 evaluations after")


@pytest.mark.parametrize(("stream", "wanted"), [(io.StringIO, False), (io.StringIO, True), (Terminal, None)])
def test_lines_are_for_where_there_is_neither_a_bar_nor_a_wish_for_silence(monkeypatch, stream, wanted):
    assert not any("after" in line for line in told(monkeypatch, stream(), wanted))


def test_a_bar_shows_whole_steps_where_work_is_done_in_parts_of_them(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(3000, description="explore", unit="evaluation", shown=True) as bar:
        for _ in range(1300):
            bar.advance(0.21612820512820)
        bar._bar.refresh()
        assert " 281/3000 " in sys.stderr.getvalue()


def test_verification_and_report_show_themselves_and_how_to_leave_them(capsys):
    slow = Watched(do=lambda scores: time.sleep(0.06) or scores, at=range(3, 200))
    qx.explore(
        tiny_problem(slow, engine="direct"),
        max_evaluations=5,
        seed=1,
        progress=True,
        report_loader=batches(digits().report),
    )
    shown = capsys.readouterr().err
    assert "verify the front (Ctrl-C leaves it unverified)" in shown
    assert "report (Ctrl-C leaves it out)" in shown


@pytest.mark.parametrize(
    ("total", "unit", "line"),
    [
        (None, "batch", "pass: 3 batches after 40 s"),
        (1, "batch", "pass: 3 of 1 batch after 40 s"),
        (3000, "evaluation", "pass: 3 of 3000 evaluations after 40 s"),
        (2, "class", "pass: 3 of 2 classes after 40 s"),
    ],
)
def test_a_line_counts_in_english(monkeypatch, total, unit, line):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(_progress, "time", Clock())
    with Progress(total, description="pass", unit=unit, shown=None) as bar:
        for _ in range(4):
            bar.advance()
    assert sys.stderr.getvalue().splitlines() == [line]


class Heard:
    """A stand-in for Progress that adds up what each of them was told."""

    made: list["Heard"] = []

    def __init__(self, total, *, description, unit, shown):
        self.total, self.description, self.shown, self.done = total, description, shown, 0.0
        Heard.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def advance(self, steps=1, **figures):
        self.done += steps


@pytest.mark.parametrize("engine", ["direct", "prefix"])
@pytest.mark.parametrize("metric", ["kl", "accuracy", "auto"])
def test_sensitivities_tell_of_every_choice_as_it_is_done(monkeypatch, engine, metric):
    monkeypatch.setattr(sys.modules["qexplore.search.sensitivity"], "Progress", Heard)
    Heard.made = []
    qx.sensitivity(tiny_problem(engine=engine), metric, num_samples=100, progress=True)
    (bar,) = Heard.made
    extra = metric == "accuracy"  # the float network
    assert (bar.total, bar.done, bar.shown) == (9, pytest.approx(9 + extra), True)


def test_sensitivities_of_a_whole_set_metric_and_of_a_search_show_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["qexplore.search.sensitivity"], "Progress", Heard)
    Heard.made = []
    qx.sensitivity(tiny_problem(qx.whole_set(lambda model, loader: 0.5)), "accuracy")
    for algorithm in ("nsga2", "greedy"):
        qx.explore(tiny_problem(), max_evaluations=8, seed=1, algorithm=algorithm, progress=True)
    assert [(bar.done, bar.shown) for bar in Heard.made][0] == (10, None)
    assert all(bar.shown and bar.done == pytest.approx(bar.total) for bar in Heard.made[1:])
    assert len(Heard.made) == 3


def test_analyze_shows_a_bar_when_asked(capsys):
    qx.analyze(tiny_model(), search_loader(100), 4, progress=True)
    assert "analyzing" in capsys.readouterr().err
