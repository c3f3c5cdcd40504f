"""What operations multiply: pairs of operands with their multiply-accumulates, and which operations multiply none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from qexplore.tape.provenance import aten_name

Product = tuple[int, Tensor | None, Tensor | None]
"""Multiply-accumulates, and what is multiplied; None for a tensor that lies within the operation."""

_PLACES = {
    **dict.fromkeys(["mm", "bmm", "_scaled_mm"], (0, 1)),
    **dict.fromkeys(["addmm", "baddbmm"], (1, 2)),
    **dict.fromkeys(["convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward"], (0, 1)),
    "convolution_overrideable": (0, 1),
}
"""Where the operands of an operation that torch has a formula for stand among the arguments."""


def _matrix(left: int, right: int) -> Callable[..., list[Product]]:
    """Of a matrix by a vector or another matrix: every number of the first meets a row of the second."""

    def products(*args: Any, **_: Any) -> list[Product]:
        columns = args[right].shape[-1] if args[right].dim() > 1 else 1
        return [(args[left].numel() * columns, args[left], args[right])]

    return products


def _outer(_: Any, left: Tensor, right: Tensor, **__: Any) -> list[Product]:
    return [(left.numel() * right.numel(), left, right)]


def _conv_tbc(inputs: Tensor, weight: Tensor, *_: Any, result: Tensor, **__: Any) -> list[Product]:
    return [(result.numel() * weight[..., 0].numel(), inputs, weight)]


def _trilinear(left: Tensor, weight: Tensor, right: Tensor, *_: Any, result: Tensor, **__: Any) -> list[Product]:
    """Of `nn.Bilinear`: the first input by the weight, and what comes of it by the second input."""
    rows = left.shape[0]
    return [(rows * weight.numel(), left, weight), (rows * weight[..., 0, :].numel(), None, right)]


def _sparse(*args: Any, **_: Any) -> list[Product]:
    left, right = [arg for arg in args if isinstance(arg, Tensor)][-2:]
    held = left._nnz() if left.layout != torch.strided else left.numel()
    return [(held * right.shape[-1], left, right)]


def _distances(left: Tensor, right: Tensor, p: float = 2.0, *_: Any, **__: Any) -> list[Product]:
    return [(left.numel() * right.shape[-2], left, right)] if p == 2.0 else []


def _embedding_bag(weight: Tensor, indices: Tensor, *args: Any, **_: Any) -> list[Product]:
    factors = args[4] if len(args) > 4 else None
    return [] if factors is None else [(indices.numel() * weight.shape[1], weight, factors)]


def _recurrent(inputs: Tensor, *args: Any, **_: Any) -> list[Product]:
    """Of a fused LSTM, GRU or RNN: each step multiplies every matrix once; only the first layer's see the inputs."""
    # One layer and direction with its tensors one by one, or all of them in a list of so many a layer and direction.
    # One by one, what stands for the biases that there are none of has two axes too.
    weights, a_layer, is_bidirectional = (args[0], args[1], args[12]) if isinstance(args[0], list) else (args[:2], 2, 0)
    rows, first = inputs.numel() // inputs.shape[-1], a_layer * (2 if is_bidirectional else 1)
    return [
        (rows * weight.numel(), inputs if place < first and place % a_layer == 0 else None, weight)
        for place, weight in enumerate(weights)
        if weight.dim() == 2
    ]


_OWN: Mapping[str, Callable[..., list[Product]]] = {
    **dict.fromkeys(["mv", "dot", "vdot", "_int_mm"], _matrix(0, 1)),
    **dict.fromkeys(["addmv", "addbmm"], _matrix(1, 2)),
    **dict.fromkeys(["_sparse_addmm", "_sparse_mm", "hspmm", "sspaddmm"], _sparse),
    **dict.fromkeys(["_euclidean_dist", "_cdist_forward"], _distances),
    **dict.fromkeys(["mkldnn_rnn_layer", "_cudnn_rnn"], _recurrent),
    **dict.fromkeys(["_embedding_bag", "_embedding_bag_forward_only"], _embedding_bag),
    "addr": _outer,
    "conv_tbc": _conv_tbc,
    "_trilinear": _trilinear,
}
"""Formulas for what torch's flop counter has none for."""


def is_product(function: Any) -> bool:
    """Whether there is a formula for an operation."""
    packet = getattr(function, "_overloadpacket", function)
    return packet in flop_registry or aten_name(str(packet)) in _OWN


def products(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> list[Product]:
    """What an operation multiplies, of those that `is_product` knows; their MACs are those of all its samples.

    Attention is two products: queries by keys, and what the softmax makes of it by values.
    """
    packet = getattr(function, "_overloadpacket", function)
    name = aten_name(str(packet))
    if name in _OWN:
        return _OWN[name](*args, result=result, **kwargs)
    macs = flop_registry[packet](*args, **kwargs, out_val=result) / 2
    if name in _PLACES and len(args) > max(_PLACES[name]):
        left, right = _PLACES[name]
        return [(round(macs), args[left], args[right])]
    if "attention" in name and len(args) >= 3 and all(isinstance(arg, Tensor) for arg in args[:3]):
        query, key, value = args[:3]
        share = query.shape[-1] / (query.shape[-1] + value.shape[-1])
        return [(round(share * macs), query, key), (round((1.0 - share) * macs), None, value)]
    return [(round(macs), None, None)]


_NO_PRODUCTS = re.compile(
    r"norm|softmax|pool|upsample|grid_sampler|to_sparse|to_dense|cum|sort|topk|median|scatter|index|masked|dropout|embedding_bag|embedding_renorm|"
    r"[pr]relu|glu|hardswish|tri[lu]|diag|histc|bincount|searchsorted|bucketize|col2im|nonzero|one_hot|"
    r"rand|normal|uniform|bernoulli|exponential|multinomial|_thnn_fused|sigmoid|copysign|complex|polar|arange|linspace"
)


def multiplies_nothing(function: Any) -> bool:
    """Whether an operation without a formula is known to have no product of two tensors to count.

    What works on one element after the other, sums up, normalises, pools or draws numbers has none.
    """
    tags = {str(tag).rpartition(".")[2] for tag in getattr(function, "tags", ())}
    return bool(tags & {"pointwise", "reduction"}) or bool(_NO_PRODUCTS.search(aten_name(str(function))))
