"""Pictures of layers: the records say what is drawn, the drawings are written."""

import math

import pytest
from problems import search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import FrontError
from qexplore.evaluation import LayerAnalysis, LayerRecord
from qexplore.report import SensitivityRecord, layer_analysis_record, sensitivity_record
from qexplore.report._canvas import short_names
from qexplore.report.layers import draw_sensitivity


def a_point(index, **fields):
    given = {"sqnr": 20.0 - index, "sqnr_accumulated": 15.0 - index, "clipped": 0.01 * index, "range_used": 0.9}
    return LayerRecord(f"stage{index % 4}.block{index}.relu", 4, True, 2.0, 0.0, 1.8, **given | fields)


def test_the_record_of_an_analysis_holds_every_point_in_order():
    analysis = qx.analyze(tiny_model(), search_loader(), [8, 2, 4])
    record = layer_analysis_record(analysis)
    assert record.point_names == ("input", "relu1", "relu2")
    assert record.num_bits == (8, 2, 4)
    assert record.sqnr == tuple(point.sqnr for point in analysis.points)
    assert record.sqnr_limits[0] <= 0
    assert record.sqnr_limits[1] > max(record.sqnr)


def test_infinite_and_unknown_ratios_do_not_set_the_limits():
    points = (a_point(0, sqnr=math.inf), a_point(1, sqnr=math.nan, sqnr_accumulated=-math.inf), a_point(2))
    record = layer_analysis_record(LayerAnalysis(points, math.inf, 1))
    assert all(map(math.isfinite, record.sqnr_limits))
    assert record.clipped_limit >= 0.02
    assert record.range_used_limit >= 1.0


def test_the_record_of_a_table_has_the_most_sensitive_point_first():
    table = qx.SensitivityTable(("a", "b"), ((2, 3), (3, 4)), ((0.5, 0.0), (2.0, math.inf)), "KL divergence", "nats", 8)
    record = sensitivity_record(table)
    assert record.point_names == ("b", "a")
    assert record.num_bits == (2, 3, 4)
    assert record.values == ((None, 2.0, math.inf), (0.5, 0.0, None))
    assert record.colour_limits == (0.5, 2.0)


def test_formats_stand_among_the_widths_of_a_table_by_stored_bits(tmp_path):
    table = qx.SensitivityTable(("a", "b"), ((4, 8, 0), (1201, 403)), ((1.0, 0.5, 0.0), (2.0, 0.1)), "m", "", 8)
    figure = qx.plot_sensitivity(table, tmp_path / "table.png")
    assert sensitivity_record(table).num_bits == (4, 1201, 8, 403, 0)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["4", "MXE2M1", "8", "E4M3", "off"]


@pytest.mark.parametrize("count", [1, 20, pytest.param(120, marks=pytest.mark.slow)])
def test_pictures_are_written(tmp_path, count):
    points = tuple(a_point(index) for index in range(count - 1)) + (
        a_point(3, sqnr=math.inf, sqnr_accumulated=math.nan),
    )
    qx.plot_analysis(LayerAnalysis(points, 12.0, 1), tmp_path / "layers.png")
    names = tuple(f"point{index}" for index in range(count))
    values = tuple((0.5 / (index + 1), 0.1 / (index + 1), 0.0) for index in range(count))
    table = qx.SensitivityTable(names, ((2, 3, 4),) * count, values, "m", "", 8)
    qx.plot_sensitivity(table, tmp_path / "table.svg")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "table.svg").read_text()


def test_a_table_of_a_real_network_is_drawn(tmp_path):
    qx.plot_sensitivity(qx.sensitivity(tiny_problem(upper=8)), tmp_path / "table.png")
    assert (tmp_path / "table.png").exists()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(FrontError, match="needs a LayerAnalysis, got str"):
        qx.plot_analysis("analysis")
    with pytest.raises(FrontError, match="nothing to draw"):
        qx.plot_analysis(LayerAnalysis((), 1.0, 1))
    with pytest.raises(FrontError, match="suffix"):
        qx.plot_analysis(LayerAnalysis((a_point(0),), 1.0, 1), "layers.gif")


def test_long_names_keep_their_numbers_and_ends() -> None:
    names = [f"bert.encoder.layer.{layer}.attention.self.query.weight" for layer in range(12)]
    assert short_names(names) == [f"…{layer}.attention.self.query.weight" for layer in range(12)]
    assert short_names(["conv1", "layer1.0.relu"]) == ["conv1", "layer1.0.relu"]
    assert short_names(["features_denseblock4_denselayer16_convolution2"]) == ["…denseblock4_denselayer16_convolution2"]


def test_names_that_differ_in_a_part_that_goes_keep_it_or_stay_whole() -> None:
    ends = [f"{side}.stages.blocks.3.attention.projection.weight" for side in ("encoder", "decoder")]
    assert short_names(ends) == ["encoder.…3.…projection.weight", "decoder.…3.…projection.weight"]
    middles = [f"backbone.stages.{kind}.3.attention.output.projection.weight" for kind in ("left", "right")]
    assert short_names(middles) == middles


@pytest.mark.parametrize("count", [57, 150])
def test_a_picture_of_many_points_grows_and_names_every_row(count: int) -> None:
    names = tuple(f"layers.{place}.weight" for place in range(count))
    record = SensitivityRecord("top1", "", names, (2, 4), tuple((0.5, 0.25) for _ in names), (0.25, 0.5))
    figure = draw_sensitivity(record)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(names)
    assert figure.get_size_inches()[1] > 8
