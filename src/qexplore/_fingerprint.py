"""What tells one wrapped network from another: short digests, and what it means where they differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

DIGITS = 16
"""Hexadecimal digits of a short digest: 64 bits."""

_MEANINGS = {
    "network": "another class of network",
    "structure": "other layers, or parameters of other names or shapes",
    "points": "other quantization points",
    "weights": "other weights",
    "ranges": "other ranges, signs or switches of quantizers",
}


@dataclass(frozen=True)
class Fingerprint:
    """What a wrapped network was when something was measured; independent of widths and of where tensors lie.

    Attributes:
        network: class name of the float network.
        structure: digest of its layers and of the names and shapes of its parameters and buffers.
        points: digest of the quantization points, in their order.
        weights: digest of its parameters and buffers.
        ranges: digest of all that a quantizer's arithmetic depends on but the width.
    """

    network: str
    structure: str
    points: str
    weights: str
    ranges: str

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise TypeError(f"Fingerprint: {name} must be a text, got {value!r}")

    @classmethod
    def read(cls, value: Any) -> Fingerprint | None:
        """From what a file holds: a mapping of its fields, or None. TypeError for anything else."""
        if value is None or isinstance(value, Fingerprint):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"Fingerprint: must be a mapping of its fields, got {value!r}")
        return cls(**value)

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Names of the fields in which the two differ."""
        return tuple(name for name, value in vars(self).items() if value != vars(other)[name])

    def difference_text(self, other: Fingerprint) -> str:
        """What ``other`` has and this one has not: "weights (3f2a... there, 90b1... here: other weights)"; or empty."""
        return "; ".join(
            f"{name} ({_shown(getattr(self, name))} there, {_shown(getattr(other, name))} here: {_MEANINGS[name]})"
            for name in self.differences(other)
        )

    def __str__(self) -> str:
        """One short digest of all."""
        return text_digest(f"{name} {value}" for name, value in asdict(self).items())


def text_digest(lines: Iterable[str]) -> str:
    """Short digest of ``lines``."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{len(line)} {line}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:DIGITS]


def tensor_bytes(tensor: Tensor) -> Any:
    """What ``tensor`` holds, wherever and however it lies, as a buffer; nothing for one without content."""
    plain = tensor.detach()
    if plain.is_meta or not plain.numel():
        return b""
    plain = plain.to_dense() if plain.layout != torch.strided else plain
    plain = plain.cpu().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy()


def _shown(value: str) -> str:
    return value if len(value) < DIGITS else f"{value[:8]}…"
