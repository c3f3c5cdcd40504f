"""Layers of a float network that the quantized one has no more: what took them in, and where they stood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from qexplore.stacks import reasons
from qexplore.stacks.layer import LayerStrategy

NORMS = (nn.modules.batchnorm._BatchNorm,)
ONLY_IN_TRAINING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)


@dataclass(frozen=True)
class Call:
    """A call in the graph of a float network that nothing was done to.

    Attributes:
        name: of the module, or of the function.
        step: what the call is known by where others take its result.
        source: the call whose result it takes; empty where none gave it.
        is_module: whether a module is called.
    """

    name: str
    step: str
    source: str
    is_module: bool = True


def absorbed(name: str, module: nn.Module, before: str) -> LayerStrategy:
    """The row of a ``module`` that is none of its own in the quantized network; ``before`` is what precedes it."""
    reason = reasons.FOLDED_INTO if isinstance(module, NORMS) else reasons.FUSED_INTO
    if isinstance(module, ONLY_IN_TRAINING):
        reason = reasons.ONLY_IN_TRAINING
    reason = reason.format(layer=f"'{before}'" if before else "its neighbour")
    return LayerStrategy(name, type(module).__name__, "absorbed", None, None, reason)


def with_absent(
    rows: Mapping[str, LayerStrategy], calls: Iterable[Call], modules: Mapping[str, nn.Module]
) -> tuple[LayerStrategy, ...]:
    """``rows`` and, behind the row before it, each of the float network's ``modules`` that is none of its own now."""
    behind: dict[str, list[LayerStrategy]] = {}
    into: dict[str, str] = {}
    last = ""
    for call in calls:
        module = modules.get(call.name)
        if not call.is_module:
            into[call.step] = call.name
        elif call.name in rows:
            last = into[call.step] = call.name
        elif module is not None and next(module.children(), None) is None:
            into[call.step] = into.get(call.source, "")
            behind.setdefault(last, []).append(absorbed(call.name, module, into[call.step]))
    merged = list(behind.get("", []))
    for name, row in rows.items():
        merged += [row, *behind.get(name, [])]
    return tuple(merged)
