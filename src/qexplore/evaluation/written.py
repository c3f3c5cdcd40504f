"""A traced network without operations that write into their argument, and what its nodes give."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qexplore._trees import cloned, tensors_of
from qexplore.evaluation.trace import CaptureError, Trace, is_torchs, quantize, region_of
from qexplore.model import float_weights, foreign_hooks


def without_writes(traced: Trace, inputs: Any) -> Any:
    """Rewrite operations that write into their argument, so that every value can be kept and read again.

    Runs the graph once on ``inputs``, in float, and gives its output; ``node.meta["value"]`` notes what each node gave.

    Raises:
        CaptureError: an operation writes into something else than what it returns.
    """
    watcher = _WriteWatcher(traced)
    with float_weights(traced.root):
        output = watcher.run(*traced.bind(inputs))
    order, latest = {node: place for place, node in enumerate(traced.graph.nodes)}, dict[fx.Node, fx.Node]()
    for write in watcher.writes:
        if write.argument is not None:
            written = latest.get(write.argument, write.argument)
            _give_own_memory(traced, write.node, written, is_returned=watcher.returned[write.node])
        for source in write.names:
            for user in list(source.users):
                if order.get(user, -1) > order[write.node]:
                    user.replace_input_with(source, write.node)
            latest[source] = write.node
    return output


def _give_own_memory(traced: Trace, node: fx.Node, written: fx.Node, *, is_returned: bool) -> None:
    """Let ``node`` write into a copy of ``written``, or not at all."""
    if not is_returned:
        raise CaptureError(f"'{node}' writes into a tensor that it does not return")
    module = traced.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if getattr(module, "inplace", None) is True:
        module.inplace = False  # type: ignore[union-attr]
        return
    with traced.graph.inserting_before(node):
        copied = traced.graph.call_method("clone", (written,))
    copied.meta = written.meta | {"written": True}
    node.replace_input_with(written, copied)


@dataclass(frozen=True)
class _Write:
    """A node that writes into a tensor that others have made.

    Attributes:
        node: the one that writes.
        names: earlier nodes whose value is that very tensor.
        argument: which of them it is given; None for a quantizer, which in a graph makes a tensor of its own.
    """

    node: fx.Node
    names: tuple[fx.Node, ...]
    argument: fx.Node | None = None


class _WriteWatcher(fx.Interpreter):
    """Runs a graph in float and notes which nodes write into an argument."""

    def __init__(self, traced: Trace) -> None:
        super().__init__(traced.root, garbage_collect_values=False, graph=traced.graph)
        self.writes: list[_Write] = []
        self.returned: dict[fx.Node, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        given = {arg: self.env[arg] for arg in n.all_input_nodes if isinstance(self.env[arg], Tensor)}
        before = {arg: value._version for arg, value in given.items()}
        if n.target is quantize:
            value: Any = self.fetch_args_kwargs_from_env(n)[0][0]
            output: Any = cloned(value)
            if self._is_written_back(n, value):
                self.writes.append(_Write(n, self._names(value)))
        else:
            with region_of(n):
                output = super().run_node(n)
        for arg, value in given.items():
            if value._version != before[arg]:
                self.writes.append(_Write(n, self._names(value), arg))
                self.returned[n] = output is value
        n.meta["fresh"] = isinstance(output, Tensor) and not self._is_shared(output, n)
        n.meta["value"] = _described(output)
        return output

    def _names(self, value: Any) -> tuple[fx.Node, ...]:
        return tuple(node for node, known in self.env.items() if known is value)

    def _is_written_back(self, node: fx.Node, value: Any) -> bool:
        """Whether a quantizer's module has written ``value`` into its argument: what the hook then does too."""
        module, last = node.meta.get("call", (None, None))
        if getattr(module, "inplace", False) is True:
            return True
        inside = set(itertools.takewhile(lambda one: one is not last, _before(node)))
        return any(write.node in inside and self.env.get(write.node) is value for write in self.writes)

    def _is_torchs(self, node: fx.Node) -> bool:
        """Whether only torch's own code runs; a user's may hand out a tensor that it keeps."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            return is_torchs(module) and not foreign_hooks(module)
        home = getattr(node.target, "__module__", None)
        return node.op == "call_method" or home is None or home.partition(".")[0] in _TRUSTED

    def _is_shared(self, output: Tensor, node: fx.Node) -> bool:
        """Whether ``output`` lies in memory that an argument or the network itself lies in."""
        if node.op in ("placeholder", "get_attr") or output._base is not None or not self._is_torchs(node):
            return True
        storage = output.untyped_storage().data_ptr()
        given = tensors_of([self.env[arg] for arg in node.all_input_nodes])
        own = [*self.module.parameters(), *self.module.buffers()]
        return any(tensor.untyped_storage().data_ptr() == storage for tensor in (*given, *own))


def _before(node: fx.Node) -> Iterator[fx.Node]:
    while node.op != "root":
        node = node.prev
        yield node


_TRUSTED = ("torch", "_operator", "operator", "builtins", "math", "qexplore")


@dataclass(frozen=True)
class Described:
    """What is kept of a tensor that a node gave."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


def described_in(node: fx.Node) -> tuple[Described, ...]:
    """The tensors in what ``node`` gave, once `without_writes` has run it."""
    value = node.meta.get("value")
    return (value,) if isinstance(value, Described) else tuple(value or ())


def _described(output: Any) -> Described | tuple[Described, ...]:
    """A tensor, or all those in what a node gave."""
    if isinstance(output, Tensor):
        return Described(tuple(output.shape), output.dtype, output.nbytes)
    return tuple(Described(tuple(one.shape), one.dtype, one.nbytes) for one in tensors_of(output))
