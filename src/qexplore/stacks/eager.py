"""Quantizing module by module: torch.ao's eager stack, on a network that is made ready for it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qexplore._quiet import quiet, silenced
from qexplore.errors import DataError, TraceError, WorkflowError, first_line
from qexplore.model import first_samples
from qexplore.preparation import check_example, trace_network
from qexplore.stacks.base import Beside, Converted, Data, Settings
from qexplore.stacks.beside import FloatGraph, graph_beside, modules_beside
from qexplore.stacks.called_wrongly import explain_calls
from qexplore.stacks.eager_building import Layout, build, selected, structure_of
from qexplore.stacks.eager_dynamic import convert_dynamic, dynamic_notes, each_once
from qexplore.stacks.eager_graph import graph_of
from qexplore.stacks.eager_strategy import dynamic_strategy, notes_of, row_name, stands_for, strategy_of
from qexplore.stacks.layer import LayerStrategy
from qexplore.stacks.packed_linear import pack_converted
from qexplore.stacks.plain import plain
from qexplore.stacks.saving import (
    SavedNetwork,
    described_if_any,
    load_state,
    other_structure,
    read_state,
    reading,
    rebuilding,
    stack_of_state,
    write_model,
    zero_arguments,
)
from qexplore.stacks.statistics import freeze, frozen_kept
from qexplore.stacks.stopping import stopping
from qexplore.stacks.torch_ao import check as check
from qexplore.stacks.torch_ao import require, using_engine
from qexplore.stacks.trained import with_state
from qexplore.stacks.twins import twins

_SAMPLES = 8
"""Of the example; what every step of the network gives on them is kept for a while."""


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Quantize a copy of ``network``. See `StackFile`.

    Static quantization and training work on a graph of the network, in which every call has a module of its own,
    additions, products and concatenations are modules, layers are fused with what stands behind them, and what torch
    has no integer kernel for stays float. Dynamic quantization swaps Linear and recurrent layers.

    Raises:
        TraceError: the network cannot be traced (static, qat).
        WorkflowError: as the protocol says.
        SelectionError: ``settings.modules`` selects nothing.
    """
    with using_engine(settings.engine) as engine, quiet():
        taken = plain(network)
        network, settings = taken.network, taken.settings(dataclasses.replace(settings, engine=engine))
        example = _few(network, data.example)
        data = dataclasses.replace(data, example=example)
        make = _swapped if settings.method == "dynamic" else _through_graph
        model, structure, rows, notes, beside, state = make(network, settings, data)
    return taken.named(
        Converted(
            model,
            rows,
            save=lambda path: _write(path, model, settings, network, structure),
            notes=notes,
            script=lambda: _scripted(model, example),  # not of `data`, which holds the user's loader
            beside=beside,
            trained=state,
        )
    )


