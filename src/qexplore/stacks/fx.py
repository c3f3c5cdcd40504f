"""Quantizing through a traced graph: torch.ao's FX stack."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qexplore._quiet import quiet
from qexplore.errors import QExploreError, TraceError, WorkflowError
from qexplore.model import TRANSPOSED
from qexplore.preparation import Connections, as_graph_module, reads_what_was_written, take_out_writes, trace_network
from qexplore.stacks.base import Converted, Data, LayerStrategy, Settings
from qexplore.stacks.packed_linear import pack_converted
from qexplore.stacks.saving import (
    describe_arguments,
    load_state,
    read_state,
    rebuilding,
    stack_of_state,
    write_model,
    zero_arguments,
)
from qexplore.stacks.strategy import (
    EMBEDDINGS,
    MOVES_ONLY,
    describe_activations,
    describe_weights,
    reason_for_absence,
    reason_for_float,
    reason_for_integers,
    reason_for_kind,
)
from qexplore.stacks.torch_ao import check as check
from qexplore.stacks.torch_ao import (
    linear_qconfig_of,
    qconfig_of,
    require,
    using_engine,
    wrong_kernel,
)

_CLAMPS = (F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, torch.clamp_, "clamp", "clamp_")


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Quantize a copy of ``network``. See `StackFile`.

    Raises:
        TraceError: the network cannot be traced; the sentence says what to do.
        WorkflowError: as the protocol says.
    """
    with using_engine(settings.engine) as engine, quiet():
        settings = dataclasses.replace(settings, engine=engine)
        traced, connections = _traced(network, data.example)
        prepared = _prepared(traced, connections, settings, data.example)
        if settings.method == "static":
            assert data.calibrate is not None
            data.calibrate(prepared)
        if settings.method == "qat":
            assert data.train is not None
            data.train(prepared, lambda: _freeze(prepared))
        model = _converted(prepared, settings)
        outputs = _outputs(model, data.example)
        rows = _strategy(network, connections, model, outputs, settings)
    return Converted(
        model,
        rows,
        save=lambda path: write_model(path, model, settings, structure=_structure(model, data.example)),
        notes=tuple(_notes(connections, rows, settings) + _order_notes(model, settings)),
        script=None if settings.linear_num_bits < 8 else lambda: _scripted(model),
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
    example = zero_arguments(json.loads(saved.structure)["example"])
    # Ranges come from the file, so that nothing is calibrated or trained here.
    built_with = settings if settings.method == "dynamic" else dataclasses.replace(settings, method="static")
    with using_engine(settings.engine), quiet(), rebuilding(network):
        traced, connections = _traced(network, example)
        model = _converted(_prepared(traced, connections, built_with, example), built_with)
        if _structure(model, example) != saved.structure:
            raise WorkflowError(
                f"'{path}' must be loaded with the network that was quantized, but {type(network).__name__} has "
                "another structure"
            )
        load_state(model, saved)
    return model


def _structure(model: fx.GraphModule, example: tuple[Any, ...]) -> str:
    """What tells that a network was built anew alike, and what it was called with, which decides how it is traced."""
    fingerprint = hashlib.sha256(model.code.encode()).hexdigest()
    return json.dumps({"code": fingerprint, "example": describe_arguments(example)})


def _traced(network: nn.Module, example: Any) -> tuple[nn.Module, Connections]:
    """What torch.ao may trace: a copy of ``network``, or its graph where that had to be settled.

    That is where arguments are no tensors, and where a tensor is read after something was written into it.
    """
    copied = copy.deepcopy(network)
    try:
        connections = trace_network(copied, example)
        is_rewritten = reads_what_was_written(copied, connections.graph)
        if not connections.fixed and not is_rewritten:
            return copied, connections
        traced = as_graph_module(connections)
        if is_rewritten:  # torch.ao follows edges alone, and drops an activation whose result nobody takes
            take_out_writes(traced)
            traced.recompile()
        return traced, connections
    except TraceError as error:
        raise TraceError(
            f'{error}. Or use stack="pt2e", which traces with torch.export, or stack="onnxruntime"'
        ) from error


def _prepared(network: nn.Module, connections: Connections, settings: Settings, example: tuple[Any, ...]) -> Any:
    custom = require("PrepareCustomConfig")().set_non_traceable_module_names(list(connections.opaque))
    mapping = _qconfig_mapping(network, settings, _hidden(connections))
    is_qat = settings.method == "qat"
    prepare = require("prepare_qat_fx" if is_qat else "prepare_fx")
    try:
        return prepare(network.train(is_qat), mapping, example, prepare_custom_config=custom)
    except QExploreError:
        raise
    except Exception as error:
        raise WorkflowError(
            f"torch.ao cannot prepare {type(network).__name__} for {settings.method} quantization "
            f'({type(error).__name__}: {error}): leave out the part in question with modules=, or use stack="pt2e"'
        ) from error


def _converted(prepared: Any, settings: Settings) -> fx.GraphModule:
    prepared.eval()
    model: fx.GraphModule = require("convert_fx")(prepared)
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


def _freeze(prepared: nn.Module) -> None:
    prepared.apply(require("disable_observer"))
    prepared.apply(require("freeze_bn_stats"))


def _hidden(connections: Connections) -> set[str]:
    """Names of modules inside those that are taken as a whole; training would put fake quantizers there for good."""
    called = {connections.module(node) for node in connections.graph.nodes} - {None}
    inside = {f"{connections.name_of(one)}.{name}" for one in called if one for name, _ in one.named_modules() if name}
    return inside


def _qconfig_mapping(network: nn.Module, settings: Settings, hidden: set[str]) -> Any:
    """Which QConfig is whose: by type, as torch.ao has it, and by name where the predicate or the width says so."""
    by_type = _by_type(settings)
    everything = by_type.global_qconfig
    narrow = linear_qconfig_of(settings)

    def own(module: nn.Module) -> Any:
        return narrow if type(module) is nn.Linear else by_type.object_type_qconfigs.get(type(module), everything)

    named = list(network.named_modules())
    is_chosen = {
        name: name not in hidden and (settings.modules is None or bool(settings.modules(name, module)))
        for name, module in named
    }
    mapping = by_type if is_chosen[""] else require("QConfigMapping")()
    for name, module in named[1:]:
        if not is_chosen[name]:
            mapping.set_module_name(name, None)
        elif not all(is_chosen[parent] for parent in _parents(name)) or type(module) is nn.Linear:
            mapping.set_module_name(name, own(module))
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


class _Outputs(fx.Interpreter):
    """Remembers what every node gives."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model, garbage_collect_values=False)


def _outputs(model: fx.GraphModule, example: tuple[Any, ...]) -> dict[fx.Node, Any]:
    interpreter = _Outputs(model)
    try:
        with torch.no_grad():
            interpreter.run(*example)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise WorkflowError(
            f"the converted network does not run ({str(error).strip().splitlines()[0]}): leave out the part in "
            'question with modules=, or use stack="pt2e"'
        ) from error
    return interpreter.env


def _strategy(
    network: nn.Module,
    connections: Connections,
    model: fx.GraphModule,
    outputs: dict[fx.Node, Any],
    settings: Settings,
) -> tuple[LayerStrategy, ...]:
    rows: dict[str, LayerStrategy] = {}
    for node in model.graph.nodes:
        row = _row(network, model, node, outputs[node], settings) if node in outputs else None
        if row is not None:
            rows.setdefault(row.name, row)
    return tuple(_with_absent(network, connections, rows))


def _row(
    network: nn.Module, model: fx.GraphModule, node: fx.Node, output: Any, settings: Settings
) -> LayerStrategy | None:
    if node.op == "call_module":
        name = str(node.target)
        original: nn.Module | None = network.get_submodule(name)
        weights, kind = describe_weights(model.get_submodule(name)), type(original).__name__
    elif node.op in ("call_function", "call_method"):
        kind = str(getattr(node.target, "__name__", node.target)).rpartition(".")[2]
        if kind in MOVES_ONLY or not isinstance(output, Tensor):
            return None
        name, original, weights = node.name, None, ""
    else:
        return None
    activations = describe_activations(output)
    if weights or activations:
        reason = reason_for_integers(original, weights, activations, settings)
    elif (
        _is_excluded(name, original, settings)
        or settings.method == "dynamic"
        or _is_dequantized(node)
        or reason_for_kind(original, settings)
    ):
        reason = reason_for_float(name, original, settings)
    else:
        reason = "what it reads is float"
    return LayerStrategy(name, kind, weights, activations, reason)


def _is_excluded(name: str, original: nn.Module | None, settings: Settings) -> bool:
    return original is not None and settings.modules is not None and not settings.modules(name, original)


def _is_dequantized(node: fx.Node) -> bool:
    """Whether what ``node`` reads was in integers, and is float for its sake."""
    return any(str(getattr(one.target, "__name__", one.target)) == "dequantize" for one in node.all_input_nodes)


def _with_absent(network: nn.Module, connections: Connections, rows: dict[str, LayerStrategy]) -> list[LayerStrategy]:
    """``rows`` and, behind the row before it, each module that has no node of its own any more."""
    behind: dict[str, list[LayerStrategy]] = {}
    went_into: dict[fx.Node, str] = {}
    last = ""
    for node in connections.graph.nodes:
        module = connections.module(node)
        if module is None:
            went_into[node] = str(getattr(node.target, "__name__", node.target))
            continue
        name = connections.name_of(module)
        if name in rows:
            last = went_into[node] = name
        else:
            went_into[node] = went_into.get(node.args[0], "")
            reason = reason_for_absence(module, went_into[node])
            behind.setdefault(last, []).append(LayerStrategy(name, type(module).__name__, "", "", reason))
    merged = list(behind.get("", []))
    for name, row in rows.items():
        merged += [row, *behind.get(name, [])]
    return merged


def _notes(connections: Connections, rows: tuple[LayerStrategy, ...], settings: Settings) -> list[str]:
    kinds = {connections.name_of(one): one for one in map(connections.module, connections.graph.nodes) if one}
    notes = [
        f"'{name}' cannot be traced and is taken as a whole, in float: {why}"
        for name, why in connections.opaque.items()
    ]
    folded = sum(row.reason.startswith("folded") for row in rows)
    if folded:
        notes.append(f"{folded} BatchNorm layers are folded into the layers before them")
    if settings.method == "dynamic" and not any(row.is_quantized for row in rows):
        notes.append("nothing is quantized: there is no Linear or recurrent layer that was selected")
    if settings.method != "dynamic":
        refused = [(row, wrong_kernel(kinds.get(row.name), settings.engine)) for row in rows if not row.is_quantized]
        notes += [f"'{row.name}' is left float: {why}" for row, why in refused if row.reason == why]
    softmax = [row.name for row in rows if row.type.lower() == "softmax" and not row.is_quantized]
    if softmax and settings.method != "dynamic":
        notes.append(f"left float, for FX has no integer form of it: {', '.join(softmax)}; nn.Softmax has one")
    return notes


def _order_notes(model: fx.GraphModule, settings: Settings) -> list[str]:
    names = [
        str(node.target if node.op == "call_module" else node.name)
        for node in model.graph.nodes
        if _clamps(model, node)
    ]
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
            reason = str(error).strip().splitlines()[0]
            raise WorkflowError(f"the quantized network cannot be scripted ({reason}): save it instead") from error
