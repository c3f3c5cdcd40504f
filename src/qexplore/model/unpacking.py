"""Batches split for a network: by its forward's arguments, and refused where they may mean something else."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qexplore._trees import opened
from qexplore.errors import DataError
from qexplore.model.hooks import foreign_hooks
from qexplore.model.inputs import TARGET_KEYS, Unpack, unpack_batch
from qexplore.model.wrapped import WrappedNetwork

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def unpacking(network: object, unpack: Unpack | None) -> Unpack | None:
    """The user's ``unpack``, or one that splits batches as `unpack_batch` does and knows what ``network`` takes.

    None for what is no network, or one that does not tell.
    """
    if unpack is not None:
        return unpack
    network = network.model if isinstance(network, WrappedNetwork) else network
    try:
        return DefaultUnpack.of(network) if isinstance(network, nn.Module) else None
    except (TypeError, ValueError):  # a forward without a signature, such as a script's
        return None


@dataclass(frozen=True)
class DefaultUnpack:
    """Splits batches for one network.

    Attributes:
        network: its class.
        names: of the forward's arguments.
        required: those of them without a default.
        positional: how many may be given by position.
        tensors: how many of these may be tensors, as far as defaults tell: the first ones without, or with None.
        takes_any: by position, by name.
        is_fed: whether a hook of the user's may bring arguments of its own.
    """

    network: str
    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: int
    tensors: int
    takes_any: tuple[bool, bool]
    is_fed: bool

    @classmethod
    def of(cls, network: nn.Module) -> DefaultUnpack:
        """That of ``network``."""
        every = inspect.signature(network.forward).parameters
        plain = [one for one in every.values() if one.kind not in _ANY]
        by_position = [one for one in plain if one.kind in _BY_POSITION]
        kinds = {one.kind for one in every.values()}
        others = [place for place, one in enumerate(by_position) if one.default not in (inspect.Parameter.empty, None)]
        return cls(
            type(network).__name__,
            tuple(one.name for one in plain),
            tuple(one.name for one in plain if one.default is inspect.Parameter.empty),
            len(by_position),
            min([*others, len(by_position)]),
            (_ANY[0] in kinds, _ANY[1] in kinds),
            bool(foreign_hooks(network)),
        )

    def __call__(self, batch: Any) -> tuple[Any, Any]:
        """As `unpack_batch`.

        Raises:
            DataError: the batch may be taken in two ways, or forward does not take what comes out; names the line that
                says how to take it.
        """
        if not isinstance(batch, (Tensor, Mapping, tuple, list)):
            self._refuse_object(batch)
        inputs, target = unpack_batch(batch)
        if isinstance(batch, Mapping):
            self._check_keywords(batch, inputs)
        elif isinstance(batch, (tuple, list)) and not self.takes_any[0]:
            inputs = self._first_of(batch)
        return inputs, target

    def _first_of(self, batch: Any) -> Any:
        first, count, needed = batch[0], len(batch), len(self.required)
        target = "batch[1]" if count > 1 else "None"
        if isinstance(first, Mapping):
            return first if self.takes_any[1] or set(first) <= set(self.names) else (first,)
        if isinstance(first, (tuple, list)):
            is_spread = needed <= len(first) <= self.positional
            if needed <= 1 and not is_spread:
                return (first,)
            if needed <= 1 < len(first) and all(isinstance(one, Tensor) for one in first):  # as images, say
                raise self._refusal(
                    f"begins with a {type(first).__name__} of {len(first)}, which may be one argument or several",
                    f"((batch[0],), {target})` where it is one",
                    f"(tuple(batch[0]), {target})",
                )
            if not is_spread:
                raise self._refusal(f"begins with a {type(first).__name__} of {len(first)}", f"(..., {target})")
            return first
        if needed > 1 and count >= needed:
            raise self._refusal(f"has {count} parts", _split(needed, count))
        if count > 2 and self.tensors > 1 and all(isinstance(one, Tensor) for one in batch[1:3]):
            raise self._refusal(
                f"has {count} parts, of which more than the first may be inputs",
                _split(min(self.tensors, count - 1), count),
                "(batch[0], batch[1])",
            )
        return first

    def _check_keywords(self, batch: Any, inputs: Mapping[str, Any]) -> None:
        unknown = [] if self.takes_any[1] else [key for key in inputs if key not in self.names]
        eaten = [key for key in batch if key not in inputs]
        missing = [key for key in eaten if key in self.required]
        if missing:
            raise self._refusal(f"has {missing[0]!r}, which forward needs itself", f"(batch, batch[{missing[0]!r}])")
        lacking = [name for name in self.required if name not in inputs]
        if unknown and not any(key in self.names for key in inputs):
            what = f"has {', '.join(map(repr, unknown))}, which forward does not take"
            raise self._refusal(what, *self._lines_without_names(batch, eaten))
        if unknown:
            known = [key for key in inputs if key in self.names]
            line = f"({{key: batch[key] for key in {known}}}, batch[{(eaten or unknown)[0]!r}])"
            raise self._refusal(f"has {', '.join(map(repr, unknown))}, which forward does not take", line)
        if lacking and not self.is_fed:
            lines = self._lines_without_names(batch, eaten) if len(self.required) == 1 else [f"(..., {_item(eaten)})"]
            raise self._refusal(f"has no {lacking[0]!r}, which forward needs", *lines)

    def _lines_without_names(self, batch: Any, eaten: Sequence[str]) -> list[str]:
        """The lines for a dict none of whose keys is an argument: it may be one itself, or hold them in its order."""
        apart = [key for key in batch if key not in eaten]
        lines = []
        if len(self.required) <= 1:
            lines.append(f"((batch,), {_item(eaten)})` where the dict is one argument")
            if not eaten and len(apart) > 1:
                lines.append(f"((batch,), {_item(apart[-1:])})` where {apart[-1]!r} is a target in it")
        target = eaten or apart[max(1, len(self.required)) :]
        given = [key for key in apart if key not in target]
        if eaten and len(given) > len(self.required) <= 1:
            lines.append(f"(({{key: batch[key] for key in {given}}},), {_item(eaten)})` where it is without the target")
        elif len(given) == max(1, len(self.required)) and len(target) <= 1 and (target or not lines):
            lines.append(f"({self._arguments([(f'batch[{key!r}]', batch[key]) for key in given])}, {_item(target)})")
        return lines or [f"(..., {_item(target)})"]

    def _arguments(self, given: Sequence[tuple[str, Any]]) -> str:
        """The arguments, each as it is written and what it is, as `qexplore.model.call` takes them for such."""
        written, first = given[0]
        by_name = isinstance(first, Mapping) and set(first) <= set(self.names)
        if len(given) == 1 and (by_name or not isinstance(first, (Mapping, tuple, list))):
            return written
        return f"({''.join(f'{one}, ' for one, _ in given).removesuffix(' ' if len(given) == 1 else ', ')})"

    def _refuse_object(self, batch: Any) -> None:
        whole = opened(batch)
        fields = [] if whole is None else [str(key) for key in whole.keys]
        given = [name for name in fields if name in self.names]
        if not given and (not fields or len(self.required) > 1):
            return
        rest = [name for name in fields if name not in given]
        likely = rest if given else rest[::-1]
        target = next((name for name in (*TARGET_KEYS, *likely) if name in rest), None)
        inputs = f"dict({', '.join(f'{name}=batch.{name}' for name in given)})" if given else "(batch,)"
        raise self._refusal(f"is a {type(batch).__name__}", f"({inputs}, {f'batch.{target}' if target else None})")

    def _refusal(self, what: str, *lines: str) -> DataError:
        """The error with each line that may be meant; one that says when has its closing mark before that."""
        closed = [line if "` where" in line else f"{line}`" for line in lines]
        return DataError(
            f"a batch must tell inputs and target apart for forward({', '.join(self.names)}) of {self.network}, but "
            f"this one {what}: pass {', or '.join(f'`unpack=lambda batch: {line}' for line in closed)}"
        )


def _item(keys: Sequence[str]) -> str | None:
    """The first of ``keys``, taken from a batch."""
    return f"batch[{keys[0]!r}]" if keys else None


def _split(num_inputs: int, count: int) -> str:
    """The line that takes the first of so many parts for inputs."""
    return f"(batch[:{num_inputs}], {f'batch[{num_inputs}]' if count > num_inputs else None})"
