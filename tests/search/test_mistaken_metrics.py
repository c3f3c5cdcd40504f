"""Metrics that say of themselves what their scores do not bear out."""

import pytest
from problems import tiny_problem
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import MetricError


def error(output, target):
    return F.cross_entropy(output, target, reduction="none")


def test_an_error_that_is_taken_as_more_is_better_is_warned_of():
    problem = tiny_problem(error, lower=2)
    assert "searched: error (higher is better)" in str(problem.describe())
    with pytest.warns(UserWarning, match="'error' is taken as one of which more is better, .*higher_is_better=False"):
        qx.explore(problem, max_evaluations=3, seed=1)
    for metric in (
        qx.Metric(error, higher_is_better=False),
        lambda output, target: (output.argmax(1) == target).float(),
    ):
        qx.explore(tiny_problem(metric, lower=2), max_evaluations=3, seed=1)  # a warning would be an error


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (qx.Metric(error, "loss", higher_is_better=False, range=(0.05, 9)), "0.05 as the least of its `range`"),
        (qx.Metric(lambda output, target: 1 - error(output, target), "gain", range=(-9, 0.9)), "0.9 as the greatest"),
        (qx.Metric(error, "loss", higher_is_better=False, range=(0, 9), sample_range=(1, 9)), "its `sample_range`"),
    ],
)
def test_samples_that_score_better_than_the_best_there_is_are_refused(metric, said):
    with pytest.raises(MetricError, match=f"{said}.*[0-9]+ of 400 samples score better, the best"):
        tiny_problem(metric)
