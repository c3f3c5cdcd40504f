"""Which steps of a network the eager stack computes in integers; the rest stays float, between stubs."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from qexplore._quiet import quiet
from qexplore.model import Placement, floating_tensors, foreign_hooks, in_eval_mode, measuring
from qexplore.preparation import module_of, only_describes
from qexplore.stacks import reasons
from qexplore.stacks.eager_graph import HOLDING_RANGE, LAYERS, add_module, step_of
from qexplore.stacks.float_functional import EIGHT_BITS, functional_call, keeps_range
from qexplore.stacks.strategy import no_form, values_of
from qexplore.stacks.torch_ao import activation_range, check_engine, require, wrong_kernel

_CLOSE = 0.02
"""Largest difference, as a share of the range, that 8 bits may make to one step; more is another function."""


def choose_layers(
    network: fx.GraphModule,
    selected: Collection[str] | None,
    engine: str | None = None,
    left_float: Mapping[str, str] | None = None,
) -> tuple[dict[str, int], dict[str, str]]:
    """The layers that ``engine`` can compute in integers, among the modules named ``selected`` (None: all).

    Those in ``left_float`` stay float, for the reasons in it.

    Returns:
        How often each chosen layer is called, and why selected layers of the same classes are not chosen, both by name
        in call order.
    """
    calls = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in network.graph.nodes if node.op == "get_attr"}
    chosen, refused = {}, {}
    for name, count in calls.items():
        module = network.get_submodule(name)
        if parametrize.type_before_parametrizations(module) not in LAYERS or not (selected is None or name in selected):
            continue
        reason = (left_float or {}).get(name) or _refusal(module) or wrong_kernel(module, engine)
        reason = reason or (reasons.READ_ELSEWHERE if name in read else "")
        if reason:
            refused[name] = reason
        else:
            chosen[name] = count
    return chosen, refused


def _refusal(module: nn.Module) -> str:
    """Why a layer cannot be computed in integers; empty when it can."""
    if parametrize.is_parametrized(module):
        return reasons.PARAMETRIZED
    if foreign_hooks(module):
        return "it carries hooks, which would meet integers"
    return no_form(module)


@dataclass(frozen=True)
class Domains:
    """Where a graph computes in integers.

    Attributes:
        integers: names of the nodes that do.
        quantized: names of the float nodes whose tensors these read.
        contiguous: names of the integer nodes whose kernel goes wrong on tensors in channels-last order.
        reasons: why other nodes that read integers and were selected stay float, by name.
    """

    integers: tuple[str, ...]
    quantized: tuple[str, ...]
    contiguous: tuple[str, ...]
    reasons: dict[str, str]


def find_domains(
    network: fx.GraphModule,
    layers: Collection[str],
    allowed: Collection[str] | None,
    example: tuple[Any, ...],
    left_float: Mapping[str, str] | None = None,
    *,
    engine: str | None = None,
) -> Domains:
    """Which nodes are computed in integers when the layers named ``layers`` are.

    A layer has its input quantized. Everything else follows what it reads: in integers where all of that is in integers
    and torch has a kernel, which is asked of torch itself, on the example. Modules that are not ``allowed`` stay float
    (None: all are), and the steps in ``left_float``, for the reasons in it. What gives more bits than layers of
    ``engine`` may read is computed in float, and rounded for them.
    """
    values = _values(network, example)
    integers: dict[fx.Node, None] = {}
    quantized: dict[fx.Node, None] = {}
    rounded: set[fx.Node] = set()  # float nodes that give integers all the same
    contiguous: list[str] = []
    refused = {}
    for node in network.graph.nodes:
        tensors = [one for one in node.all_input_nodes if _is_floating(values[one])]
        if node.op == "call_module" and node.target in layers:
            integers[node] = None
            quantized.update((one, None) for one in tensors if one not in integers)
        elif (
            any(one in integers or one in rounded for one in tensors)
            and node.op != "output"
            and _is_floating(values[node])
        ):
            if allowed is not None and node.op == "call_module" and node.target not in allowed:
                continue
            reason = (left_float or {}).get(step_of(node))
            reason = reason or _reason_for_float(network, node, values, {**quantized, **integers})
            too_wide = "" if reason else _reason_for_rounding(network, node, values, engine)
            if too_wide:
                quantized[node] = None
                rounded.add(node)
            if reason or too_wide:
                refused[node.name] = reason or too_wide
                continue
            integers[node] = None
            if not _has_kernel(network, node, values, torch.channels_last):
                contiguous.append(node.name)
    read = [one for one in quantized if any(user in integers for user in one.users)]
    return Domains(tuple(one.name for one in integers), tuple(one.name for one in read), tuple(contiguous), refused)


def _reason_for_rounding(network: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], engine: str | None) -> str:
    """Why what ``node`` gives in integers must not reach a layer of ``engine``; empty where it may."""
    if activation_range(engine)[1] == EIGHT_BITS or all(user.op == "output" for user in node.users):
        return ""
    reason = reasons.SEVEN_BITS.format(engine=check_engine(engine))
    call = functional_call(node)
    if call is not None:
        return reason if call[0].endswith("_scalar") and not keeps_range(*call, engine) else ""
    if type(module_of(network, node)) in HOLDING_RANGE:
        return ""
    with quiet(), torch.no_grad():
        quantized = {one: pytree.tree_map_only(Tensor, _quantized, values[one]) for one in node.all_input_nodes}
        given = [one for one in pytree.tree_leaves(_run(network, node, quantized, None)) if _is_quantized(one)]
    grids = {_grid(one) for one in pytree.tree_leaves(list(quantized.values())) if _is_quantized(one)}
    return "" if all(_grid(one) in grids for one in given) else reason


def _is_quantized(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_quantized


def _grid(tensor: Tensor) -> tuple[float, int]:
    return tensor.q_scale(), tensor.q_zero_point()


def _reason_for_float(
    network: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], at_hand: Collection[fx.Node]
) -> str:
    """Why ``node`` stays float, where the tensors ``at_hand`` can be had in integers; empty when it need not."""
    if any(_is_floating(values[one]) and one not in at_hand for one in node.all_input_nodes):
        return reasons.ALSO_READS_FLOAT
    if type(module_of(network, node)) in LAYERS:
        return reasons.NOT_AMONG_LAYERS
    if not isinstance(values[node], Tensor) and any(user.target is not operator.getitem for user in node.users):
        return reasons.SEVERAL_TENSORS
    has_kernel = _has_kernel(network, node, values, torch.contiguous_format)
    return "" if has_kernel else reasons.NO_KERNEL


def add_stubs(network: fx.GraphModule, domains: Domains) -> None:
    """Put stubs where tensors pass between float and integer nodes, one for each tensor and direction.

    What an integer node must have in contiguous order is put in that order.
    """
    stubs: dict[tuple[fx.Node, bool], fx.Node] = {}
    for node in list(network.graph.nodes):
        into = node.name in domains.integers
        for source in node.all_input_nodes:
            crosses = source.name in (domains.quantized if into else domains.integers)
            if not crosses or (not into and _is_same_of_integers(node)):
                continue
            if (source, into) not in stubs:
                stubs[source, into] = _stub(network, source, into)
            node.replace_input_with(source, stubs[source, into])
    for node in [one for one in network.graph.nodes if one.name in domains.contiguous]:
        for source in node.all_input_nodes:
            with network.graph.inserting_before(node):
                ordered = network.graph.call_method("contiguous", (source,))
            node.replace_input_with(source, ordered)
    network.recompile()


def _is_same_of_integers(node: fx.Node) -> bool:
    """Whether ``node`` reads of a tensor in integers what it would read of the float one: a size, not the type."""
    return only_describes(node) and "dtype" not in node.args


def _stub(network: fx.GraphModule, source: fx.Node, into: bool) -> fx.Node:
    kind = require("QuantStub" if into else "DeQuantStub")
    name = add_module(network, "quant" if into else "dequant", kind())
    last = source
    while source.op == "placeholder" and last.next.op == "placeholder":
        last = last.next  # arguments stand first
    with network.graph.inserting_after(last):
        return network.graph.call_module(name, (source,))


def _values(network: fx.GraphModule, example: tuple[Any, ...]) -> dict[fx.Node, Any]:
    """What every node gives on the example, in eval mode."""
    with in_eval_mode(network), measuring(torch.device("cpu")):
        return values_of(network, Placement.of(network).copy_inputs(example))


def _is_floating(value: Any) -> bool:
    return bool(floating_tensors(value))


def _has_kernel(network: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], order: torch.memory_format) -> bool:
    """Whether torch computes ``node`` in integers that lie in ``order``, and what the float network computes."""
    module = module_of(network, node)
    if module is not None:
        if foreign_hooks(module) or not type(module).__module__.startswith("torch.nn."):
            return False
        if type(module) in HOLDING_RANGE and type(module) in require("get_default_static_quant_module_mappings")():
            return not no_form(module)
        if any(True for _ in module.parameters()):
            return False
    with quiet(), torch.no_grad():
        quantized = {one: pytree.tree_map_only(Tensor, _quantized, values[one]) for one in node.all_input_nodes}
        plain = {one: pytree.tree_map_only(Tensor, _dequantized, value) for one, value in quantized.items()}
        expected = _run(network, node, plain, None)
        ordered = {
            one: pytree.tree_map_only(Tensor, lambda tensor: _ordered(tensor, order), value)
            for one, value in quantized.items()
        }
        try:
            given = _run(network, node, ordered, expected)
        except Exception:  # whatever torch says when it has no kernel
            return False
        pairs = zip(pytree.tree_leaves(given), pytree.tree_leaves(expected), strict=True)
        return all(_is_close(one, other) for one, other in pairs)


def _ordered(tensor: Tensor, order: torch.memory_format) -> Tensor:
    return tensor.contiguous(memory_format=order) if tensor.is_quantized and tensor.dim() == 4 else tensor


def _run(network: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], expected: Any) -> Any:
    """What ``node`` gives on ``values``; additions and the like need to know the range that is ``expected``."""
    call = functional_call(node)
    if call is not None and isinstance(expected, Tensor):
        functional = require("QFunctional")()
        functional.scale, functional.zero_point = _range(expected)
        method, given = call
        return getattr(functional, method)(*fx.node.map_arg(given, values.__getitem__))
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_module":
        with in_eval_mode(network):
            return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _range(tensor: Tensor) -> tuple[float, int]:
    low, high = min(float(tensor.min()), 0.0), max(float(tensor.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, round(-low / scale)


def _quantized(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    return torch.quantize_per_tensor(tensor.float(), *_range(tensor), torch.quint8)


def _dequantized(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if tensor.is_quantized else tensor


def _is_close(given: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return True
    if not isinstance(given, Tensor) or not given.is_quantized or given.shape != expected.shape:
        return False
    if not expected.numel():
        return True
    spread = float(expected.max() - expected.min()) or 1.0
    return float((given.dequantize() - expected).abs().max()) <= _CLOSE * spread
