"""Sizes that an exported graph takes: its example settled the others, and branches of ``forward`` that read one."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

Shapes = Mapping[str, Sequence[Any]]
"""Of tensors, by name; what is no int is open."""

_SIZE = re.compile(r"L\['(\w+)'\]((?:\[[^\[\]]+\])*)\.size\(\)\[(\d+)\]")
"""How torch writes a size in a condition: ``L['states'][0].size()[1]``."""

_SHOWN = re.compile(r"(\w+)\.shape\[(\d+)\]")
_ARITHMETIC = re.compile(r"(?:[\d\-+/%()<>=! ]|\*(?!\*)|\band\b|\bor\b|\bnot\b)+")
_NEAR = 1e-3


@dataclass(frozen=True)
class Sizes:
    """What an exported graph was made for.

    Attributes:
        shapes: of the tensors that it takes, by name; the parts of a tuple ``states`` are ``states_0``, ``states_1``.
        conditions: on sizes that are open, in torch's words.
    """

    shapes: Shapes
    conditions: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The conditions as one writes them in ``forward``: ``x.shape[0] > 3``."""
        return tuple(_readable(one) for one in self.conditions)

    def refusal(self, given: Shapes) -> str:
        """What is wrong with tensors of the shapes ``given``, as a half sentence; empty where nothing is."""
        others = [name for name in given if name in self.shapes and not _fits(given[name], self.shapes[name])]
        if others:
            wanted = ", ".join(f"{name} of shape {_text(self.shapes[name])}" for name in others)
            return f"takes {wanted}, got {_text_of(others, given)}"
        broken = [one for one in self.shown if not _holds(one, given)]
        return f"takes {' and '.join(broken)} alone, got {_text_of([*given], given)}" if broken else ""

    @staticmethod
    def of(exported: fx.GraphModule, conditions: Sequence[str] = ()) -> Sizes:
        """Of the module of an exported program, and its conditions on sizes."""
        kept = tuple(one for one in dict.fromkeys(conditions) if _is_understood(one))
        return Sizes({name: _plain(shape) for name, shape in _open_shapes(exported).items()}, kept)


def path_name(path: Sequence[Any]) -> str:
    """The name of a tensor in nested arguments or outputs, as torch names inputs: "state_0" for ``state[0]``."""
    return "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def shapes_of(names: Sequence[str], args: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in ``args``, which have these names."""
    leaves = pytree.tree_flatten_with_path(dict(zip(names, args, strict=False)))[0]
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves if isinstance(leaf, Tensor)}


def settled_batch(network: nn.Module, error: Exception) -> str:
    """Why ``torch.export`` stops with ``error`` where that is because one batch size settled; empty where it is not.

    Args:
        network: whose recurrent layers may read steps where others read samples.
        error: of an export whose first axis is open.
    """
    if not str(error).startswith("Constraints violated"):
        return ""
    steps_first = [name for name, one in network.named_modules() if isinstance(one, nn.RNNBase) and not one.batch_first]
    recurrent = (
        f" Recurrent layers without batch_first=True ({', '.join(map(repr, steps_first))}) read that axis as steps, "
        "unless forward turns it away: where they do, give them batch_first=True and inputs with the batch in front, "
        "or let forward call x.transpose(0, 1) before."
        if steps_first
        else ""
    )
    return (
        f"{type(network).__name__} must take every batch size to be exported, but its forward settles on the example's "
        f"size of the first axis.{recurrent} {'Elsewhere take' if steps_first else 'Take'} the size from the input "
        "(x.shape[0]) or leave it open (-1), and do not loop over that axis, as recurrent layers do over their steps"
    )


