"""A method of calibration for each point: by selectors, the last about a point counts."""

from functools import cache
from typing import Any

import pytest
import torch
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from qexplore import predicates
from qexplore.errors import CalibrationError
from qexplore.model import QuantizedModel

LOADER = [torch.randn(64, 8, generator=torch.Generator().manual_seed(seed)) ** 3 for seed in range(2)]
POINTS = ("first", "act", "last", "add.input", "first.weight", "last.weight")


class Block(nn.Module):
    """A layer with a sum beside it, one operand of which is a point that is found in data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.last(x + self.act(self.first(x)))


def wrapped() -> QuantizedModel:
    torch.manual_seed(0)
    return QuantizedModel(
        Block().eval(),
        activations=predicates.by_type(nn.Linear, nn.ReLU),
        functions=predicates.by_operand(torch.add),
        weights=predicates.weighted,
        quantize_input=False,
    )


def tables(model: QuantizedModel) -> dict[str, list[Any]]:
    """Each point's range at several widths."""
    found: dict[str, list[Any]] = {name: [] for name in model.fake_quantizers}
    for width in (2, 4, 8):
        model.num_bits = [width] * len(found)
        for name, quantizer in model.fake_quantizers.items():
            assert quantizer.amax is not None
            found[name].append(quantizer.amax.flatten().tolist())
    return found


@cache
def by_one(method: str) -> dict[str, list[Any]]:
    """As `tables`, all points by one method."""
    model = wrapped()
    model.calibrate(LOADER, method=method, weight_method=method, clip_outputs=True)
    return tables(model)


@pytest.mark.parametrize(
    ("given", "of_weights", "expected"),
    [
        ({"add.input": "percentile"}, None, ("max", "max", "max", "percentile", "auto", "auto")),
        (
            {predicates.everything: "mse", "a*": "percentile"},
            "max",
            ("mse", "percentile", "mse", "percentile", "max", "max"),
        ),
        ({"a*": "percentile", "activations": "mse"}, {"*": "mse"}, ("mse", "mse", "mse", "mse", "mse", "mse")),
        (
            {lambda module: isinstance(module, nn.Linear): "auto", predicates.by_operand(torch.add): "mse"},
            {"last.*": "max"},
            ("auto", "max", "auto", "mse", "auto", "max"),
        ),
    ],
    ids=["one found in data", "the last counts", "the last is about all", "predicates"],
)
def test_each_point_has_the_range_of_its_own_method(given: Any, of_weights: Any, expected: tuple[str, ...]) -> None:
    model = wrapped()
    report = model.calibrate(LOADER, method=given, weight_method=of_weights, clip_outputs=True)
    methods = {row.name: row.method for row in report.ranges}
    assert {name: methods[name] for name in POINTS} == dict(zip(POINTS, expected, strict=True))
    found = tables(model)
    assert {name: found[name] == by_one(method)[name] for name, method in methods.items()} == dict.fromkeys(
        POINTS, True
    )


def test_report_tells_methods_apart_and_what_is_not_clipped() -> None:
    report = wrapped().calibrate(LOADER, method={"a*": "mse", "last": "mse"}, weight_method={"first.*": "mse"})
    assert report.method == "mse at 3 points, max at 1"
    assert report.weight_method == "mse at 1 point, auto at 1"
    assert {row.name: row.method for row in report.ranges}["last"] == "max"  # the network's output
    assert str(report).splitlines()[0] == (
        "Calibrated on 2 batches, method mse at 3 points, max at 1, weights by mse at 1 point, auto at 1, amax of the "
        "present choices"
    )


def test_options_are_those_of_the_methods_that_are_asked_for() -> None:
    model, other = wrapped(), wrapped()
    model.calibrate(LOADER, method={"act": "percentile", "first": "mse"}, percentile=90.0)
    other.calibrate(LOADER, method="percentile", percentile=90.0)
    assert tables(model)["act"] == tables(other)["act"] != by_one("percentile")["act"]
    assert tables(model)["first"] == by_one("mse")["first"]


def test_options_count_at_points_that_data_is_yet_to_find_and_a_keyword_of_none_is_named() -> None:
    found = {"functions": predicates.by_function(torch.add), "quantize_input": False}
    model = QuantizedModel(Block().eval(), **found)
    assert model.calibrate(LOADER, method="percentile", percentile=90.0).ranges[0].method == "percentile"
    descriptor = QuantDescriptor(calib_method="histogram")
    report = QuantizedModel(Block().eval(), quant_desc=descriptor, **found).calibrate(LOADER, percentile=90.0)
    assert [row.method for row in report.ranges] == ["percentile"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'methode', did you mean 'method'"):
        model.calibrate(LOADER, methode="mse")
    weights = QuantizedModel(Block().eval(), weights=predicates.weighted)
    with pytest.raises(CalibrationError, match="options of a method are for activations, but there are none"):
        weights.calibrate(LOADER, method="percentile", percentile=90.0)
    assert "activation elements left float, by what reads them: " in str(weights.describe(LOADER[0]))
    assert "what the network is given, x: quantize_input=True puts one on it" in weights.describe(LOADER[0]).notes[0]
    assert not any("quantize_input" in note for note in model.describe(LOADER[0]).notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": {"act": "minmax"}}, r"method\['act'\] must be one of 'max', .*'auto', got 'minmax'"),
        ({"method": {"atc": "mse"}}, r"method\['atc'\] matches no point, did you mean 'act'\?$"),
        (
            {"method": {"weights": "mse"}},
            r"method\['weights'\] matches no point.*add.input \(function, operand of add\)$",
        ),
        ({"method": {3: "mse"}}, r"method\[3\] is no selector: a predicate must be"),
        ({"method": {}}, "`method` must hold at least one selector with its method"),
        (
            {"method": {"act": "mse"}, "percentile": 99.0},
            "'mse' has no option 'percentile': pass method=\"percentile\"",
        ),
        ({"weight_method": {"act": "mse"}}, r"weight_method\['act'\] matches no point. There are:\n  first.weight"),
        ({"weight_method": {"weights": "entropy"}}, r"weight_method\['weights'\] .* entropy is for activations"),
    ],
    ids=str,
)
def test_mistakes_are_named_and_leave_ranges_as_they_were(options: dict[str, Any], message: str) -> None:
    model = wrapped()
    model.calibrate(LOADER, weight_method="max", clip_outputs=True)
    with pytest.raises(CalibrationError, match=f"(?s){message}"):
        model.calibrate(LOADER, **options)
    assert tables(model) == by_one("max")
