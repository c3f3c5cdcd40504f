"""Weights that several layers of an ONNX graph share: who holds them, and who needs one of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

_FLOAT = 1


def tied_parameters(modules: Mapping[str, nn.Module]) -> frozenset[str]:
    """Qualified names of the parameters that several ``modules``, given by name, hold.

    Those of equal values too, of which the exporter writes one.
    """
    held = [
        (f"{name}.{key}", (tuple(one.shape), float(one.detach().sum())))
        for name, module in modules.items()
        for key, one in module._parameters.items()
        if one is not None
    ]
    counts = Counter(alike for _, alike in held)
    return frozenset(name for name, alike in held if counts[alike] > 1)


def give_own_weights(graph: Any, *, per_channel: bool, excluded: Collection[str]) -> bool:
    """Give a weight that nodes read in different ways to each kind of them, and say whether there was one.

    onnxruntime quantizes a weight once for all. So one that a node reads in float would be rounded there too; and
    scales per channel lie along the axis of the outputs, which for an embedding is another than for the head that
    shares its table: it stops there with a TypeError.

    Args:
        graph: what is to be quantized; changed in place.
        per_channel: whether weights have a scale for each channel.
        excluded: names of nodes that stay float.
    """
    weights = {one.name: one for one in graph.initializer if one.data_type == _FLOAT and len(one.dims) > 1}
    names: dict[str, dict[Any, str]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in weights:
                known = names.setdefault(name, {})
                node.input[place] = known.setdefault(
                    (node.name in excluded, *(_axes(node, place) if per_channel else ())),
                    f"{name}_{len(known)}" if known else name,
                )
    for name, known in names.items():
        for own in list(known.values())[1:]:
            copied = graph.initializer.add()
            copied.CopyFrom(weights[name])
            copied.name = own
    return any(len(known) > 1 for known in names.values())


def _axes(node: Any, place: int) -> tuple[Any, ...]:
    """What decides along which axis the outputs lie in a node's input at ``place``."""
    flags = [(one.name, one.i) for one in node.attribute if one.name in ("transA", "transB")]
    return node.op_type, place, *sorted(flags)
