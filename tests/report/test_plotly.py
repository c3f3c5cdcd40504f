"""The pictures in plotly say what their records say, as those of matplotlib do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import a_costly_exploration, an_exploration

import qexplore as qx
from qexplore import report
from qexplore.errors import MissingPackageError, ReportError
from qexplore.evaluation import LayerAnalysis, LayerRecord
from qexplore.front import choice_words
from qexplore.report import _drawing

go = pytest.importorskip("plotly.graph_objects")

ODD = "a<b>$x$ &amp; %{y}"
WRITTEN = "a&lt;b&gt;&#36;x&#36; &amp;amp; %{y}"


def a_refinement():
    before = an_exploration(members=4, points=3).front
    point = before[1]
    after = replace(before, accuracy=before.accuracy + 0.01, interval=None)
    tuned = SimpleNamespace(costs=point.costs, accuracy_before=point.accuracy, accuracy_after=float(after.accuracy[1]))
    return SimpleNamespace(before=before, after=after, refined=[tuned])


def an_analysis(count=3):
    ratios = {"sqnr": 20.0, "sqnr_accumulated": 15.0, "clipped": 0.01, "range_used": 0.9}
    points = [LayerRecord(f"{ODD}.{place}", 4, True, 2.0, 0.0, 1.8, **ratios) for place in range(count)]
    return LayerAnalysis((*points, replace(points[0], sqnr=float("inf"))), 12.0, 1)


def a_table():
    widths = ((2, 3, 403), (3, 4))
    return qx.SensitivityTable((ODD, "b"), widths, ((0.5, 0.25, 0.0), (2.0, 1e-4)), "KL divergence", "nats", 8)


def a_run():
    return an_exploration(members=6, points=3)


PICTURES = {
    "pareto": (lambda **given: qx.plot_pareto_front(an_exploration(), **given), "ParetoFrontRecord"),
    "lower": (lambda **given: qx.plot_pareto_front(an_exploration(lower=True), **given), "ParetoFrontRecord"),
    "one cost": (
        lambda **given: qx.plot_pareto_front(a_costly_exploration(), cost="bops", **given),
        "ParetoFrontRecord",
    ),
    "several": (lambda **given: qx.plot_pareto_front([a_run(), a_run()], labels=[ODD, "b"], **given), "FrontsRecord"),
    "runs": (
        lambda **given: qx.plot_pareto_front([an_exploration(members=k) for k in (3, 5)], labels=[ODD] * 2, **given),
        "FrontsRecord",
    ),
    "objectives": (lambda **given: qx.plot_pareto_front(a_costly_exploration(), **given), "ObjectivesRecord"),
    "num_bits": (lambda **given: qx.plot_num_bits(a_costly_exploration(), **given), "NumBitsRecord"),
    "parallel": (
        lambda **given: qx.plot_parallel_coordinates(a_costly_exploration(), **given),
        "ParallelCoordinatesRecord",
    ),
    "hypervolume": (lambda **given: qx.plot_hypervolume(a_run(), **given), "HypervolumeRecord"),
    "timeline": (lambda **given: qx.plot_timeline(a_run(), **given), "TimelineRecord"),
    "timelines": (lambda **given: qx.plot_timeline([a_run(), a_run()], labels=["a", "b"], **given), "TimelinesRecord"),
    "fine_tuning": (lambda **given: qx.plot_fine_tuning(a_refinement(), **given), "FineTuningRecord"),
    "analysis": (lambda **given: qx.plot_analysis(an_analysis(), **given), "LayerAnalysisRecord"),
    "sensitivity": (lambda **given: qx.plot_sensitivity(a_table(), **given), "SensitivityRecord"),
}
each_picture = pytest.mark.parametrize(("plot", "kind"), PICTURES.values(), ids=PICTURES)


def numbers(values):
    """What is finite in nested sequences of numbers, rounded."""
    flat = np.array(list(flattened(values)), dtype=float)
    return set(np.round(flat[np.isfinite(flat)], 9).tolist())


def flattened(values):
    for value in values:
        if isinstance(value, (list, tuple, np.ndarray)):
            yield from flattened(value)
        elif value is not None and not isinstance(value, str):
            yield value


def in_both(plot, monkeypatch):
    """The figure of each backend, and the record that both were drawn from."""
    records = []
    drawn = _drawing.drawn

    def spied(record, *given):
        records.append(record)
        return drawn(record, *given)

    for name in (
        "pareto_front",
        "fine_tuning",
        "hypervolume",
        "layers",
        "num_bits",
        "parallel_coordinates",
        "timeline",
    ):
        monkeypatch.setattr(f"qexplore.report.{name}.drawn", spied)
    still, figure = plot(), plot(backend="plotly")
    assert records[0] == records[1]
    return still, figure, records[0]


def words(text):
    """Words without how they are broken into lines."""
    return " ".join(text.split())


def plainly(text):
    """What plotly's words say, without how they are marked up."""
    for written, meant in (("<br>", " "), ("<b>", ""), ("</b>", ""), ("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$")):
        text = text.replace(written, meant)
    return words(text.replace("&amp;", "&"))


