"""What every evaluator promises where weights are quantized too and choices are mixed, shown for each of them."""

import itertools

import numpy as np
import pytest
import torch
from networks import digits
from problems import (
    correct,
    measured,
    random_state,
    search_loader,
    state_of,
    tiny_network,
    weighted_model,
)

import qexplore as qx

# Of weights and activations: widths, float formats per tensor and in blocks, and off, side by side.
MIXED = [
    (8, 8, 8, 8, 8, 8),
    (0, 0, 0, 3, 3, 3),
    (4, 4, 4, 0, 0, 0),
    (403, 4, 1201, 2, 304, 0),
    (1403, 502, 5, 1201, 4, 201),
    (16, 0, 203, 3, 1304, 302),
]


class TestEvaluatorOfWeights:
    @pytest.mark.parametrize("granularity", ["channel", pytest.param("tensor", marks=pytest.mark.slow), 8])
    @pytest.mark.parametrize("asymmetric", [False, True])
    def test_integer_counts_equal_a_hand_written_loop(self, build, granularity, asymmetric):
        model = weighted_model(weight_granularity=granularity, asymmetric=asymmetric)
        candidates = MIXED + np.random.default_rng(0).choice([0, 2, 3, 4, 403, 201, 1201], size=(5, 6)).tolist()
        evaluations = list(build(model).evaluate(np.array(candidates)))
        assert [evaluation.candidate for evaluation in evaluations] == [tuple(row) for row in candidates]
        for evaluation in evaluations:
            assert evaluation.is_complete
            assert evaluation.scores.sum() == correct(model, evaluation.candidate)
        assert len({evaluation.score for evaluation in evaluations}) > 5

    def test_a_candidates_score_does_not_depend_on_what_else_is_in_the_call(self, build):
        evaluator = build(weighted_model())
        together = measured(evaluator.evaluate(np.array(MIXED + MIXED)))
        alone = [measured(evaluator.evaluate(np.array([candidate])))[0] for candidate in MIXED]
        backwards = measured(evaluator.evaluate(np.array(MIXED[::-1])))[::-1]
        assert together == alone + alone
        assert together[: len(MIXED)] == backwards == measured(build(weighted_model()).evaluate(np.array(MIXED)))

    def test_a_score_that_must_be_beaten_never_changes_a_complete_answer(self, build):
        evaluator = build(weighted_model(), search_loader(50))
        full = list(evaluator.evaluate(np.array(MIXED)))
        for must_beat in (-1.0, 0.8, 2.0):
            limited = evaluator.evaluate(np.array(MIXED), must_beat=[must_beat] * len(MIXED))
            for evaluation, whole in zip(limited, full, strict=True):
                assert evaluation.is_complete or whole.score <= must_beat
                assert not evaluation.is_complete or evaluation.score == whole.score

    def test_the_model_comes_back_as_it_was(self, build):
        network = tiny_network().requires_grad_(True)
        model = weighted_model(network)
        model.num_bits = [5, "E4M3", 7, 3, 0, "MXE2M1"]
        model.weight_fake_quantizers["fc2.weight"].disable()
        model.train()
        network.fc2.eval()
        before, drawn, weight = state_of(model), random_state(), network.fc1.weight.detach().clone()
        list(build(model).evaluate(np.array(MIXED)))
        evaluations = build(model).evaluate(np.array(MIXED))
        next(evaluations)  # and left half way
        assert state_of(model) == before
        assert random_state() == drawn
        assert model.num_bits.tolist() == [5, 403, 7, 3, 0, 1201]
        assert torch.equal(network.fc1.weight, weight)
        network.fc1.weight.sum().backward()
        assert model.weight_points[0].parameter.grad is not None

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
    def test_the_model_comes_back_as_it_was_after_an_error_in_the_middle(self, build, error):
        calls = itertools.repeat(0)

        def fails(output, target):
            if next(calls) > 3:
                raise error
            return qx.top1_accuracy(output, target)

        model = weighted_model()
        model.num_bits = [5, "E4M3", 7, 3, 0, "MXE2M1"]
        evaluator = build(model, search_loader(200), fails)
        calls = itertools.count()  # from here on: an evaluator calls its metric when it is built, too
        before, drawn = state_of(model), random_state()
        if isinstance(error, Exception):
            assert "failed" in [evaluation.state for evaluation in evaluator.evaluate(np.array(MIXED))]
        else:
            with pytest.raises(KeyboardInterrupt):
                list(evaluator.evaluate(np.array(MIXED)))
        assert state_of(model) == before
        assert random_state() == drawn

    def test_a_quantizer_disabled_by_hand_stays_off(self, build):
        model = weighted_model()
        model.weight_fake_quantizers["fc1.weight"].disable()
        first, second, off = build(model).evaluate(
            np.array([(8, 8, 8, 2, 4, 4), (8, 8, 8, 403, 4, 4), (8, 8, 8, 0, 4, 4)])
        )
        assert first.scores.tolist() == second.scores.tolist() == off.scores.tolist()
        assert first.scores.sum() == correct(model, (8, 8, 8, 0, 4, 4))

    @pytest.mark.parametrize("code", [1, 17, -1, 999])
    def test_choices_that_no_weight_has_make_a_candidate_failed(self, build, code):
        failed, fine = build(weighted_model()).evaluate(np.array([(8, 8, 8, code, 4, 4), MIXED[3]]))
        assert (failed.state, fine.state) == ("failed", "complete")
        assert "point 'fc1.weight' must be an int in [2, 16]" in failed.reason

    def test_a_weight_that_cannot_be_read_makes_no_wrong_answer(self, build):
        model = weighted_model()
        evaluator = build(model)
        with torch.no_grad():
            model.weight_points[1].parameter[0, 0] = torch.nan
        states = {evaluation.state for evaluation in evaluator.evaluate(np.array(MIXED))}
        assert states == {"failed"}

    def test_the_answers_follow_weights_and_their_ranges(self, build):
        model = weighted_model()
        evaluator = build(model, metric=qx.negative_log_likelihood)
        seen = [measured(evaluator.evaluate(np.array(MIXED)))]
        model.num_bits = MIXED[4]
        assert measured(evaluator.evaluate(np.array(MIXED))) == seen[0]
        model.weight_fake_quantizers["fc2.weight"].set_amax(torch.full((12, 1), 0.3))
        seen.append(measured(evaluator.evaluate(np.array(MIXED))))
        with torch.no_grad():
            model.weight_points[2].parameter.mul_(1.5)
        seen.append(measured(evaluator.evaluate(np.array(MIXED))))
        model.calibrate([digits().calibration.x.clone()], weight_method="max")
        seen.append(measured(evaluator.evaluate(np.array(MIXED))))
        for answers, others in itertools.combinations(seen, 2):
            assert answers != others
        fresh = build(model, metric=qx.negative_log_likelihood)
        assert measured(fresh.evaluate(np.array(MIXED))) == seen[-1]
