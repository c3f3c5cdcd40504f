"""Pictures: the records say what is drawn, the drawings can be read."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.text import Text
from pictures import a_costly_exploration, an_exploration, assert_within, uniform_front

import qexplore as qx
import qexplore.report as report
from qexplore._choices import choice_name
from qexplore.errors import FrontError, ReportError
from qexplore.front import Front, FurtherMetric
from qexplore.report import (
    hypervolume_record,
    num_bits_record,
    objectives_record,
    parallel_coordinates_record,
    pareto_front_record,
    plot_parallel_coordinates,
    plot_pareto_front,
)
from qexplore.report._canvas import panel_of
from qexplore.report._labels import label_points
from qexplore.report._wording import amount_text, opening_words, tick_texts
from qexplore.report.num_bits import level_colours
from qexplore.report.pareto_front import draw_pareto_front

PLOTS = (qx.plot_pareto_front, qx.plot_num_bits, qx.plot_hypervolume)


def test_record_of_a_front_holds_what_the_exploration_says():
    exploration = an_exploration()
    record = pareto_front_record(exploration)

    assert (record.cost_name, record.cost) == ("total_bits", tuple(exploration.front.total_bits))
    assert all(record.on_line)
    assert record.accuracy == tuple(exploration.front.accuracy)
    assert record.report_accuracy == tuple(exploration.front.report_accuracy)
    assert (record.float_accuracy, record.min_accuracy) == (0.94, 0.88)
    assert record.knee == (exploration.front.knee().total_bits, exploration.front.knee().accuracy)
    assert [one.label for one in record.uniform] == [f"{width} bit" for width in range(2, 9)]


@pytest.mark.parametrize("lower", [False, True])
def test_uniform_widths_far_off_are_left_out_and_the_rest_is_within_the_picture(lower):
    record = pareto_front_record(an_exploration(lower=lower))
    low, high = record.accuracy_limits

    assert [one.label for one in record.uniform if not one.shown] == ["2 bit", "3 bit"]
    shown = [one.accuracy for one in record.uniform if one.shown]
    ends = [end for interval in record.intervals for end in interval]
    assert low < min([*shown, *ends, *record.report_accuracy])
    assert high > max([*shown, *ends, *record.report_accuracy])


def test_uniform_widths_of_a_far_cost_do_not_press_the_front_into_a_corner():
    exploration = an_exploration()
    exploration.uniform = uniform_front({4: 0.90, 5: 0.91, 8: 0.93, 16: 0.94}, 20)
    record = pareto_front_record(exploration)
    assert [one.label for one in record.uniform if not one.shown] == ["16 bit"]
    axes = draw_pareto_front(record).axes[0]
    left, right = axes.get_xlim()
    assert (max(record.cost) - min(record.cost)) / (right - left) > 0.2
    legend = " ".join(text.get_text() for text in axes.get_legend().get_texts())
    assert "not shown: 16 bit 0.94" in " ".join(legend.split())


def test_savings_are_those_of_the_front():
    exploration = an_exploration()
    savings = exploration.front.bits_saved(exploration.uniform)
    record = pareto_front_record(exploration)

    assert savings
    assert len(record.savings) == min(3, len(savings))
    widest = savings[-1]
    assert record.savings[0].uniform == (widest.other_point.total_bits, widest.other_point.accuracy)
    assert record.savings[0].front == (widest.point.total_bits, widest.point.accuracy)
    assert record.savings[0].text.startswith(f"{widest.saved:.0f} (")
    assert record.savings[0].text.endswith(f"against 8 bit, {widest.change}")
    assert record.subtitle.split("\n")[1].startswith(record.savings[0].text)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_pictures_of_scores_of_the_search_set_say_so(backend):
    for plot in (qx.plot_num_bits, qx.plot_parallel_coordinates, qx.plot_hypervolume, qx.plot_timeline):
        figure = plot(an_exploration(), backend=backend)
        words = figure.to_json() if backend == "plotly" else str([one.get_text() for one in figure.findobj(Text)])
        assert re.search("(on|of) the search set", words)


def test_widths_stand_in_rows_of_points_and_columns_of_members():
    front = an_exploration(members=9).front
    record = num_bits_record(front)

    assert np.array_equal(np.array(record.num_bits), front.num_bits.T)
    assert record.point_names == front.point_names
    assert record.levels[-1] == 0  # off, beyond the widest
    assert list(record.levels[:-1]) == list(range(1, 9))


def test_hypervolume_record_is_the_history():
    record = hypervolume_record(an_exploration())

    assert record.num_evaluations == (1, 5, 40)
    assert record.hypervolume == (0.0, 1.5, 2.0)
    assert record.reference_point == (("accuracy", 0.88), ("total_bits", 160.0))


def test_hypervolume_can_be_measured_against_another_reference_point():
    exploration = a_costly_exploration()
    reference = (0.85, 500.0, 5e5)
    record = hypervolume_record(exploration, reference)

    assert record.hypervolume == (exploration.front.hypervolume(reference),) * 2 != (0.0, 0.0)
    assert record.reference_point == (("accuracy", 0.85), ("total_bits", 500.0), ("bops", 5e5))
    with pytest.raises(FrontError, match="must be 3 finite numbers"):
        qx.plot_hypervolume(exploration, reference_point=(0.85, 500.0))


def test_one_cost_of_several_is_drawn_by_its_name():
    exploration = a_costly_exploration(costs=("latency_ms", "model_bytes"))
    front = exploration.front
    record = pareto_front_record(exploration, "model_bytes")

    rows = np.argsort(front.cost("model_bytes"))
    assert record.cost == tuple(front.cost("model_bytes")[rows])
    assert record.on_line == tuple(front.nondominated(["accuracy", "model_bytes"])[rows])
    assert record.knee == (front.knee().costs["model_bytes"], front.knee().accuracy)
    axes = plot_pareto_front(exploration, cost="model_bytes").axes[0]
    assert axes.get_xlabel() == "model bytes"
    assert axes.get_title(loc="left") == "accuracy against model bytes"
    with pytest.raises(FrontError, match="got 'energy'"):
        plot_pareto_front(exploration, cost="energy")


def test_the_axis_is_named_after_the_cost():
    front = Front(num_bits=[[2]], accuracy=[0.9], costs=[[3.0]], point_names=("a",), cost_names=("latency_ms",))
    axes = plot_pareto_front(front).axes[0]

    assert axes.get_xlabel() == "latency (ms)"
    assert any("knee: 3 ms" in text.get_text() for text in axes.get_legend().get_texts())


def test_uniform_candidates_are_labelled_by_what_tells_them_apart():
    rows = [[8, 4, 4], [8, 4, 5], [8, 403, 403], [8, 0, 403], [8, 4, 1201], [8, 0, 0]]
    front = Front(
        num_bits=rows, accuracy=[0.9] * 6, costs=[[float(cost)] for cost in range(6)], point_names=("a", "b", "c")
    )
    exploration = SimpleNamespace(front=front, uniform=front, float_accuracy=0.91)
    record = pareto_front_record(exploration)

    labels = ["4 bit", "4-5 bit", "E4M3", "E4M3", "4 bit to MXE2M1", "off"]
    assert [one.label for one in record.uniform] == labels
    assert [one.is_format for one in record.uniform] == [False, False, True, True, True, False]
    assert [one.shown for one in record.uniform] == [True] * 5 + [False]  # off is the float network


def test_formats_stand_among_the_widths_by_stored_bits():
    record = num_bits_record(a_costly_exploration().front)
    colours = level_colours(record.levels)

    assert record.levels == (2, 3, 4, 1201, 5, 6, 7, 8, 403, 0)
    assert len(set(colours)) == len(colours)


def test_cells_and_colour_scale_name_the_choices():
    front = a_costly_exploration(members=6).front
    cells, scale = qx.plot_num_bits(front).axes

    order = np.argsort(front.costs[:, 0])
    names = [choice_name(code) for code in front.num_bits[order].T.ravel()]
    assert [text.get_text() for text in cells.texts] == names
    assert [label.get_text() for label in scale.get_yticklabels()] == [
        choice_name(level) for level in num_bits_record(front).levels
    ]


def test_a_heat_map_of_many_points_grows_until_every_row_has_its_name():
    figure = qx.plot_num_bits(a_costly_exploration(points=60).front)

    assert figure.get_size_inches().tolist() == [12, 10]
    assert len(figure.axes[0].get_yticks()) == 60


def test_one_point_and_equal_values_can_be_drawn():
    front = a_costly_exploration(members=1).front
    record = parallel_coordinates_record(front)

    np.testing.assert_allclose(record.heights, 0.5)
    plot_pareto_front(front)
    plot_parallel_coordinates(front).canvas.draw()


def test_costs_of_any_size_are_written_short():
    assert [amount_text(value) for value in (12, 99_999.5, 123_456, 1.25e9, 0.00123)] == [
        "12", "99,999.50", "123.5 k", "1.25 G", "0.00123",
    ]  # fmt: skip
    assert tick_texts([0.9, 0.915]) == ["0.900", "0.915"]
    assert tick_texts([0.0, 2e9]) == ["0", "2 G"]


def test_labels_cover_neither_each_other_nor_points():
    axes = panel_of(None)
    figure = axes.figure
    places = [(1.0, 1.0, "E4M3"), (1.0, 1.0, "E5M2"), (1.0, 1.001, "8 bit"), (2.0, 2.0, "MXE4M3"), (2.0, 1.99, "off")]
    labels = [(*place, "black") for place in places]
    axes.plot([1, 2], [1, 2], "o")
    label_points(axes, labels, [(1.01, 0.99)], size=12, below=True)
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]

    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in boxes)


@pytest.mark.parametrize("plot", PLOTS)
def test_pictures_are_1200_by_800(plot, tmp_path):
    plot(an_exploration(), path=tmp_path / "picture.png")

    head = (tmp_path / "picture.png").read_bytes()[:24]
    assert struct.unpack(">II", head[16:24]) == (1200, 800)


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_other_formats_are_written_by_suffix(suffix, tmp_path):
    qx.plot_pareto_front(an_exploration(), path=tmp_path / f"picture{suffix}")

    assert (tmp_path / f"picture{suffix}").read_bytes()[:5] in (b"<?xml", b"%PDF-")


def test_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FrontError, match="must be one of .*got '.txt'"):
        qx.plot_pareto_front(an_exploration(), path=tmp_path / "picture.txt")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("plot", PLOTS)
def test_empty_front_is_refused(plot):
    exploration = an_exploration()
    exploration.front = Front.from_candidates(
        num_bits=[[2, 2]], accuracy=[0.1], costs=[[4]], point_names=("a", "b"), min_accuracy=0.9
    )

    with pytest.raises(FrontError, match="nothing to draw"):
        plot(exploration)


def test_front_alone_is_drawn_without_uniform_widths():
    record = pareto_front_record(an_exploration().front)

    assert record.uniform == ()
    assert record.savings == ()
    with pytest.raises(FrontError, match="has no history"):
        qx.plot_hypervolume(an_exploration().front)


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    ("members", "points"), [(1, 1), (8, 5), (20, 20), pytest.param(40, 120, marks=pytest.mark.slow)]
)
def test_all_text_is_within_the_picture(plot, members, points):
    assert_within(plot(an_exploration(members, points)))


@pytest.mark.parametrize("plot", [plot_pareto_front, plot_parallel_coordinates])
@pytest.mark.parametrize("costs", [("bops", "model_bytes"), ("bops", "peak_activation_bytes", "latency_ms", "energy")])
def test_all_text_of_several_costs_is_within_the_picture(plot, costs):
    assert_within(plot(a_costly_exploration(costs=costs, min_accuracy=0.88)))


def test_all_text_of_many_points_with_formats_is_within_the_picture():
    assert_within(qx.plot_num_bits(a_costly_exploration(members=6, points=60)))


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(tmp_path):
    qx.plot_pareto_front(an_exploration(metric_name="top_1 $x_{$").front, path=tmp_path / "picture.png")

    assert (tmp_path / "picture.png").exists()


@pytest.mark.slow
def test_drawing_leaves_pyplot_alone_and_importing_loads_no_matplotlib(tmp_path):
    program = (
        "import sys, qexplore.report as report, qexplore as qx;"
        "assert 'matplotlib' not in sys.modules;"
        "front = qx.Front(num_bits=[[2]], accuracy=[0.9], costs=[[2]], point_names=('input',));"
        f"qx.plot_pareto_front(front, path=r'{tmp_path / 'picture.png'}');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("total_bits", "Total bits"), ("bops", "BOPs"), ("lat", "lat"), ("energy_mJ", "energy")]
)
def test_a_sentence_begins_with_a_users_own_name_as_it_is(name, words):
    assert opening_words(name) == words


def test_what_cannot_be_drawn_is_a_report_error_as_which_a_front_error_is_caught_too(tmp_path):
    assert issubclass(ReportError, FrontError)
    for picture in (qx.plot_analysis, qx.plot_fine_tuning, *PLOTS):
        with pytest.raises(ReportError, match=f"^{picture.__name__}: needs"):
            picture(3)
    with pytest.raises(ReportError, match="^path: the suffix"):
        qx.plot_pareto_front(an_exploration(), path=tmp_path / "picture.txt")


FURTHER = (FurtherMetric("f1", True, 0.5), FurtherMetric("loss", False, 0.9))


def further(members, known=True):
    scores = np.column_stack([np.linspace(0.6, 0.8, members), np.linspace(0.5, 0.4, members)])
    scores[0, 1] = scores[0, 1] if known else np.nan
    return {"further": FURTHER, "further_scores": scores}


def test_legends_tell_the_further_scores_of_the_knee():
    exploration = an_exploration(**further(8))
    record, knee = pareto_front_record(exploration), exploration.front.knee()

    assert dict(record.knee_further) == knee.further
    labels = [text.get_text() for text in plot_pareto_front(exploration).axes[0].get_legend().get_texts()]
    assert any(label.startswith("knee") and f", f1 {knee.further['f1']:.4f}, loss" in label for label in labels)
    record = objectives_record(a_costly_exploration(**further(24)))
    assert [one.words for one in record.further] == ["f1", "loss"]
    assert len(record.pairs) == 3, "further metrics are no objectives"


def test_a_further_metric_is_an_axis_of_parallel_coordinates_once_all_its_scores_are_known():
    record = parallel_coordinates_record(a_costly_exploration(**further(24)))
    partly = parallel_coordinates_record(a_costly_exploration(**further(24, known=False)))

    assert [one.words for one in record.objectives] == ["accuracy", "total bits", "BOPs", "f1", "loss"]
    assert [one.words for one in partly.objectives] == ["accuracy", "total bits", "BOPs", "f1"]
    assert record.limits[4][0] > record.limits[4][1], "less of a loss is up"
    names = [
        label.get_text()
        for label in plot_parallel_coordinates(a_costly_exploration(**further(24))).axes[0].get_xticklabels()
    ]
    assert names[-2:] == ["f1\n(higher is better)", "loss\n(lower is better)"]


def test_the_room_shows_what_its_pictures_are_made_of():
    shown = set(vars(report))
    assert shown >= {name for name in qx.__all__ if name.startswith("plot_")}
    files = [file.name for file in pkgutil.iter_modules(report.__path__, "qexplore.report.")]
    # A page is a file, no picture: its records stay behind the room's face.
    made = {name for file in files if "page" not in file for name in defined_in(file)}
    assert {"ParetoFrontRecord", "pareto_front_record", "UniformRecord", "layer_analysis_record"} <= made <= shown


def defined_in(file: str) -> set[str]:
    """What a file of the room defines of a picture: records, the functions that make them and the drawings."""
    things = vars(importlib.import_module(file)).items()
    names = {name for name, thing in things if getattr(thing, "__module__", None) == file}
    return {name for name in names if name.startswith("plot_") or name.lower().endswith("record")}
