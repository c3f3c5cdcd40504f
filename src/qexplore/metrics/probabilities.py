"""Probabilities and logits, told apart by their values."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = torch.finfo(torch.float32).eps
"""Probabilities below it count as so much: less is not resolved beside 1, and none at all has no logarithm."""


FEWEST_ROWS = 4
"""Of fewer rows that sum to 1 it is not said that they are probabilities: logits may do so by chance."""


def are_probabilities(tensor: Tensor, axis: int) -> bool:
    """Whether no value of ``tensor`` is negative and all rows along ``axis`` sum to 1, within rounding."""
    tolerance = max(1e-3, 4 * torch.finfo(tensor.dtype).eps)
    sums = tensor.float().sum(dim=axis)
    return bool(((tensor >= 0).all() & ((sums - 1).abs() < tolerance).all()).item())


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits whose softmax are ``probabilities``, brought to a sum of 1."""
    return probabilities.float().clamp(min=SMALLEST).log()
