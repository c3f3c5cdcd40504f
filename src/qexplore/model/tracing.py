"""Symbolic tracing with `torch.fx`, round what cannot be traced."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qexplore._trees import Opened, leaves, opened, tensors_of
from qexplore.errors import TraceError, first_line
from qexplore.model.inputs import as_arguments
from qexplore.model.keywords import place_arguments


class PathTracer(fx.Tracer):
    """A tracer that knows where it is, and takes some modules as a whole.

    Args:
        opaque: qualified names of modules that are not looked into.

    Attributes:
        path: names of the modules that tracing is inside of; after an error, of those that it was.
    """

    def __init__(self, opaque: Collection[str]) -> None:
        super().__init__()
        self._opaque = opaque
        self.path: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node."""
        return module_qualified_name in self._opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls where the network calls a module."""
        self.path.append(self.path_of_module(m))
        output = self.enter(m, forward, args, kwargs)
        self.path.pop()  # not in a finally: after an error the path tells where it was
        return output

    def create_arg(self, a: Any) -> Any:
        """What torch calls for an argument of a node.

        Objects that torch does not know, or takes for plain dicts, are built in a node of their own, so that what reads
        them meets their class.
        """
        whole = None if type(a) in _PLAIN else opened(a)
        if whole is None or not any(isinstance(leaf, fx.Proxy) for leaf in leaves(a)):
            return super().create_arg(a)
        parts = tuple(self.create_arg(part) for part in whole.parts)
        return self.create_node("call_function", Build(whole), parts, {})

    def enter(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Make a node of ``module``, or trace what is inside."""
        return super().call_module(module, forward, args, kwargs)


class Build:
    """Stands in a graph for the making of an object from its parts."""

    def __init__(self, whole: Opened) -> None:
        self.__name__ = "build"
        self._with_parts = whole.with_parts

    def __call__(self, *parts: Any) -> Any:
        """The object."""
        return self._with_parts(parts)


_PLAIN = (tuple, list, dict, slice, range)
"""What torch itself puts among the arguments of a node."""


def trace_around(
    network: nn.Module,
    tracer_of: Callable[[Collection[str]], PathTracer],
    fixed: dict[str, Any],
    opaque: Collection[str] = (),
    hint: str = "",
) -> tuple[fx.Graph, dict[str, str]]:
    """The graph of ``network``, in which a module that cannot be traced is one node, as those of ``opaque`` are.

    Args:
        network: in the mode that is to be traced.
        tracer_of: a tracer for names of modules to be taken as a whole.
        fixed: arguments of ``forward`` that are no tensors, with their values.
        opaque: what is taken as a whole from the start.
        hint: what the message says besides.

    Returns:
        The graph, tensors given by keyword in their places, and the modules that could not be traced, by name, with the
        reason.

    Raises:
        TraceError: the network itself cannot be traced, or a module cannot be called.
    """
    found: dict[str, str] = {}
    while True:
        closed = {*opaque, *found}
        tracer = tracer_of(closed)
        try:
            graph = tracer.trace(network, concrete_args=fixed or None)
        except Exception as error:
            where = tracer.path[-1] if tracer.path else ""
            if not where or where in closed:
                raise TraceError(
                    f"the network must be one that torch.fx can trace, but {where or type(network).__name__} is not: "
                    f"{_reason(error)}{hint}"
                ) from error
            found[where] = _reason(error)
        else:
            place_arguments(network, graph)
            return graph, found


def _reason(error: BaseException) -> str:
    """What ``error`` says, and the line of the network's own code that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    if not own:
        return first_line(error)
    line = own[-1].line or ""
    made = _OF_A_SIZE.search(line) if isinstance(error, TypeError) else None
    hint = f"; x.new_{made[1]}(...) of a tensor x takes sizes that are traced" if made else ""
    return f"{first_line(error)} ({Path(own[-1].filename).name}, line {own[-1].lineno}: {line}{hint})"


_OF_A_SIZE = re.compile(r"\btorch\.(zeros|ones|empty|full)\(")
"""Functions to which a traced size is none."""


_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(np.__file__).parent), str(Path(__file__).parents[1]), "<")
"""Files whose lines tell nothing about a network."""


def bound_arguments(signature: inspect.Signature, inputs: Any) -> dict[str, Any]:
    """The arguments of ``forward`` by name, defaults included.

    Args:
        signature: of ``forward``.
        inputs: as `qexplore.model.call` takes them.

    Raises:
        TypeError: ``forward`` does not take them.
    """
    args, kwargs = as_arguments(inputs)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def without_tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that hold no tensor, which tracing settles."""
    return {name: value for name, value in arguments.items() if not tensors_of(value)}


def takes_any_arguments(signature: inspect.Signature) -> bool:
    """Whether ``forward`` takes ``*args`` or ``**kwargs``, which a graph has no names for."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return bool(kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