@each_picture
def test_a_picture_in_plotly_has_the_words_of_its_record_and_of_matplotlibs(plot, kind, monkeypatch):
    still, figure, record = in_both(plot, monkeypatch)
    assert type(record) is getattr(report, kind)
    assert isinstance(figure, go.Figure)
    assert plainly(figure.layout.title.text) == words(record.title)
    assert plainly(figure.layout.title.subtitle.text or "") == words(getattr(record, "subtitle", ""))

    axes = [panel for panel in still.axes if panel.get_label() != "<colorbar>"]
    labels = {words(text) for panel in axes for text in (panel.get_xlabel(), panel.get_ylabel()) if text}
    shown = {plainly(one.title.text or "") for one in (*figure.select_xaxes(), *figure.select_yaxes())} - {""}
    assert shown == labels
    legends = {words(text.get_text()) for panel in axes if panel.get_legend() for text in panel.get_legend().texts}
    legends |= {words(text.get_text()) for legend in still.legends for text in legend.texts}
    known = [one for one in (*figure.data, *figure.layout.shapes) if one.showlegend]
    names = [plainly(one.name) for one in known]
    assert len(set(names)) == len(names)
    if kind != "TimelineRecord":  # whose matplotlib legend adds the amounts, which the mouse shows
        assert set(names) == legends
    else:
        assert {one.what for one in record.spent} < set(names)


NUMBERS = {
    "ParetoFrontRecord": lambda one: (one.cost, one.accuracy, one.other_accuracy, one.knee),
    "FrontsRecord": lambda one: [(line.line, line.best) for line in one.lines],
    "ObjectivesRecord": lambda one: [goal.values for goal in one.objectives],
    "NumBitsRecord": lambda one: [one.levels.index(code) for row in one.num_bits for code in row],
    "ParallelCoordinatesRecord": lambda one: one.heights,
    "HypervolumeRecord": lambda one: (one.num_evaluations, one.hypervolume),
    "TimelineRecord": lambda one: (one.seconds, one.num_passes, one.hypervolume, [m.accuracy for m in one.followed]),
    "TimelinesRecord": lambda one: [(line.seconds, line.hypervolume, line.best) for line in one.lines],
    "FineTuningRecord": lambda one: (one.before, one.before_line, one.after_line),
    "LayerAnalysisRecord": lambda one: (one.sqnr, one.sqnr_accumulated, [100 * share for share in one.clipped]),
    "SensitivityRecord": lambda one: [np.log10(value) for row in one.values for value in row if value],
}


@each_picture
def test_a_picture_in_plotly_has_the_numbers_of_its_record(plot, kind, monkeypatch):
    _, figure, record = in_both(plot, monkeypatch)
    drawn = [values for trace in figure.data for values in (trace.x, trace.y, getattr(trace, "z", None))]
    assert numbers(NUMBERS[kind](record)) <= numbers(values for values in drawn if values is not None)
    levels = {shape.y0 for shape in figure.layout.shapes if shape.y0 == shape.y1}
    assert {one for one in (getattr(record, "float_accuracy", None), getattr(record, "min_accuracy", None)) if one} <= (
        levels
    )


