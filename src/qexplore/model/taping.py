"""A float forward of a wrapped network on a tape, with its points marked on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from qexplore.model.arithmetic import measuring
from qexplore.model.inputs import Placement
from qexplore.model.naming import CallNamer
from qexplore.model.operands import calls_reading
from qexplore.model.wrapped import WrappedNetwork
from qexplore.tape import Tape, recording


def taped(
    model: WrappedNetwork,
    inputs: Any,
    parameters: Mapping[Any, int],
    index: Mapping[str, int],
    *,
    names_calls: bool = False,
) -> Tape:
    """What the float network runs on ``inputs``.

    Args:
        model: wrapped; its weights are no parametrization of others, see `qexplore.model.with_plain_weights`.
        inputs: as `qexplore.model.call` takes them.
        parameters: those that are at points, with the indices of these.
        index: of each point that is marked, by name.
        names_calls: follow calls of functions, and note which one gives and reads what.
    """
    readers = {point.name: point.read_by for point in model.found.points}
    namer = CallNamer()
    calls = model.calls.met(model.model, namer) if names_calls else nullcontext()
    with (
        measuring(Placement.of(model.model).device),
        calls,
        recording(model.model, parameters, call=lambda: namer.now, reading=calls_reading) as tape,
    ):

        def mark(name: str, tensors: list[Tensor]) -> None:
            if name in index and readers.get(name):
                tape.mark_read(index[name], readers[name], tensors)
            elif name in index:
                tape.mark(index[name], tensors)

        namer.given = partial(tape.note_given, "function")
        output = model.listen(inputs, mark)
    tape.keep(output)
    return tape
