"""A tape of what a network runs in a block."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.module_tracker import ModuleTracker

from qexplore.tape.tape import Tape
from qexplore.tape.values import Reader


@contextmanager
def recording(
    network: nn.Module,
    weights: Mapping[nn.Parameter, int] | None = None,
    *,
    call: Callable[[], str] = str,
    reading: Callable[[], Iterable[Reader]] = tuple,
) -> Iterator[Tape]:
    """A tape of what ``network`` runs in a block; the other arguments are those of `Tape`."""
    fixed = itertools.chain(network.parameters(), network.buffers())
    parts = _without_compiler(), _without_fused_attention()
    with parts[0], parts[1], _Modules() as tracker, Tape(weights or {}, fixed, tracker, call, reading) as tape:
        tracker.tape = tape
        yield tape


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Attention and transformer layers run in the parts that they consist of, which can be counted and followed."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _without_compiler() -> AbstractContextManager[Any]:
    """Functions that were compiled run as they are written, where there can be any."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


class _Modules(ModuleTracker):
    """Without the hooks for a backward, which die on a view of a parameter that is passed to a module."""

    tape: Tape | None = None

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        self.parents.add(self._get_mod_name(mod))  # type: ignore[no-untyped-call]

    def _fw_post_hook(self, mod: nn.Module, input: Any, output: Any) -> None:
        name = self._get_mod_name(mod)  # type: ignore[no-untyped-call]
        self.parents.discard(name)
        if self.tape is not None:
            self.tape.note_given("activation", name.partition(".")[2], output)
