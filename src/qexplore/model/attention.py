"""Attention as its parts: two products and a softmax, each a call that can be met."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FUSED = F.scaled_dot_product_attention
LAYER = F.multi_head_attention_forward

Run = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Makes one call of a part: its name, the function, its arguments."""

PARTS: dict[str, Callable[..., Any]] = {"matmul": torch.matmul, "softmax": F.softmax, "matmul_1": torch.matmul}
"""The parts by name, in the order in which they are called."""


def attention_in_parts(
    run: Run,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As ``F.scaled_dot_product_attention``, whose result it gives within rounding; ``run`` makes the calls.

    Of tensors, or of proxies of a graph, where a mask is one to add.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = run("matmul", torch.matmul, (query, key.transpose(-2, -1)), {})
    scores = scores * (query.size(-1) ** -0.5 if scale is None else scale)
    hidden = None
    if is_causal:
        attn_mask = additive(torch.ones_like(scores, dtype=torch.bool).tril(), scores)
    if attn_mask is not None:
        is_bool = isinstance(attn_mask, Tensor) and attn_mask.dtype == torch.bool
        scores = scores + (additive(attn_mask, scores) if is_bool else attn_mask)
        # A row that sees nothing is 0, as in the fused kernel, where a softmax would make it NaN.
        hidden = (scores == -math.inf).all(-1, keepdim=True)
        scores = scores.masked_fill(hidden, 0.0)
    weights = run("softmax", F.softmax, (scores,), {"dim": -1})
    if hidden is not None:
        weights = weights.masked_fill(hidden, 0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    attended: Tensor = run("matmul_1", torch.matmul, (weights, value), {})
    return attended


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of bools as one to add, in the dtype of ``like``."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask.logical_not(), -math.inf)


def _opened(function: Any) -> Callable[..., Any]:
    """``function``, written in Python by torch, that does not ask whether another is to stand in its place."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


opened_layer = _opened(LAYER)
"""What ``nn.MultiheadAttention`` calls."""
