"""A float network made ready for torch.ao's eager stack, and made again from what a file remembers of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from torch import nn

from qexplore.errors import StackError
from qexplore.model import TRANSPOSED
from qexplore.predicates import select_modules
from qexplore.preparation import outputs_of, require_equal
from qexplore.stacks.base import Settings
from qexplore.stacks.eager_graph import EagerGraph, fuse_layers, graph_of
from qexplore.stacks.eager_nodes import Domains, add_stubs, choose_layers, find_domains
from qexplore.stacks.float_functional import Swapped, swap_functions
from qexplore.stacks.saving import describe_arguments, other_structure
from qexplore.stacks.stopping import stopping
from qexplore.stacks.torch_ao import linear_qconfig_of, qconfig_of, require
from qexplore.stacks.trained import Trained


@dataclasses.dataclass(frozen=True)
class Layout:
    """What was decided about a network, in plain values, so that it can be built again without data.

    Attributes:
        layers: how often each layer that is computed in integers is called, by name.
        domains: which nodes compute in integers.
        example: what the network was called with: shape and dtype of tensors, other arguments themselves.
        structure: fingerprint of the network that was prepared.
    """

    layers: dict[str, int]
    domains: Domains
    example: tuple[Any, ...]
    structure: str

    def to_text(self) -> str:
        """As a line of JSON."""
        fields = dataclasses.asdict(self)
        del fields["domains"]["reasons"]
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Layout:
        """What `to_text` gave."""
        fields = json.loads(text)
        domains = {name: tuple(nodes) for name, nodes in fields["domains"].items()}
        read = {"domains": Domains(**domains, reasons={}), "example": tuple(fields["example"])}
        return cls(**(fields | read))


@dataclasses.dataclass(frozen=True)
class Built:
    """A network that is ready to be observed or trained.

    Attributes:
        graph: its network is the one to go on with.
        layout: what was decided about it.
        refused: why selected layers stay float.
        fused: names that went into each layer.
        swapped: functions that modules do now.
        untrained: layers whose weights training does not round.
        trained: where training leaves the parameters of the graph.
    """

    graph: EagerGraph
    layout: Layout
    refused: dict[str, str]
    fused: dict[str, tuple[str, ...]]
    swapped: tuple[Swapped, ...]
    untrained: tuple[str, ...]
    trained: Trained


def build(network: nn.Module, settings: Settings, example: tuple[Any, ...], layout: Layout | None = None) -> Built:
    """Prepare a copy of ``network``: own modules, fused layers, stubs, functions as modules, observers.

    Args:
        network: float, on CPU, in eval mode.
        settings: for static quantization, or for training.
        example: positional arguments of one call.
        layout: decisions to repeat; None to take them.

    Raises:
        TraceError: the network cannot be traced.
        WorkflowError: there is no layer to quantize, or the layout is of another network.
        ModelError: the graph gives other outputs than the network, for instance because it writes into a view.
    """
    is_qat = settings.method == "qat"
    graph = graph_of(network, example, selected(network, settings))
    settings = settings.with_copies(graph.copies)
    allowed = _allowed(network, graph, settings)
    layers, refused = choose_layers(graph.network, allowed, settings.engine, settings.left_float)
    structure = structure_of(graph.network)
    if layout is not None and layout.structure != structure:
        raise other_structure("the file", network)
    if not layers:
        raise _nothing_to_quantize(network, settings, refused)
    trained = Trained(graph.network)
    graph.network.train(is_qat)
    with stopping("torch.ao cannot fuse the layers of the network", graph.network):
        fused = fuse_layers(graph.network, [name for name, count in layers.items() if count == 1], is_qat=is_qat)
    if layout is None:
        require_equal(outputs_of(network, example), graph.network, example, "taking the network apart")
        domains = find_domains(graph.network, layers, allowed, example, settings.left_float, engine=settings.engine)
        layout = Layout(layers, domains, tuple(describe_arguments(example)), structure)
    add_stubs(graph.network, layout.domains)
    swapped = swap_functions(graph.network, layout.domains.integers)
    _configure(graph, settings, layout)
    with stopping("torch.ao cannot prepare the network", graph.network):
        require("prepare_qat" if is_qat else "prepare")(graph.network, inplace=True)
    untrained = [
        name for name in layers if is_qat and not hasattr(graph.network.get_submodule(name), "weight_fake_quant")
    ]
    trained.find(graph.network)
    return Built(graph, layout, refused, fused, swapped, tuple(untrained), trained)


def structure_of(network: nn.Module) -> str:
    """Fingerprint of the modules and the code of ``network``."""
    return hashlib.sha256(f"{getattr(network, 'code', '')}{network}".encode()).hexdigest()


def selected(network: nn.Module, settings: Settings) -> set[str] | None:
    """Names of the modules of ``network`` that may be in integers; None for all."""
    return None if settings.modules is None else set(select_modules(network, settings.modules))


def _allowed(network: nn.Module, graph: EagerGraph, settings: Settings) -> set[str] | None:
    """Names of the modules in the graph that may be in integers; None for all."""
    chosen = selected(network, settings)
    if chosen is None:
        return None
    return chosen | {copy for copy, name in graph.copies.items() if name in chosen} | set(graph.functions)


def _nothing_to_quantize(network: nn.Module, settings: Settings, refused: dict[str, str]) -> StackError:
    reasons = "".join(f"; '{name}' is left out: {reason}" for name, reason in list(refused.items())[:3])
    chosen = settings.modules is not None
    where = f" among those that modules={settings.modules} selects" if chosen else ""
    return StackError(
        f'stack="eager" needs a convolution or Linear layer{where}, and {type(network).__name__} has none that it can '
        f"see{reasons}{': select such layers' if chosen else ''}"
    )


def _configure(graph: EagerGraph, settings: Settings, layout: Layout) -> None:
    """Give a QConfig to every module that is to be in integers, and to none else."""
    network = graph.network
    plain, linear = qconfig_of(settings), linear_qconfig_of(settings)
    # The kernels of transposed convolutions take one scale per weight.
    per_tensor = qconfig_of(dataclasses.replace(settings, weight_granularity="tensor"))
    stubs = (require("QuantStub"), require("DeQuantStub"), require("FloatFunctional"))
    kernels = require("get_default_static_quant_module_mappings")()
    integers = {str(node.target) for node in network.graph.nodes if node.name in layout.domains.integers}
    for name, module in network.named_modules():
        if isinstance(module, stubs):
            module.qconfig = plain
        elif name in layout.layers:
            layer = module[0] if isinstance(module, nn.Sequential) else module
            is_linear = isinstance(layer, nn.Linear)
            module.qconfig = linear if is_linear else per_tensor if isinstance(layer, TRANSPOSED) else plain
        elif name in integers and type(module) in kernels:
            module.qconfig = plain
