"""Recorded work for the pretended device: what ``CUDAGraph`` is, as strict as the real one where that can be had.

While a graph is captured, every operation is taken down with its arguments and the memory of its results; a replay runs
them again and puts the results where the recorded ones lie. As on a GPU

- nothing may be brought to the CPU, drawn or waited for while a graph is captured,
- what was computed during the capture is not there: memory that the graph makes holds NaN until it is replayed,
- a capture in which something was refused cannot end: allocator and random state go on as if it were underway,
- memory that was given back before the capture ended belongs to others: it holds NaN after every replay.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pretended_module import recorder
from torch import Tensor
from torch.utils import _pytree as pytree

allocating: list[Any] = []
"""Pools that the allocator serves for captures underway: a capture that the device refuses leaves its own here."""


def _module() -> Any:
    return torch.pretended  # type: ignore[attr-defined]


class PretendedGraph:
    """As ``torch.cuda.CUDAGraph``."""

    captures = 0
    replays = 0

    def __init__(self) -> None:
        self._ran: list[tuple[Any, Any, Any, Any]] = []
        self._wrappers: list[weakref.ref[Tensor]] = []
        self._made: list[Tensor] = []
        self._lent: list[Tensor] = []
        self._is_ready = self._is_refused = False
        self._pool: Any = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        if recorder[0] is not None or self._is_ready:
            raise RuntimeError("a graph is captured already")
        if pool is None or capture_error_mode != "thread_local":
            raise RuntimeError("these tests want a shared pool, and other threads left alone")
        if not _current[0].is_side:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream")
        if gc.isenabled():
            raise RuntimeError("a graph among the garbage might come to its end during the capture")
        if torch.is_inference_mode_enabled():
            raise RuntimeError("the random state's tensors would be inference tensors")
        recorder[0] = self
        self._pool = pool
        allocating.append(pool)
        _module().is_spoilt = True

    def capture_end(self) -> None:
        if recorder[0] is not self:
            raise RuntimeError("capture_end() without capture_begin()")
        recorder[0] = None
        if self._is_refused:
            raise RuntimeError("operation failed due to a previous error during capture")
        allocating.remove(self._pool)
        _module().is_spoilt = False
        alive = {_storage(tensor.held) for ref in self._wrappers if (tensor := ref()) is not None}  # type: ignore[attr-defined]
        self._lent = [tensor for tensor in self._made if _storage(tensor) not in alive]
        _forget(self._made)
        self._is_ready = True
        PretendedGraph.captures += 1

    def note(self, func: Any, args: Any, kwargs: Any, result: Any, wrapped: Any) -> None:
        """Take down an operation on tensors of the CPU, and what was made of its result."""
        given = {_storage(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self._ran.append((func, args, kwargs, result))
        self._wrappers += [weakref.ref(leaf) for leaf in pytree.tree_leaves(wrapped) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        self._made += [leaf for leaf in results if _storage(leaf) not in given]

    def refuse(self, what: str) -> None:
        self._is_refused = True
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")

    def replay(self) -> None:
        if not self._is_ready or recorder[0] is not None:
            raise RuntimeError("called replay without a preceding successful capture")
        PretendedGraph.replays += 1
        _forget(self._made)
        for func, args, kwargs, recorded in self._ran:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(recorded), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and _storage(old) != _storage(new):
                    old.copy_(new)
        _forget(self._lent)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _forget(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))


class Stream:
    """As ``torch.cuda.Stream``, where all work is done at once."""

    def __init__(self, device: Any = None, *, is_side: bool = True) -> None:
        self.is_side = is_side

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


_current = [Stream(is_side=False)]


@contextmanager
def _on_stream(stream: Stream) -> Iterator[None]:
    before, _current[0] = _current[0], stream
    try:
        yield
    finally:
        _current[0] = before


@contextmanager
def pretended_graphs() -> Iterator[type[PretendedGraph]]:
    """Let the pretended device have graphs for the time of the block; gives their class, which counts."""
    module = _module()
    had = {
        "CUDAGraph": PretendedGraph,
        "Stream": Stream,
        "stream": _on_stream,
        "current_stream": lambda device=None: _current[0],
        "graph_pool_handle": lambda: (0, 1),
    }
    PretendedGraph.captures = PretendedGraph.replays = 0
    for name, value in had.items():
        setattr(module, name, value)
    try:
        yield PretendedGraph
    finally:
        for name in had:
            delattr(module, name)
        allocating.clear()
        module.is_spoilt = False
        recorder[0] = None
