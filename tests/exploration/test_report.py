"""What an exploration claims is measured on data that chose nothing: front, uniform widths and float network."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import correct, tiny_model, tiny_network, tiny_problem
from scipy import stats

import qexplore as qx
from qexplore.report import objectives_record, pareto_front_record


def explored(problem, **options):
    return qx.explore(problem, max_evaluations=20, seed=1, population_size=10, progress=False, **options)


@functools.cache
def exploration(metric=qx.top1_accuracy, size=300):
    return explored(tiny_problem(metric, upper=8), report_loader=batches(digits().report, size))


def scores_by_hand(candidate):
    """Per sample of the report set: by the model with these widths."""
    model, split = tiny_model(), digits().report
    with model.using(candidate), torch.no_grad():
        return (model.eval()(split.x.clone()).argmax(dim=1) == split.y).double().numpy()


def test_uniform_widths_and_float_are_measured_on_the_report_set():
    found = exploration()
    split = digits().report
    model = tiny_model()
    for front in (found.front, found.uniform):
        for point in front:
            assert point.report_accuracy == correct(model, point.num_bits, split) / 300
    with torch.no_grad():
        floats = float((tiny_network()(split.x).argmax(dim=1) == split.y).double().mean())
    assert found.report_float_accuracy == found.front.report_float_accuracy == pytest.approx(floats)
    assert found.uniform is found.front.uniform


def test_differences_are_paired_by_sample():
    front = exploration().front
    for point in front:
        for place, uniform in enumerate(front.uniform):
            one, other = scores_by_hand(point.num_bits), scores_by_hand(uniform.num_bits)
            gained, lost, total = (one > other).sum() + 0.5, (one < other).sum() + 0.5, 302
            middle = (gained - lost) / total
            reach = stats.norm.ppf(0.975) * np.sqrt((gained + lost) / total - middle**2) / np.sqrt(total)
            np.testing.assert_allclose(
                front.report_from_uniform[point.index, place], (middle - reach, middle + reach), atol=1e-9
            )
    low, high = front.report_from_float.T
    assert ((low <= front.report_change) & (front.report_change <= high)).all()


def test_the_report_set_changes_nothing_of_the_search_and_is_counted_apart():
    found, alone = exploration(), explored(tiny_problem(upper=8))
    assert np.array_equal(found.front.num_bits, alone.front.num_bits)
    assert (found.num_passes, found.num_evaluations) == (alone.num_passes, alone.num_evaluations)
    different = {tuple(row) for front in (found.front, found.uniform) for row in front.num_bits.tolist()}
    assert (found.num_report_passes, alone.num_report_passes) == (1 + len(different), 0)
    assert f"report set: {1 + len(different)} passes" in str(found)


def test_no_saving_is_claimed_that_the_report_set_speaks_against():
    front = exploration().front
    for one in front.bits_saved():
        assert one.on_report_set
        assert one.interval[1] >= 0
        difference = scores_by_hand(one.point.num_bits) - scores_by_hand(one.other_point.num_bits)
        assert one.difference == pytest.approx(difference.mean())
    assert "at no significantly lower accuracy on the report set" in str(front)


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_minimum_that_the_float_network_misses_on_the_report_set_is_told_so(is_wrong):
    split = digits().report
    labels = (split.y + 1) % 10 if is_wrong else split.y
    found = explored(tiny_problem(upper=8, max_drop=0.5), report_loader=[(split.x, labels)])
    assert ("there (so does the float network, with 0.0" in str(found)) == is_wrong


def test_a_metric_of_the_whole_set_is_compared_by_its_scores_alone():
    def share(model, loader):
        hits = [(model(x).argmax(dim=1) == y).double().mean() for x, y in loader]
        return float(np.mean(hits))

    found = explored(tiny_problem(qx.whole_set(share), upper=8), report_loader=batches(digits().report, 300))
    assert found.front.report_from_float is None
    assert np.isnan(found.front.report_from_uniform).all()
    assert found.optimism_interval is None
    assert found.optimism_gap is not None
    assert "no interval known" in str(found)
    assert all(one.difference >= 0 for one in found.front.bits_saved())


def test_a_loss_is_claimed_in_its_own_direction():
    found = exploration(qx.negative_log_likelihood)
    assert f"at no significantly higher {found.front.metric_name} on the report set" in str(found)
    for one in found.front.bits_saved():
        assert one.interval[0] <= 0


@pytest.mark.parametrize("metrics", [qx.top1_accuracy, [qx.top1_accuracy, qx.negative_log_likelihood]])
def test_further_metrics_are_reported_of_the_front_only(metrics):
    several = isinstance(metrics, list)
    minima = {"min_accuracy": [None, 3.0]} if several else {}
    found = explored(tiny_problem(metrics, upper=8, **minima), report_loader=batches(digits().report, 300))
    different = {tuple(row) for front in (found.front, found.uniform) for row in front.num_bits.tolist()}
    assert found.num_report_passes == 1 + len(different) + several * (1 + len(found.front))
    assert found.uniform.report_further_scores is None


def test_the_gap_has_an_interval_that_pairs_samples_on_each_set():
    found = exploration(qx.negative_log_likelihood)
    model, means, errors = tiny_model(), [], []
    for split in (digits().search, digits().report):
        with torch.no_grad():
            floats = torch.nn.functional.cross_entropy(tiny_network()(split.x), split.y, reduction="none")
            rows = []
            for point in found.front:
                with model.using(point.num_bits):
                    output = model.eval()(split.x.clone())
                rows.append(torch.nn.functional.cross_entropy(output, split.y, reduction="none"))
        different = (torch.stack(rows).mean(dim=0) - floats).double()
        means.append(float(different.mean()))
        errors.append(float(different.std()) / len(different) ** 0.5)
    gap, reach = means[1] - means[0], stats.t.ppf(0.975, 299) * np.hypot(*errors)
    assert found.optimism_gap == pytest.approx(gap, abs=1e-5)
    assert found.optimism_interval == pytest.approx((gap - reach, gap + reach), abs=1e-5)


def test_a_picture_shows_the_set_that_its_claims_are_of(tmp_path):
    found = exploration()
    found.front.save(tmp_path / "front.json")
    for source in (found, qx.Front.load(tmp_path / "front.json")):
        record = pareto_front_record(source)
        assert record.accuracy == tuple(found.front.report_accuracy)
        assert record.other_accuracy == tuple(found.front.accuracy)
        assert record.float_accuracy == found.report_float_accuracy
        assert [one.accuracy for one in record.uniform] == found.uniform.report_accuracy.tolist()
        assert record.knee == (found.front.knee().total_bits, found.front.knee().report_accuracy)
        assert [saving.text.split()[0] for saving in record.savings] == [
            f"{one.saved:.0f}" for one in found.front.bits_saved()[::-1]
        ][: len(record.savings)]
        for saving in record.savings:
            assert saving.front[1] in record.accuracy
        axes = qx.plot_pareto_front(source).axes[0]
        assert axes.get_ylabel() == "accuracy on the report set (higher is better)"
    pairs = objectives_record(found)
    assert pairs.set_name == "report set"
    assert pairs.objectives[0].values == tuple(found.front.report_accuracy)


def test_a_picture_without_a_report_set_says_that_its_claim_is_on_the_search_set():
    record = pareto_front_record(explored(tiny_problem(upper=8)))
    assert "on the search set, which chose the points" in record.claim
    assert not record.on_report_set


def test_one_point_is_reported_without_the_uniform_widths():
    calls = []

    def metric(output, target):
        calls.append(len(target))
        return qx.top1_accuracy(output, target)

    point = qx.fit(
        tiny_model(), batches(digits().search, 400), metric, max_drop=0.05, max_evaluations=12, progress=False,
        report_loader=batches(digits().report, 300),
    )  # fmt: skip
    assert point.report_from_float is not None
    assert point.report_from_float_interval[0] <= point.report_from_float <= point.report_from_float_interval[1]
    assert calls.count(300) < 7
