"""What became of one layer, in facts: how its weights and its output are stored. They print as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qexplore._choices import FloatFormat
from qexplore._table import Tabular, text_table

State = Literal["integers", "float", "absorbed"]
"""Stored in integers (or small floats); left float; no layer of its own any more."""

_LISTED = 5

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class Stored(Tabular):
    """How numbers are stored; ``str`` says it, such as ``"int8 per channel"`` or ``"uint8 per tensor, affine"``.

    Attributes:
        of: what the numbers are: weights are symmetric if nothing else is said, of activations it is always said.
        num_bits: width of the integers, or the float format.
        granularity: what shares a scale: the tensor, an output channel, or a group of ``group_size`` inputs.
        signed: whether there are negative integers; of a float format always.
        symmetric: whether zero stands in the middle of the integers; None where that is not told.
        group_size: neighbouring inputs that share a scale; None for other granularities.
        packed: whether several integers share a byte.
        at_run_time: whether the range is taken anew in every call.
        also: how other tensors of the same layer are stored, where that differs.
    """

    of: Literal["weights", "activations"]
    num_bits: int | FloatFormat
    granularity: Granularity = "tensor"
    signed: bool = True
    symmetric: bool | None = True
    group_size: int | None = None
    packed: bool = False
    at_run_time: bool = False
    also: tuple[Stored, ...] = ()

    @property
    def each(self) -> tuple[Stored, ...]:
        """This one, and those of ``also``."""
        return (self, *self.also)

    def __str__(self) -> str:
        is_integer = not isinstance(self.num_bits, FloatFormat)
        sign = ("int" if self.signed else "uint") if is_integer else ""
        scale = f"in groups of {self.group_size}" if self.granularity == "group" else f"per {self.granularity}"
        says_scheme = is_integer and (self.of == "activations" or self.symmetric is False)
        scheme = ["symmetric" if self.symmetric else "affine"] * says_scheme
        more = [*scheme, *["packed"] * self.packed, *["at run time"] * self.at_run_time]
        return "; ".join([", ".join([f"{sign}{self.num_bits} {scale}", *more]), *map(str, self.also)])


def together(several: Iterable[Stored]) -> Stored | None:
    """How the tensors of one layer are stored: the first with the differing others; None where there are none."""
    different = list({str(one): one for one in several}.values())
    return replace(different[0], also=tuple(different[1:])) if different else None


@dataclass(frozen=True)
class LayerStrategy:
    """How one layer is quantized, read back from the converted model.

    Attributes:
        name: qualified name in the float network, or the node's name for a function such as an addition.
        type: such as ``"Conv2d"``, or ``"add"``.
        state: ``"integers"`` where anything of it is stored so (small floats count too), ``"float"`` where it is left
            float, ``"absorbed"`` where another layer does its work, or nobody needs it.
        weights: None for a layer without weights, or whose weights stay float.
        activations: None where the output stays float.
        reason: why so; for a layer left float, why.
        error: norm of the difference between what the layer gives and what the float layer gives on the same inputs,
            over the norm of the latter, on calibration data; None where the layer cannot be held alone.
    """

    name: str
    type: str
    state: State
    weights: Stored | None
    activations: Stored | None
    reason: str
    error: float | None = None

    @classmethod
    def present(
        cls, name: str, type: str, weights: Stored | None, activations: Stored | None, reason: str
    ) -> LayerStrategy:
        """A layer that the quantized network still has."""
        return cls(name, type, "integers" if weights or activations else "float", weights, activations, reason)

    @property
    def is_quantized(self) -> bool:
        """Whether anything of the layer is in integers."""
        return self.state == "integers"


def layer_table(rows: Iterable[LayerStrategy]) -> str:
    """The layers as text, a line each."""
    header = ("layer", "type", "weights", "activations", "error", "reason")
    cells = [
        (row.name, row.type, str(row.weights or "-"), str(row.activations or "-"), error_text(row.error), row.reason)
        for row in rows
    ]
    return text_table(header, cells, numeric=(4,))


def error_text(error: float | None) -> str:
    """A relative error as text; a dash where none is known."""
    return "-" if error is None else f"{error:.4f}"


def listed(names: Sequence[str]) -> str:
    """A few of ``names``, quoted, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more
