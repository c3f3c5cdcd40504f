"""Quantization of exported graphs by torchao (PT2E): dynamic, static, and quantization-aware training."""

from __future__ import annotations

import copy
import inspect
import zipfile
from pathlib import Path

import torch
from torch import fx, nn

from qexplore._quiet import silenced
from qexplore._random import isolated
from qexplore.errors import StackError, TraceError, WorkflowError
from qexplore.preparation import as_graph_module, give_own_modules, trace_network
from qexplore.stacks import pt2e_folding as folding
from qexplore.stacks import pt2e_graph as graphs
from qexplore.stacks import reasons
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.stacks.beside import FloatGraph, graph_beside
from qexplore.stacks.eager_graph import settle_padding, split_calls
from qexplore.stacks.exported_modules import calls_of, float_modules
from qexplore.stacks.plain import with_own_classes
from qexplore.stacks.pt2e_quantizer import Quantizer, torchao, without_patterns
from qexplore.stacks.pt2e_strategy import read_strategy, row_name
from qexplore.stacks.stopping import stopping
from qexplore.stacks.trained import Trained, with_state
from qexplore.stacks.twins import twins

_ENGINES = ("x86", "onednn")


def check(settings: Settings) -> None:
    """Refuse an engine that torchao's quantizer does not know.

    Raises:
        WorkflowError: with those that it knows.
    """
    if settings.engine not in (None, *_ENGINES):
        raise WorkflowError(
            f'engine of stack="pt2e" must be None, {" or ".join(map(repr, _ENGINES))}, for torchao quantizes for '
            f'x86 processors, got {settings.engine!r}: use stack="fx" or "eager" with that engine'
        )


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Quantize a copy of ``network`` with torchao's quantizer for x86 processors. See `StackFile`.

    What comes back is a graph of float operators between quantize and dequantize nodes: its results are those of
    integer kernels, and its weights are stored as integers.

    Raises:
        WorkflowError: observers that torchao does not have, or a network of which nothing can be quantized.
        TraceError: ``torch.export`` cannot take the network apart for every batch size.
        SelectionError: the predicate selects nothing.
        MissingPackageError: torchao is not installed.
    """
    torchao()
    with isolated(torch.device("cpu")):  # torchao draws random numbers for the patterns that it looks for
        return _quantized(network, settings, data)


def _quantized(network: nn.Module, settings: Settings, data: Data) -> Converted:
    own, originals, notes = _own_modules(with_own_classes(copy.deepcopy(network)), data)
    settings = settings.with_copies(originals)
    settle_padding(own)
    kept_float = float_modules(own, settings, originals)
    signature = inspect.signature(network.forward)
    with silenced():
        exported, sizes = graphs.export(own, data.example)
    notes += tuple(reasons.SETTLED_SIZE.format(condition=one) for one in sizes.shown)
    calls = calls_of(exported.graph.nodes)
    plain, trained = copy.deepcopy(exported), Trained(exported)
    if settings.method != "qat":
        folding.fold(exported)
    prepared = _prepared(exported, own, settings, Quantizer(settings, kept_float))
    trained.find(prepared)
    state = {}
    if settings.method == "qat":
        _train(graphs.TrainableExport(prepared, signature, sizes), data)
        state = trained.state()
        num_folded = graphs.fold_batchnorm(prepared)
        notes += (f"{num_folded} BatchNorm folded into convolutions after training",) if num_folded else ()
    else:
        _calibrate(graphs.ExportedNetwork(prepared, signature, sizes), settings, data)
    converted = _converted(prepared)
    strategy = read_strategy(converted, own, calls, settings, kept_float)
    if not any(row.is_quantized for row in strategy):
        raise StackError(_nothing_quantized(network, settings))
    float_graph = FloatGraph(plain.graph, (with_state(plain, state),))
    modules = dict(own.named_modules())
    example = data.example  # what is saved must not keep the user's loader, which `data` holds
    found = twins(converted.graph, plain.graph)
    return Converted(
        model=graphs.ExportedNetwork(converted, signature, sizes),
        strategy=strategy,
        save=lambda path: graphs.save(converted, example, sizes, path),
        notes=notes,
        beside=graph_beside(float_graph, converted, found, strategy, settings, lambda node: row_name(node, modules)),
        trained=state,
    )


def reads(path: Path) -> bool:
    """See `StackFile`: an archive with a folder of models, as ``torch.export.save`` writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            "/models/" in f"/{name}" or name.endswith("serialized_exported_program.json") for name in archive.namelist()
        )


