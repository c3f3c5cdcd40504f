"""How far a network's outputs are from reference outputs, sample by sample: what a sensitivity is made of.

They are metrics whose target is the reference: ``divergence(output, reference) -> [B]``, 0 where both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from qexplore._trees import tensors_of
from qexplore.errors import MetricError
from qexplore.metrics.base import Metric, loss
from qexplore.metrics.output import Output, logits_of
from qexplore.metrics.probabilities import FEWEST_ROWS, are_probabilities, as_logits


def _kl_divergence(output: Any, reference: Any, known: bool = False) -> Tensor:
    """``known`` are outputs that are probabilities; of others the reference's values say it."""
    logits, expected = logits_of(output), logits_of(reference)
    classes = _classes(logits)
    if logits.dim() < 2 or logits.shape[classes] < 2 or not logits.is_floating_point():
        raise MetricError(
            "KL divergence needs floating outputs of shape [B, C, ...] or [B, T, C], with two classes or more, got "
            f'{logits.dtype} {tuple(logits.shape)}. For outputs that are no logits take noise to signal: metric="sqnr"'
        )
    if logits.shape != expected.shape:
        raise _other_shapes([logits], [expected])
    rows = expected.numel() // expected.shape[classes]
    if known or (rows >= FEWEST_ROWS and are_probabilities(expected, classes)):
        logits, expected = as_logits(logits), as_logits(expected)
    log_p, log_q = (F.log_softmax(tensor.float(), dim=classes) for tensor in (expected, logits))
    # A class that is masked by -inf in both has no share in the divergence.
    terms = torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_q))
    divergence = terms.sum(dim=classes)
    return divergence.reshape(len(divergence), -1).mean(dim=1).clamp(min=0)  # rounding leaves about -1e-7


class Distribution(NamedTuple):
    """Probabilities of classes, and their logarithms, shape ``[B, C]``, ``[B, T, C]`` or ``[B, C, H, W]``."""

    logarithms: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, output: Any) -> Distribution:
        """The softmax of the logits in ``output``, or, of `OfProbabilities`, what stands there already."""
        logits = cls.logits(logits_of(output))
        logarithms = _log_softmax(logits.float())  # as that of others, so that nothing is nothing apart from itself
        return cls(logarithms, logarithms.exp())

    @staticmethod
    def logits(found: Tensor) -> Tensor:
        """What of ``found``, in an output, the softmax is taken of."""
        return found

    def divergences(self, output: Any) -> Tensor:
        """Kullback-Leibler divergences of the softmax of ``output``, shape ``[B, ...]``: `kl_divergence` by position.

        What does not change from candidate to candidate is made once, here; rounding apart it is the same.
        """
        logits = self.logits(logits_of(output))
        if logits.shape != self.logarithms.shape:
            raise _other_shapes([logits], [self.logarithms])
        terms = self.probabilities * (self.logarithms - _log_softmax(logits.float()))
        summed: Tensor = torch.where(self.probabilities == 0, 0.0, terms).sum(dim=_classes(logits))
        return summed


class OfProbabilities(Distribution):
    """The same of outputs that are probabilities already, of which no softmax is taken."""

    @staticmethod
    def logits(found: Tensor) -> Tensor:
        """Their logarithms."""
        return as_logits(found)


def gives_probabilities(output: Any) -> bool:
    """Whether a network's output is probabilities of classes, shape ``[B, C, ...]`` or ``[B, T, C]``, by its values."""
    try:
        logits = logits_of(output)
    except MetricError:
        return False
    return logits.dim() > 1 and logits.is_floating_point() and are_probabilities(logits, _classes(logits))


def between_outputs(divergence: Metric, output: Output | None) -> Metric:
    """``divergence`` between the parts of an output and of its reference that ``output`` chooses, or its own choice."""
    chosen, plain = divergence.output or output, replace(divergence, output=None)
    if chosen is None:
        return divergence
    fit = plain.fit and partial(_fit_to_chosen, fit=plain.fit, chosen=chosen)
    return replace(plain, function=partial(_of_chosen, function=plain.function, chosen=chosen), fit=fit)


def _of_chosen(output: Any, reference: Any, function: Callable[[Any, Any], Tensor], chosen: Output) -> Tensor:
    return function(chosen(output), chosen(reference))


def _fit_to_chosen(
    references: Iterable[Any], fit: Callable[[Iterable[Any]], Callable[[Any, Any], Tensor]], chosen: Output
) -> Callable[[Any, Any], Tensor]:
    return partial(_of_chosen, function=fit(map(chosen, references)), chosen=chosen)


_FEW_CLASSES = 128
"""Along fewer numbers than that, torch's softmax on a CPU takes one at a time; simple operations take many at once."""


def _classes(logits: Tensor) -> int:
    """The axis of classes."""
    return -1 if logits.dim() == 3 else 1


def _log_softmax(logits: Tensor) -> Tensor:
    axis = _classes(logits)
    if logits.dim() == 4 or logits.shape[axis] >= _FEW_CLASSES:
        return F.log_softmax(logits, dim=axis)
    shifted = logits - logits.amax(dim=axis, keepdim=True)
    return shifted - shifted.exp().sum(dim=axis, keepdim=True).log()


def _floating(tree: Any) -> list[Tensor]:
    """Floating tensors, each as ``[B, elements]``, in float32 at least."""
    tensors = [leaf for leaf in tensors_of(tree) if leaf.is_floating_point() and leaf.dim()]
    wide = [leaf if leaf.dtype == torch.float64 else leaf.float() for leaf in tensors]
    return [leaf.reshape(len(leaf), -1) for leaf in wide]


