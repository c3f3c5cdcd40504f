"""Several fronts in one picture, pictures in the user's own panels, and where time went."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.figure
import moocore
import numpy as np
import pytest
from pictures import a_costly_exploration, an_exploration, assert_within
from problems import tiny_problem

import qexplore as qx
from qexplore._fingerprint import Fingerprint
from qexplore.errors import FrontError, ReportError
from qexplore.front import Front
from qexplore.report import fronts_record, hypervolume_record, timeline_record, timelines_record
from qexplore.report.fronts import draw_fronts


def front(costs, scores, **fields):
    rows = np.full((len(costs), 1), 4)
    return Front(num_bits=rows, accuracy=scores, costs=np.array(costs, float)[:, None], point_names=("a",), **fields)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny.db"
    return qx.explore(tiny_problem(upper=8, min_accuracy=0.85), max_evaluations=40, seed=1, study=path), path


def test_each_front_is_a_line_with_its_label():
    record = fronts_record([front([2, 1, 3], [0.6, 0.5, 0.55]), front([4], [0.7])], labels=["mine", "theirs"])
    mine, theirs = record.lines
    assert (mine.label, mine.num_points, mine.line) == ("mine", 3, ((1, 0.5), (2, 0.6)))
    assert (theirs.text, theirs.line, theirs.best) == ("theirs: 1 point", ((4, 0.7),), ())


def test_runs_of_one_label_are_drawn_by_what_half_of_them_attain():
    runs = [front([1, 3], [0.5, 0.8]), front([2], [0.6]), front([1, 2], [0.4, 0.7])]
    (line,) = fronts_record(runs, labels=["search"] * 3).lines
    assert (line.num_runs, line.num_points) == (3, 5)
    assert line.best == ((1, 0.5), (2, 0.7), (3, 0.8))
    assert line.line == ((1, 0.4), (2, 0.6), (3, 0.7))
    assert line.worst == ((2, 0.5), (3, 0.6))


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_markers_of_runs_stand_where_a_front_has_a_point(backend):
    """At (3, 0.6) half of the runs are by the cost of one point and the score of another; all end before 9."""
    runs = [front([1, 3], [0.5, 0.8]), front([2], [0.6]), front([1, 3], [0.4, 0.55])]
    figure = qx.plot_pareto_front([*runs, front([9], [0.9])], labels=["search"] * 3 + ["other"], backend=backend)
    if backend == "plotly":
        (one,) = (trace for trace in figure.data if trace.name and trace.name.startswith("search"))
        marked = {(x, y) for x, y, size in zip(one.x, one.y, one.marker.size, strict=True) if size}
    else:
        one = next(each for each in figure.axes[0].lines if each.get_label().startswith("search"))
        marked = {tuple(one.get_xydata()[place]) for place in one.get_markevery()}
    assert marked == {(1, 0.4)}


def test_attainment_is_that_of_the_empirical_attainment_function():
    rng = np.random.default_rng(0)
    runs = [front(np.sort(rng.random(6)), np.sort(rng.random(6))) for _ in range(5)]
    (line,) = fronts_record(runs, labels=[""] * 5).lines
    points = np.concatenate([np.column_stack([run.costs, -run.accuracy]) for run in runs])
    surface = moocore.eaf(points, sets=np.repeat(range(5), 6), percentiles=[50])
    assert sorted(line.line) == sorted((cost, -score) for cost, score in surface[:, :2].tolist())


def test_a_run_without_a_point_attains_nothing():
    empty = front([], [])
    (line,) = fronts_record([front([1], [0.5]), empty, front([1], [0.6])], labels=["search"] * 3).lines
    assert (line.best, line.line, line.worst) == (((1, 0.6),), ((1, 0.5),), ())
    assert line.text == "search: attained by half of 3 runs, shaded from all to one, 1 without a point"


def test_where_lower_is_better_the_least_is_the_best():
    runs = [front([1], [score], metric_name="loss", higher_is_better=False) for score in (0.3, 0.2, 0.4)]
    (line,) = fronts_record(runs, labels=["search"] * 3).lines
    assert (line.best, line.line, line.worst) == (((1, 0.2),), ((1, 0.3),), ((1, 0.4),))


def with_uniform(one, labels=(2, 8), **fields):
    """The front with uniform widths beside it, of a score that goes by their width."""
    bits = np.array(labels)[:, None]
    known = {name: getattr(one, name) for name in ("point_names", "cost_names", "metric_name", "higher_is_better")}
    widths = np.repeat(bits, len(one.point_names), axis=1)
    costs = np.repeat(bits * 1.0 * len(one.point_names), len(one.cost_names), axis=1)
    return replace(one, uniform=Front(num_bits=widths, accuracy=bits[:, 0] / 20, costs=costs, **known), **fields)


def reported(one, **fields):
    """The front as it is after a report set has measured it and its uniform widths."""
    uniform = replace(one.uniform, report_accuracy=one.uniform.accuracy, report_float_accuracy=0.7)
    return replace(one, uniform=uniform, report_float_accuracy=0.7, **fields)


def wrapped_as(**differing):
    same = {"network": "Net", "structure": "s", "points": "p", "weights": "w", "ranges": "r"}
    return Fingerprint(**{**same, **differing})


ALIKE = with_uniform(front([4, 6], [0.5, 0.6]), float_accuracy=0.7, fingerprint=wrapped_as())
TWO_POINTS = replace(front([4, 6], [0.5, 0.6]), num_bits=np.array([[2, 2], [3, 3]]), point_names=("a", "b"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ALIKE, ()),
        (replace(ALIKE, accuracy=np.array([0.4, 0.5])), ()),
        (front([6], [0.5]), ()),
        (TWO_POINTS, ("Not alike: b against a: 2 quantization points, not 1",)),
        (replace(front([4], [0.5]), point_names=("c",)), ("Not alike: b against a: other quantization points",)),
        (
            replace(ALIKE, float_accuracy=0.8),
            ("Not alike: b against a: float network 0.8000 on the search set, not 0.7000",),
        ),
        (replace(ALIKE, fingerprint=wrapped_as(network="Other")), ("Not alike: b against a: network Other, not Net",)),
        (replace(ALIKE, fingerprint=wrapped_as(weights="v", ranges="q")), ("Not alike: b against a: other weights",)),
        (
            replace(ALIKE, fingerprint=wrapped_as(ranges="q")),
            ("Not alike: b against a: other ranges of quantizers",),
        ),
        (with_uniform(ALIKE, (3, 8)), ("Not alike: b against a: uniform widths 3 bit to 8 bit, not 2 bit to 8 bit",)),
        (
            replace(ALIKE, costs=2 * ALIKE.costs, uniform=replace(ALIKE.uniform, costs=3 * ALIKE.uniform.costs)),
            ("another cost of that name",),
        ),
        (
            reported(ALIKE, report_accuracy=ALIKE.accuracy),
            ("On the search set, which chose the points: a not measured on a report set",),
        ),
    ],
)
def test_what_makes_fronts_unlike_is_said_on_the_picture(other, said):
    record = fronts_record([ALIKE, other], labels=["a", "b"])
    assert len(record.unlike) == len(said)
    assert all(words in line for words, line in zip(said, record.unlike, strict=True))
    written = "\n".join(text.get_text() for text in draw_fronts(record).axes[0].texts)
    assert all(line in written for line in record.unlike)


def test_fronts_that_are_unlike_in_one_way_share_a_line_and_many_are_counted():
    others = [replace(ALIKE, float_accuracy=score) for score in (0.8, 0.8, 0.81, 0.82, 0.83, 0.84)]
    record = fronts_record([ALIKE, *others], labels=list("abcdefg"))
    assert record.unlike[0].startswith("Not alike: b, c against a")
    assert record.unlike[3:] == ("Not alike either: 2 more",)


def test_uniform_widths_of_each_front_are_drawn_once_where_they_are_the_same():
    moved = replace(ALIKE, uniform=replace(ALIKE.uniform, accuracy=ALIKE.uniform.accuracy + 0.1))
    record = fronts_record([ALIKE, with_uniform(ALIKE, (2, 4, 8)), moved], labels=["a", "b", "c"])
    known = [(one.labels, [uniform.label for uniform in one.uniform]) for one in record.baselines]
    assert known == [(("a", "b"), ["2 bit", "4 bit", "8 bit"]), (("c",), ["2 bit", "8 bit"])]
    legend = [text.get_text() for text in draw_fronts(record).axes[0].get_legend().get_texts()]
    assert any(text.startswith("uniform widths of a, b") for text in legend)
    assert any(text.startswith("uniform widths of c") for text in legend)


def test_points_are_counted_as_they_are_drawn():
    told = reported(with_uniform(front([1, 2, 3], [0.5, 0.6, 0.7])), report_accuracy=np.array([0.6, 0.5, 0.7]))
    (line,) = fronts_record([told], labels=["mine"]).lines
    assert (line.line, line.text) == (((1, 0.6), (3, 0.7)), "mine: 2 points, 1 more beaten by these")


def test_names_of_uniform_widths_are_not_struck_through():
    record = fronts_record([ALIKE], labels=["a"])
    figure = draw_fronts(record)
    figure.canvas.draw()
    axes = figure.axes[0]
    level = axes.transData.transform((0, record.float_accuracy))[1]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text().endswith(" bit")]
    assert not [box for box in boxes if box.y0 < level < box.y1]
    assert not [(a, b) for place, a in enumerate(boxes) for b in boxes[:place] if a.overlaps(b)]


def test_searches_that_nobody_named_are_called_by_algorithm_and_seed(study):
    exploration, path = study
    labels = [line.label for line in fronts_record([exploration, exploration, path, exploration.front]).lines]
    assert labels == ["nsga2, seed 1", "nsga2, seed 1 (2)", "tiny", "front 4"]


def test_the_uniform_widths_and_the_references_that_all_share_stand_beside_them():
    one = an_exploration()
    record = fronts_record([one, one.front], labels=["a", "b"])
    assert {known.label for known in record.uniform} >= {"4 bit", "8 bit"}
    assert record.float_accuracy is None  # the second front does not know it
    assert record.min_accuracy == 0.88


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        ([], {}, "none of 0 fronts has a point"),
        ([front([], [])], {}, "none of 1 fronts has a point"),
        ([front([1], [0.5])], {"labels": ["a", "b"]}, "labels must be a text for each of 1 fronts"),
        ([front([1], [0.5])], {"labels": "a"}, "labels must be a text"),
        ([front([1], [0.5]), front([1], [0.5], metric_name="loss")], {}, "one metric in one direction"),
        ([front([1], [0.5])], {"cost": "bops"}, "bops"),
        ([3], {}, "needs an Exploration, a Front, a Study, or the path"),
    ],
)
def test_what_makes_no_picture_of_several_is_refused(sources, options, said):
    with pytest.raises(FrontError, match=said):
        qx.plot_pareto_front(sources, **options)


@pytest.mark.parametrize("num_runs", [1, 12])
def test_text_of_several_fronts_is_within_the_picture(num_runs):
    explorations = [an_exploration(members=5 + run) for run in range(num_runs)]
    names = [f"_a ${run}$ long name of a search that was run on a machine" for run in range(num_runs)]
    record = fronts_record(explorations, labels=names)
    figure = draw_fronts(record)
    assert_within(figure)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sum("long name" in text for text in texts) == num_runs


PICTURES = {
    "pareto": lambda ax: qx.plot_pareto_front(an_exploration(), ax=ax),
    "several": lambda ax: qx.plot_pareto_front([an_exploration().front] * 3, ax=ax),
    "objectives": lambda ax: qx.plot_pareto_front(a_costly_exploration(), ax=ax),
    "num_bits": lambda ax: qx.plot_num_bits(an_exploration(), ax=ax),
    "parallel": lambda ax: qx.plot_parallel_coordinates(a_costly_exploration(), ax=ax),
    "hypervolume": lambda ax: qx.plot_hypervolume(a_run(), ax=ax),
    "timeline": lambda ax: qx.plot_timeline(a_run(), ax=ax),
    "timelines": lambda ax: qx.plot_timeline([a_run(), a_run()], labels=["a", "b"], ax=ax),
}


def a_run(**fields):
    """A search of three moments, the last of which ended it."""
    known = front([3, 4, 6], [0.5, 0.6, 0.7])
    history = tuple(
        SimpleNamespace(seconds=1.0 * count, num_passes=10.0 * count, hypervolume=float(count), front=known[:count])
        for count in (1, 2, 3)
    )
    return SimpleNamespace(
        front=known,
        history=history,
        reference_point=(0.4, 8.0),
        seconds=4.0,
        num_passes=30.0,
        num_verifications=3,
        **{"num_report_passes": 0, **fields},
    )


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_drawn_into_the_users_panel_and_beside_nothing_else(draw):
    figure = matplotlib.figure.Figure(figsize=(10, 5), layout="constrained")
    mine, other = figure.subplots(1, 2)
    assert draw(mine) is figure
    assert not other.has_data()
    figure.draw_without_rendering()
    assert other.get_position().width > 0.2


def test_the_whole_picture_is_given_back_from_a_figure_within_it():
    figure = matplotlib.figure.Figure()
    part = figure.subfigures(1, 2)[0]
    assert qx.plot_num_bits(an_exploration(), ax=part.subplots()) is figure


@pytest.mark.parametrize("ax", [3, np.zeros(2)], ids=["number", "array"])
def test_what_is_no_panel_is_refused(ax):
    with pytest.raises(ReportError, match="ax: must be an Axes of matplotlib, got"):
        qx.plot_num_bits(an_exploration(), ax=ax)


def test_several_panels_need_a_place_in_a_grid():
    figure = matplotlib.figure.Figure()
    with pytest.raises(ReportError, match="needs an Axes in a grid"):
        qx.plot_timeline(a_run(), ax=figure.add_axes((0, 0, 1, 1)))


def test_the_timeline_follows_the_best_score_at_given_costs():
    record = timeline_record(a_run(), at=[5, 2])
    assert (record.seconds, record.num_passes, record.hypervolume) == ((1, 2, 3), (10, 20, 30), (1, 2, 3))
    assert [(one.cost, one.accuracy) for one in record.followed] == [(2, (None,) * 3), (5, (0.5, 0.6, 0.6))]
    assert [record.amounts(column) for column in (0, 1)] == [
        [("search", 3), ("verification", 1)],
        [("search", 30), ("verification", 3)],
    ]
    told = timeline_record(a_run(num_report_passes=16))  # these go over another set
    assert [record.amounts(column)[1] for column in (0, 1) for record in [told]] == [
        ("verification and report set", 1),
        ("verification", 3),
    ]


def test_a_curve_of_the_timeline_begins_with_a_dot():
    run = a_run()
    fronts = [run.front[count:] for count in (2, 1, 0)]  # the cheapest point comes last
    run.history = tuple(
        SimpleNamespace(**{**vars(step), "front": found}) for step, found in zip(run.history, fronts, strict=True)
    )
    (line,) = qx.plot_timeline(run, at=[3]).axes[1].lines
    assert line.get_xydata()[line.get_markevery()].tolist() == [[3, 0.5]]
    traces = qx.plot_timeline(run, at=[3], backend="plotly").data
    assert [one.marker.size for one in traces if one.y[-1] == 0.5] == [(0, 0, 7)] * 2


def test_a_timeline_of_a_study_tells_what_was_spent_on_what(study):
    exploration, path = study
    record = timeline_record(path)
    moments = dict.fromkeys((one.num_passes, one.hypervolume) for one in exploration.history)
    assert list(zip(record.num_passes, record.hypervolume, strict=True)) == list(moments)
    followed = timeline_record(exploration, [one.cost for one in record.followed]).followed
    assert [one.accuracy[-1] for one in record.followed] == [one.accuracy[-1] for one in followed]
    spent = {one.what: one for one in record.spent}
    assert spent["verification"].num_passes == exploration.num_verifications
    searched = sum(
        one.num_passes for what, one in spent.items() if what in ("sensitivity table", "looks", "evaluations")
    )
    assert searched == pytest.approx(exploration.num_passes)
    assert sum(one.seconds for one in record.spent) == pytest.approx(record.total_seconds)


def test_a_timeline_draws_all_runs_of_a_study_in_a_list_and_names_the_last_alone(tmp_path):
    path = tmp_path / "two.db"
    for seed in (1, 2):
        qx.explore(tiny_problem(upper=8), max_evaluations=12, seed=seed, progress=False, study=path)
    record = timelines_record([path, a_run()], labels=["two", "b"], at=[0])
    assert [line.label for line in record.lines] == ["two", "two", "b"]
    assert record.text("two") == "two: 2 runs (none at 0)"
    assert timeline_record(path).title == "What the search had found when (run 2, the last of 2)"


def test_pictures_take_a_study_or_its_path_where_they_take_an_exploration(study, tmp_path):
    exploration, path = study
    with qx.Study.open(path) as opened:
        assert hypervolume_record(opened) == hypervolume_record(path)
        assert hypervolume_record(path).reference_point == hypervolume_record(exploration).reference_point
        for plot in (qx.plot_pareto_front, qx.plot_num_bits, qx.plot_parallel_coordinates):
            plot(opened)
    exploration.front.save(tmp_path / "front.json")
    qx.plot_pareto_front([path, tmp_path / "front.json"], tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 10_000


def test_several_searches_are_drawn_over_time_against_one_reference_point():
    wider = a_run()
    wider.reference_point = (0.3, 10.0)
    record = timelines_record([a_run(), wider], labels=["a", "b"], at=[5])
    a, b = record.lines
    assert (record.reference_point, record.at, record.unlike) == ((0.3, 10.0), (5.0,), ())
    assert (a.label, a.seconds, a.num_passes) == ("a", (1, 2, 3), (10, 20, 30))
    assert a.best == b.best == ((0.5, 0.6, 0.6),)
    assert a.hypervolume == b.hypervolume == tuple(one.front.hypervolume((0.3, 10.0)) for one in a_run().history)
    unlike = a_run()
    unlike.history = tuple(SimpleNamespace(**{**vars(one), "front": TWO_POINTS}) for one in unlike.history)
    figure = qx.plot_timeline([a_run(), unlike], labels=["_a", "b $x$"])
    assert_within(figure)
    texts = [
        text.get_text()
        for axes in figure.axes
        for text in (*axes.texts, *axes.findobj(lambda one: hasattr(one, "get_text")))
    ]
    assert "Not alike: b $x$ against _a: 2 quantization points, not 1" in texts
    assert {"b $x$", "\N{NO-BREAK SPACE}_a"} <= set(texts)


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        ([], {}, "got no search"),
        ([front([1], [0.5])], {}, "a Front, which has no history"),
        (["run", "run"], {"labels": ["a"]}, "labels must be a text for each of 2"),
        (["run", "loss"], {}, "plot_timeline: all fronts must have one metric"),
        (["run", "costs"], {}, "over the same costs, got total_bits of 'a' and bops of 'b'"),
        (["run", "run"], {"at": ["x"]}, "plot_timeline: at"),
        (["run", "run"], {"cost": "x"}, "'x'"),
    ],
)
def test_what_makes_no_picture_of_several_searches_is_refused(sources, options, said):
    last = {
        "run": front([1], [0.5]),
        "loss": front([1], [0.5], metric_name="loss"),
        "costs": front([1], [0.5], cost_names=("bops",)),
    }
    runs = []
    for one in sources:
        runs.append(a_run() if isinstance(one, str) else one)
        if isinstance(one, str):
            runs[-1].history = tuple(SimpleNamespace(**{**vars(step), "front": last[one]}) for step in runs[-1].history)
            runs[-1].algorithm, runs[-1].seed = "x", 1
    options = {"labels": ["a", "b"][: len(runs)], **options}
    with pytest.raises(FrontError, match=said):
        qx.plot_timeline(runs, **options)


def test_a_front_alone_has_no_timeline():
    with pytest.raises(ReportError, match="a Front, which has no history"):
        qx.plot_timeline(front([1], [0.5]))
