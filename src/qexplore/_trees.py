"""Tensors in what networks take and give: in containers of every kind, and in the attributes of plain objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Leaf = Callable[[Any], Any]

_CLOSED = (
    *(str, bytes, bytearray, int, float, complex, type(None), type, slice, range),
    *(FunctionType, BuiltinFunctionType, MethodType, ModuleType, np.ndarray, np.generic),
    *(Tensor, nn.Module, torch.dtype, torch.device, torch.Generator, torch.fx.Proxy, torch.fx.Node),
)
"""What is not looked into: it has no parts, or parts that are not data."""


@dataclass(frozen=True)
class Opened:
    """A container or an object, one level deep.

    Attributes:
        keys: of its parts: of a mapping its own, else names of fields or places.
        parts: in the same order.
        with_parts: another of its kind, with other parts.
    """

    keys: tuple[Any, ...]
    parts: tuple[Any, ...]
    with_parts: Callable[[Sequence[Any]], Any]


def opened(tree: Any) -> Opened | None:
    """What is in ``tree``: a list, tuple or mapping of any class, what torch has registered, an object's attributes.

    None for a tensor and whatever else has no parts.
    """
    if isinstance(tree, _CLOSED):
        return None
    if type(tree) in pytree.SUPPORTED_NODES:
        return _registered(tree)
    if isinstance(tree, Mapping):
        keys = tuple(tree)
        return Opened(keys, tuple(tree[key] for key in keys), lambda parts: _mapping(tree, keys, parts))
    if isinstance(tree, tuple):
        make = getattr(type(tree), "_make", type(tree))
        return Opened(_field_names(tree), tuple(tree), make)
    if isinstance(tree, list):
        return Opened(tuple(range(len(tree))), tuple(tree), lambda parts: _list(tree, parts))
    names = _attributes(tree)
    return Opened(names, tuple(getattr(tree, name) for name in names), lambda parts: _object(tree, names, parts))


def _registered(tree: Any) -> Opened:
    # Not tree_flatten, whose recursive closure would hold the tree, and all tensors in it, until garbage is collected.
    kind = pytree.SUPPORTED_NODES[type(tree)]
    parts, context = kind.flatten_fn(tree)
    keys = tuple(tree) if isinstance(tree, Mapping) else _field_names(tree)
    keys = keys if len(keys) == len(parts) else tuple(range(len(parts)))
    return Opened(keys, tuple(parts), lambda parts: kind.unflatten_fn(list(parts), context))


def _field_names(tree: Any) -> tuple[Any, ...]:
    return tuple(getattr(tree, "_fields", None) or range(len(tree) if hasattr(tree, "__len__") else 0))


def _mapping(tree: Any, keys: Sequence[Any], parts: Sequence[Any]) -> Any:
    if not isinstance(tree, MutableMapping):
        return type(tree)(dict(zip(keys, parts, strict=True)))
    changed = copy.copy(tree)
    for key, part in zip(keys, parts, strict=True):
        changed[key] = part
    return changed


def _list(tree: list[Any], parts: Sequence[Any]) -> Any:
    changed = copy.copy(tree)
    changed[:] = parts
    return changed


def _attributes(tree: Any) -> tuple[str, ...]:
    """Names of what an object itself holds, in slots or not."""
    declared: list[Any] = [kind.__dict__.get("__slots__", ()) for kind in type(tree).__mro__]
    slots = [name for names in declared for name in ([names] if isinstance(names, str) else names)]
    held = [name for name in slots if name not in ("__dict__", "__weakref__") and hasattr(tree, name)]
    return (*held, *getattr(tree, "__dict__", {}))


def _object(tree: Any, names: Sequence[str], parts: Sequence[Any]) -> Any:
    changed = copy.copy(tree)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(changed, name, part)  # a frozen dataclass refuses its own
    return changed


def leaves(tree: Any) -> list[Any]:
    """What has no parts in ``tree``, tensors and others, in order; an object that holds itself is seen once."""
    return list(_leaves(tree, ()))


def _leaves(tree: Any, inside: tuple[int, ...]) -> Iterator[Any]:
    whole = None if id(tree) in inside else opened(tree)
    if whole is None or not whole.parts:
        yield tree
        return
    for part in whole.parts:
        yield from _leaves(part, (*inside, id(tree)))


def map_leaves(function: Leaf, tree: Any) -> Any:
    """``tree`` with ``function`` of every leaf in its place; what it leaves as it was is kept, not copied."""
    return _mapped(function, tree, ())


def _mapped(function: Leaf, tree: Any, inside: tuple[int, ...]) -> Any:
    whole = None if id(tree) in inside else opened(tree)
    if whole is None or not whole.parts:
        return function(tree)
    parts = [_mapped(function, part, (*inside, id(tree))) for part in whole.parts]
    changed = any(new is not old for new, old in zip(parts, whole.parts, strict=True))
    return whole.with_parts(parts) if changed else tree


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """``tree`` with ``function`` of every tensor in its place."""
    if isinstance(tree, Tensor):
        return function(tree)
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def structure(tree: Any) -> Any:
    """What ``tree`` is but for its leaves; equal for trees that differ in these alone."""
    return _structure(tree, ())


def _structure(tree: Any, inside: tuple[int, ...]) -> Any:
    whole = None if id(tree) in inside else opened(tree)
    if whole is None or not whole.parts:
        return None
    return type(tree), whole.keys, tuple(_structure(part, (*inside, id(tree))) for part in whole.parts)


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in ``tree``, in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def cloned(tree: Any) -> Any:
    """``tree`` with a copy in the place of every tensor."""
    return map_tensors(torch.clone, tree)


def num_bytes(tree: Any) -> int:
    """What the tensors in ``tree`` take."""
    return sum(tensor.nbytes for tensor in tensors_of(tree))


def versions_of(tree: Any) -> list[object]:
    """One mark per tensor that moves when it is written into; inference tensors keep no count and always move."""
    return [object() if tensor.is_inference() else tensor._version for tensor in tensors_of(tree)]
