"""The picture of a front before and after fine-tuning."""

from types import SimpleNamespace

import pytest

import qexplore as qx
from qexplore.errors import FrontError
from qexplore.report import fine_tuning_record


def a_refinement(*, lower=False):
    sign = (lambda score: 1 - score) if lower else (lambda score: score)
    direction = {"metric_name": "loss" if lower else "accuracy", "higher_is_better": not lower}

    def front(rows):
        return qx.Front(
            num_bits=[[cost // 2, cost - cost // 2] for cost, _ in rows],
            accuracy=[sign(score) for _, score in rows],
            costs=[[float(cost), 100.0 - cost] for cost, _ in rows],
            point_names=("a", "b"),
            cost_names=("total_bits", "time"),
            float_accuracy=sign(0.95),
            verified=True,
            **direction,
        )

    before = front([(4, 0.5), (6, 0.7), (7, 0.65), (10, 0.9)])
    after = front([(4, 0.8), (6, 0.85), (10, 0.9)])
    moves = [(4, 0.5, 0.8), (6, 0.7, 0.85)]
    refined = [
        SimpleNamespace(
            costs={"total_bits": float(cost), "time": 100.0 - cost},
            accuracy_before=sign(low),
            accuracy_after=sign(high),
        )
        for cost, low, high in moves
    ]
    return SimpleNamespace(before=before, after=after, refined=refined)


def test_record_holds_both_fronts_and_every_move():
    record = fine_tuning_record(a_refinement())
    assert record.before == ((4, 0.5), (6, 0.7), (7, 0.65), (10, 0.9))
    assert record.before_line == ((4, 0.5), (6, 0.7), (10, 0.9))
    assert record.after_line == ((4, 0.8), (6, 0.85), (10, 0.9))
    assert record.moves == ((4, 0.5, 0.8), (6, 0.7, 0.85))
    assert record.most_won == pytest.approx(0.3)
    assert record.float_accuracy == 0.95
    assert record.accuracy_limits[0] < 0.5 < 0.95 < record.accuracy_limits[1]


def test_gain_is_counted_in_the_metrics_direction():
    assert fine_tuning_record(a_refinement(lower=True)).most_won == pytest.approx(0.3)


def test_another_cost_is_drawn_by_name():
    record = fine_tuning_record(a_refinement(), "time")
    assert record.cost_name == "time"
    assert record.moves == ((94.0, 0.7, 0.85), (96.0, 0.5, 0.8))


@pytest.mark.parametrize("lower", [False, True])
def test_picture_shows_an_arrow_for_each_move_and_is_saved(tmp_path, lower):
    figure = qx.plot_fine_tuning(a_refinement(lower=lower), tmp_path / "picture.png")
    (axes,) = figure.axes
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 2
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[1:] == ["before fine-tuning", "after: 2 points fine-tuned"]
    assert "on the report set" in axes.get_ylabel()


def test_text_is_within_the_picture():
    figure = qx.plot_fine_tuning(a_refinement())
    figure.canvas.draw()
    width, height = figure.bbox.size
    (axes,) = figure.axes
    for text in [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()]:
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1


def test_what_holds_nothing_to_draw_is_refused():
    with pytest.raises(FrontError, match="needs what refine returned, got int"):
        qx.plot_fine_tuning(3)
    empty = a_refinement()
    empty.refined = []
    with pytest.raises(FrontError, match="no point was fine-tuned"):
        qx.plot_fine_tuning(empty)
    with pytest.raises(FrontError, match="bops"):
        qx.plot_fine_tuning(a_refinement(), cost="bops")
