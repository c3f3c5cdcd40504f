"""Pictures of fronts with several costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pictures import a_costly_exploration

from qexplore.errors import FrontError
from qexplore.report import (
    objectives_record,
    parallel_coordinates_record,
    plot_parallel_coordinates,
    plot_pareto_front,
)


def test_pairs_of_objectives_say_what_no_other_member_beats():
    exploration = a_costly_exploration(costs=("total_bits", "bops", "latency_ms"))
    front, record = exploration.front, objectives_record(exploration)

    names = ("accuracy", *front.cost_names)
    pairs = [(names[pair.y], names[pair.x]) for pair in record.pairs]
    assert pairs == list(itertools.combinations(names, 2))
    for pair, (y, x) in zip(record.pairs, pairs, strict=True):
        assert pair.nondominated == tuple(front.nondominated([y, x]))
    assert record.objectives[0].values == tuple(front.accuracy)
    assert record.objectives[2].values == tuple(front.cost("bops"))
    assert [one.higher_is_better for one in record.objectives] == [True, False, False, False]
    assert record.knee == front.knee().index


@pytest.mark.parametrize(("costs", "panels"), [(("bops", "model_bytes"), 3), (("bops", "model_bytes", "energy"), 6)])
def test_a_panel_shows_each_pair_with_its_points_and_knee(costs, panels):
    exploration = a_costly_exploration(costs=costs)
    record = objectives_record(exploration)
    figure = plot_pareto_front(exploration)

    drawn = figure.axes[:panels]
    assert len(figure.axes) == panels + 2  # the legend's corner and the colour bar
    for axes, pair in zip(drawn, record.pairs, strict=True):
        others, best, knee = (collection.get_offsets() for collection in axes.collections)
        x, y = record.objectives[pair.x].values, record.objectives[pair.y].values
        kept = np.array(pair.nondominated)
        expected = np.column_stack([x, y])
        np.testing.assert_array_equal(np.sort(best, axis=0), np.sort(expected[kept], axis=0))
        np.testing.assert_array_equal(others, expected[~kept])
        np.testing.assert_array_equal(knee, expected[[record.knee]])


def test_too_many_costs_for_panels_point_to_the_way_out():
    exploration = a_costly_exploration(costs=("a", "b", "c", "d", "e"))

    with pytest.raises(FrontError, match="plot_parallel_coordinates"):
        plot_pareto_front(exploration)


@pytest.mark.parametrize("lower", [False, True])
def test_better_is_up_on_every_parallel_axis(lower):
    front = a_costly_exploration(costs=("total_bits", "bops", "energy"), higher_is_better=not lower).front
    record = parallel_coordinates_record(front)
    heights = np.array(record.heights)

    best = front.accuracy.argmin() if lower else front.accuracy.argmax()
    assert heights[:, 0].argmax() == best
    assert [heights[:, place].argmax() for place in (1, 2, 3)] == front.costs.argmin(axis=0).tolist()
    assert heights.min() > 0
    assert heights.max() < 1
    for place, (worst, end) in enumerate(record.limits):
        values = worst + heights[:, place] * (end - worst)
        np.testing.assert_allclose(values, record.objectives[place].values)


def test_parallel_lines_are_drawn_at_their_heights():
    front = a_costly_exploration(costs=("total_bits", "bops", "energy", "latency_ms", "mean_bits", "macs")).front
    record = parallel_coordinates_record(front)
    axes = plot_parallel_coordinates(front).axes[0]

    lines = [line.get_ydata() for line in axes.lines[: len(front)]]
    np.testing.assert_allclose(lines, record.heights)
    np.testing.assert_allclose(axes.lines[len(front)].get_ydata(), record.heights[front.knee().index])
    names = [label.get_text().split("\n")[0] for label in axes.get_xticklabels()]
    assert names == ["accuracy", "total bits", "BOPs", "energy", "latency (ms)", "mean bits", "MACs"]
