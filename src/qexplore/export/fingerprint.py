"""What tells the network of one manifest from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from qexplore.model import QuantizedModel


def structure_of(model: QuantizedModel, inputs: Sequence[str] | None = None) -> str:
    """Digest of the network's class, of its tensors' names and shapes, and of the points; with these of ``inputs``."""
    digest = hashlib.sha256(type(model.model).__name__.encode())
    for name, tensor in _tensors(model.model):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
    if inputs is None:
        inputs = [point.name for point in model.points if point.kind == "input"]
    others = [(point.kind, point.name, point.num_scales) for point in model.points if point.kind != "input"]
    for kind, name, num_scales in [*(("input", name, 1) for name in inputs), *others]:
        digest.update(f"{kind} {name} {num_scales}\n".encode())
    return digest.hexdigest()


def weights_of(model: QuantizedModel) -> str:
    """Digest of the float values of the network's parameters and buffers."""
    digest = hashlib.sha256()
    for _, tensor in _tensors(model.model):
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names they have in the float network, in the order of the names."""
    named = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        owner, parametrized, rest = name.partition("parametrizations.")
        if not parametrized:
            named[name] = tensor
        elif not rest.endswith(".mean_input"):  # of a corrected bias, and so of the wrapper
            named[owner + rest.removesuffix(".original")] = tensor
    yield from sorted(named.items())
