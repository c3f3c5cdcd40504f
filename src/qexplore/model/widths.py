"""Vectors of widths as users hand them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from qexplore.errors import NumBitsError
from qexplore.model.input_points import INPUT, is_input_name
from qexplore.quant import TensorQuantizer, check_choice

DEFAULT_NUM_BITS = 8


def checked_num_bits(value: Any, quantizers: Mapping[str, TensorQuantizer]) -> list[int]:
    """``value``, in the order of the quantizers or by their names, as one code for each, 0 where it is to be off.

    A point of a front stands for its vector, or, where it was found when one point stood for several inputs, for its
    widths by name. By name, ``"input"`` stands for all inputs.

    Raises:
        NumBitsError: not a vector, the wrong length, or a width that a quantizer cannot have.
    """
    by_name = getattr(value, "widths", None)  # of a point of a front
    value = getattr(value, "num_bits", value)
    if isinstance(by_name, Mapping) and INPUT in by_name and len(value) != len(quantizers):
        value = by_name
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, Mapping):
        value = _in_order(value, quantizers)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise NumBitsError(
            f"`num_bits` must be a vector of {len(quantizers)} widths, got {value!r}: one for all points is "
            f"[{value!r}] * {len(quantizers)}"
        )
    if len(value) != len(quantizers):
        raise NumBitsError(
            f"`num_bits` must have one width for each of the {len(quantizers)} points ({', '.join(quantizers)}), "
            f"got {len(value)}"
        )
    return [
        check_choice(choice, unsigned=quantizer.min_num_bits == 1, owner=f"point '{name}'")
        for (name, quantizer), choice in zip(quantizers.items(), value, strict=True)
    ]


def _in_order(by_name: Mapping[Any, Any], quantizers: Mapping[str, TensorQuantizer]) -> list[Any]:
    given = dict(by_name)
    if INPUT in given and INPUT not in quantizers and any(map(is_input_name, quantizers)):
        width = given.pop(INPUT)
        given = {name: width for name in quantizers if is_input_name(name)} | given
    unknown = [name for name in given if name not in quantizers]
    missing = [name for name in quantizers if name not in given]
    if unknown or missing:
        said = [f"{', '.join(map(repr, missing))} missing"] if missing else []
        said += [f"{', '.join(map(repr, unknown))} unknown"] if unknown else []
        raise NumBitsError(
            f"`num_bits` by name must name the points {', '.join(quantizers)}, got {'; '.join(said)}. To change some "
            "alone: model.num_bits = dict(zip(model.fake_quantizers, model.num_bits)) | {name: width}"
        )
    return [given[name] for name in quantizers]


@contextmanager
def widths_set(quantizers: Mapping[str, TensorQuantizer], value: Any) -> Iterator[None]:
    """Give ``quantizers`` the choices of ``value`` for a block and the old ones back; what is disabled stays so.

    Raises:
        NumBitsError: as `checked_num_bits`; nothing is changed then.
    """
    codes = checked_num_bits(value, quantizers)
    before = [(quantizer, quantizer.code, quantizer.switched_off) for quantizer in quantizers.values()]
    try:
        for quantizer, code in zip(quantizers.values(), codes, strict=True):
            quantizer.switched_off = code == 0
            quantizer.num_bits = code or quantizer.code
        yield
    finally:
        for quantizer, code, switched_off in before:
            quantizer.num_bits, quantizer.switched_off = code, switched_off
