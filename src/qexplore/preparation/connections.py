"""A float network as `torch.fx` sees it: which module reads what another one gives."""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from qexplore._trees import tensors_of
from qexplore.errors import DataError, QExploreError, TraceError, first_line
from qexplore.model import (
    PathTracer,
    Placement,
    bound_arguments,
    call,
    floating_tensors,
    foreign_hooks,
    in_eval_mode,
    is_layer,
    measuring,
    trace_around,
    without_tensors,
)

_HINT = ". Prepare parts of it that can be traced one by one"
_DESCRIBING = ("shape", "dtype", "device", "ndim")


class Connections:
    """One forward of a float network in eval mode, as a graph. The network is only looked at.

    Args:
        network: its modules are the nodes; what is inside torch's own modules, and inside modules of the user's own
            that cannot be traced, is not looked into.
        example: inputs as `qexplore.model.call` takes them. Where there are some they settle arguments that are no
            tensors, ``node.meta["dims"]`` tells how many axes a node's tensor has, ``node.meta["shape"]`` its shape on
            the example, and ``node.meta["is_number"]`` of what is no tensor whether it is a number.

    Attributes:
        fixed: arguments of ``forward`` that tracing settled because they are no tensors, with their values.
        opaque: modules of the user's own that could not be traced, by name, with the reason.
        calls: the nodes that call a module, by module.

    Raises:
        TraceError: the network cannot be traced, with the reason.
    """

    def __init__(self, network: nn.Module, example: Any = None) -> None:
        self.network = network
        self.fixed = _fixed_arguments(network, example)
        self._names: dict[int, str] = {id(module): name for name, module in network.named_modules()}
        with in_eval_mode(network):
            self.graph, self.opaque = trace_around(network, _Tracer, self.fixed, hint=_HINT)
            if example is not None:
                self._note_dims(example)
        self.calls: dict[nn.Module, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if (module := self.module(node)) is not None:
                self.calls.setdefault(module, []).append(node)
        self._hidden = {
            id(inner): self.name_of(module)
            for module in self.calls
            if not is_layer(module)
            for inner in module.modules()
            if inner is not module
        }
        holders = (id(one) for module in network.modules() for one in module._parameters.values() if one is not None)
        self._holders = Counter(holders)
        read = [str(node.target) for node in self.graph.nodes if node.op == "get_attr"]
        self._read = {id(operator.attrgetter(name)(network)) for name in read}

    def name_of(self, module: nn.Module) -> str:
        """Qualified name of ``module``."""
        return self._names[id(module)]

    def module(self, node: Any) -> nn.Module | None:
        """The module that ``node`` calls; None for other nodes."""
        return module_of(self.network, node)

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that read values of what ``node`` gives, not its shape alone."""
        return [user for user in node.users if not only_describes(user)]

    def is_called(self, module: nn.Module) -> bool:
        """Whether a node calls ``module`` itself."""
        return module in self.calls

    def refusal(self, module: nn.Module) -> str | None:
        """Why parameters of ``module`` must stay as they are, or be what they are together with others; or None."""
        if id(module) in self._hidden:
            return f"it is inside '{self._hidden[id(module)]}', which is taken as a whole"
        if not self.is_called(module):
            return "it is never called"
        if len(self.calls[module]) > 1:
            return f"it is called {len(self.calls[module])} times"
        if foreign_hooks(module):
            return "it carries hooks"
        if parametrize.is_parametrized(module):
            return "its parameters are parametrized"
        own = [one for one in module._parameters.values() if one is not None]
        if any(self._holders[id(one)] > 1 for one in own):
            return "it shares a parameter with another module"
        if any(id(one) in self._read for one in own):
            return "the network reads its parameters without calling it"
        return None

    def describe(self, node: Any) -> str:
        """How a message calls ``node``."""
        module = self.module(node)
        if module is not None:
            return f"'{self.name_of(module)}' ({type(module).__name__})"
        if not isinstance(node, fx.Node):
            return "a constant"
        if node.op == "placeholder":
            return "the network's input"
        if node.op == "output":
            return "the network's output"
        return f"the operation {getattr(node.target, '__name__', node.target)}"

    def _note_dims(self, example: Any) -> None:
        placement = Placement.of(self.network)
        bound = bound_arguments(inspect.signature(self.network.forward), placement.copy_inputs(example))
        try:
            with torch.no_grad(), measuring(placement.device):
                _DimsInterpreter(self.network, graph=self.graph).run(*bound.values())
        except Exception as error:
            raise TraceError(
                f"{type(self.network).__name__} cannot be traced: its graph does not run on the example, which the "
                f"network takes ({type(error).__name__}: {first_line(error)}), as where forward asks for the type of "
                f"an input{_HINT}"
            ) from error


class _Tracer(PathTracer):
    """Leaves alone modules whose hooks would meet proxies too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return bool(foreign_hooks(m)) or super().is_leaf_module(m, module_qualified_name)


class _DimsInterpreter(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        n.meta["dims"] = output.dim() if isinstance(output, Tensor) else None
        n.meta["shape"] = tuple(output.shape) if isinstance(output, Tensor) else None
        n.meta["is_number"] = isinstance(output, (int, float))
        return output


def module_of(network: nn.Module, node: Any) -> nn.Module | None:
    """The module of ``network`` that ``node`` of its graph calls; None for other nodes."""
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return network.get_submodule(str(node.target)) if is_call else None


def check_example(network: nn.Module, example: Any) -> None:
    """Raise unless ``example`` is None or something that ``network`` can be called with, which is tried.

    Raises:
        DataError: it has none of the forms, ``forward`` takes other arguments, or fails on it.
    """
    if example is None:
        return
    wanted = "`example_input` must be a tensor, a tuple of positional or a dict of keyword arguments of forward"
    if not isinstance(example, (Tensor, tuple, list, Mapping)):
        raise DataError(f"{wanted}, got {type(example).__name__}: of a loader give the inputs of one batch")
    try:
        bound_arguments(inspect.signature(network.forward), example)
    except TypeError as error:
        raise DataError(f"{wanted}, but {error}: of a batch give the inputs alone, without the target") from error
    try:
        outputs_of(network, example)
    except QExploreError:
        raise
    except Exception as error:
        shapes = [str(tuple(leaf.shape)) for leaf in tensors_of(example)]
        raise DataError(
            f"{type(network).__name__} must be able to run on `example_input`, but with tensors of shape "
            f"{', '.join(shapes) or 'none'} it fails: {first_line(error)}. Give the inputs of one batch"
        ) from error


def outputs_of(network: nn.Module, example: Any) -> list[Tensor]:
    """Floating tensors of the network's output on ``example``, in eval mode and without gradients."""
    placement = Placement.of(network)
    with in_eval_mode(network), torch.no_grad(), measuring(placement.device):
        output = call(network, placement.copy_inputs(example))
    return floating_tensors(output)


def largest_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference of two outputs, as a share of the largest magnitude in the first."""
    scale = max((float(one.abs().max()) for one in first if one.numel()), default=0.0)
    pairs = zip(first, second, strict=True)
    largest = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    return largest / scale if scale else largest


def only_describes(node: fx.Node) -> bool:
    """Whether ``node`` reads what a tensor is like, not its values."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and len(node.args) > 1 and node.args[1] in _DESCRIBING


def _fixed_arguments(network: nn.Module, example: Any) -> dict[str, Any]:
    """Arguments that are no tensors, with their values: those of the example, or defaults."""
    signature = inspect.signature(network.forward)
    if example is not None:
        return without_tensors(bound_arguments(signature, example))
    return {n: p.default for n, p in signature.parameters.items() if p.default is not inspect.Parameter.empty}
