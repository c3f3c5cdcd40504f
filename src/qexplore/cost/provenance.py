"""What operations do to values: which ones hand them on unchanged, and which operands others multiply."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qexplore._trees import tensors_of

_HAND_ON = frozenset(
    [
        "relu",
        "relu_",
        "hardtanh",
        "hardtanh_",
        "clone",
        "contiguous",
        "_to_copy",
        "alias",
        "lift_fresh",
        "_unsafe_view",
        "_reshape_copy",
        "copy_",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "max_unpool2d",
        "max_unpool3d",
        "amax",
        "constant_pad_nd",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "cat",
        "stack",
        "repeat",
        "tile",
        "roll",
        "flip",
        "im2col",
        "index",
        "index_select",
        "gather",
        "embedding",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "native_channel_shuffle",
        "dropout",
        "feature_dropout",
    ]
)
"""Every value of the result is one of the operands', or 0 or a bound: it needs no more bits than they do."""

_FILLS = frozenset(
    [
        "empty_like",
        "fill_",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zero_",
        "zeros_like",
    ]
)
"""Reads no more of its operand than its shape."""

_ADDITIONS = frozenset(["add", "add_"])

_PRODUCTS = {
    **dict.fromkeys(["mm", "bmm", "_scaled_mm"], (0, 1)),
    **dict.fromkeys(["addmm", "baddbmm"], (1, 2)),
    **dict.fromkeys(["convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward"], (0, 1)),
    "convolution_overrideable": (0, 1),
}
"""Where the two operands stand among the arguments."""


def operation_name(function: Any) -> str:
    """Without its overload: "aten.relu"."""
    return str(getattr(function, "_overloadpacket", function))


def hands_on(name: str) -> bool:
    """Whether the values of the result are those of the operands."""
    return _aten(name) in _HAND_ON


def fills(name: str) -> bool:
    """Whether the result is a constant."""
    return _aten(name) in _FILLS


def adds(name: str) -> bool:
    """Whether it is an elementwise addition."""
    return _aten(name) in _ADDITIONS


def multiplied(name: str, args: tuple[Any, ...]) -> list[tuple[float, Any, Any]]:
    """Pairs of operands that are multiplied, each with its share of the operation's MACs; None for one within it.

    Attention is two products: queries by keys, and what the softmax makes of it by values.
    """
    short = _aten(name)
    if short in _PRODUCTS and len(args) > max(_PRODUCTS[short]):
        left, right = _PRODUCTS[short]
        return [(1.0, args[left], args[right])]
    if "attention" in short and len(args) >= 3 and all(isinstance(arg, Tensor) for arg in args[:3]):
        query, key, value = args[:3]
        share = query.shape[-1] / (query.shape[-1] + value.shape[-1])
        return [(share, query, key), (1.0 - share, None, value)]
    return [(1.0, None, None)]


def written_by(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that the operation writes into."""
    schema = getattr(function, "_schema", None)
    if schema is None:
        return []
    written: list[Any] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return tensors_of(written)


def storage_key(tensor: Tensor) -> int | None:
    """The same for all tensors that share memory; None where there is no such thing, as in a sparse tensor."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _aten(name: str) -> str:
    return name.removeprefix("aten.") if name.startswith("aten.") else ""
