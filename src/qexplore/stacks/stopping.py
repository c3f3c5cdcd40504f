"""Where a stack of torch or onnxruntime stops: any error of theirs as a sentence, with the layer if it can be told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import fx, nn

from qexplore.errors import QExploreError, StackError, first_line
from qexplore.stacks.exported_modules import innermost

_OBSERVES = "activation_post_process"
"""In the names of modules that stacks add to a network."""


@contextmanager
def stopping(doing: str, *networks: nn.Module) -> Iterator[None]:
    """Make a sentence of whatever goes wrong in a block.

    Args:
        doing: what the block does, such as "torch.ao cannot convert the prepared network".
        networks: whose modules may be named.

    Raises:
        StackError: something went wrong that has no sentence of its own.
    """
    try:
        yield
    except QExploreError:
        raise
    except Exception as error:
        raise stack_error(doing, error, *networks) from error


def stack_error(doing: str, error: Exception, *networks: nn.Module) -> StackError:
    """What to raise for ``error``, which came up while a stack was ``doing`` something."""
    layer = layer_at(error, *networks)
    where = f" at '{layer}'" if layer else ""
    made = StackError(f"{doing}{where} ({type(error).__name__}: {first_line(error)})")
    made.layer = layer
    return made


def layer_at(error: BaseException, *networks: nn.Module) -> str:
    """Name of the module that a stack was working on when it raised ``error``; empty where that cannot be told.

    Its frames hold it: a node of a graph, or the module itself.
    """
    all_named = (named for network in networks for named in network.named_modules())
    modules = {name: module for name, module in all_named if name and _OBSERVES not in name and not _is_graph(module)}
    names = {id(module): name for name, module in modules.items()}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = next((name for value in _held(frame) if (name := _name(value, names)) in modules), "")
        if found:
            return found
    return ""


def _is_graph(module: nn.Module) -> bool:
    """Whether ``module`` is what a stack has made of the network, in a wrapper of ours."""
    return isinstance(module, fx.GraphModule)


def _held(frame: FrameType) -> list[Any]:
    """Nodes before modules: a container of theirs may stand beside them."""
    return sorted(frame.f_locals.values(), key=lambda value: not isinstance(value, fx.Node))


def _name(value: Any, names: dict[int, str]) -> str:
    if isinstance(value, fx.Node):
        return str(value.target) if value.op == "call_module" else innermost(value)
    return names.get(id(value), "") if isinstance(value, nn.Module) else ""


def of_user(show: Callable[..., Any]) -> Callable[..., Any]:
    """``show(prepared, ...)``, which runs a loader, a loss or an optimizer of the user's; their errors pass.

    Those of the network that a stack prepared are the stack's: they come up in a call of it, or behind one, in the
    gradients of what it gave.
    """

    def shown(prepared: nn.Module, *others: Any) -> Any:
        try:
            return show(prepared, *others)
        except QExploreError:
            raise
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            if any(_is_in(frame, prepared) for frame in frames):
                raise stack_error("the network that was prepared does not run", error, prepared) from error
            raise

    return shown


def _is_in(frame: FrameType, prepared: nn.Module) -> bool:
    is_call = frame.f_locals.get("self") is prepared and frame.f_code.co_name.endswith("_call_impl")
    return is_call or frame.f_globals.get("__name__") == "torch.autograd"


def is_of_user(error: BaseException) -> bool:
    """Whether ``error`` came up in what `of_user` gave, and so is no stack's."""
    return any(frame.f_code is _SHOWN for frame, _ in traceback.walk_tb(error.__traceback__))


_SHOWN = of_user(lambda prepared: None).__code__