def _few(network: nn.Module, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """A few samples of ``example``; all of them where the network does not run on these alone."""
    few: tuple[Any, ...] = first_samples(example, _SAMPLES)
    try:
        check_example(network, few)
    except DataError:
        return example
    return few


_Made = tuple[nn.Module, str, tuple[LayerStrategy, ...], tuple[str, ...], Beside, dict[str, Tensor]]
"""The converted network, what its file says of its structure, its layers, notes, what holds them, what it learned."""


def _through_graph(network: nn.Module, settings: Settings, data: Data) -> _Made:
    built = build(network, settings, data.example)
    prepared = built.graph.network
    plain = graph_of(network, data.example, selected(network, settings))
    with frozen_kept(prepared):
        data.show(prepared.eval(), settings.method, freeze)
    state = built.trained.state() if settings.method == "qat" else {}
    model = _converted(prepared, settings)
    _require_running(model, data.example)
    rows = strategy_of(network, built, model, settings, data.example)
    float_graph = FloatGraph(plain.network.graph, (with_state(plain.network, state),))
    found = twins(model.graph, float_graph.graph, stands_for(model, built.swapped))
    explain_calls(model, data.example)
    beside = graph_beside(float_graph, model, found, rows, settings, lambda node: row_name(node, built.swapped))
    return model, built.layout.to_text(), rows, notes_of(built, rows, settings), beside, state


def _swapped(network: nn.Module, settings: Settings, data: Data) -> _Made:
    model = convert_dynamic(network, settings)
    _require_running(model, data.example)
    rows = dynamic_strategy(network, model, settings, data.example)
    beside = modules_beside(network, model, rows, settings)
    explain_calls(model, data.example)
    return model, _swapped_text(model, data.example), rows, dynamic_notes(network), beside, {}


def _swapped_text(model: nn.Module, example: tuple[Any, ...]) -> str:
    """What a file says of a network whose modules are swapped: its structure, and what it was called with."""
    with each_once(model):
        return json.dumps({"modules": structure_of(model), "example": described_if_any(example)})


def _write(path: Path, model: nn.Module, settings: Settings, network: nn.Module, structure: str) -> None:
    with each_once(copy.deepcopy(model)) as own:  # the user's may be running
        write_model(path, own, settings, network, structure=structure)


def reads(path: Path) -> bool:
    """See `StackFile`."""
    return stack_of_state(path) == "eager"


def load(path: Path, network: nn.Module) -> nn.Module:
    """The quantized network that `quantize` saved, built anew from the float ``network``.

    Raises:
        WorkflowError: the file belongs to another network.
        TraceError: ``network`` cannot be traced.
    """
    saved = read_state(path)
    settings, network = saved.settings, plain(network).network
    if settings.method == "dynamic":
        return _loaded_dynamic(path, network, saved)
    with reading(path):
        layout = Layout.from_text(saved.structure)
        example = zero_arguments(layout.example)
    with using_engine(settings.engine), quiet(), rebuilding(network, saved):
        model: nn.Module = _converted(build(network, settings, example, layout).graph.network, settings)
        load_state(model, saved)
        explain_calls(model, example)
    return model


def _loaded_dynamic(path: Path, network: nn.Module, saved: SavedNetwork) -> nn.Module:
    with reading(path):
        # Files had the structure alone until they told what the network was called with.
        told = json.loads(saved.structure) if saved.structure.startswith("{") else {"modules": saved.structure}
        modules, described = told["modules"], told.get("example")
        example = None if described is None else zero_arguments(described)
    with using_engine(saved.settings.engine), quiet(), rebuilding(network, saved):
        model = convert_dynamic(network, saved.settings)
        with each_once(model):
            if structure_of(model) != modules:
                raise other_structure("the file", network)
            load_state(model, saved)
        if example is not None:
            explain_calls(model, example)
    return model


def _converted(prepared: nn.Module, settings: Settings) -> Any:
    with stopping("torch.ao cannot convert the prepared network", prepared):
        model = require("convert")(prepared.cpu().eval(), inplace=True)
    return pack_converted(model, settings.linear_num_bits)


def _require_running(model: nn.Module, example: tuple[Any, ...]) -> None:
    # torch prints the code of a graph that stops.
    with stopping("the converted network does not run", model), silenced(), torch.no_grad():
        model(*copy.deepcopy(example))


def _scripted(model: nn.Module, example: tuple[Any, ...]) -> Any:
    """A TorchScript module that gives what ``model`` gives: scripted, or traced where that cannot lose a branch."""
    with quiet():
        try:
            scripted = torch.jit.script(model)
            _require_running(scripted, example)
            return scripted
        except Exception as error:
            if not _has_one_path(model, example):
                raise WorkflowError(
                    "result.script() needs a network that torch.jit.script takes, or that torch.fx takes apart into "
                    f"torch's own modules and functions, and {type(model).__name__} is neither "
                    f"({type(error).__name__}: {first_line(error)}), so that a trace would keep only the path of the "
                    "example: save the network with result.save(path), or write its forward without such code"
                ) from error
        # What tracing warns of are the constants and sizes of our own layers.
        with stopping("the quantized network can be neither scripted nor traced", model), silenced():
            return torch.jit.trace(model, copy.deepcopy(example), check_trace=False)  # type: ignore[no-untyped-call]


_WITHOUT_BRANCHES = ("torch", "qexplore", "operator", "builtins", "math")


def _has_one_path(model: nn.Module, example: tuple[Any, ...]) -> bool:
    """Whether ``model`` is a graph of steps that are none of the user's own code, which might ask for values."""
    try:
        graph = model.graph if isinstance(model, fx.GraphModule) else trace_network(model, example).graph
    except TraceError:
        return False
    called = [model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    functions = [node.target for node in graph.nodes if node.op == "call_function"]
    steps = [*functions, *(type(one) for module in called for one in module.modules())]
    homes = {str(getattr(step, "__module__", None) or "torch").partition(".")[0].lstrip("_") for step in steps}
    return homes.issubset(_WITHOUT_BRANCHES)
