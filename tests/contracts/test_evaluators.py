"""What every evaluator promises, shown for each of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from networks import EACH, batches, digits, trained, wrapping
from problems import (
    SpoiledFor,
    correct,
    measured,
    raising,
    random_state,
    search_loader,
    state_of,
    tiny_model,
    tiny_network,
)
from torch import nn

import qexplore as qx
from qexplore.errors import EvaluationError, MetricError
from qexplore.metrics import as_metric

EVERY = list(itertools.product(range(2, 5), repeat=3))
SOME = [(2, 3, 4), (4, 4, 4), (2, 2, 2), (0, 3, 0), (8, 8, 8), (16, 2, 5)]


class Noisy(nn.Module):
    """Draws random numbers in eval mode, like a network whose dropout is always on."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x + 0.3 * torch.randn_like(x))


class ChangesItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, x):
        return self.inner(x.mul_(0.9))


class TestEvaluator:
    def test_answers_every_candidate_once_and_in_order(self, build):
        evaluations = list(build().evaluate(np.array(SOME)))
        assert [evaluation.candidate for evaluation in evaluations] == SOME
        assert all(evaluation.state == "complete" and evaluation.is_complete for evaluation in evaluations)
        assert all(type(width) is int for evaluation in evaluations for width in evaluation.candidate)

    def test_integer_counts_equal_a_hand_written_loop(self, build):
        model = tiny_model()
        for evaluation in build(model).evaluate(np.array(EVERY)):
            assert evaluation.num_samples == len(evaluation.scores) == 400
            assert evaluation.scores.sum() == correct(model, evaluation.candidate)
            assert evaluation.score == correct(model, evaluation.candidate) / 400

    @pytest.mark.parametrize("name", EACH)
    def test_integer_counts_equal_a_hand_written_loop_on_real_networks(self, build, place, name):
        model = qx.QuantizedActivationsModel(trained(name).to(place), **wrapping(name))
        model.calibrate(batches(digits().calibration))
        rng = np.random.default_rng(0)
        # Widths from 4 up: fewer make a softmax or an LSTM no more than noise.
        candidates = rng.integers(4, 9, size=(3, len(model.points)))
        loader = batches(digits().search, 400)
        for evaluation in build(model, loader).evaluate(candidates):
            assert round(evaluation.score * 400) == correct(model, evaluation.candidate), evaluation.reason

    def test_a_candidates_score_does_not_depend_on_what_else_is_in_the_call(self, build):
        evaluator = build()
        together = measured(evaluator.evaluate(np.array(SOME)))
        alone = [measured(evaluator.evaluate(np.array([candidate])))[0] for candidate in SOME]
        backwards = measured(evaluator.evaluate(np.array(SOME[::-1])))[::-1]
        assert together == alone == backwards

    def test_two_evaluators_agree_on_every_bit(self, build):
        assert measured(build().evaluate(np.array(EVERY))) == measured(build().evaluate(np.array(EVERY)))

    def test_duplicates_are_answered_each_time(self, build):
        first, other, second = measured(build().evaluate(np.array([(2, 2, 2), (3, 3, 3), (2, 2, 2)])))
        assert first == second != other

    def test_no_candidates_give_no_answers(self, build):
        assert list(build().evaluate(np.empty((0, 3), dtype=np.int64))) == []

    def test_scores_on_a_part_are_those_of_these_samples_whatever_else_is_in_the_call(self, build):
        evaluator = build(loader=search_loader(90))
        scores = evaluator.scores_on_subset(np.array([*SOME, SOME[0]]), qx.top1_accuracy, 64)
        assert scores.shape == (len(SOME) + 1, 64)
        assert scores[0].tolist() == scores[-1].tolist()
        assert scores.flags.c_contiguous, "numpy adds up in the order in which numbers lie"
        assert scores.shape[1] == evaluator.subset_size(64)
        alone = [evaluator.scores_on_subset(np.array([row]), qx.top1_accuracy, 64)[0].tolist() for row in SOME]
        assert scores[:-1].tolist() == alone
        whole = evaluator.scores_on_subset(np.array(SOME), qx.top1_accuracy, 400)
        assert whole.sum(axis=1).tolist() == [correct(tiny_model(), candidate) for candidate in SOME]

    def test_scores_on_a_part_against_the_float_network_are_perfect_without_quantizers(self, build):
        evaluator = build(metric=qx.negative_log_likelihood)
        agreement = qx.Metric(lambda output, other: (output.argmax(1) == other.argmax(1)).float(), range=(0.0, 1.0))
        rows = np.array([(0, 0, 0), (2, 2, 2)])
        same, other = evaluator.scores_on_subset(rows, agreement, 200, against_float=True)
        assert same.tolist() == [1.0] * 200
        assert other.mean() < 1

    def test_scores_on_a_part_leave_everything_as_it_was_also_after_an_error(self, build):
        model = tiny_model().train()
        model.num_bits = [5, 0, 7]
        evaluator = build(model)
        full = measured(evaluator.evaluate(np.array(SOME)))
        before, drawn = state_of(model), random_state()
        evaluator.scores_on_subset(np.array(SOME), qx.top1_accuracy, 50, against_float=False)
        with pytest.raises(MetricError):
            evaluator.scores_on_subset(np.array(SOME), as_metric(lambda output, target: 1 / 0), 50)
        assert state_of(model) == before
        assert random_state() == drawn
        assert measured(evaluator.evaluate(np.array(SOME))) == full

    def test_a_whole_set_metric_has_no_part(self, build):
        evaluator = build(metric=qx.whole_set(lambda model, loader: 0.5))
        with pytest.raises(EvaluationError, match="no part of it can be run"):
            evaluator.scores_on_subset(np.array(SOME), qx.top1_accuracy, 50)

    def test_it_says_how_it_evaluates_and_whether_it_stops_early(self, build):
        for metric in (qx.top1_accuracy, qx.whole_set(lambda model, loader: 0.5)):
            evaluator = build(metric=metric)
            assert evaluator.description.startswith(("direct: ", "prefix: "))
            assert evaluator.early_stop == "on" or evaluator.early_stop.startswith("off: ")

    def test_answers_come_one_by_one(self, build):
        evaluations = build().evaluate(np.array(EVERY))
        assert next(evaluations).candidate == EVERY[0]
        evaluations.close()

    def test_a_score_that_must_be_beaten_never_changes_a_complete_answer(self, build):
        evaluator = build()
        for must_beat in (-1.0, 0.8, 2.0):
            limited = list(evaluator.evaluate(np.array(SOME), must_beat=[must_beat] * len(SOME)))
            assert [evaluation.candidate for evaluation in limited] == SOME
            for evaluation, full in zip(limited, evaluator.evaluate(np.array(SOME)), strict=True):
                assert evaluation.is_complete or full.score <= must_beat
                assert not evaluation.is_complete or evaluation.score == full.score

    def test_a_candidate_is_stopped_at_the_same_sample_whatever_was_measured_before(self, build):
        order, limits = np.random.default_rng(0).permutation(400), [0.8] * len(SOME)

        def answers(evaluator, places, **given):
            rows, limited = np.array([SOME[place] for place in places]), [limits[place] for place in places]
            found = evaluator.evaluate(rows, must_beat=limited, **given)
            return [(one.state, one.score, one.bound, one.num_samples) for one in found]

        first, places = build(), list(range(len(SOME)))
        whole = answers(first, places, order=order)
        assert answers(first, places[:2], order=order) + answers(first, places[2:], order=order) == whole
        other = build()
        plain = answers(other, places)
        assert answers(other, places, order=order) == whole
        assert answers(first, places) == plain

    def test_the_model_comes_back_as_it_was(self, build):
        network = tiny_network()
        network.relu1.register_forward_hook(lambda module, args, output: None)
        model = tiny_model(network)
        model.num_bits = [5, 0, 7]
        model.activation_fake_quantizers["relu2"].disable()
        model.train()
        network.fc2.eval()
        before, drawn = state_of(model), random_state()
        list(build(model).evaluate(np.array(SOME)))
        assert state_of(model) == before
        assert random_state() == drawn
        assert model.num_bits.tolist() == [5, 0, 0]

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
    def test_the_model_comes_back_as_it_was_after_an_error_in_the_middle(self, build, error):
        model = tiny_model().train()
        model.num_bits = [5, 6, 7]
        evaluator = build(model, search_loader(200), SpoiledFor(SOME[3], do=raising(error)))
        before, drawn = state_of(model), random_state()
        if isinstance(error, Exception):
            assert [e.state for e in evaluator.evaluate(np.array(SOME))].count("failed") == 1
        else:
            with pytest.raises(type(error)):
                list(evaluator.evaluate(np.array(SOME)))
        assert state_of(model) == before
        assert random_state() == drawn

    def test_an_evaluator_that_is_left_half_way_leaves_no_trace(self, build):
        model = tiny_model()
        before, drawn = state_of(model), random_state()
        evaluations = build(model).evaluate(np.array(EVERY))
        next(evaluations)
        assert state_of(model) == before
        assert random_state() == drawn

    def test_a_quantizer_disabled_by_hand_stays_off(self, build):
        model = tiny_model()
        model.activation_fake_quantizers["relu1"].disable()
        first, second = build(model).evaluate(np.array([(3, 2, 3), (3, 8, 3)]))
        assert first.score == second.score == correct(model, (3, 0, 3)) / 400

    def test_nan_makes_a_candidate_failed_with_its_reason_and_the_next_are_fine(self, build):
        def spoil(scores):
            return scores * torch.nan

        expected = measured(build().evaluate(np.array(SOME)))
        spoilt = build(metric=SpoiledFor(SOME[2], do=spoil)).evaluate(np.array(SOME))
        *first, third, fourth, fifth, sixth = spoilt
        assert (third.candidate, third.state, third.is_complete) == (SOME[2], "failed", False)
        assert "NaN" in third.reason
        assert math.isnan(third.score)
        assert third.scores is None and third.interval is None
        assert measured([*first, fourth, fifth, sixth]) == expected[:2] + expected[3:]

    def test_a_nan_in_the_network_is_no_wrong_answer(self, build):
        class Overflows(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = tiny_network()

            def forward(self, x):
                # Coarse inputs have few levels: NaN comes from the network, and for some widths only.
                logits = self.inner(x)
                return logits if len(x.unique()) > 4 else logits * torch.nan

        states = [e.state for e in build(tiny_model(Overflows())).evaluate(np.array([(8, 8, 8), (1, 8, 8), (4, 8, 8)]))]
        assert states == ["complete", "failed", "complete"]

    @pytest.mark.parametrize("error", [KeyError("gone"), torch.OutOfMemoryError("too big"), AssertionError("broken")])
    def test_an_exception_makes_a_candidate_failed_with_its_reason_and_the_next_are_fine(self, build, error):
        expected = measured(build().evaluate(np.array(SOME)))
        evaluations = list(build(metric=SpoiledFor(SOME[1], do=raising(error))).evaluate(np.array(SOME)))
        assert evaluations[1].state == "failed"
        assert f"the metric 'spoiled' raised {type(error).__name__}" in evaluations[1].reason
        assert str(error) in evaluations[1].reason
        assert measured(evaluations[:1] + evaluations[2:]) == expected[:1] + expected[2:]

    @pytest.mark.parametrize("widths", [(1, 3, 3), (3, 17, 3), (-1, 3, 3)])
    def test_widths_that_no_quantizer_has_make_a_candidate_failed(self, build, widths):
        model = tiny_model(unsigned=False)
        failed, fine = build(model).evaluate(np.array([widths, (3, 3, 3)]))
        assert (failed.state, fine.state) == ("failed", "complete")
        assert "must be an int in [2, 16]" in failed.reason

    @pytest.mark.parametrize("hold_bytes", [None, 0], ids=["held", "streamed"])
    def test_a_network_with_noise_answers_the_same(self, build, hold_bytes):
        torch.manual_seed(1)
        evaluator = build(tiny_model(Noisy()), search_loader(100), hold_bytes=hold_bytes)
        first = measured(evaluator.evaluate(np.array(SOME)))
        torch.rand(5)
        assert measured(evaluator.evaluate(np.array(SOME[::-1])))[::-1] == first
        torch.manual_seed(2)
        assert measured(build(tiny_model(Noisy()), search_loader(100)).evaluate(np.array(SOME))) == first

    def test_a_network_that_changes_its_input_does_not_spoil_the_evaluation_set(self, build):
        loader = search_loader(100)
        before = [x.clone() for x, _ in loader]
        model = tiny_model(ChangesItsInput())
        evaluator = build(model, loader)
        # With its input quantized the network changes a copy; with that quantizer off, the batch itself.
        candidates = np.array([(8, 3, 3), (0, 3, 3), (8, 3, 3), (0, 3, 3), (0, 0, 0)])
        evaluations = list(evaluator.evaluate(candidates))
        for (x, _), unchanged in zip(loader, before, strict=True):
            assert torch.equal(x, unchanged)
        assert measured(evaluations[:2]) == measured(evaluations[2:4])
        assert [e.score for e in evaluations] == [correct(model, c) / 400 for c in candidates.tolist()]

    def test_tensors_made_in_inference_mode_are_data_like_any_other(self, build):
        expected = measured(build().evaluate(np.array(SOME)))
        with torch.inference_mode():
            loader = [(x * 1, y * 1) for x, y in search_loader()]
        assert measured(build(loader=loader).evaluate(np.array(SOME))) == expected
        with torch.inference_mode():
            assert measured(build().evaluate(np.array(SOME))) == expected
