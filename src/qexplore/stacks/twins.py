"""Which node of a float graph each node of a quantized one stands for: by name, or by what it reads and computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx, nn

from qexplore.stacks.torch_ao import require


@dataclass(frozen=True)
class Twin:
    """What a node of a quantized graph does in the float graph.

    Attributes:
        nodes: one after the other: a convolution with the BatchNorm and the ReLU that became part of it, say.
    """

    nodes: tuple[fx.Node, ...]

    @property
    def reads(self) -> list[fx.Node]:
        """What the first of the nodes reads."""
        return self.nodes[0].all_input_nodes

    @property
    def last(self) -> fx.Node:
        """The float node whose value the quantized node gives."""
        return self.nodes[-1]


def twins(model: fx.Graph, graph: fx.Graph, stands_for: Mapping[str, str] | None = None) -> dict[fx.Node, Twin]:
    """The twin of each node of the quantized graph ``model`` that has one in the float ``graph``.

    Nodes without one only move values between float and integers.

    Args:
        model: torch.ao and torchao keep the names of modules and of arguments, not those of all functions.
        graph: the float one.
        stands_for: names of float nodes by those of quantized ones, where that is known.
    """
    stands_for = stands_for or {}
    pairs = _Pairs(model, graph)
    named = {node.name: node for node in graph.nodes}
    for node in model.nodes:
        known = named.get(stands_for.get(node.name, node.name))
        first = known if node.name in stands_for else pairs.first_of(node, known)
        if first is not None:
            pairs.add(node, first)
    return pairs.found


def origin(node: fx.Node, found: Mapping[fx.Node, Twin]) -> fx.Node:
    """The node with a twin whose value ``node`` hands on, rounded or not; itself where there is none."""
    while node not in found and _is_call(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


class _Pairs:
    def __init__(self, model: fx.Graph, graph: fx.Graph) -> None:
        self.found: dict[fx.Node, Twin] = {}
        self._called = {node.name for node in model.nodes if node.op == "call_module"}
        self._graph = graph
        self._taken: set[fx.Node] = set()
        self._held: set[fx.Node] = set()

    def first_of(self, node: fx.Node, named: fx.Node | None) -> fx.Node | None:
        """Where the twin of ``node`` begins; ``named`` is the float node of its name."""
        if node.op in ("placeholder", "call_module"):
            return named if named is not None and (named.op, named.target) == (node.op, node.target) else None
        if node.op not in ("call_function", "call_method") or _is_of_range(node):
            return None
        candidates = [named] if named is not None else []
        return next((one for one in (*candidates, *self._graph.nodes) if self._are_alike(node, one)), None)

    def add(self, node: fx.Node, first: fx.Node) -> None:
        """Let ``node`` stand for ``first`` and for what became part of it."""
        nodes = [first]
        while len(nodes[-1].users) == 1 and self._is_gone(follower := next(iter(nodes[-1].users)), node):
            nodes.append(follower)
        self._taken.update(nodes)
        self._held.add(nodes[-1])
        self.found[node] = Twin(tuple(nodes))

    def _is_gone(self, follower: fx.Node, node: fx.Node) -> bool:
        """Whether the quantized graph has nothing of its own for a float node that reads what ``node`` does."""
        if follower.op == "call_module":
            return follower.name not in self._called
        if follower.op not in ("call_function", "call_method"):
            return False
        return not any(kind_of(one).startswith(kind_of(follower)) for one in self._readers(node))

    def _readers(self, node: fx.Node) -> Iterator[fx.Node]:
        for user in node.users:
            yield user
            if _only_rounds(user):
                yield from self._readers(user)

    def _are_alike(self, node: fx.Node, other: fx.Node) -> bool:
        if other in self._taken or other.op not in ("call_function", "call_method"):
            return False
        if not kind_of(node).startswith(kind_of(other)):
            return False
        return self._read_by(node) == self._read_in_float_by(other)

    def _read_by(self, node: fx.Node) -> set[fx.Node]:
        sources = (self.found.get(origin(one, self.found)) for one in node.all_input_nodes)
        return {one.last for one in sources if one is not None}

    def _read_in_float_by(self, node: fx.Node) -> set[fx.Node]:
        return {one for source in node.all_input_nodes if (one := _held(source, self._held)) is not None}


def _held(node: fx.Node, known: set[fx.Node]) -> fx.Node | None:
    """The float node that has a twin, behind what is gone, such as a Dropout."""
    while node not in known:
        if not _is_call(node) or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node


def _is_call(node: fx.Node) -> bool:
    return node.op.startswith("call")


def _only_rounds(node: fx.Node) -> bool:
    if node.op == "call_module":
        stubs = require("nnq")
        return isinstance(_module(node), (stubs.Quantize, stubs.DeQuantize))
    return "quantize" in kind_of(node) or kind_of(node) == "contiguous"


def _is_of_range(node: fx.Node) -> bool:
    """Whether a node takes a scale or a zero point out of a range that is found at run time."""
    return any(kind_of(one).startswith("choose_qparams") for one in node.all_input_nodes)


def _module(node: fx.Node) -> nn.Module | None:
    owner = node.graph.owning_module
    return None if owner is None else owner.get_submodule(str(node.target))


def kind_of(node: fx.Node) -> str:
    """Such as ``"add"`` of ``operator.add`` and of ``torch.ops.quantized.add``; of a module's call its name."""
    target = node.target
    return str(getattr(target, "_opname", None) or getattr(target, "__name__", target)).strip("_")
