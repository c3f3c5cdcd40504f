"""What can be done where a stack stops: told only of what was tried, so that no advice leads in a circle."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from qexplore._quiet import silenced
from qexplore.errors import ExportError, QExploreError, StackError, TraceError
from qexplore.model import floating_tensors
from qexplore.stacks import STACKS, Data, Method, Settings, StackRow, is_of_user, row_for, stack_error

_Result = TypeVar("_Result")
_REFUSALS = (StackError, TraceError, ExportError)
_METHODS: tuple[Method, ...] = ("dynamic", "static")
_LEFT_OUT: dict[str, Any] = {"engine": None, "activation_observer": None, "activations": "affine"}
"""Settings that others are tried without where they do not have them, by the value that says so."""
_NEAR = 0.2
"""Largest relative error of what is advised."""


def with_way_out(
    make: Callable[[Settings], _Result],
    network: nn.Module,
    settings: Settings,
    data: Data,
    given: Settings | None = None,
) -> _Result:
    """What ``make`` gives; where a stack stops, its sentence with what others do with the same network.

    Args:
        make: quantizes ``network`` as the settings say that it is given.
        network: in float.
        settings: of the workflow.
        data: of which the example alone is shown to others.
        given: the settings as the user gave them, without the engine that there is; None where they are the same.

    Raises:
        QExploreError: whatever the stack stops at.
    """
    try:
        return make(settings)
    except _REFUSALS as error:
        told = type(error)(f"{str(error).rstrip('. ')}. {_advice(network, settings, data, given)}")
        if isinstance(error, StackError) and isinstance(told, StackError):
            told.layer = error.layer
        raise told from error.__cause__ or error
    except QExploreError:
        raise
    except Exception as error:
        if is_of_user(error):
            raise
        told = stack_error(f'stack="{settings.stack}" cannot quantize {type(network).__name__}', error, network)
        raise type(told)(f"{told}. {_advice(network, settings, data, given)}") from error


def _advice(network: nn.Module, settings: Settings, data: Data, given: Settings | None) -> str:
    tried = []
    for row, other in _others(settings):
        if _is_done(network, row, other, data):
            return f"Tried on the example, this works: {_way(given or settings, other)}"
        tried.append(f"{row.name} {other.method}")
    return (
        f"Nothing else was found to work on the example (tried: {', '.join(tried)}): leave out the part in question "
        "with modules=, or change it in forward"
    )


def _way(given: Settings, other: Settings) -> str:
    """What to change of a call with the settings ``given`` for one with those of ``other``."""
    if STACKS[given.stack].formats:  # its own call takes none of what others are asked with
        return f'qexplore.quantize_{other.method}(..., stack="{other.stack}")'
    parts = [f'stack="{other.stack}"'] if other.stack != given.stack else []
    parts += [f"qexplore.quantize_{other.method}"] if other.method != given.method else []
    without = [f"{name}=" for name, no in _LEFT_OUT.items() if getattr(given, name) != no == getattr(other, name)]
    return " with ".join(parts) + (f", without {' and '.join(without)}" if without else "")


def _others(settings: Settings) -> Iterator[tuple[StackRow, Settings]]:
    """Other stacks with the same method, then other methods."""
    methods = [settings.method, *(one for one in _METHODS if one != settings.method)]
    for method in methods:
        for row in STACKS.values():
            if row.is_emulated or (row.name, method) == (settings.stack, settings.method):
                continue
            without = [] if row.uses_engine else ["engine"]
            without += ["activation_observer", "activations"] if method == "dynamic" else []
            changes = {name: _LEFT_OUT[name] for name in without}
            try:
                other = dataclasses.replace(settings, stack=row.name, method=method, **changes)
                yield row_for(other), other
            except QExploreError:  # it has not what was asked for besides
                continue


def _is_done(network: nn.Module, row: StackRow, settings: Settings, data: Data) -> bool:
    """Whether a stack gives something in integers that is near ``network`` on the example."""
    example = data.example

    def calibrate(prepared: nn.Module) -> None:
        with torch.no_grad():
            prepared(*copy.deepcopy(example))

    def train(prepared: nn.Module, freeze: Callable[[], None]) -> None:
        outputs = floating_tensors(prepared.train()(*copy.deepcopy(example)))
        sum(one.sum() for one in outputs).backward()  # type: ignore[union-attr]
        freeze()
        prepared.eval()

    try:
        own = Data(example, calibrate, train, loader=[example], unpack=data.unpack, progress=False)
        with silenced():  # what stops here is not what was asked for
            converted = row.home.quantize(copy.deepcopy(network), settings, own)
        with silenced(), torch.no_grad():
            pairs = zip(
                *(floating_tensors(one(*copy.deepcopy(example))) for one in (network, converted.model)), strict=True
            )
            is_near = all(float((given - right).norm()) <= _NEAR * float(right.norm()) for right, given in pairs)
    except Exception:  # whatever it stops at
        return False
    return is_near and any(one.is_quantized for one in converted.strategy)
