"""Pictures: the records say what is drawn, the drawings can be read."""

from __future__ import annotations

import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import qexplore as qx
from qexplore.errors import FrontError
from qexplore.front import Front
from qexplore.report import hypervolume_record, num_bits_record, pareto_front_record


def uniform_front(accuracies, points, **fields):
    widths = np.array([[width] * points for width in accuracies])
    return Front(
        num_bits=widths,
        accuracy=list(accuracies.values()),
        costs=widths.sum(axis=1, keepdims=True),
        point_names=tuple(f"layer{index % 4}.{index}.relu{index % 2}" for index in range(points)),
        **fields,
    )


def an_exploration(members=8, points=20, *, lower=False, **fields):
    """What `explore` returns, as far as pictures look at it."""
    score = np.linspace(0.90, 0.94, members)
    widths = np.random.default_rng(0).integers(3, 7, (members, points))
    widths[:, 0] = np.arange(members) % 9
    costs = np.sort(np.where(widths == 0, 32, widths).sum(axis=1))[:, None] + np.arange(members)[:, None]
    direction = {"metric_name": "loss" if lower else "accuracy", "higher_is_better": not lower}
    front = Front(
        num_bits=widths,
        accuracy=1 - score if lower else score,
        costs=costs,
        point_names=tuple(f"layer{index % 4}.{index}.relu{index % 2}" for index in range(points)),
        interval=np.column_stack([1 - score - 0.01, 1 - score + 0.01] if lower else [score - 0.01, score + 0.01]),
        report_accuracy=(1 - score if lower else score) - 0.002,
        min_accuracy=0.12 if lower else 0.88,
        verified=True,
        **direction | fields,
    )
    known = {2: 0.10, 3: 0.30, 4: 0.88, 5: 0.91, 6: 0.92, 7: 0.925, 8: 0.93}
    uniform = uniform_front({w: 1 - s if lower else s for w, s in known.items()}, points, **direction)
    history = tuple(
        SimpleNamespace(num_passes=count, seconds=count / 10, hypervolume=volume, generation=1, front=front)
        for count, volume in ((1, 0.0), (5, 1.5), (40, 2.0))
    )
    return SimpleNamespace(
        front=front,
        uniform=uniform,
        float_accuracy=0.06 if lower else 0.94,
        history=history,
        reference_point=(front.min_accuracy, 8.0 * points),
    )


PLOTS = (qx.plot_pareto_front, qx.plot_num_bits, qx.plot_hypervolume)


def test_record_of_a_front_holds_what_the_exploration_says():
    exploration = an_exploration()
    record = pareto_front_record(exploration)

    assert record.total_bits == tuple(exploration.front.total_bits)
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
@pytest.mark.parametrize(("members", "points"), [(1, 1), (8, 5), (20, 20), (40, 120)])
def test_all_text_is_within_the_picture(plot, members, points):
    figure = plot(an_exploration(members, points))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()

    texts = [text for axes in figure.axes for text in axes.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text().strip()]

    assert len(boxes) > 5
    inside = [box for box in boxes if box.x0 >= -1 and box.y0 >= -1 and box.x1 <= 1201 and box.y1 <= 801]
    assert len(inside) >= len(boxes) - outside_ticks(figure, renderer)


def outside_ticks(figure, renderer):
    """Tick labels beyond the limits of an axis have a place outside the picture, but are not drawn."""
    labels = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in (*axis.get_ticklabels(minor=False), *axis.get_ticklabels(minor=True))
        if label.get_text().strip()
    ]
    boxes = [label.get_window_extent(renderer) for label in labels]
    return sum(box.x0 < -1 or box.y0 < -1 or box.x1 > 1201 or box.y1 > 801 for box in boxes)


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(tmp_path):
    qx.plot_pareto_front(an_exploration(metric_name="top_1 $x_{$").front, path=tmp_path / "picture.png")

    assert (tmp_path / "picture.png").exists()


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
