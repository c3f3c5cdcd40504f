"""What a quantized network says where it is called with something else than it was made for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qexplore._sizes import path_name
from qexplore.errors import DataError, QExploreError, first_line


@dataclass(frozen=True)
class _Part:
    """What is no container in an argument: its type, and of a tensor the sizes."""

    kind: str
    shape: tuple[Any, ...] | None = None

    @staticmethod
    def of(leaf: Any) -> _Part:
        if not isinstance(leaf, Tensor):
            return _Part(type(leaf).__name__)
        shape = tuple(size if isinstance(size, int) else "any" for size in leaf.shape)
        return _Part(str(leaf.dtype).removeprefix("torch."), shape)

    def of_any_batch(self) -> _Part:
        """The same with an open first size."""
        return _Part(self.kind, ("any", *self.shape[1:])) if self.shape else self

    def fits(self, wanted: _Part) -> bool:
        """Whether both are the same but for sizes that are open in ``wanted``."""
        if self.shape is None or wanted.shape is None or len(self.shape) != len(wanted.shape):
            return self == wanted
        sizes = zip(self.shape, wanted.shape, strict=True)
        return self.kind == wanted.kind and all(size in (one, "any") for one, size in sizes)

    def __str__(self) -> str:
        return self.kind if self.shape is None else f"{self.kind} [{', '.join(map(str, self.shape))}]"


_Parts = Mapping[str, _Part]
"""Of an argument, by name; those of a tuple ``states`` are ``states_0``, ``states_1``."""


@dataclass(frozen=True)
class Form:
    """What a call gives to a network.

    Attributes:
        arguments: what each holds, by name and in order.
    """

    arguments: Mapping[str, _Parts]

    @staticmethod
    def of(names: Iterable[str], args: Iterable[Any]) -> Form:
        """Of a call that is right, with arguments of these names."""
        parts = {name: _parts(name, value) for name, value in zip(names, args, strict=False)}
        return Form({name: {key: one.of_any_batch() for key, one in held.items()} for name, held in parts.items()})

    @contextmanager
    def explaining(self, owner: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Run a block that calls ``owner``; where it stops, say what it was given that it does not take, if it was.

        Raises:
            DataError: an argument is of another form than ``owner`` takes, or an empty batch.
        """
        try:
            yield
        except QExploreError:
            raise
        except Exception as error:
            refusal = self._refusal({**dict(zip(self.arguments, args, strict=False)), **kwargs})
            if not refusal:
                raise
            raise DataError(
                f"{owner} {refusal} ({type(error).__name__}: {first_line(error)}): give it inputs like those that it "
                "was quantized with"
            ) from error

    def _refusal(self, given: Mapping[str, Any]) -> str:
        """What is wrong with the arguments ``given``, as a half sentence; empty where nothing is."""
        parts = {name: _parts(name, value) for name, value in given.items() if name in self.arguments}
        unlike = [name for name in parts if not _fit(parts[name], self.arguments[name])]
        if unlike:
            return f"takes {_text(self.arguments[one] for one in unlike)}, got {_text(parts[one] for one in unlike)}"
        empty = [name for name, held in parts.items() if any(one.shape and one.shape[0] == 0 for one in held.values())]
        return f"takes one sample at least, got {_text(parts[one] for one in empty)}" if empty else ""


def explain_calls(model: fx.GraphModule, example: Sequence[Any]) -> None:
    """Let ``model`` say what it takes where a call with something else stops, in place of torch's print of its code.

    Args:
        model: changed: its class, which it has for itself. Copies are without.
        example: positional arguments of a call that is right.
    """
    form = Form.of((str(node.target) for node in model.graph.nodes if node.op == "placeholder"), example)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with form.explaining("the quantized network", args, kwargs):
            return nn.Module.__call__(self, *args, **kwargs)

    type(model).__call__ = call  # type: ignore[method-assign]


def _parts(name: str, value: Any) -> _Parts:
    return {path_name(path): _Part.of(leaf) for path, leaf in pytree.tree_flatten_with_path({name: value})[0]}


def _fit(given: _Parts, wanted: _Parts) -> bool:
    return given.keys() == wanted.keys() and all(given[name].fits(wanted[name]) for name in wanted)


def _text(arguments: Iterable[_Parts]) -> str:
    return ", ".join(f"{name} {part}" for parts in arguments for name, part in parts.items())
