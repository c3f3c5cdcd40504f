"""What one operation multiplies."""

from __future__ import annotations

from dataclasses import dataclass

from qexplore.tape.values import Sources


@dataclass(frozen=True)
class Operation:
    """One product of two tensors.

    Attributes:
        module: qualified name of the module in whose forward it runs, ``""`` for the network itself.
        name: of the operation, such as "aten.convolution".
        macs: multiply-accumulates; a fraction where they are the mean over samples that differ.
        operands: the points that each of its two operands comes from; empty for one that comes from none.
        of_weights: of each operand whether it is made of parameters and buffers alone.
        call: the call of a function that it is part of, ``"attn.matmul"``, where calls are followed; else empty.
    """

    module: str
    name: str
    macs: float
    operands: tuple[Sources, Sources]
    of_weights: tuple[bool, bool] = (False, False)
    call: str = ""
