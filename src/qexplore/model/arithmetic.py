"""One arithmetic for what is measured: full float32 and deterministic algorithms, whatever the process is set to."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn

from qexplore._quiet import Held, Row, filtered
from qexplore._random import isolated

PRECISIONS = ("full", "as set")
"""``"full"``: our settings while something is measured. ``"as set"``: the user's own."""

_asked: ContextVar[str] = ContextVar("precision", default="full")  # of the innermost block that names one


@contextmanager
def measuring(device: torch.device, seed: int = 0, *, precision: str | None = None) -> Iterator[None]:
    """Run a block that measures: `isolated` under a seed, and under one `arithmetic`."""
    with isolated(device, seed), arithmetic(precision):
        yield


@contextmanager
def arithmetic(precision: str | None = None) -> Iterator[None]:
    """Run a block in full float32 and with deterministic algorithms, or with the user's settings.

    ``"full"`` holds for the whole process: no TF32 and no bfloat16 inside products and convolutions of float32, no sums
    in half precision, cuDNN's deterministic kernels without trials of others, and torch's deterministic algorithms
    where there are some (`noting` tells where there are none; nothing fails for that). The first block to begin keeps
    the user's settings, the last one to end gives them back, in whichever threads they are, also after an error. What
    changes a setting meanwhile is undone then. A block of autocast is asked for where it stands, around a call or in a
    network, and stays.

    Args:
        precision: one of `PRECISIONS`; None takes what a block around this one says, ``"full"`` without one.
    """
    around = _asked.get()
    wanted = around if precision is None else precision
    _asked.set(wanted)
    try:
        with ExitStack() as stack:
            if wanted == "full":
                stack.enter_context(_DETERMINISTIC.held())
                stack.enter_context(_FULL.held())
            yield
    finally:
        _asked.set(around)


@contextmanager
def trained_deterministically(device: torch.device) -> Iterator[list[str]]:
    """Run a block of training with deterministic algorithms, its precision as the user has set it.

    On a CUDA device attention takes torch's plain form: the backward passes of the fused ones add up in any order.

    Yields:
        As `noting`.
    """
    with _DETERMINISTIC.held(), noting() as names, ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_PLAIN_ATTENTION.held())
        yield names


@contextmanager
def noting() -> Iterator[list[str]]:
    """Names of operations that had no deterministic form while the block ran, each once, as torch calls them."""
    names: list[str] = []
    _listeners.append(names)
    try:
        yield names
    finally:
        _listeners[:] = [one for one in _listeners if one is not names]


def settings(precision: str, device: torch.device) -> tuple[tuple[str, Hashable], ...]:
    """What decides the arithmetic of what is measured: equal where numbers may be compared."""
    kinds = dict.fromkeys(("cpu", device.type))
    regions = tuple((f"autocast {kind}", str(torch.get_autocast_dtype(kind))) for kind in kinds if _is_autocast(kind))
    if precision == "full":
        return regions
    return (
        *_float32_now("cuda" if device.type == "cuda" else "mkldnn"),
        ("deterministic algorithms", torch.get_deterministic_debug_mode() > 0),
        *((name, read()) for name, read, _, _ in (*_CUDNN, *_SUMS) if device.type == "cuda"),
        *regions,
    )


def arithmetic_text(precision: str, network: nn.Module, device: torch.device) -> str:
    """What `settings` say, and the dtypes of the network's parameters, in words."""
    dtypes = dict.fromkeys(each.dtype for each in network.parameters() if each.is_floating_point())
    named = " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) or "float32"
    found = [f"{name} {value}" for name, value in settings(precision, device)]
    if precision == "full":
        return ", ".join([f"full {named}, deterministic", *found])
    return f"{'' if named == 'float32' else f'{named}, '}as set: {', '.join(found)}"


def _is_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


Setting = tuple[str, Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]
"""A name, what reads it, what writes it, and what we want, given what it is."""


@contextmanager
def _set(rows: tuple[Setting, ...]) -> Iterator[None]:
    with ExitStack() as undo:
        for _, read, write, wanted in rows:
            before = read()
            undo.callback(write, before)
            write(wanted(before))
        yield


def _off(before: Any) -> Any:
    """A switch, or several whose first is the one: how sums are split among blocks may stay."""
    return (False, *before[1:]) if isinstance(before, tuple) else False


def _write_all(write: Callable[..., Any], value: Any) -> None:
    write(*value) if isinstance(value, tuple) else write(value)


