"""The page of a report: what it is told to show, and the file that holds it."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from networks import batches, digits
from problems import raising, search_loader, tiny_problem

import qexplore as qx
from qexplore.errors import FrontFileError, MissingPackageError, ReportError, StudyFileError
from qexplore.report._page_front import Measured
from qexplore.report._page_html import page_html, page_json
from qexplore.report._page_runs import Known, run_page
from qexplore.report._page_sources import page_record
from qexplore.report._page_studies import _notices

HOSTILE = "a</script><script>alert(1)</script><!--&\u2028\ud800"


@pytest.fixture(scope="module")
def exploration():
    problem = tiny_problem(upper=8, min_accuracy=0.85)
    return qx.explore(
        problem, max_evaluations=40, seed=1, progress=False, report_loader=batches(digits().report, 100)[:2]
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "digits.db"
    for seed in (1, 2):
        qx.explore(tiny_problem(upper=8), max_evaluations=25, seed=seed, algorithm="random", progress=False, study=path)
    return path


def front_of(count=3, points=2, **fields):
    rng = np.random.default_rng(0)
    known = {
        "num_bits": rng.integers(2, 9, (count, points)),
        "accuracy": np.linspace(0.5, 0.9, count),
        "costs": np.linspace(10, 90, count)[:, None],
        "point_names": tuple(f"layer{place}" for place in range(points)),
    }
    return qx.Front(**{**known, **fields})


class Elements(HTMLParser):
    """Tags with their attributes, and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def test_page_runs_its_own_scripts_only_and_loads_nothing():
    page = Elements(page_html(page_record(front_of(point_names=(HOSTILE, "other")))))
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts[1:]]

    assert len(page.scripts) == 3
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert all(f"'sha256-{digest}'" in policy for digest in digests)
    assert "unsafe" not in policy.split("style-src")[0]
    assert [attrs for _, attrs in page.tags if {"src", "srcset", "action"} & attrs.keys()] == []
    assert [attrs["href"] for _, attrs in page.tags if "href" in attrs] == ["#point"]
    assert [name for _, attrs in page.tags for name in attrs if name.startswith("on")] == []


def test_names_of_layers_come_back_as_they_are_and_end_no_script():
    text = page_json(page_record(front_of(point_names=(HOSTILE, "other")), title="<b>"))

    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["runs"][0]["point_names"] == [HOSTILE, "other"]


def test_record_of_an_exploration_says_what_the_exploration_says(exploration):
    [run] = page_record(exploration).runs
    front, uniform = exploration.front, exploration.uniform

    assert run.candidates.kinds == ("front",) * len(front) + ("uniform",) * len(uniform)
    assert run.candidates.num_bits[: len(front)] == tuple(map(tuple, front.num_bits.tolist()))
    assert [column.set_name for column in run.scores] == ["search set", "report set"]
    assert run.shown == 1
    assert run.scores[0].values == (*front.accuracy.tolist(), *uniform.accuracy.tolist())
    assert run.scores[1].float_score == front.report_float_accuracy
    assert run.knee == front.knee().index
    assert run.progress.hypervolume[-1] == exploration.history[-1].hypervolume
    assert dict(run.facts[1][1])["seed"] == "1"
    assert qx.Front.from_json(run.front).to_json() == front.to_json()
    assert dict(run.summary)["ended by"] == exploration.stopped_by


def test_parts_of_an_additive_cost_sum_up_to_it(study):
    run = page_record(study).runs[0]
    for cost in run.costs:
        sums = [
            sum(parts[code] for parts, code in zip(cost.parts, row, strict=True)) for row in run.candidates.num_bits
        ]
        assert sums == pytest.approx(cost.values)


def test_what_limits_a_run_stands_on_top(exploration):
    measured = next(iter(tiny_problem().measure([[2, 2, 2]])))
    broken = replace(
        exploration,
        front=replace(exploration.front, verified=False),
        failures=(replace(measured, state="failed", reason="ValueError: NaN"),),
        left_out="a table of all choices: max_evaluations=90 has it",
        stopped_by="interrupt",
    )
    [run] = page_record(broken).runs
    told = " ".join(run.notices)

    assert run.state == "interrupted"
    for words in ("interrupt", "not verified", "ValueError: NaN", "max_evaluations=90"):
        assert words in told
    assert [one.reason for one in run.failures] == ["ValueError: NaN"]


def far_from_calibration():
    """A problem whose search set goes beyond what the ranges were calibrated on."""
    return tiny_problem(
        upper=6, min_accuracy=0.2, loader=[(3 * images, labels) for images, labels in search_loader(100)]
    )


