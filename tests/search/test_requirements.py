"""What a candidate has to meet, and requirements that nothing meets."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from problems import correct, search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import ProblemError

EVERYTHING = np.array(list(itertools.product((2, 3, 4), repeat=3)))


def test_a_drop_is_counted_from_the_float_network():
    problem = tiny_problem(max_drop=0.05)
    assert problem.min_accuracy == pytest.approx(problem.float_accuracy - 0.05)
    lower = tiny_problem(qx.negative_log_likelihood, max_drop=0.25)
    assert lower.min_accuracy == pytest.approx(lower.float_accuracy + 0.25)
    assert tiny_problem(qx.squared_error, loader=[regression()], max_drop=5.0).min_accuracy > 5.0


def regression():
    x, y = search_loader()[0]
    return x, torch.nn.functional.one_hot(y, 10).float()


@pytest.mark.parametrize("drop", [1, 3, 5, 0.99])
@pytest.mark.parametrize("metric", [qx.top1_accuracy, lambda output, target: (output.argmax(1) == target).float()])
def test_a_drop_that_leaves_nothing_to_require_is_refused(metric, drop):
    hint = rf"for {drop} percent .* give 0\.0{drop}" if drop >= 1 else "Give a smaller one, or leave it out"
    with pytest.raises(ProblemError, match=f"max_drop={drop} of the metric .* requires nothing.*{hint}"):
        tiny_problem(metric, max_drop=drop)
    with pytest.raises(ProblemError, match="requires nothing"):
        tiny_problem([qx.negative_log_likelihood, metric], max_drop=[None, drop])
    with pytest.raises(ProblemError, match="requires nothing"):
        qx.fit(tiny_model(), search_loader(), metric, max_drop=drop, max_evaluations=5)


def test_a_drop_of_a_score_without_a_worst_one_is_taken_at_its_word():
    logit = qx.Metric(lambda output, target: output.gather(1, target[:, None])[:, 0], "logit")
    problem = tiny_problem(logit, max_drop=100.0)
    assert problem.min_accuracy == pytest.approx(problem.float_accuracy - 100)


def test_a_limit_on_bits_is_a_constraint_of_its_own():
    problem = tiny_problem(min_accuracy=0.5, max_total_bits=9)
    evaluations = list(problem.measure(EVERYTHING))
    violations = problem.constraints(evaluations)
    assert violations.shape == (27, 2)
    assert problem.n_ieq_constr == 2
    assert violations[:, 1].tolist() == (EVERYTHING.sum(axis=1) - 9).tolist()
    assert len(problem.front())
    assert (problem.front().total_bits <= 9).all()
    exploration = qx.explore(problem, max_evaluations=27, seed=1, progress=False)
    assert (exploration.front.total_bits <= 9).all()
    assert exploration.reference_point == (0.5, 10.0)
    best = max(evaluation.score for evaluation in evaluations if sum(evaluation.candidate) <= 9)
    assert exploration.front.most_accurate().accuracy == best


def test_a_floor_that_only_a_narrower_uniform_width_reaches_is_accepted():
    uniform = np.array([[width] * 3 for width in range(2, 9)])
    scores = [evaluation.score for evaluation in tiny_problem(upper=8).measure(uniform)]
    upper = next(
        w for w in range(3, 9) if max(scores[: w - 1]) > scores[w - 2]
    )  # some width is worse than a narrower one
    problem = tiny_problem(upper=upper, min_accuracy=max(scores[: upper - 1]))
    front = qx.explore(problem, max_evaluations=40, seed=1, progress=False).front
    assert len(front) >= 1


def halves():
    """Two tasks on one network: the digits below five and the others."""

    def low(output, target):
        return ((output.argmax(1) == target) | (target >= 5)).float()

    def high(output, target):
        return ((output.argmax(1) == target) | (target < 5)).float()

    return [qx.Metric(low, "low digits", range=(0.0, 1.0)), qx.Metric(high, "high digits", range=(0.0, 1.0))]


@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_every_one_of_several_metrics_has_its_minimum(engine):
    metrics = halves()
    alone = [list(tiny_problem(metric).measure(EVERYTHING)) for metric in metrics]
    minima = [0.8, float(np.median([evaluation.score for evaluation in alone[1]]))]
    problem = tiny_problem(metrics, min_accuracy=minima, engine=engine)
    meets = [
        all(one.score >= least for one, least in zip(pair, minima, strict=True)) for pair in zip(*alone, strict=True)
    ]
    assert 0 < sum(meets) < 27
    evaluations = list(problem.measure(EVERYTHING))
    assert [problem.is_feasible(evaluation) for evaluation in evaluations] == meets
    assert problem.constraints(evaluations).shape == (27, 2)
    exploration = qx.explore(problem, max_evaluations=100, seed=1, progress=False)
    allowed = {tuple(row) for row, met in zip(EVERYTHING.tolist(), meets, strict=True) if met}
    assert {point.num_bits for point in exploration.front} <= allowed
    best = max(one.score for one, met in zip(alone[0], meets, strict=True) if met)
    assert exploration.front.most_accurate().accuracy == best
    assert exploration.num_passes > exploration.num_evaluations * 0.9  # what the second metric took is counted


def test_further_metrics_may_drop_so_far_from_float_and_are_measured_anew_when_the_network_changes():
    model = tiny_model()
    problem = tiny_problem([qx.top1_accuracy, qx.negative_log_likelihood], model=model, max_drop=[0.5, 0.1])
    before = problem.constraints(list(problem.measure(EVERYTHING)))
    assert (before[:, 1] > 0).any()
    with torch.no_grad():
        model.model.fc3.weight.mul_(0.7)
    after = problem.constraints(list(problem.measure(EVERYTHING)))
    assert not np.array_equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_accuracy": 0.5, "max_drop": 0.1}, r"give min_accuracy \(0.5\) or max_drop \(0.1\), not both"),
        ({"max_drop": -0.1}, "max_drop must be a number of at least 0"),
        ({"max_drop": float("nan")}, "max_drop must be a number of at least 0"),
        ({"max_drop": True}, "max_drop must be a number of at least 0"),
        ({"max_drop": 0.0, "upper": 2}, r"min_accuracy \(.*\) is above what can be reached: the widest candidate"),
        (
            {"max_total_bits": 5},
            r"max_total_bits \(5\) is below what can be reached: the narrowest candidate has 6 bits",
        ),
        ({"max_total_bits": 0}, "max_total_bits must be a positive number, got 0"),
        ({"max_total_bits": "9"}, "max_total_bits must be a positive number, got '9'"),
        ({"metric": []}, "`metric` must hold one metric at least"),
        (
            {"metric": halves(), "min_accuracy": [0.1]},
            "min_accuracy must hold one value for each of 2 metrics, None where one has none",
        ),
        ({"metric": halves(), "min_accuracy": 0.9}, "min_accuracy must hold one value for each of 2 metrics"),
        ({"metric": halves(), "min_accuracy": [0.9, None]}, "the metric 'high digits' needs min_accuracy or max_drop"),
        ({"metric": halves(), "min_accuracy": [0.1, 7]}, "range of the metric 'high digits'"),
        (
            {"metric": halves(), "min_accuracy": [0.1, 1.0]},
            r"min_accuracy of the metric 'high digits' \(1\) cannot be reached",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_search_with_what_can(options, sentence):
    with pytest.raises(ProblemError, match=sentence):
        tiny_problem(**options)


@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_fit_gives_the_cheapest_point_that_is_accurate_enough(engine):
    model, loader = tiny_model(), search_loader()
    model.num_bits = [5, 6, 7]
    truth = list(tiny_problem(upper=6).measure(np.array(list(itertools.product(range(2, 7), repeat=3)))))
    point = qx.fit(model, loader, min_accuracy=0.9, num_bits_upper_limit=6, max_evaluations=60, progress=False)
    assert point.total_bits == min(sum(e.candidate) for e in truth if e.score >= 0.9)
    assert point.accuracy == correct(model, point.num_bits) / 400 >= 0.9
    assert model.num_bits.tolist() == [5, 6, 7]


@pytest.mark.filterwarnings("ignore:All .* of the report set were searched on")
def test_fit_gives_the_most_accurate_point_that_is_cheap_enough_and_reports_it():
    truth = list(tiny_problem(upper=6).measure(np.array(list(itertools.product(range(2, 7), repeat=3)))))
    point = qx.fit(
        tiny_model(),
        search_loader(),
        max_total_bits=10,
        num_bits_upper_limit=6,
        max_evaluations=60,
        report_loader=search_loader(50),
        progress=False,
    )
    assert point.total_bits <= 10
    assert point.accuracy == max(e.score for e in truth if sum(e.candidate) <= 10)
    assert point.report_accuracy == pytest.approx(point.accuracy, abs=1 / 400)


@pytest.mark.parametrize(
    "goals", [{}, {"min_accuracy": 0.5, "max_total_bits": 9}, {"max_drop": 0.1, "min_accuracy": 0.5}]
)
def test_fit_wants_one_goal(goals):
    with pytest.raises(ProblemError, match="fit needs exactly one of min_accuracy, max_drop and max_total_bits, got"):
        qx.fit(tiny_model(), search_loader(), **goals)


def test_fit_without_an_end_is_refused():
    with pytest.raises(ProblemError, match="a search needs an end"):
        qx.fit(tiny_model(), search_loader(), max_drop=0.1, max_evaluations=None)


def test_without_a_minimum_a_widest_candidate_clearly_worse_than_float_is_warned_of():
    model = tiny_model()
    model.activation_fake_quantizers["relu1"].amax = 0.01
    with pytest.warns(
        UserWarning, match=r"even the widest candidate \(8 bits\) has accuracy 0\.\d{4}, the float"
    ) as told:
        tiny_problem(model=model, upper=8)
    assert "'relu1' costs most: alone at 8, all others in float, 0." in str(told[0].message)
    with warnings.catch_warnings():  # a minimum says what is enough; two samples say nothing
        warnings.simplefilter("error")
        tiny_problem(model=model, upper=8, min_accuracy=0.01)
        tiny_problem(model=model, upper=8, loader=[(x[:2], y[:2]) for x, y in search_loader()])
