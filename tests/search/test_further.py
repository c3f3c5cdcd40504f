"""Metrics after the first: measured when a candidate is, asked about for nothing, and verified with the rest."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import prefix_evaluator, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import EvaluationError
from qexplore.evaluation import DirectEvaluator, Evaluation, PrefixEvaluator
from qexplore.search import Archive, reference_point

EVERYTHING = np.array(list(itertools.product((2, 3, 4), repeat=3)))


def top3(output, target):
    return (output.topk(3).indices == target[:, None]).any(dim=1).float()


TOP3 = qx.Metric(top3, "top 3", range=(0.0, 1.0))
MINIMA = [0.8, 0.97]


def of_two(**options):
    return tiny_problem([qx.top1_accuracy, TOP3], **{"min_accuracy": MINIMA, **options})


def explored(problem, **options):
    options = {"max_evaluations": 100, "seed": 1, "population_size": 10, "progress": False, **options}
    return qx.explore(problem, **options)


def scores_of(candidates, metric=TOP3, loader=None):
    loader = batches(digits().search) if loader is None else loader
    return [e.score for e in qx.DirectEvaluator(tiny_model(), loader, metric).evaluate(np.array(candidates))]


@pytest.mark.parametrize("engine", ["auto", "direct"])
def test_a_candidate_that_meets_the_first_metric_is_measured_by_the_further_one_and_no_other_is(engine):
    problem = of_two(engine=engine)
    evaluations = list(problem.measure(EVERYTHING))
    expected = scores_of(EVERYTHING)
    assert 0 < sum(evaluation.score >= 0.8 for evaluation in evaluations) < 27
    for evaluation, score in zip(evaluations, expected, strict=True):
        assert evaluation.further == ((score,) if evaluation.score >= 0.8 else ())
        assert problem.num_passes(evaluation) == 1 + len(evaluation.further)
        meets = evaluation.score >= 0.8 and score >= 0.97
        assert problem.is_feasible(evaluation) == meets


def test_questions_about_evaluations_run_no_network(monkeypatch):
    problem = of_two()
    evaluations = list(problem.measure(EVERYTHING))
    expected = problem.constraints(evaluations), problem.objectives(evaluations), problem.front().num_bits

    def asked(*args, **kwargs):
        raise AssertionError("a question was answered by measuring")

    for evaluator in (DirectEvaluator, PrefixEvaluator):
        for name in ("evaluate", "scores_on_subset"):
            monkeypatch.setattr(evaluator, name, asked)
    monkeypatch.setattr(DirectEvaluator, "evaluate_float", asked)
    assert np.array_equal(problem.constraints(evaluations), expected[0])
    assert np.array_equal(problem.objectives(evaluations), expected[1])
    assert np.array_equal(problem.front_of(evaluations).num_bits, expected[2])
    assert len(problem.points_of(evaluations)) == 27
    archive = Archive(problem, evaluations)
    assert np.array_equal(archive.front().num_bits, expected[2])
    assert archive.must_beat(EVERYTHING).shape == (27,)
    assert archive.hypervolume(reference_point(problem, evaluations)) > 0
    # One that nobody measured by the further metric: not known is not met.
    unknown = Evaluation((4, 4, 4), "complete", score=1.0)
    assert problem.constraints([unknown])[0].tolist() == [0.8 - 1.0, 1.0]
    assert not problem.is_feasible(unknown)
    assert not archive.add(unknown)


def test_a_further_metric_that_fails_makes_a_candidate_unacceptable_and_says_nothing_of_the_first():
    calls = []

    def moody(output, target):
        calls.append(len(target))
        if len(calls) == 3:  # after the float network and the widest candidate
            raise RuntimeError("not now")
        return top3(output, target)

    problem = tiny_problem(
        [qx.top1_accuracy, qx.Metric(moody, "moody", range=(0.0, 1.0))], min_accuracy=[0.0, 0.5], engine="direct"
    )
    failed, fine = problem.measure([(3, 3, 3), (4, 4, 3)])
    assert failed.is_complete and failed.has_failed and np.isnan(failed.further).all()
    assert failed.reason == "the metric 'moody' raised RuntimeError: not now" and not fine.has_failed
    assert problem.constraints([failed])[0].tolist() == [0.0 - failed.score, 1.0]
    assert (problem.is_feasible(failed), problem.is_feasible(fine)) == (False, True)


def test_a_candidate_of_which_a_further_metric_fails_is_among_the_failures():
    calls = []

    def moody(output, target):
        calls.append(len(target))
        if len(calls) > 12:
            raise RuntimeError("not now")
        return top3(output, target)

    problem = tiny_problem(
        [qx.top1_accuracy, qx.Metric(moody, "moody", range=(0.0, 1.0))], min_accuracy=[0.0, 0.5], engine="direct"
    )
    found = explored(problem, max_failures=3, algorithm="random")
    assert (found.stopped_by, len(found.failures)) == ("failures", 3)
    assert "3 failed: the metric 'moody' raised RuntimeError: not now" in found.failure_summary
    assert len(found.unverified) == len(found.history[-1].front) and not found.front.verified


def test_the_front_shows_further_scores_on_the_search_and_on_the_report_set():
    report = batches(digits().report)
    exploration = explored(of_two(loader=batches(digits().search)), report_loader=report)
    front = exploration.front
    (metric,) = front.further
    assert (metric.name, metric.higher_is_better, metric.min_accuracy) == ("top 3", True, 0.97)
    assert metric.float_accuracy == scores_of([(0, 0, 0)])[0]
    assert front.further_scores[:, 0].tolist() == scores_of(front.num_bits)
    assert front.report_further_scores[:, 0].tolist() == scores_of(front.num_bits, loader=report)
    assert [point.further for point in front] == [{"top 3": score} for score in scores_of(front.num_bits)]
    # Of the uniform widths those that miss the first metric were not measured by the other.
    misses = exploration.uniform.accuracy < 0.8
    assert np.isnan(exploration.uniform.further_scores[:, 0]).tolist() == misses.tolist()
    assert explored(tiny_problem()).front.further == ()


def test_float_scores_of_further_metrics_follow_the_network():
    model = tiny_model()
    problem = tiny_problem([qx.top1_accuracy, qx.negative_log_likelihood], model=model, max_drop=[0.5, 1.0])
    with torch.no_grad():
        model.model.fc3.weight.mul_(0.7)
    list(problem.measure(EVERYTHING))
    expected = qx.DirectEvaluator(model, batches(digits().search), qx.negative_log_likelihood).float_evaluation.score
    assert problem.front().further[0].float_accuracy == expected


class Flattering:
    """An engine gone wrong: it gives one candidate the best score there is."""

    def __init__(self, evaluator, candidate):
        self.evaluator = evaluator
        self.candidate = candidate

    def evaluate(self, candidates, *, must_beat=None, order=None):
        for evaluation in self.evaluator.evaluate(candidates, must_beat=must_beat, order=order):
            yield replace(evaluation, score=1.0) if evaluation.candidate == self.candidate else evaluation


def test_verification_catches_a_fast_engine_that_is_wrong_about_a_further_metric():
    truth = {e.candidate: e for e in of_two().measure(EVERYTHING)}
    # Acceptable by the first metric alone, and then on the front.
    by_first = [e for e in truth.values() if e.score >= 0.8]
    spoiled = min((e for e in by_first if e.further[0] < 0.97), key=lambda e: (sum(e.candidate), -e.score))
    # And one that is acceptable, flattered all the same.
    honest = explored(of_two()).front
    kept = honest[-1].num_bits
    for candidate, is_dropped in ((spoiled.candidate, True), (kept, False)):
        problem = of_two()
        flattering = Flattering(prefix_evaluator(problem.model, batches(digits().search), TOP3), candidate)
        problem.further._measures = [replace(problem.further._measures[0], evaluator=flattering)]
        problem._memory._known.clear()  # the widest candidate was measured when the problem was built
        exploration = explored(problem)
        found = {point.num_bits: point.further["top 3"] for point in exploration.history[-1].front}
        assert found[candidate] == 1.0
        verified = {point.num_bits: point.further["top 3"] for point in exploration.front}
        assert exploration.front.verified
        assert (candidate not in verified) == is_dropped
        for row, score in verified.items():
            assert score == truth[row].further[0] >= 0.97
    assert not is_dropped


def test_what_a_search_costs_does_not_depend_on_what_the_problem_remembers():
    def summary(exploration):
        history = [(s.num_passes, s.hypervolume, s.num_evaluations) for s in exploration.history]
        return exploration.front.num_bits.tolist(), history, exploration.num_passes

    problem = of_two(upper=6)
    first = summary(explored(problem, max_evaluations=40, racing=False))
    assert summary(explored(problem, max_evaluations=40, racing=False)) == first
    assert first == summary(explored(of_two(upper=6), max_evaluations=40, racing=False))


def test_a_budget_too_small_for_one_candidate_and_its_further_metrics_buys_one():
    exploration = explored(of_two(), max_evaluations=1)
    assert (exploration.num_evaluations, exploration.stopped_by) == (1, "max_evaluations")


def test_an_iterator_serves_every_metric():
    given = {"report_loader": iter(batches(digits().report))}
    searched = of_two(loader=iter(batches(digits().search)))
    once, again = explored(searched, **given).front, explored(of_two(), report_loader=batches(digits().report)).front
    assert np.array_equal(once.further_scores, again.further_scores)
    assert np.array_equal(once.report_further_scores, again.report_further_scores)
    assert not np.isnan(once.report_further_scores).any()


def test_description_names_every_metric_that_has_a_minimum():
    problem = of_two()
    assert "required: accuracy at least 0.8, top 3 at least 0.97" in str(problem) == str(problem.describe())
    described = str(of_two(min_accuracy=[None, 0.97]).describe())
    assert "searched: accuracy (higher is better) against total_bits" in described
    assert "required: top 3 at least 0.97" in described
    lower = tiny_problem(qx.negative_log_likelihood, min_accuracy=1.5).describe()
    assert "required: negative log-likelihood at most 1.5" in str(lower)


def test_fit_asks_for_a_minimum_of_the_metric_that_it_goes_by():
    loader = batches(digits().search)
    with pytest.raises(qx.errors.ProblemError, match="'accuracy' needs min_accuracy or max_drop, got None for it"):
        qx.fit(tiny_model(), loader, [qx.top1_accuracy, TOP3], min_accuracy=[None, 0.9], max_evaluations=5)


def test_a_further_metric_that_fails_at_the_widest_candidate_is_named_and_not_its_minimum():
    calls = []

    def failing(output, target):
        calls.append(1)
        return qx.top1_accuracy(output, target) if len(calls) == 1 else output.sum() / 0 * float("nan")

    with pytest.raises(EvaluationError, match="the metric 'failing' could not be measured for the widest") as raised:
        tiny_problem([qx.top1_accuracy, failing], min_accuracy=[0.1, 0.2], engine="direct")
    assert "Relax" not in str(raised.value) and "Mend the metric" in str(raised.value)
