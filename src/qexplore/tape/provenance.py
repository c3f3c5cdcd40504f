"""What operations do to values: which ones hand them on unchanged, and which only make constants."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qexplore._trees import tensors_of

_HAND_ON = frozenset(
    """
    alias clone contiguous copy _to_copy detach_copy lift_fresh lift_fresh_copy expand_copy view_copy permute_copy
    _unsafe_view _reshape_copy as_strided_copy slice_copy select_copy split_copy squeeze_copy unsqueeze_copy t_copy
    transpose_copy unfold_copy unbind_copy unsafe_split unsafe_split_with_sizes split_with_sizes_copy
    squeeze unsqueeze t transpose as_strided detach resize
    cat stack block_diag diag_embed tril triu repeat tile roll flip rot90 repeat_interleave im2col unfold
    index _unsafe_index _unsafe_masked_index index_select gather take embedding masked_select nonzero_static
    index_put _unsafe_index_put _index_put_impl index_copy index_fill put
    scatter select_scatter slice_scatter diagonal_scatter as_strided_scatter masked_scatter
    _pack_padded_sequence
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices mkldnn_max_pool2d
    mkldnn_max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d
    fractional_max_pool3d max_unpool2d max_unpool3d
    max min amax amin aminmax cummax cummin _cummax_helper _cummin_helper median nanmedian kthvalue mode sort topk
    maximum minimum fmax fmin
    where masked_fill clamp clamp_min clamp_max relu hardtanh hardshrink threshold dropout feature_dropout
    nan_to_num _unique _unique2 unique_dim unique_consecutive
    """.split()  # noqa: SIM905 - a hundred names as a list of strings would be a hundred lines
)
"""Every value of the result is one of the operands', or 0, a bound or what is filled in: it needs no more bits."""

_FILLS = frozenset(
    """
    empty empty_like empty_permuted empty_strided fill full full_like new_empty new_empty_strided new_full new_ones
    new_zeros ones ones_like scalar_tensor zero zeros zeros_like
    """.split()  # noqa: SIM905
)
"""The result is a constant; nothing is read of an operand but its shape."""


def operation_name(function: Any) -> str:
    """Without its overload: "aten.relu"."""
    return str(getattr(function, "_overloadpacket", function))


def aten_name(name: str) -> str:
    """The bare name of one of torch's own operations; nothing for others."""
    return name.removeprefix("aten.") if name.startswith("aten.") else ""


def hands_on(name: str) -> bool:
    """Whether the values of the result are those of the operands."""
    return _out_of_place(name) in _HAND_ON


def fills(name: str) -> bool:
    """Whether the result is a constant."""
    return _out_of_place(name) in _FILLS


def adds(name: str) -> bool:
    """Whether it is an elementwise addition."""
    return _out_of_place(name) == "add"


def multiplies(name: str) -> bool:
    """Whether it is an elementwise product."""
    return _out_of_place(name) == "mul"


def sums(name: str) -> bool:
    """Whether it adds up the numbers of a tensor."""
    return aten_name(name) in ("sum", "mean")


def fills_in_place(name: str) -> bool:
    """Whether it writes a constant over what was there."""
    return fills(name) and name.endswith("_")


def counts_up(name: str) -> bool:
    """Whether it makes a table of nothing, of which weights and positions may be computed."""
    return aten_name(name) in ("eye", "arange")


def repeats(name: str) -> bool:
    """Whether it repeats values, as a learned query is for each sample."""
    return aten_name(name) in ("expand", "repeat", "repeat_interleave", "expand_copy")


def takes_first(name: str) -> bool:
    """Whether only the first operand gives values; the others are bounds, or say where to look."""
    return _out_of_place(name).startswith(("clamp", "fractional_max_pool"))


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


def reach(tensor: Tensor) -> tuple[int, int]:
    """First byte of its memory that a tensor may read, and the first behind it."""
    start = tensor.storage_offset()
    last = start + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    size = tensor.element_size()
    return int(start * size), int((last + 1) * size)


def _out_of_place(name: str) -> str:
    return aten_name(name).rstrip("_")
