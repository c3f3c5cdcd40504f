"""Quantizing through a traced graph: torch.ao's FX stack."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from qexplore._quiet import quiet, silenced
from qexplore.errors import WorkflowError, first_line
from qexplore.model import TRANSPOSED
from qexplore.preparation import Connections, read_past_writes, reads_what_was_written, trace_network
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.stacks.beside import FloatGraph, graph_beside
from qexplore.stacks.called_wrongly import explain_calls
from qexplore.stacks.eager_graph import settle_padding, step_of
from qexplore.stacks.fx_calls import complete_calls
from qexplore.stacks.fx_float import leave_functions_float, stand_aside, stand_before
from qexplore.stacks.fx_preparing import fuse, own_graph, prepare
from qexplore.stacks.fx_ranges import rejoin, separate_ranges, settle
from qexplore.stacks.fx_strategy import notes_of, row_name, strategy_of
from qexplore.stacks.packed_linear import pack_converted
from qexplore.stacks.plain import plain
from qexplore.stacks.saving import (
    describe_arguments,
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
from qexplore.stacks.strategy import EMBEDDINGS, is_left_out, no_form, reason_for_kind, values_of
from qexplore.stacks.torch_ao import check as check
from qexplore.stacks.torch_ao import linear_qconfig_of, qconfig_of, require, using_engine
from qexplore.stacks.trained import Trained, with_state
from qexplore.stacks.twins import twins

_CLAMPS = (F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, torch.clamp_, "clamp", "clamp_")


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Quantize a copy of ``network``. See `StackFile`.

    Raises:
        TraceError: the network cannot be traced; the sentence says what to do.
        WorkflowError: as the protocol says.
    """
    with using_engine(settings.engine) as engine, quiet():
        taken = plain(network)
        network, settings = taken.network, taken.settings(dataclasses.replace(settings, engine=engine))
        graph, connections = _traced(network, data.example)
        trained = Trained(connections.network)
        prepared, copies = _prepared(graph, connections, settings, data.example)
        trained.find(prepared)
        with frozen_kept(prepared):
            data.show(prepared, settings.method, freeze)
        state = trained.state() if settings.method == "qat" else {}
        model = _converted(prepared, connections, settings)
        own = {node.name: node.name for node in model.graph.nodes if node.target in copies}
        found = twins(model.graph, connections.graph, own)
        rows = strategy_of(network, connections, model, _values(model, data.example), settings, found)
    explain_calls(model, data.example)
    example = data.example  # what is saved must not keep the user's loader, which `data` holds
    float_graph = FloatGraph(connections.graph, (with_state(network, state), connections.network))
    beside = graph_beside(float_graph, model, found, rows, settings, lambda node: row_name(network, model, node, found))
    return taken.named(
        Converted(
            model,
            rows,
            save=lambda path: write_model(path, model, settings, network, structure=_structure(model, example)),
            notes=(*notes_of(connections, copies, rows, settings), *_order_notes(model, settings)),
            script=None if settings.linear_num_bits < 8 else lambda: _scripted(model),
            beside=beside,
            trained=state,
        )
    )


def reads(path: Path) -> bool:
    """See `StackFile`."""
    return stack_of_state(path) == "fx"


def load(path: Path, network: nn.Module) -> nn.Module:
    """The quantized network that `quantize` saved, built anew from the float ``network``.

    Raises:
        WorkflowError: the file belongs to another network.
    """
    saved = read_state(path)
    settings = saved.settings
    with reading(path):
        example = zero_arguments(json.loads(saved.structure)["example"])
    network = plain(network).network
    with using_engine(settings.engine), quiet(), rebuilding(network, saved):
        graph, connections = _traced(network, example)
        model = _converted(_prepared(graph, connections, settings, example)[0], connections, settings)
        if _structure(model, example) != saved.structure:
            raise other_structure(f"'{path}'", network)
        load_state(model, saved)
    explain_calls(model, example)
    return model


def _structure(model: fx.GraphModule, example: tuple[Any, ...]) -> str:
    """What tells that a network was built anew alike, and what it was called with, which decides how it is traced."""
    fingerprint = hashlib.sha256(model.code.encode()).hexdigest()
    return json.dumps({"code": fingerprint, "example": describe_arguments(example)})


def _traced(network: nn.Module, example: Any) -> tuple[fx.GraphModule, Connections]:
    """The graph of a copy of ``network`` that torch.ao may work on, and the one that nothing is done to."""
    copied = copy.deepcopy(network)
    settle_padding(copied)
    connections = trace_network(copied, example)
    is_rewritten = reads_what_was_written(copied, connections.graph)
    read_past_writes(copied, connections.graph)
    complete_calls(connections.graph)
    return own_graph(connections, is_rewritten=is_rewritten), connections


def _prepared(
    graph: fx.GraphModule, connections: Connections, settings: Settings, example: tuple[Any, ...]
) -> tuple[Any, dict[str, str]]:
    """``graph`` with observers or fake quantizers, and the modules that calls got of their own."""
    is_qat = settings.method == "qat"
    with stopping(f"torch.ao cannot prepare {type(graph).__name__} for {settings.method} quantization", graph):
        chosen = _chosen(connections, settings)
        copies = fuse(graph.train(is_qat), settings.method, [name for name, is_chosen in chosen.items() if is_chosen])
        chosen |= {copy: chosen[name] for copy, name in copies.items()}
        mapping = _qconfig_mapping(graph, settings, chosen)
        leave_functions_float(mapping, graph.graph, settings.left_float)
        prepared = prepare(graph, mapping, example, is_qat=is_qat)
        if settings.method != "dynamic":
            separate_ranges(prepared, str(settings.engine), qconfig_of(settings).activation)
        return prepared, copies