def test_what_limits_a_run_stands_on_the_page_of_its_study_as_on_its_own(tmp_path):
    seen = []
    found = qx.explore(
        far_from_calibration(),
        max_evaluations=20,
        seed=1,
        progress=False,
        report_loader=batches(digits().report, 100)[:2],
        study=tmp_path / "a.db",
        callbacks=[lambda _: seen or seen.extend(page_record(tmp_path / "a.db").runs)],
    )
    found.front.save(tmp_path / "front.json")
    pages = [page_record(source).runs[0] for source in (found, tmp_path / "a.db", found.front, tmp_path / "front.json")]

    assert pages[0].notices == pages[1].notices == found.notes
    clipped, *_, optimism = found.notes
    assert clipped.startswith("Clipped on the search set: ")
    assert "looks better on the search set" in optimism
    assert " to " in optimism, "its interval is known"
    # A front alone knows no interval, and nothing of ranges.
    assert pages[2].notices == pages[3].notices
    assert pages[2].notices[-1].startswith(optimism.partition(" (")[0])
    assert clipped in seen[0].notices, "while it runs too"


def test_a_study_that_wrote_no_notes_down_says_what_its_front_says(study, exploration):
    with qx.Study.open(study) as opened:
        older = replace(opened.runs[0], notes=None)
    told = _notices(older, replace(exploration.front, verified=False))
    assert [told[0].split(":")[0], told[-1].split(" by ")[0]] == [
        "The front is not verified",
        "Counted from float, the front looks better on the search set than on the report set",
    ]


def test_the_curve_of_a_run_that_took_another_way_never_runs_back(tmp_path):
    for budget in (12, 40):
        problem = tiny_problem(upper=8, min_accuracy=0.5)
        found = qx.explore(problem, max_evaluations=budget, seed=1, progress=False, study=tmp_path / "a.db")
    [run] = page_record(tmp_path / "a.db").runs
    assert list(run.progress.passes) == sorted({one.num_passes for one in found.history})
    assert dict(run.summary)["judge"] == found.judge


def test_runs_of_a_study_lie_side_by_side(study):
    record = page_record(study)
    first, second = record.runs

    assert (first.name, second.name) == ("digits, run 1: random, seed 1", "digits, run 2: random, seed 2")
    assert first.state == "ended"
    assert set(first.candidates.kinds) == {"front", "uniform", "measured"}
    assert "front(1).find('{key}')" in first.apply.python
    assert first.apply.command == f"qexplore pick {study} --run 1 --point {{key}} --output widths.json"
    assert dict(dict(first.facts)["Measured under"])["network"] == "Tiny"
    with qx.Study.open(study) as opened:
        assert page_record(opened) == record


def test_lines_of_a_page_mean_the_same_point_after_the_run_went_on(tmp_path):
    path, problem = tmp_path / "a.db", tiny_problem(upper=8)
    before = qx.explore(problem, max_evaluations=12, seed=1, progress=False, study=path).front
    [run] = page_record(path).runs
    after = qx.resume(path, tiny_problem(upper=8), max_evaluations=60, progress=False).front
    now = {point.num_bits for point in after}
    assert any(one.num_bits != other.num_bits for one, other in zip(before, after, strict=False)), "places have changed"
    assert {point.num_bits in now for point in before} == {True, False}
    for point, key in zip(before, run.apply.keys, strict=True):
        line = run.apply.python.format(key=key).removesuffix(".apply_to(model)")
        if point.num_bits in now:
            assert eval(line, {"qx": qx}).num_bits == point.num_bits
        else:
            with pytest.raises(qx.errors.FrontError, match=f"no point of this front has the key '{key}'.*Pick anew"):
                eval(line, {"qx": qx})


def test_study_is_shown_while_it_runs_and_after_it_broke_off(tmp_path):
    path, seen = tmp_path / "runs.db", []

    def look(snapshot):
        seen.append(page_record(path).runs[0])
        if len(seen) == 2:
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        qx.explore(tiny_problem(upper=8), max_evaluations=30, seed=1, progress=False, study=path, callbacks=[look])

    assert {run.state for run in seen} == {"running"}
    assert "{file}" in seen[0].apply.command, "its points may be others by the time they are asked for"
    [run] = page_record(path).runs
    assert run.state == "interrupted"
    assert run.num_front


