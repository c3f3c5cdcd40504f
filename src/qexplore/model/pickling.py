"""Networks that pickle, and are copied, with their quantizers."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from qexplore._pickling import require_a_name
from qexplore.errors import ModelError
from qexplore.model.layers import read_weights_anew, reads_weights_anew


def make_picklable(network: nn.Module) -> None:
    """Let every module of ``network`` be pickled and copied whole.

    Torch refuses to pickle modules whose classes it made for parametrizations, and leaves hooks on a graph behind.

    Raises:
        ModelError: a module's class, or a hook on it, has no name that pickle could find; see `require_a_name`.
    """
    for module in network.modules():
        kind = type(module)
        if parametrize.is_parametrized(module):
            kind.__reduce_ex__ = _reduced  # type: ignore[method-assign, assignment]
            kind = kind.__bases__[0]
        elif isinstance(module, fx.GraphModule):  # each is of a class of its own
            kind.__reduce_ex__ = _reduced_graph  # type: ignore[method-assign, assignment]
            kind.__deepcopy__ = _copied_graph  # type: ignore[attr-defined]
        for given in (kind, *_hooks(module)):
            require_a_name("the model", given, ModelError)


def _hooks(module: nn.Module) -> list[Any]:
    tables = [table for name, table in vars(module).items() if name.endswith("_hooks") and table]
    return [getattr(hook, "hook", hook) for table in tables for hook in table.values()]


def _reduced(module: nn.Module, protocol: object) -> tuple[Any, ...]:
    kind = type(module).__bases__[0]
    parametrizations: Any = module.parametrizations
    getstate = getattr(kind, "__getstate__", None)  # of every object from Python 3.11 on
    made_of = kind, tuple(parametrizations), reads_weights_anew(type(module))
    return _remade, made_of, getstate(module) if getstate else vars(module)


def _reduced_graph(module: fx.GraphModule, protocol: object) -> tuple[Any, ...]:
    # torch.fx traces the module's code anew and loses the hooks on it.
    hooks = {name: table for name, table in vars(module).items() if "_hooks" in name}
    remade, arguments = fx.GraphModule.__reduce__(module)
    return remade, arguments, hooks


def _copied_graph(module: fx.GraphModule, memo: dict[int, Any]) -> Any:
    copied = fx.GraphModule.__deepcopy__(module, memo)
    copied.__dict__.update(
        {name: copy.deepcopy(table, memo) for name, table in vars(module).items() if "_hooks" in name}
    )
    memo[id(module)] = copied
    return copied


def _remade(kind: type[nn.Module], names: tuple[str, ...], is_read_anew: bool = False) -> nn.Module:
    """A module of the class that torch makes of ``kind`` for parametrizations of ``names``; its state comes after."""
    module = kind.__new__(kind)
    parametrize._inject_new_class(module)
    if is_read_anew:
        read_weights_anew(type(module))
    for name in names:
        parametrize._inject_property(module, name)
    return module
