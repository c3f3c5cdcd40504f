"""How far a network's outputs are from reference outputs, sample by sample: what a sensitivity is made of.

They are metrics whose target is the reference: ``divergence(output, reference) -> [B]``, 0 where both are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from qexplore.errors import MetricError
from qexplore.metrics.base import loss
from qexplore.metrics.scores import logits_of


def _kl_divergence(output: Any, reference: Any) -> Tensor:
    logits, expected = logits_of(output), logits_of(reference)
    if logits.dim() < 2:
        raise MetricError(
            f"KL divergence needs outputs of shape [B, C, ...] or [B, T, C], got {tuple(logits.shape)}. For outputs "
            'that are no logits take noise to signal: metric="sqnr"'
        )
    classes = -1 if logits.dim() == 3 else 1
    log_p, log_q = (F.log_softmax(tensor.float(), dim=classes) for tensor in (expected, logits))
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=classes)
    return divergence.reshape(len(divergence), -1).mean(dim=1).clamp(min=0)  # rounding leaves about -1e-7


def _pairs(output: Any, reference: Any) -> list[tuple[Tensor, Tensor]]:
    """Floating tensors of both, each as ``[B, elements]`` in float32."""
    tensors = [
        [
            leaf.float().flatten(1) if leaf.dim() > 1 else leaf.float()[:, None]
            for leaf in pytree.tree_leaves(tree)
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()
        ]
        for tree in (output, reference)
    ]
    if not tensors[0] or [t.shape for t in tensors[0]] != [t.shape for t in tensors[1]]:
        raise MetricError("outputs must hold floating tensors of the same shapes as the float network's outputs")
    return list(zip(*tensors, strict=True))


def _mean_squared(output: Any, reference: Any) -> Tensor:
    errors = [(a - b).square().mean(dim=1) for a, b in _pairs(output, reference)]
    return torch.stack(errors).mean(dim=0)


def _noise_to_signal(output: Any, reference: Any) -> Tensor:
    pairs = _pairs(output, reference)
    noise = torch.stack([(a - b).square().sum(dim=1) for a, b in pairs]).sum(dim=0)
    signal = torch.stack([b.square().sum(dim=1) for _, b in pairs]).sum(dim=0)
    return torch.where(noise == 0, noise, noise / signal)


kl_divergence = loss(_kl_divergence, "KL divergence")
"""Kullback-Leibler divergence of the softmax from the reference's, in nats, mean over tokens or pixels.

Outputs: logits ``[B, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
"""

mean_squared_divergence = loss(_mean_squared, "mean squared error")
"""Mean squared difference over all floating outputs."""

noise_to_signal = loss(_noise_to_signal, "noise to signal")
"""Energy of the difference over that of the reference: the reciprocal of the SQNR, not in decibels."""
