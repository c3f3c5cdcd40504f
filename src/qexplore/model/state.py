"""A model's state: put aside and brought back, and told apart from what it was."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_ROW = 1021
_ROW_WEIGHT = 0x9E3779B97F4A7C1
_REST_WEIGHT = 0x2545F4914F6CDD1D
_WORD = 8
_SMALL = 2**16
"""Elements of a tensor that is put together with others."""
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


@contextmanager
def undone_on_failure(model: nn.Module) -> Iterator[None]:
    """When the block fails, or is interrupted, bring back all that the modules of ``model`` held: the very tensors.

    Attributes, submodules, parameters and buffers, and what stood in these tensors.
    """
    held = [(one, dict(vars(one)), [(kind, dict(vars(one)[kind])) for kind in _HELD]) for one in model.modules()]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    except BaseException:
        for one, attributes, tables in held:
            vars(one).clear()
            vars(one).update(attributes)
            for kind, table in tables:
                vars(one)[kind].clear()
                vars(one)[kind].update(table)
        for tensor, content in tensors:
            if not torch.equal(_raw_bits(tensor), _raw_bits(content)):  # others keep torch's count of their writes
                tensor.detach().copy_(content)
        raise


_HELD = ("_parameters", "_buffers", "_modules")


def content_version(model: nn.Module) -> Hashable:
    """Changes whenever a parameter or buffer does, also through ``tensor.data``, which torch does not count.

    Where a tensor lies and its dtype count too, for outputs depend on both in their last bits.
    Identity and torch's version counter catch replaced and in-place changed tensors; checksums of the raw bits, two
    passes on the tensors' own device, catch the rest. Small tensors are summed up together, and the sums of all are
    fetched at once: on an accelerator each launch costs more than a small tensor's sum, and each fetch a wait.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = tuple((name, t.device, t.dtype, t.data_ptr(), write_count(t), tuple(t.shape)) for name, t in named)
    together: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    alone: list[Tensor] = []
    for bits in (_raw_bits(tensor) for _, tensor in named):
        beside = alone if bits.numel() > _SMALL else together.setdefault((bits.device, bits.dtype), [])
        beside.append(bits)
    sums: dict[torch.device, list[Tensor]] = {}
    for bits in (*map(torch.cat, together.values()), *alone):
        sums.setdefault(bits.device, []).append(_checksum(bits))
    return tensors, tuple(tuple(torch.stack(of_device).tolist()) for of_device in sums.values())


def follow_saved_inputs(model: Any, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Have the points of inputs that a wrapper's state dict has: what they are is seen in data."""
    start = f"{prefix}quantizers./"
    keys = [name.removeprefix(start).partition(".")[0] for name in state_dict if name.startswith(start)]
    if keys:
        model.follow_inputs(key.replace("/", ".") for key in dict.fromkeys(keys))
        model.require_found_for(key.replace("/", ".") for key in dict.fromkeys(keys))


def write_count(tensor: Tensor) -> int:
    """Rises with what is written into ``tensor``, but not through ``tensor.data``; always 0 for inference tensors."""
    return 0 if tensor.is_inference() else tensor._version


def _checksum(bits: Tensor) -> Tensor:
    """Depends on where an element stands: sums of rows and of columns, each weighed by its place.

    The weights of the two have nothing in common, or elements that change places might weigh what they did. What does
    not fill a row is weighed as one more.
    """
    words = _words(bits)
    whole = len(words) // _ROW * _ROW
    body, rest = words[:whole].view(-1, _ROW), words[whole:]
    lines = [(1, body.sum(dim=0, dtype=torch.int64)), (_ROW_WEIGHT, body.sum(dim=1, dtype=torch.int64))]
    lines.append((_REST_WEIGHT, rest.to(torch.int64)))
    weighed = [weight * (line * torch.arange(1, len(line) + 1, device=line.device)).sum() for weight, line in lines]
    return weighed[0] + weighed[1] + weighed[2]


def _words(bits: Tensor) -> Tensor:
    """``bits`` as integers of eight bytes, which torch sums up several times as fast, where they can be read so."""
    size = bits.element_size()
    fits = bits.nbytes % _WORD == 0 and bits.storage_offset() * size % _WORD == 0
    return bits.view(torch.int64) if fits else bits


def bit_sum(tensor: Tensor) -> int:
    """Sum of the elements' raw bits as integers: equal for equal content in any order, and found on its device."""
    return int(_raw_bits(tensor).sum(dtype=torch.int64))


def _raw_bits(tensor: Tensor) -> Tensor:
    """The elements as a flat tensor of integers; empty where they cannot be read."""
    plain = tensor.detach().contiguous()
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    if tensor.is_meta or plain.element_size() not in _BITS:
        return torch.empty(0, dtype=torch.int8)
    return plain.flatten().view(_BITS[plain.element_size()])