@pytest.mark.parametrize("source", [an_exploration(points=5), an_exploration(points=90)], ids=["few", "many"])
def test_the_mouse_shows_the_width_of_every_point_in_full(source):
    figure = qx.plot_pareto_front(source, backend="plotly")
    [line] = [trace for trace in figure.data if trace.name.startswith("front: ")]
    for text, point in zip(line.hovertext, sorted(source.front, key=lambda one: one.total_bits), strict=True):
        for name, code in zip(source.front.point_names, point.num_bits, strict=True):
            assert f"{name}: {choice_words(code)}" in text.replace(",", "<br>").split("<br>") or (
                f" {name}: {choice_words(code)}" in text.replace("<br>", " ")
            )
        assert f"{point.accuracy:.4f}"[:5] in text


@pytest.mark.parametrize("picture", ["several", "runs", "analysis", "sensitivity"])
def test_names_are_text_and_no_markup_formula_or_template(picture):
    plot, _ = PICTURES[picture]
    figure = plot(backend="plotly").to_plotly_json()
    texts = [text for text in strings(figure) if "x" in text and "amp" in text]
    assert any(WRITTEN in text for text in texts)
    assert not any(ODD in text or "<b>$" in text for text in texts)
    assert all("hovertemplate" not in trace for trace in figure["data"])


def strings(known):
    if isinstance(known, str):
        yield known
    elif isinstance(known, dict):
        yield from itertools.chain.from_iterable(map(strings, known.values()))
    elif isinstance(known, (list, tuple, np.ndarray)):
        yield from itertools.chain.from_iterable(map(strings, known))


def test_a_level_in_several_panels_stands_once_in_the_legend_and_is_hidden_in_all():
    figure = qx.plot_pareto_front(a_costly_exploration(costs=("total_bits", "bops", "energy")), backend="plotly")
    floats = [shape for shape in figure.layout.shapes if shape.name.startswith("float network")]
    assert len(floats) == 3
    assert [bool(shape.showlegend) for shape in floats] == [True, False, False]
    assert len({shape.legendgroup for shape in floats}) == 1


@each_picture
def test_a_panel_of_matplotlib_is_refused_with_plotly(plot, kind):
    with pytest.raises(ReportError, match=r"ax: backend='plotly' draws a figure of its own.*Leave ax= out"):
        plot(backend="plotly", ax=object())


@each_picture
def test_an_unknown_backend_is_refused_with_those_there_are(plot, kind):
    with pytest.raises(ReportError, match=r"backend.*matplotlib.*plotly.*got 'plotli'"):
        plot(backend="plotli")


def test_without_plotly_the_extra_is_named(monkeypatch):
    def lacks(name):
        raise ModuleNotFoundError("no", name="plotly")

    monkeypatch.setattr("importlib.import_module", lacks)
    with pytest.raises(MissingPackageError, match=r"backend='plotly' needs.*pip install 'qexplore\[report\]'"):
        qx.plot_num_bits(an_exploration(), backend="plotly")


def test_a_figure_of_plotly_is_saved_as_a_page_that_needs_nothing_else(tmp_path):
    figure = qx.plot_num_bits(an_exploration(), tmp_path / "pages" / "num_bits.html", backend="plotly")
    page = (tmp_path / "pages" / "num_bits.html").read_text(encoding="utf-8")
    assert "num_bits of each quantization point" in page
    assert len(page) > 1e6
    assert figure.data


@pytest.mark.parametrize(("backend", "name"), [("plotly", "front.png"), ("matplotlib", "front.html")])
def test_a_file_of_the_other_backend_is_refused_with_the_way_out(tmp_path, backend, name):
    with pytest.raises(ReportError, match=r"path: .*backend='(matplotlib|plotly)'"):
        qx.plot_num_bits(an_exploration(), tmp_path / name, backend=backend)
    assert not list(tmp_path.iterdir())