def _pairs(output: Any, reference: Any) -> list[tuple[Tensor, Tensor]]:
    given, expected = _floating(output), _floating(reference)
    if not given or [t.shape for t in given] != [t.shape for t in expected]:
        raise _other_shapes(given, expected)
    return list(zip(given, expected, strict=True))


def _other_shapes(given: Sequence[Tensor], expected: Sequence[Tensor]) -> MetricError:
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (given, expected)]
    return MetricError(
        "outputs must hold floating tensors of the same shapes as the float network's outputs, got "
        f"{shapes[0]} for {shapes[1]}"
    )


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == b, 0.0, a - b)  # 0 also where both are the same infinity


def _mean_squared(output: Any, reference: Any) -> Tensor:
    errors = [_difference(a, b).square().mean(dim=1) for a, b in _pairs(output, reference)]
    return torch.stack(errors).mean(dim=0)


def _noise_to_signal(output: Any, reference: Any) -> Tensor:
    pairs = _pairs(output, reference)
    noise = torch.stack([_difference(a, b).square().sum(dim=1) for a, b in pairs]).sum(dim=0)
    signal = torch.stack([_finite(b).square().sum(dim=1) for _, b in pairs]).sum(dim=0)
    return torch.where(noise == 0, noise, noise / signal)


def _finite(x: Tensor) -> Tensor:
    """``x`` without the infinities that mask an element."""
    return torch.where(x.isinf(), 0.0, x)


class Noise:
    """Energies of signals and of their errors, in float64, for one tensor or several that are not of one unit.

    Energies add up over batches, so that what is told is of the whole set and not of its samples one by one.

    >>> noise = Noise()
    >>> noise.add([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.5])])
    >>> noise.ratio, round(noise.sqnr, 3)
    (0.01, 20.0)
    """

    def __init__(self) -> None:
        self._signal: list[float] = []
        self._error: list[float] = []

    def add(self, expected: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        """Take in tensors, as many each time, and what they became."""
        if not self._signal:
            self._signal, self._error = [0.0] * len(expected), [0.0] * len(expected)
        for index, (x, quantized) in enumerate(zip(expected, given, strict=True)):
            exact = x.double()
            self._signal[index] += float(_finite(exact).square().sum())
            self._error[index] += float(_difference(exact, quantized.double()).square().sum())

    @property
    def signals(self) -> list[float]:
        """Energy that each tensor's error is held against: its own, or all tensors' where it is zero throughout."""
        together = sum(self._signal)
        return [signal or together for signal in self._signal]

    @property
    def ratio(self) -> float:
        """Noise over signal, mean over the tensors; nan without any signal, or with one that is not finite."""
        if not 0 < sum(self._signal) < math.inf:
            return math.nan
        shares = [error / signal for error, signal in zip(self._error, self.signals, strict=True)]
        ratio = sum(shares) / len(shares)
        return ratio if math.isfinite(ratio) else math.inf

    @property
    def sqnr(self) -> float:
        """``-10 log10`` of `ratio` in dB: ``inf`` where nothing differs, ``-inf`` where the noise is not finite."""
        ratio = self.ratio
        if math.isnan(ratio) or ratio in (0.0, math.inf):
            return {0.0: math.inf, math.inf: -math.inf}.get(ratio, math.nan)
        return -10 * math.log10(ratio)


def _share_of_noise(output: Any, reference: Any, powers: Sequence[float]) -> Tensor:
    shares = []
    for (a, b), power in zip(_pairs(output, reference), powers, strict=True):
        noise = _difference(a, b)
        # The root is taken first: a square of small numbers would vanish in float32.
        scaled = (noise / math.sqrt(power)).square() if power else noise.square() * math.inf
        shares.append(torch.where(noise == 0, 0.0, scaled).sum(dim=1))
    return torch.stack(shares).mean(dim=0).float()


def _fit_to_signal(references: Iterable[Any]) -> Callable[[Any, Any], Tensor]:
    noise, num_samples = Noise(), 0
    for reference in references:
        tensors = _floating(reference)
        noise.add(tensors, tensors)
        num_samples += len(tensors[0]) if tensors else 0
    return partial(_share_of_noise, powers=[energy / num_samples for energy in noise.signals])


kl_divergence = loss(_kl_divergence, "KL divergence")
"""Kullback-Leibler divergence of the softmax from the reference's, in nats, mean over tokens or pixels.

Outputs: logits ``[B, C]``, ``[B, T, C]`` or ``[B, C, H, W]``; of several floating outputs the one called ``logits``, or
the one that ``output`` chooses. Where no number of the reference is negative and each of its rows sums to 1, outputs
are probabilities already, and no softmax is taken of them once more; of fewer than four rows it is not told.
"""

kl_of_probabilities = loss(partial(_kl_divergence, known=True), "KL divergence of outputs that are probabilities")
"""The same where all outputs are known to be probabilities."""

mean_squared_divergence = loss(_mean_squared, "mean squared error")
"""Mean squared difference over all floating outputs, each in the unit that it has."""

noise_to_signal = replace(loss(_noise_to_signal, "noise to signal"), fit=_fit_to_signal)
"""Energy of the difference over that of the reference: the reciprocal of the SQNR, not in decibels.

Over a set it is the noise of all samples over the signal of all, by output and then the mean over outputs; an output
that is zero throughout is held against the energy of all. Called by hand it is the ratio of each sample alone, which
has no mean worth the name: take ``noise_to_signal.fitted(references)`` there.
"""
