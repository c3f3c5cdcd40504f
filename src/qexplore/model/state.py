"""A model's state: put aside and brought back, and told apart from what it was."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch ``model`` to eval mode and give every module its own train/eval flag back, also after an error."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def content_version(model: nn.Module) -> Hashable:
    """Changes whenever a parameter or buffer does, also through ``tensor.data``, which torch does not count.

    Identity and torch's version counter catch replaced and in-place changed tensors; the sum of the raw bits, one pass
    on the tensor's own device, catches the rest.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    return tuple(
        (name, tensor.data_ptr(), _version(tensor), tuple(tensor.shape), bit_sum(tensor)) for name, tensor in named
    )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def bit_sum(tensor: Tensor) -> int:
    """Sum of the elements' raw bits as integers: equal for equal content in any order, found on its device."""
    if tensor.numel() == 0 or tensor.is_meta:
        return 0
    plain = tensor.detach().contiguous()
    as_integers = _BITS.get(plain.element_size())
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    return int(plain.view(as_integers).sum(dtype=torch.int64)) if as_integers else 0
