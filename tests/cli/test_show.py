"""What `qexplore show` makes of whatever it is given, and what of it a terminal or a machine reads."""

import importlib
import json
import time

import numpy as np
import pytest
from command_line import run, said

import qexplore as qx
from qexplore.cli import looking


def front_of(count, num_points=3, **fields):
    """A front of so many points, none of which beats another."""
    codes = np.full((count, num_points), 4)
    codes[:, 0] = np.arange(count) % 7 + 2
    given = {"num_bits": codes, "accuracy": np.linspace(0.5, 0.9, count), "costs": np.arange(1.0, count + 1)[:, None]}
    return qx.Front(**given | {"point_names": [f"layer{index}" for index in range(num_points)]} | fields)


def shown(front, *flags):
    front.save("front.json")
    done = run("show", "front.json", *flags)
    assert done.exit_code == 0 and not done.stderr
    return done.stdout


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_of_many_points_some_are_shown_with_the_first_and_the_last():
    front = front_of(5000)
    lines = shown(front).splitlines()
    assert "40 of 5,000 points are shown, evenly spaced" in lines
    numbers = [int(line.split()[0]) for line in lines[3:43]]
    assert numbers[0] == 0 and numbers[-1] == 4999 and len(set(np.diff(numbers))) <= 2
    assert len(shown(front, "--limit", 0).splitlines()) > 5000
    assert len(json.loads(shown(front, "--json"))["front"]["accuracy"]) == 5000
    assert shown(front, "--csv") == front.to_csv()


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("front", "sentence"),
    [
        (front_of(0), "The front is empty: no candidate was evaluated"),
        (front_of(1), "Front of 1 point: accuracy (higher is better)"),
        (front_of(3, metric_name="perplexity", higher_is_better=False), "perplexity (lower is better)"),
        (front_of(2, costs=np.ones((2, 3)), cost_names=("model_bytes", "bops", "latency")), "latency"),
    ],
    ids=["none", "one", "lower is better", "three costs"],
)
def test_a_front_of_any_kind_is_a_table(front, sentence):
    assert sentence in shown(front)


@pytest.mark.usefixtures("_here")
def test_long_names_of_many_layers_break_no_line_of_a_picked_point():
    names = tuple(f"encoder.block{index}.{'deep.' * 20}\x1b[31mweight" for index in range(120))
    front_of(2, num_points=120, point_names=names).save("front.json")
    lines = run("pick", "front.json", "--index", 0).stdout.splitlines()
    assert len(lines) == 123 and all(line[:8].strip().isdigit() for line in lines[3:])
    assert "\x1b" not in "".join(lines) and lines[3].endswith("\\x1b[31mweight")
    assert max(map(len, run("show", "front.json").stdout.splitlines())) < 130


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.db", None, "The study 'none.db' does not exist"),
        ("empty.db", b"", "must be a study, got an empty file"),
        ("text.db", b"hello", "must be a study, got something else"),
        ("none.json", None, "Front file 'none.json' does not exist"),
        ("empty.json", b"", "must be JSON"),
        ("list.json", b"[]", "front"),
        ("image.png", b"\x89PNG\r\n", "front"),
    ],
)
def test_what_holds_neither_front_nor_study_is_one_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("show", name)
    assert done.exit_code == 1 and sentence.lower() in done.stderr.lower() and done.stderr.count("\n") == 1


def test_a_damaged_study_is_refused_in_a_sentence(mine):
    run("explore", "mine.yaml", "--max-evaluations", 4)
    whole = (mine / "runs/mine.db").read_bytes()
    (mine / "cut.db").write_bytes(whole[: len(whole) // 2])
    done = run("show", "cut.db")
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_a_study_is_shown_while_it_runs_when_it_was_interrupted_and_when_it_has_ended(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    project = importlib.import_module("mine")
    seen = []

    def look():
        seen.append(said("show", "runs/mine.db")["runs"][0]["state"])
        raise KeyboardInterrupt

    project.acting |= {"at": 30, "do": look}
    run("explore", "mine.yaml", "--metric", "mine:watched")
    project.acting.clear()
    facts = said("show", "runs/mine.db")
    assert seen == ["running"] and facts["runs"][0]["stopped_by"] == "interrupt"
    assert run("resume", "runs/mine.db").exit_code == 0
    text = run("show", "runs/mine.db").stdout
    assert "ended by max_evaluations" in text and "Front of" in text
    assert run("show", "runs/mine.db", "--run", 9).exit_code == 1


def test_follow_shows_a_study_again_as_it_grows_and_ends_with_it(mine, monkeypatch):
    run("explore", "mine.yaml", "--max-evaluations", 4)
    states, grown = iter([True, True, True, False]), iter(["two points", "two points", "three points", "four points"])
    monkeypatch.setattr(looking, "_is_running", lambda study: next(states))
    monkeypatch.setattr(looking, "_look", lambda *asked: (next(grown), None))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert run("show", "runs/mine.db", "--follow").stdout == "two points\nthree points\nfour points\n"
    assert run("show", "mine.json", "--follow").exit_code == 2


def test_a_study_whose_runs_asked_for_different_things_shows_the_last_and_says_so(mine):
    for least in (0.3, 0.5):
        run("explore", "mine.yaml", "--max-evaluations", 4, "--min-accuracy", least)
    run("fit", "mine.yaml", "--max-evaluations", 4, "--max-drop", 0.1, "--study", "runs/mine.db")
    done = run("show", "runs/mine.db")
    assert done.exit_code == 0 and "The front is that of run 3, the last" in done.stderr
    for number, least in ((1, 0.3), (2, 0.5)):
        assert f"min_accuracy {least:.4f}" in run("show", "runs/mine.db", "--run", number).stdout
    assert said("resume", "runs/mine.db")["front"]["min_accuracy"] == 0.5  # the last that looked for a front


def test_a_study_of_other_data_is_refused_with_the_flag_that_names_another(mine):
    run("explore", "mine.yaml", "--max-evaluations", 4)
    done = run("explore", "mine.yaml", "--search-loader", "mine:report")
    assert done.exit_code == 1 and done.stderr.endswith("On the command line: --study FILE.\n")
    assert "mine:search" in (mine / "runs/mine.db.config.yaml").read_text()
