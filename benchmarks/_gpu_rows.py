"""Rows of the tables: what was checked with its aim, and what was timed; a row that fails ends no script."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

__all__ = [
    "Check",
    "Clock",
    "Fault",
    "Timing",
    "checked",
    "full_float32",
    "medians",
    "timed",
    "waits",
]


class Fault(Exception):
    """A feature works, but not as promised."""


@dataclass(frozen=True)
class Check:
    """Something that must hold.

    Attributes:
        name: what.
        figure: what was seen, or the fault.
        aim: what must be seen; empty where "ok" says it all.
        is_met: None where this run cannot tell.
    """

    name: str
    figure: str
    aim: str = ""
    is_met: bool | None = True

    def __str__(self) -> str:
        verdict = {True: "met" if self.aim else "ok", False: "NOT MET" if self.aim else "FAULT", None: "open"}
        return f"| {self.name} | {self.aim} | {_cell(self.figure)} | {verdict[self.is_met]} |"


@dataclass
class Timing:
    """Seconds per candidate, or per float pass, of one kind of work on one network."""

    network: str
    samples: str
    work: str
    seconds: float
    plain: float = float("nan")
    plain_at_once: float = float("nan")
    float_pass: float = float("nan")

    def __str__(self) -> str:
        ratios = (self.plain / self.seconds, self.plain_at_once / self.seconds, self.seconds / self.float_pass)
        shown = " | ".join("-" if ratio != ratio else f"{ratio:.2f}" for ratio in ratios)
        return f"| {self.network} | {self.samples} | {self.work} | {_milliseconds(self.seconds)} | {shown} |"


def _milliseconds(seconds: float) -> str:
    return "-" if seconds != seconds else f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _cell(text: str) -> str:
    """One line that fits a table."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= 240 else f"{line[:237]}..."


def checked(name: str, work: Callable[[], str | Check], aim: str = "", report: list[str] | None = None) -> Check:
    """The row of ``work``, which returns its figure or the row; an exception is a fault, with its sentence."""
    try:
        result = work()
    except ImportError as error:
        return Check(name, f"lacks a package: {error}", aim, None)
    except Exception as error:
        if report is not None:
            report.append(f"{name}:\n{traceback.format_exc()}")
        text = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
        return Check(name, text, aim, False)
    return result if isinstance(result, Check) else Check(name, result, aim)


@dataclass
class Clock:
    """How much of the time is left."""

    minutes: float
    start: float = field(default_factory=lambda: time.perf_counter())

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return 60 * self.minutes - (time.perf_counter() - self.start)

    def share(self, count: int) -> Clock:
        """A clock for the next of ``count`` works that share what is left."""
        return Clock(max(0.0, self.left) / 60 / count)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that ``work`` took, until ``device`` had done it, and what it returned."""
    _synchronize(device)
    start = time.perf_counter()
    result = work()
    _synchronize(device)
    return time.perf_counter() - start, result


def medians(works: dict[str, Callable[[], float]], repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each, all in turns; the first round warms up.

    Where time runs out, fewer rounds, the first alone where there was no other, and nothing of works that had none.
    """
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name in list(rounds):
            if clock.left < 0:
                break
            try:
                rounds[name].append(works[name]())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                del rounds[name]
    return {name: median(found[1:] or found) for name, found in rounds.items() if found}


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is memory of the device that ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 in what runs inside, the plain recipe above all; settings come back."""
    in_convolutions, in_products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = in_convolutions
        torch.set_float32_matmul_precision(in_products)


def waits(work: Callable[[], Any], device: torch.device) -> int:
    """How often ``work`` made the CPU wait for a CUDA device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(one.message) for one in seen)
