"""Ranges of their own in FX's prepared graphs, where torch.ao lets an operation share the range of what it reads.

Torch.ao keeps one observer for the inputs and the output of a concatenation, a sum with a number or a pooling, for its
kernels give what lies on their first input's grid. That is right where no output lies outside of the input's range, and
even there the output must not be counted: a moving average would settle between the two.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qexplore.preparation import module_of
from qexplore.stacks import reasons
from qexplore.stacks.float_functional import EIGHT_BITS, SUMS, functional_call, keeps_range
from qexplore.stacks.torch_ao import activation_range, require

_BOUNDED: dict[Any, tuple[str, str]] = {
    **dict.fromkeys((F.hardtanh, F.hardtanh_), ("min_val", "max_val")),
    **dict.fromkeys((torch.clamp, "clamp"), ("min", "max")),
}
"""Functions that keep values within bounds, with what they call them."""

_ROUNDING = (torch.quantize_per_tensor, torch.quantize_per_channel)
_OF_SEVERAL = (torch.cat, torch.stack)
_OVERSHOOTS = ("bicubic", "lanczos")
_FIXED_FUNCTIONS: tuple[Any, ...] = (F.hardsigmoid, F.sigmoid, torch.sigmoid, torch.tanh)
_FIXED_FUNCTIONS += ("hardsigmoid", "hardsigmoid_", "sigmoid", "sigmoid_", "tanh", "tanh_")
_FIXED_MODULES = (nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softmax)
"""Their kernels give 8 bits on a grid of their own, whatever an engine reads."""

APART = "apart"
"""In ``node.meta`` of what is computed in float because its range is its own, the reason."""


class Following(nn.Module):
    """Rounds on the grid of another observer or fake quantizer, which does not count what passes here.

    Args:
        name: of that one, in the prepared graph.
        source: that one.
    """

    def __init__(self, name: str, source: nn.Module) -> None:
        super().__init__()
        self.name = name
        self._source = (source,)  # not a submodule: it stands in the graph already

    def forward(self, x: Tensor) -> Tensor:
        """``x``, rounded while its source rounds."""
        source: Any = self._source[0]
        if not isinstance(source, require("FakeQuantizeBase")):
            return x
        observes = source.observer_enabled.clone()
        source.disable_observer()
        try:
            rounded: Tensor = source(x)
        finally:
            source.observer_enabled.copy_(observes)
        return rounded


def apart(x: Tensor, *, reason: str) -> Tensor:
    """``x``; stands between an operation and its quantizer, of which torch would make one kernel, for a ``reason``."""
    return x


def separate_ranges(prepared: fx.GraphModule, engine: str, observer: Callable[[], nn.Module]) -> None:
    """Give every tensor a range of its own in a prepared graph, or the range of what it is made of.

    Args:
        prepared: as torch.ao gives it; changed. Nothing was observed yet.
        engine: that it is made for.
        observer: makes an observer, or a fake quantizer.
    """
    seen: set[nn.Module] = set()
    for node in [one for one in prepared.graph.nodes if _observes(prepared, one)]:
        module = prepared.get_submodule(str(node.target))
        own = _own_range(prepared, node, engine, observer, is_shared=module in seen)
        if own is not None:
            prepared.set_submodule(str(node.target), own)
        seen.add(module)
    prepared.recompile()


def rejoin(prepared: fx.GraphModule) -> None:
    """Let those that follow a range be it, for conversion."""
    for node in prepared.graph.nodes:
        module = module_of(prepared, node)
        if isinstance(module, Following):
            node.target = module.name
    prepared.recompile()


def settle(model: fx.GraphModule) -> None:
    """Take the places that were kept apart out of a converted graph; concatenations get their kernel.

    What is rounded and read in float alone, as torch.ao has it around what it has no kernel for, is rounded no more.
    """
    for node in [one for one in model.graph.nodes if one.target is apart]:
        source: Any = node.args[0]
        source.meta[APART] = node.kwargs["reason"]
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)
        if source.target is torch.cat:
            _lower_cat(model, source)
    for node in [one for one in model.graph.nodes if one.target in _ROUNDING]:
        if all(reader.target == "dequantize" for reader in node.users):
            for reader in node.users:
                reader.replace_all_uses_with(node.args[0])
    model.graph.eliminate_dead_code()
    model.recompile()


def _own_range(
    prepared: fx.GraphModule, node: fx.Node, engine: str, observer: Callable[[], nn.Module], *, is_shared: bool
) -> nn.Module | None:
    """What is to stand in the place of the observer that ``node`` calls; None where it is right."""
    source: Any = node.args[0]
    if not _shares(source):
        if not _is_fixed(prepared, node):
            return observer() if is_shared else None
        if _has_fixed_range(prepared, source):
            if activation_range(engine)[1] == EIGHT_BITS or all(reader.op == "output" for reader in node.users):
                return None
            _keep_apart(prepared, source, node, reasons.SEVEN_BITS.format(engine=engine))
        return observer()  # torch lets what such a function reads have the function's range
    if _stays_inside(prepared, source) and _observes(prepared, source.args[0]):
        return _follower(prepared, source.args[0])
    if not _has_exact_kernel(source, engine):
        _keep_apart(prepared, source, node, reasons.OWN_RANGE)
    return observer()


def _observes(prepared: fx.GraphModule, node: Any) -> bool:
    return isinstance(module_of(prepared, node), (require("ObserverBase"), require("FakeQuantizeBase")))


def _is_fixed(prepared: fx.GraphModule, node: fx.Node) -> bool:
    kinds = (require("FixedQParamsObserver"), require("FixedQParamsFakeQuantize"))
    return isinstance(module_of(prepared, node), kinds)


def _shares(source: fx.Node) -> bool:
    """Whether torch lets ``source`` share the range of what it reads."""
    told = source.meta.get("target_dtype_info") or {}
    return bool(told.get("input_output_share_observers") or told.get("reuse_input_obs_or_fq"))


def _has_fixed_range(prepared: fx.GraphModule, source: fx.Node) -> bool:
    is_function = source.op in ("call_function", "call_method") and source.target in _FIXED_FUNCTIONS
    return is_function or isinstance(module_of(prepared, source), _FIXED_MODULES)


def _stays_inside(prepared: fx.GraphModule, source: fx.Node) -> bool:
    """Whether what ``source`` gives lies between zero and what it reads."""
    if source.target in (*_OF_SEVERAL, operator.floordiv) or _sum_of(source) is not None:
        return False
    if source.target is F.interpolate and source.kwargs.get("mode") in _OVERSHOOTS:
        return False
    low, high = _bounds(prepared, source)
    is_settled = not isinstance(low, fx.Node) and not isinstance(high, fx.Node)
    return is_settled and low <= 0 <= high


def _bounds(prepared: fx.GraphModule, source: fx.Node) -> tuple[Any, Any]:
    """Between which numbers ``source`` keeps values; infinite where it does not."""
    module: Any = module_of(prepared, source)
    if isinstance(module, nn.Hardtanh):
        return module.min_val, module.max_val
    if source.op not in ("call_function", "call_method") or source.target not in _BOUNDED:
        return -math.inf, math.inf
    names = _BOUNDED[source.target]
    given = dict(zip(names, source.args[1:], strict=False)) | source.kwargs
    low, high = (given.get(name) for name in names)
    if source.target in (F.hardtanh, F.hardtanh_):
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _sum_of(source: Any) -> fx.Node | None:
    """The sum or product that ``source`` is, or whose ReLU it is; None for others."""
    for node in (source, source.args[0] if source.args else None):
        if isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and node.target in SUMS:
            return node
    return None


def _has_exact_kernel(source: fx.Node, engine: str) -> bool:
    """Whether torch's kernel only moves the grid that the input lies on, to one that ``engine`` can read."""
    call = functional_call(source)
    return call is not None and keeps_range(*call, engine)


def _follower(prepared: fx.GraphModule, origin: Any) -> nn.Module:
    module = prepared.get_submodule(str(origin.target))
    return module if isinstance(module, Following) else Following(str(origin.target), module)


def _keep_apart(prepared: fx.GraphModule, source: fx.Node, node: fx.Node, reason: str) -> None:
    with prepared.graph.inserting_before(node):
        node.args = (prepared.graph.call_function(apart, (source,), {"reason": reason}),)


def _lower_cat(model: fx.GraphModule, source: Any) -> None:
    """Concatenate integers on a grid of their own, where nothing but a quantizer reads ``source``."""
    tensors: Any = source.args[0] if source.args else source.kwargs["tensors"]
    quantizer, *others = source.users or [source]
    if others or quantizer.target is not torch.quantize_per_tensor:
        return
    if any(one.target != "dequantize" for one in tensors):
        return
    dim = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
    quantizer.prepend(source)  # behind the scale and the zero point that it takes
    source.target = torch.ops.quantized.cat
    source.args, source.kwargs = ([one.args[0] for one in tensors], dim, *quantizer.args[1:3]), {}
    del source.meta[APART]
    quantizer.replace_all_uses_with(source)
    model.graph.erase_node(quantizer)
