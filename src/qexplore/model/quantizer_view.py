"""Quantizers by the names of their points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from qexplore.quant import TensorQuantizer


def module_key(name: str) -> str:
    """The key under which a point's quantizer is registered as a submodule."""
    # The leading slash keeps clear of ModuleDict's own attributes: attention layers like to be called "keys".
    return "/" + name.replace(".", "/")


class QuantizerView(Mapping[str, TensorQuantizer]):
    """Quantizers by point name, in the order of ``num_bits``.

    A view, because the quantizers are registered submodules, whose keys cannot hold the dots of qualified names.
    """

    def __init__(self, keys: Mapping[str, str], modules: nn.ModuleDict) -> None:
        self._keys = keys
        self._modules = modules

    def __getitem__(self, name: str) -> TensorQuantizer:
        if name not in self._keys:
            raise KeyError(f"there is no quantization point {name!r}; there are: {', '.join(self._keys)}")
        quantizer = self._modules[self._keys[name]]
        assert isinstance(quantizer, TensorQuantizer)
        return quantizer

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {quantizer}" for name, quantizer in self.items()) + "}"