def test_damaged_and_missing_files_are_refused_by_their_own_sentence(tmp_path):
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\x00" + bytes(40))
    (tmp_path / "torn.json").write_text("{")
    for name, error in (("torn.db", StudyFileError), ("none.db", StudyFileError), ("torn.json", FrontFileError)):
        with pytest.raises(error, match=name):
            qx.report(tmp_path / name, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_study_without_a_run_says_so(tmp_path):
    from qexplore.study import Store

    Store.create(tmp_path / "new.db", {"network": "Tiny"}).close()
    record = page_record(tmp_path / "new.db")

    assert record.runs == ()
    assert "no run in this study" in record.nothing
    assert "no run in this study" in page_html(record)


def test_files_of_the_runs_of_a_page_have_names_of_their_own():
    labels = ["a b", "a-b", "A/b", "...", "a b"]
    runs = page_record([front_of()] * 5, labels=labels).runs
    assert [run.file for run in runs] == ["a-b", "a-b-2", "A-b-3", "run", "a-b-2-2"]
    assert len({run.file.casefold() for run in runs}) == 5
    assert {run.apply.python for run in runs} == {'qx.Front.load("{file}")[{index}].apply_to(model)'}


def test_runs_over_different_points_are_said_to_be_unlike():
    assert page_record([front_of(), front_of(points=3)]).unlike == (
        "Not alike: front (2) against front: 3 quantization points, not 2",
    )
    assert page_record([front_of(), front_of()]).unlike == ()
    loss = front_of(points=3, metric_name="loss", higher_is_better=False)
    assert page_record([front_of(), loss, front_of(0)]).unlike == (), "these are in no picture with the first"


def test_front_file_names_itself_in_what_applies_its_points(tmp_path):
    front_of().save(tmp_path / "front.json")
    [run] = page_record(tmp_path / "front.json").runs

    line = run.apply.python.format(key=run.apply.keys[2])
    assert eval(line.removesuffix(".apply_to(model)"), {"qx": qx}) == qx.Front.load(tmp_path / "front.json")[2]


@pytest.mark.parametrize("count", [0, 1])
def test_fronts_of_no_and_of_one_point_are_shown(count):
    [run] = page_record(front_of(count, empty_because="" if count else "Nothing was good enough.")).runs

    assert run.num_front == count
    assert run.knee == (0 if count else None)
    assert run.notices[0].startswith("The front is not verified") if count else ("Nothing was good enough.",)


def test_lower_is_better_and_several_costs_keep_their_directions_and_units():
    front = front_of(
        3, higher_is_better=False, metric_name="loss", costs=np.ones((3, 2)), cost_names=("total_bits", "latency_ms")
    )
    [run] = page_record(front).runs

    assert not run.scores[0].higher_is_better
    assert [(cost.words, cost.unit) for cost in run.costs] == [("total bits", ""), ("latency", "ms")]
    assert run.costs[1].parts is None, "what a layer adds to a latency is not known"


def test_what_is_not_known_is_none_not_nan():
    sensitivity = qx.SensitivityTable(("layer0", "layer1"), ((2, 4), (2,)), ((math.inf, 0.5), (0.25,)), "kl", "nats", 8)
    front = front_of(2, report_accuracy=np.array([0.5, math.nan]), report_float_accuracy=0.9)
    [run] = page_record(front, sensitivity=sensitivity).runs

    assert run.scores[1].values == (0.5, None)
    assert run.sensitivity.values == ((None, 0.5), (0.25, None))
    assert run.sensitivity.texts == (("inf", "0.5"), ("0.25", "cannot be"))
    assert "NaN" not in page_json(page_record(front, sensitivity=sensitivity))


def test_sensitivity_of_other_points_is_left_out():
    table = qx.SensitivityTable(("other",), ((2,),), ((0.5,),), "kl", "nats", 8)
    assert page_record(front_of(), sensitivity=table).runs[0].sensitivity is None


def test_sources_of_one_name_get_numbers_and_labels_are_one_for_each():
    record = page_record([front_of(), front_of(2)])
    assert [run.name for run in record.runs] == ["front", "front (2)"]
    assert [run.name for run in page_record([front_of(), front_of(2)], labels=["a", "b"]).runs] == ["a", "b"]
    for labels in (["a"], "ab", [1, 2]):
        with pytest.raises(ReportError, match="labels must be a name for each of the 2 sources"):
            page_record([front_of(), front_of(2)], labels=labels)


@pytest.mark.parametrize("source", [None, 3, [], [front_of(), None]])
def test_what_cannot_be_shown_is_refused(source, tmp_path):
    with pytest.raises(ReportError, match="report: "):
        qx.report(source, tmp_path / "page.html")


def test_page_is_written_where_it_is_asked_for(tmp_path):
    written = qx.report(front_of(), tmp_path / "new" / "page.html")
    assert written == tmp_path / "new" / "page.html"
    assert written.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(ReportError, match=r"must be \.html, got '\.pdf'.*'page\.html'"):
        qx.report(front_of(), tmp_path / "page.pdf")


def test_page_without_plotly_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.import_module", raising(ModuleNotFoundError("no", name="plotly")))
    with pytest.raises(MissingPackageError, match=r"page of a report.*qexplore\[report\]"):
        qx.report(front_of(), tmp_path / "page.html")


def test_page_of_2000_evaluations_of_120_layers_is_under_8_mb():
    rng = np.random.default_rng(0)
    front = front_of(60, 120)
    measured = Measured(rng.integers(2, 9, (1940, 120)), rng.random(1940), 100 * rng.random((1940, 1)))
    run = run_page("run", front, front_of(7, 120), Known(measured=measured))

    assert len(page_html(replace(page_record(front), runs=(run,)))) < 8_000_000


def test_report_is_called_by_its_name_whatever_was_imported_before():
    assert qx.report is sys.modules["qexplore.report"]
    assert list(inspect.signature(qx.report).parameters)[:2] == ["source", "path"]
    assert "Write a page to look at a front" in qx.report.__doc__
