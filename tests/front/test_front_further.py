"""Fronts of several metrics."""

from __future__ import annotations

import numpy as np
import pytest

from qexplore.errors import FrontError
from qexplore.front import Front, FurtherMetric

F1, LOSS = FurtherMetric("f1", True, 0.7), FurtherMetric("loss", False, 0.5)


def with_further(**fields):
    known = {"num_bits": [[4], [5], [6]], "accuracy": [0.9, 0.92, 0.95], "costs": [[4.0], [5.0], [6.0]]}
    known |= {"point_names": ("a",), "further": (F1, LOSS), "further_scores": [[0.8, 0.4], [0.6, 0.4], [np.nan, 0.5]]}
    return known | fields


def test_candidates_that_miss_the_minimum_of_a_further_metric_are_not_on_the_front():
    front = Front.from_candidates(**with_further())

    assert front.accuracy.tolist() == [0.9, 0.95], "what is not known misses nothing"
    assert front[0].further == {"f1": 0.8, "loss": 0.4}
    assert Front.from_candidates(**with_further(further=(LOSS, F1))).accuracy.tolist() == []


def test_further_scores_follow_their_rows():
    front = Front(**with_further(report_further_scores=[[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]]))

    assert front[::-1].further_scores[1:].tolist() == [[0.6, 0.4], [0.8, 0.4]]
    assert front[2].report_further["f1"] == 5.0
    assert np.isnan(front[2].report_further["loss"])
    assert front[1] == front[1]


def test_further_scores_that_were_not_measured_are_not_known():
    front = Front(**with_further(further_scores=None))

    assert list(front[0].further) == ["f1", "loss"]
    assert np.isnan(list(front[0].further.values())).all()
    assert Front(**with_further(further=(), further_scores=np.zeros((3, 0)))).further_scores is None


def test_metrics_of_one_name_get_a_number_in_a_front():
    front = Front(**with_further(further=(FurtherMetric("accuracy"), FurtherMetric("accuracy"))))

    assert [metric.name for metric in front.further] == ["accuracy (2)", "accuracy (3)"]
    assert front[0].further == {"accuracy (2)": 0.8, "accuracy (3)": 0.4}


def test_a_front_compares_scores_in_its_direction():
    up, down = (Front(**with_further(higher_is_better=higher)) for higher in (True, False))

    assert (up.better, down.better) == ("higher", "lower")
    assert up.meets(up.accuracy, 0.92).tolist() == [False, True, True]
    assert down.gain(down.accuracy).tolist() == [-0.9, -0.92, -0.95]
    assert F1.meets(0.7, F1.min_accuracy)
    assert not LOSS.meets(0.6, LOSS.min_accuracy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"further": ("f1",)}, "further must hold FurtherMetric only, got 'f1'"),
        ({"further_scores": [[0.8, 0.4]]}, r"further_scores must have the shape \[3, 2\], got \[1, 2\]"),
        ({"further": (F1,)}, r"further_scores must have the shape \[3, 1\]"),
        ({"report_further_scores": [[np.inf, 0.4]] * 3}, "report_further_scores must be finite, got inf in row 0"),
    ],
)
def test_further_fields_that_do_not_fit_are_refused_by_name(fields, message):
    with pytest.raises(FrontError, match=f"^Front: {message}"):
        Front(**with_further(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name must be a name, got ''"),
        ({"higher_is_better": 1}, "higher_is_better must be True or False, got 1"),
        ({"min_accuracy": np.nan}, "min_accuracy must be a finite number or None, got nan"),
        ({"float_accuracy": "high"}, "float_accuracy must be a finite number or None, got 'high'"),
    ],
)
def test_a_further_metric_checks_itself(fields, message):
    with pytest.raises(FrontError, match=f"^FurtherMetric: {message}"):
        FurtherMetric(**{"name": "f1"} | fields)
