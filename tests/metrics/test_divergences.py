"""Divergences from reference outputs, against torch and hand arithmetic."""

import math

import pytest
import torch
from torch.nn import functional as F

from qexplore.errors import MetricError
from qexplore.metrics import kl_divergence, mean_squared_divergence, noise_to_signal

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