_CUDNN: tuple[Setting, ...] = (
    ("cuDNN trials", torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark, _off),
    ("cuDNN deterministic", torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic, lambda _: True),
)
# Whoever has asked for errors goes on getting them. Memory that nobody has written need not be filled for us.
_ALGORITHMS: tuple[Setting, ...] = (
    (
        "filled memory",
        torch._C._get_deterministic_fill_uninitialized_memory,
        torch._C._set_deterministic_fill_uninitialized_memory,
        _off,
    ),
    (
        "deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
        lambda before: max(before, 1),
    ),
)
_SUMS: tuple[Setting, ...] = tuple(
    (
        name.replace("_", " "),
        getattr(torch._C, f"_get_{name}"),
        partial(_write_all, getattr(torch._C, f"_set_{name}")),
        _off,
    )
    for name in (
        "cublas_allow_fp16_reduced_precision_reduction",
        "cublas_allow_bf16_reduced_precision_reduction",
        "cublas_allow_fp16_accumulation",  # from torch 2.7
        "math_sdp_allow_fp16_bf16_reduction",
    )
    if hasattr(torch._C, f"_get_{name}")
)
_ATTENTION: tuple[Setting, ...] = tuple(
    (name, getattr(torch.backends.cuda, f"{name}_enabled"), getattr(torch.backends.cuda, f"enable_{name}"), _off)
    for name in ("flash_sdp", "mem_efficient_sdp", "cudnn_sdp")
)

# ------------------------------------------------------------------------------------------------------- float32

# From torch 2.9 each backend and kind of operation has a precision of its own, and one that says "none" takes its
# parent's, which is what reading it gives. Parents come first here.
_PLACES = (
    ("generic", "all"),
    *((backend, operation) for backend in ("cuda", "mkldnn") for operation in ("all", "matmul", "conv", "rnn")),
)
_read_place: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
_write_place: Any = getattr(torch._C, "_set_fp32_precision_setter", None)


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 inside operations of float32, by whichever of torch's two ways they were allowed.

    The older way writes through to the newer, and raises where the two differ; read while all of the newer is off, it
    tells what it was alone.
    """
    places = () if _read_place is None else _PLACES
    with ExitStack() as undo:
        for place in places:
            own = _read_place(*place)  # for its parents say "none" by now
            undo.callback(_write_place, place[0], place[1], own)
            _write_place(*place, "none")
        # Given back before the places, so that these have the last word.
        undo.callback(torch._C._set_cudnn_allow_tf32, _allows_tf32())
        undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch._C._set_cudnn_allow_tf32(False)
        torch.set_float32_matmul_precision("highest")
        for place in places:
            _write_place(*place, "ieee")
        yield


def _allows_tf32() -> bool:
    try:
        return torch._C._get_cudnn_allow_tf32()
    except RuntimeError:  # it is not what the places say, which are off
        return True


def _float32_now(backend: str) -> tuple[tuple[str, Hashable], ...]:
    if _read_place is not None:
        return tuple((f"{backend} {kind}", _read_place(backend, kind)) for kind in ("matmul", "conv", "rnn"))
    older = ("float32 products", torch.get_float32_matmul_precision())
    return (older, ("cuDNN TF32", _allows_tf32())) if backend == "cuda" else (older,)


# ------------------------------------------------------------------- operations without a deterministic form

_WITHOUT = re.compile(r"(.*?) (?:does not have a deterministic implementation|defaults to a non-deterministic)")
_CUBLAS = "Deterministic behavior was enabled"  # said of every product, by a torch that misses the variable
_CUBLAS_NAME = "cuBLAS (set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts)"
_OLDER = "Please use the new API settings to control TF32"  # said once, of our own giving back too
_listeners: list[list[str]] = []


class _Noted:
    """Stands in a filter of warnings where a pattern does, and notes the names in what torch warns of."""

    def match(self, text: str) -> bool:
        found = _WITHOUT.match(text)
        name = found[1].strip() if found else _CUBLAS_NAME if text.startswith(_CUBLAS) else ""
        for names in _listeners:
            if name and name not in names:
                names.append(name)
        return bool(name) or text.startswith(_OLDER)


_NOTED: Row = ("ignore", _Noted(), UserWarning, None, 0)
"""Names for `noting` instead of a warning each time."""


@contextmanager
def _deterministic() -> Iterator[None]:
    with filtered(_NOTED), _set((*_ALGORITHMS, *_CUDNN)):
        yield


@contextmanager
def _full() -> Iterator[None]:
    with _full_float32(), _set(_SUMS):
        yield


_DETERMINISTIC = Held(_deterministic)
_FULL = Held(_full)
_PLAIN_ATTENTION = Held(lambda: _set(_ATTENTION))