def as_forward_takes(network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What belongs to positional arguments, as ``torch.export`` asks for it: those of a ``*args`` as one."""
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return args
    place = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*args[:place], args[place:])


def settled_sizes(
    network: nn.Module, program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Conditions, in torch's words, under which an exported program is ``network``.

    Those that torch has found itself; where it has one that cannot be read here, the sizes of the example. Besides,
    ``torch.export`` takes it for granted that open sizes are not 1, so both networks are tried on that.

    Args:
        network: in eval mode; it is not changed.
        program: what ``torch.export`` made of it.
        args: of the example; the sizes that are open in the program are made smaller.
        kwargs: the same.
    """
    exported = program.module(check_guards=False)
    found = list(getattr(program, "_guards_code", ()))
    open_axes = _open_axes(exported, network, args, kwargs or {})
    if not all(map(_is_understood, found)):
        found += [f"{axes[0].name} == {axes[0].size}" for axes in open_axes]
    for axes in open_axes:
        if _differs(network, exported, *_one_long(args, kwargs or {}, axes)):
            found.append(f"{axes[0].name} != 1")
    return tuple(one for one in dict.fromkeys(found) if _is_understood(one))


@dataclass(frozen=True)
class _Axis:
    leaf: int
    axis: int
    size: int
    name: str


def _open_axes(exported: fx.GraphModule, network: nn.Module, args: Any, kwargs: Any) -> list[list[_Axis]]:
    """Axes of the arguments' tensors that are open, those of one size together."""
    try:
        named = inspect.signature(network.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return []
    leaves = pytree.tree_flatten_with_path(dict(named))[0]
    places = [node for node in exported.graph.nodes if node.op == "placeholder"]
    found: dict[str, list[_Axis]] = {}
    if len(leaves) != len(places):
        return []
    for index, ((path, leaf), place) in enumerate(zip(leaves, places, strict=True)):
        for axis, size in enumerate(getattr(place.meta.get("val"), "shape", ())):
            if not isinstance(size, int) and str(size).isidentifier():
                name = f"L{pytree.keystr(tuple(path))}.size()[{axis}]"
                found.setdefault(str(size), []).append(_Axis(index, axis, leaf.shape[axis], name))
    return list(found.values())


def _one_long(args: Any, kwargs: Any, axes: Sequence[_Axis]) -> tuple[Any, Any]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    for one in axes:
        leaves[one.leaf] = leaves[one.leaf].narrow(one.axis, 0, 1)
    return pytree.tree_unflatten(leaves, spec)  # type: ignore[no-any-return]


def _differs(network: nn.Module, exported: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether the graph gives something else than ``network``, where that gives something, and the same each time."""
    try:
        first, second = (_outputs(network, args, kwargs) for _ in range(2))
    except Exception:  # whatever a network stops at on so little
        return False
    try:
        given = _outputs(exported, args, kwargs)
    except Exception:
        return True
    return _are_near(first, second) and not _are_near(first, given)


@torch.no_grad()
def _outputs(network: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    own, args, kwargs = copy.deepcopy((network, args, kwargs))
    return [one for one in pytree.tree_leaves(own(*args, **kwargs)) if isinstance(one, Tensor)]


def _are_near(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(_is_near, first, second))


def _is_near(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    right, given = (torch.nan_to_num(one.double(), 0.0, 0.0, 0.0) for one in (first, second))
    return float((given - right).norm()) <= _NEAR * float(right.norm())


def _open_shapes(exported: fx.GraphModule) -> dict[str, tuple[Any, ...]]:
    info: Any = getattr(exported.graph._codegen, "pytree_info", None)
    places = [node for node in exported.graph.nodes if node.op == "placeholder"]
    if info is None or info.in_spec.num_leaves != len(places):
        return {}
    values = [node.meta.get("val") for node in places]
    args, kwargs = pytree.tree_unflatten(values, info.in_spec)
    leaves = pytree.tree_flatten_with_path({**dict(zip(info.orig_args, args, strict=False)), **kwargs})[0]
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves if isinstance(leaf, Tensor)}


def _plain(shape: Sequence[Any]) -> tuple[int | str, ...]:
    """Open sizes as text, which nothing hangs on."""
    return tuple(size if isinstance(size, int) else "any" for size in shape)


def _fits(given: Sequence[int], shape: Sequence[Any]) -> bool:
    sizes = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(isinstance(size, str) or one == size for one, size in sizes)


def _text(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _text_of(names: Sequence[str], shapes: Shapes) -> str:
    return ", ".join(f"{name} of shape {_text(shapes[name])}" for name in names)


def _readable(condition: str) -> str:
    return _SIZE.sub(lambda one: f"{_name(one[1], one[2])}.shape[{one[3]}]", condition)


def _name(argument: str, inside: str) -> str:
    return "_".join([argument, *re.findall(r"\w+", inside)])


def _is_understood(condition: str) -> bool:
    return bool(_ARITHMETIC.fullmatch(_SIZE.sub("1", condition)))


def _holds(condition: str, given: Shapes) -> bool:
    if any(int(axis) >= len(given.get(name, ())) for name, axis in _SHOWN.findall(condition)):
        return True  # it is not said here
    numbers = _SHOWN.sub(lambda one: str(given[one[1]][int(one[2])]), condition)
    if not _ARITHMETIC.fullmatch(numbers):
        return True
    try:
        return bool(eval(numbers, {"__builtins__": {}}))  # numbers, and what is between them
    except (ArithmeticError, SyntaxError, TypeError):
        return False
