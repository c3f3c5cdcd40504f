"""Divergences from reference outputs, against torch and hand arithmetic."""

import math

import pytest
import torch
from torch.nn import functional as F

from qexplore.errors import MetricError
from qexplore.metrics import Noise, kl_divergence, mean_squared_divergence, noise_to_signal

DIVERGENCES = (kl_divergence, mean_squared_divergence, noise_to_signal)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: divergence.name)
def test_equal_outputs_do_not_diverge(divergence):
    output = drawn(5, 7)
    assert divergence(output, output.clone()).tolist() == [0.0] * 5


@pytest.mark.parametrize(("shape", "classes"), [((6, 10), 1), ((6, 4, 10), -1), ((6, 10, 3, 2), 1)])
def test_kl_divergence_is_that_of_torch(shape, classes):
    output, reference = drawn(*shape), drawn(*shape, seed=1)
    log_q, log_p = F.log_softmax(output, classes), F.log_softmax(reference, classes)
    expected = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(classes).reshape(6, -1).mean(1)
    assert torch.allclose(kl_divergence(output, reference), expected, atol=1e-6)


def test_noise_over_signal_is_the_reciprocal_of_the_sqnr():
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    output = torch.tensor([[3.0, 3.0], [1.0, 0.5]])
    assert noise_to_signal(output, reference).tolist() == pytest.approx([1 / 25, 0.25])
    assert -10 * math.log10(noise_to_signal(output, reference)[0]) == pytest.approx(13.979, abs=1e-3)
    assert mean_squared_divergence(output, reference).tolist() == pytest.approx([0.5, 0.125])


def test_an_output_of_nothing_but_noise_is_infinitely_noisy_and_silence_is_not():
    assert noise_to_signal(torch.ones(1, 2), torch.zeros(1, 2)).tolist() == [math.inf]
    assert noise_to_signal(torch.zeros(1, 2), torch.zeros(1, 2)).tolist() == [0.0]


def test_several_floating_outputs_are_taken_together_and_others_left_out():
    reference = {"a": torch.tensor([[2.0]]), "b": torch.tensor([[1.0]]), "index": torch.tensor([3])}
    output = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[1.0]]), "index": torch.tensor([4])}
    assert noise_to_signal(output, reference).tolist() == pytest.approx([1 / 5])
    assert mean_squared_divergence(output, reference).tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: divergence.name)
def test_outputs_without_what_is_needed_are_refused(divergence):
    with pytest.raises(MetricError):
        divergence(torch.tensor(1), torch.tensor(1))


def energy(x):
    return float(x.double().square().sum())


@pytest.mark.parametrize("size", range(1, 9))
def test_noise_to_signal_of_a_set_is_noise_power_over_signal_power_whatever_the_batches(size):
    reference = drawn(8, 5) * torch.logspace(-6, 1, 8)[:, None]  # one sample near zero
    output = reference + 0.01 * drawn(8, 5, seed=1)
    metric = noise_to_signal.fitted(reference.split(size))
    scores = torch.cat([metric(a, b) for a, b in zip(output.split(size), reference.split(size), strict=True)])
    assert metric.summarize(scores.numpy()) == pytest.approx(energy(output - reference) / energy(reference), rel=1e-5)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_outputs_of_other_units_weigh_the_same(unit):
    reference = {"a": drawn(6, 3), "b": unit * drawn(6, 2, seed=1), "index": torch.arange(6)}
    output = {"a": reference["a"] * 1.1, "b": reference["b"] * 1.2, "index": torch.zeros(6, dtype=torch.int64)}
    assert noise_to_signal.fitted([reference])(output, reference).mean() == pytest.approx((0.01 + 0.04) / 2, rel=1e-4)
    noise = Noise()
    noise.add([reference["a"], reference["b"]], [output["a"], output["b"]])
    assert noise.sqnr == pytest.approx(-10 * math.log10(0.025), rel=1e-5)


SPECIAL = {
    "no noise": (drawn(3, 2), drawn(3, 2), 0.0, math.inf),
    "silence": (torch.zeros(3, 2), torch.zeros(3, 2), 0.0, math.nan),
    "noise alone": (torch.ones(3, 2), torch.zeros(3, 2), math.inf, math.nan),
    "an infinity of the output": (torch.full((3, 2), math.inf), torch.ones(3, 2), math.inf, -math.inf),
    "the same mask in both": (torch.tensor([[1.0, -math.inf]]), torch.tensor([[2.0, -math.inf]]), 0.25, 6.0206),
}


@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_silence_masks_and_infinities_have_their_noise_to_signal(case):
    output, reference, ratio, sqnr = case
    assert float(noise_to_signal.fitted([reference])(output, reference).mean()) == pytest.approx(ratio)
    noise = Noise()
    noise.add([reference], [output])
    assert noise.sqnr == pytest.approx(sqnr, abs=1e-4, nan_ok=True)


def test_an_output_that_is_silent_throughout_is_held_against_the_others():
    reference, output = (torch.ones(4, 1), torch.zeros(4, 1)), (torch.ones(4, 1), torch.full((4, 1), 0.1))
    assert noise_to_signal.fitted([reference])(output, reference).mean() == pytest.approx(0.01 / 2)


def test_kl_divergence_has_no_part_in_masked_classes():
    reference, output = torch.tensor([[1.0, 0.0, -math.inf]]), torch.tensor([[0.5, 0.0, -math.inf]])
    assert kl_divergence(output, reference) == pytest.approx(float(kl_divergence(output[:, :2], reference[:, :2])))
    assert kl_divergence(torch.tensor([[0.0, -math.inf]]), torch.zeros(1, 2)).tolist() == [math.inf]
    assert kl_divergence(torch.full((1, 2), math.nan), torch.zeros(1, 2)).isnan().all()


@pytest.mark.parametrize("output", [drawn(4, 1), drawn(4, 3, 1), drawn(4, 1, 2, 2), torch.ones(4, 3).long()])
def test_kl_divergence_refuses_what_is_no_softmax_of_logits(output):
    with pytest.raises(MetricError, match='two classes or more, got .* metric="sqnr"'):
        kl_divergence(output, output)


def test_outputs_of_other_shapes_are_refused_with_both():
    for divergence in DIVERGENCES:
        with pytest.raises(MetricError, match=r"got \[\(2, 3\)\] for \[\(2, 4\)\]"):
            divergence(drawn(2, 3), drawn(2, 4))