def load(path: Path, network: nn.Module | None) -> nn.Module:
    """See `StackFile`; the file holds all but the names of arguments, which are taken by position without ``network``.

    Raises:
        WorkflowError: no such file, or one that holds something else.
        MissingPackageError: torchao is not installed.
    """
    torchao()  # brings the operators that the file names
    with silenced():
        signature = None if network is None else inspect.signature(network.forward)
        exported, sizes = graphs.load(path)
        return graphs.ExportedNetwork(exported, signature, sizes)


def _own_modules(network: nn.Module, data: Data) -> tuple[nn.Module, dict[str, str], tuple[str, ...]]:
    """A copy in which every call has its own module, as torchao's patterns ask; whose copy each new one is; a note."""
    try:
        report = give_own_modules(network, data.example)
        own = report.network
        graph = (
            own if isinstance(own, fx.GraphModule) else as_graph_module(trace_network(copy.deepcopy(own), data.example))
        )
    except TraceError:
        # torch.export takes more networks apart than torch.fx does.
        return copy.deepcopy(network), {}, ()
    originals = {other: name for name, others in report.changed.items() for other in others}
    originals |= split_calls(graph, [name for name, _ in graph.named_modules()])
    if not originals:
        return own, {}, ()
    for node in graph.graph.nodes:
        node.meta.pop("nn_module_stack", None)  # torch.export would believe the former names in it
    shared = ", ".join(dict.fromkeys(originals.values()))
    return graph, originals, (f"every call of {shared} has a module of its own, or torchao would stop",)


def _prepared(exported: fx.GraphModule, own: nn.Module, settings: Settings, quantizer: Quantizer) -> fx.GraphModule:
    quantize_pt2e = torchao(".quantize_pt2e")
    folding.guard(exported)
    with stopping(f"torchao cannot prepare {type(own).__name__}", own), silenced():
        if settings.method != "qat":
            prepared = quantize_pt2e.prepare_pt2e(exported, quantizer)
        else:
            graphs.switch_training(exported, True)
            with without_patterns(unless=graphs.norms_behind_convolutions(exported)):
                prepared = quantize_pt2e.prepare_qat_pt2e(exported, quantizer)
            graphs.restore_batchnorm(prepared, own)
        folding.unguard(prepared)
        return prepared  # type: ignore[no-any-return]


def _calibrate(prepared: nn.Module, settings: Settings, data: Data) -> None:
    if settings.method == "dynamic":
        with torch.no_grad():
            prepared(*data.example)  # observers of weights see them in a forward
        return
    assert data.calibrate is not None
    data.calibrate(prepared)


def _train(trainable: graphs.TrainableExport, data: Data) -> None:
    """Train a prepared graph, and leave it in eval mode."""
    prepared = trainable.exported

    def freeze() -> None:
        prepared.apply(torchao().disable_observer)
        trainable.fix_statistics()

    assert data.train is not None
    data.train(trainable, freeze)
    graphs.switch_training(prepared, False)


def _converted(prepared: fx.GraphModule) -> fx.GraphModule:
    doing = "torchao cannot convert the prepared network"
    with stopping(doing, prepared), silenced(), torch.no_grad(), without_patterns(unless=False):
        converted: fx.GraphModule = torchao(".quantize_pt2e").convert_pt2e(prepared)
        graphs.drop_unused(converted)
    return converted


def _nothing_quantized(network: nn.Module, settings: Settings) -> str:
    kinds = "Linear layers" if settings.method == "dynamic" else "Conv1d, Conv2d and Linear layers"
    chosen = "" if settings.modules is None else f" that {settings.modules} chooses"
    return (
        f'stack="pt2e", method="{settings.method}" quantizes {kinds}, of which {type(network).__name__} has '
        f"none{chosen}"
    )