def _converted(prepared: Any, connections: Connections, settings: Settings) -> fx.GraphModule:
    rejoin(prepared.eval())
    steps = {step_of(node): connections.module(node) for node in connections.graph.nodes}
    left = {name for name, module in steps.items() if is_left_out(name, module, settings) or no_form(module)}
    stand_before(prepared, left)
    with stopping("torch.ao cannot convert the prepared network", prepared), silenced():
        model: fx.GraphModule = require("convert_fx")(prepared)
    stand_aside(model)
    settle(model)
    if settings.engine == "qnnpack":
        _put_in_order(model)
    pack_converted(model, settings.linear_num_bits)
    return model.eval()


def _put_in_order(model: fx.GraphModule) -> None:
    """Let everything that clamps read tensors in contiguous order: qnnpack's kernel misreads the channels-last ones.

    Its convolutions give channels-last tensors.
    """
    for node in [one for one in model.graph.nodes if _clamps(model, one)]:
        source = node.args[0] if node.args else node.kwargs["input"]
        with model.graph.inserting_before(node):
            ordered = model.graph.call_method("contiguous", (source,))
        node.replace_input_with(source, ordered)
    model.recompile()


def _clamps(model: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), (nn.Hardtanh, require("nnq").ReLU6))
    return node.op in ("call_function", "call_method") and node.target in _CLAMPS


def _chosen(connections: Connections, settings: Settings) -> dict[str, bool]:
    """Whether each module may be in integers, by name.

    Those inside modules that are taken as a whole may not; training would put fake quantizers there for good.
    """
    called = connections.calls
    hidden = {f"{connections.name_of(one)}.{name}" for one in called for name, _ in one.named_modules() if name}
    named = connections.network.named_modules()
    return {
        name: name not in hidden and not is_left_out(name, module, settings) and not reason_for_kind(module, settings)
        for name, module in named
    }


def _qconfig_mapping(graph: fx.GraphModule, settings: Settings, is_chosen: dict[str, bool]) -> Any:
    """Which QConfig is whose: by type, as torch.ao has it, and by name where the predicate or the width says so."""
    by_type = _by_type(settings)
    everything = by_type.global_qconfig
    narrow = linear_qconfig_of(settings)
    modules = dict(graph.named_modules())

    def own(name: str) -> Any:
        module = modules.get(name)
        module = module[0] if isinstance(module, nn.Sequential) else module  # of a fused one
        return narrow if type(module) is nn.Linear else by_type.object_type_qconfigs.get(type(module), everything)

    mapping = by_type if is_chosen[""] else require("QConfigMapping")()
    for name in [one for one in is_chosen if one]:
        if not is_chosen[name]:
            mapping.set_module_name(name, None)
        elif not all(is_chosen.get(parent, True) for parent in _parents(name)) or own(name) is narrow:
            mapping.set_module_name(name, own(name))
    return mapping


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[:count]) for count in range(1, len(parts)))]


def _by_type(settings: Settings) -> Any:
    qconfig = qconfig_of(settings)
    if settings.method == "dynamic":
        return _without(TRANSPOSED, require("QConfigMapping")().set_global(qconfig))
    is_qat = settings.method == "qat"
    default = require("get_default_qat_qconfig_mapping" if is_qat else "get_default_qconfig_mapping")
    mapping = default(settings.engine).set_global(qconfig)
    # The right kernels of transposed convolutions take one scale per weight.
    per_tensor = qconfig_of(dataclasses.replace(settings, weight_granularity="tensor"))
    for kind, given in list(mapping.object_type_qconfigs.items()):
        name = str(getattr(kind, "__name__", kind)).lower().replace("_", "")
        if "convtranspose" in name:
            mapping.set_object_type(kind, per_tensor if settings.engine == "qnnpack" else None)
        elif "layernorm" in name:
            mapping.set_object_type(kind, require("QConfig")(activation=qconfig.activation, weight=given.weight))
    return _without(EMBEDDINGS, mapping)


def _without(kinds: tuple[type[nn.Module], ...], mapping: Any) -> Any:
    """``mapping``, in which modules of ``kinds`` stay float: torch.ao fails at them."""
    for kind in kinds:
        mapping.set_object_type(kind, None)
    return mapping


def _values(model: fx.GraphModule, example: tuple[Any, ...]) -> dict[fx.Node, Any]:
    with stopping("the converted network does not run", model), silenced():
        return values_of(model, copy.deepcopy(example))


def _order_notes(model: fx.GraphModule, settings: Settings) -> list[str]:
    names = [step_of(node) for node in model.graph.nodes if _clamps(model, node)]
    if settings.engine != "qnnpack" or not names:
        return []
    return [f"qnnpack's kernel goes wrong on channels-last tensors, put in contiguous order before: {', '.join(names)}"]


def _scripted(model: fx.GraphModule) -> Any:
    with quiet():
        scriptable = copy.deepcopy(model)
        for node in scriptable.graph.nodes:
            node.type = None  # annotations that are strings mean nothing in the generated code
        scriptable.recompile()
        try:
            return torch.jit.script(scriptable)
        except Exception as error:
            raise WorkflowError(
                f"the quantized network cannot be scripted ({first_line(error)}): save it instead"
            ) from error
