"""What a quantized network says where it is called with something else than it was made for."""

from __future__ import annotations

import inspect
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
    def explaining(
        self, owner: str, args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None = None
    ) -> Iterator[None]:
        """Run a block that calls ``owner``; where it stops, say what it was given that it does not take, if it was.

        Args:
            owner: what is called.
            args: with what.
            kwargs: the same.
            signature: of ``owner``; None where that takes each of its arguments, by place.

        Raises:
            DataError: an argument is of another form than ``owner`` takes, or an empty batch, or there are too few or
                too many.
        """
        try:
            yield
        except QExploreError:
            raise
        except Exception as error:
            refusal = self._refusal({**dict(zip(self.arguments, args, strict=False)), **kwargs})
            number = len(args) + len(kwargs)
            if not (refusal or (_binds(signature, args, kwargs) if signature else number == len(self.arguments))):
                refusal = f"takes {_text(self.arguments.values())}, got {number} arguments"
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


def explain_calls(model: nn.Module, example: Sequence[Any], network: nn.Module | None = None) -> None:
    """Let ``model`` say what it takes where a call with something else stops, in place of torch's words and its code.

    Args:
        model: changed: its class, which it has for itself from here on. Copies are without.
        example: positional arguments of a call that is right.
        network: whose forward says what ``model`` takes, where that passes all on to it; None for ``model``.
    """
    signature = inspect.signature((network or model).forward)
    form = Form.of(signature.parameters, example)
    # A graph has a class for itself, whose call prints the code of what stops.
    is_graph = isinstance(model, fx.GraphModule)
    own, base = (type(model), nn.Module) if is_graph else (_own_class(model), type(model))

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with form.explaining("the quantized network", args, kwargs, signature):
            return base.__call__(self, *args, **kwargs)

    own.__call__ = call  # type: ignore[method-assign]
    model.__class__ = own


def _own_class(model: nn.Module) -> type[nn.Module]:
    """A class for ``model`` alone that goes by the name of the one it has, which copies and pickles of it have."""
    base = type(model)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # A protocol that names the class as an argument: later ones ask that it be the object's.
        reduced: Any = base.__reduce_ex__(self, 1)
        make, args, *state = reduced
        return (make, tuple(base if one is own else one for one in args), *state)

    words = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    make: Any = type(base)
    own: type[nn.Module] = make(base.__name__, (nn.Module,), {**words, "__reduce_ex__": reduce})
    own.__bases__ = (base,)  # afterwards: an `__init_subclass__` of the user's has nothing to hear of
    return own


def _binds(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether there is a place for each of these arguments, and none is missing."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _parts(name: str, value: Any) -> _Parts:
    return {path_name(path): _Part.of(leaf) for path, leaf in pytree.tree_flatten_with_path({name: value})[0]}


def _fit(given: _Parts, wanted: _Parts) -> bool:
    return given.keys() == wanted.keys() and all(given[name].fits(wanted[name]) for name in wanted)


def _text(arguments: Iterable[_Parts]) -> str:
    return ", ".join(f"{name} {part}" for parts in arguments for name, part in parts.items())
