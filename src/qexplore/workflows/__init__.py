"""Turn-key quantization of a float network, and fine-tuning of a chosen point."""

from qexplore.workflows.packed_linear import PackedLinear
from qexplore.workflows.packing import PackedLayer, PackingReport, pack_linear_weights

__all__ = [
    "PackedLayer",
    "PackedLinear",
    "PackingReport",
    "pack_linear_weights",
]
