"""Tensors in what networks take and give: in tuples, lists, dicts and whatever else torch looks into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in ``tree``, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def cloned(tree: Any) -> Any:
    """``tree`` with a copy in the place of every tensor."""
    return pytree.tree_map_only(Tensor, torch.clone, tree)


def num_bytes(tree: Any) -> int:
    """What the tensors in ``tree`` take."""
    return sum(tensor.nbytes for tensor in tensors_of(tree))
