"""The tables of ``docs/gpu.md``: what a run has seen, written between the markers of its kind of device."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _gpu_rows import Check, Timing

__all__ = ["PAGE", "Run", "written"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"


@dataclass
class Run:
    """Everything that one run has seen."""

    device: torch.device
    command: str
    is_small: bool
    contracts: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    aims: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def marker(self) -> str:
        """Which tables of the page these are."""
        return "CPU" if self.device.type == "cpu" else "GPU"

    @property
    def place(self) -> str:
        """Card, torch, date and command."""
        cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
        card = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            card = f"{torch.cuda.get_device_name(self.device)}, CUDA {torch.version.cuda}"
        size = ", small sizes" if self.is_small else ""
        today = datetime.date.today().isoformat()
        return f"{card}, {cores}, torch {torch.__version__}, {today}{size}: `{self.command}`, {self.seconds:.0f} s."

    def lines(self) -> list[str]:
        """The tables."""
        shown = [self.place, ""]
        for title, rows in (("contract", self.contracts), ("must show", self.aims)):
            shown += [f"| {title} | aim | seen | |", "|---|---|---|---|", *map(str, rows), ""]
        shown += [
            "| network | samples | work | ms | plain recipe / this | plain in one batch / this | in float passes |",
            "|---|---|---|---|---|---|---|",
            *map(str, self.timings),
            "",
        ]
        return [*shown, *(f"- {name}: {engine}" for name, engine in self.engines.items())]


def written(page: str, marker: str, lines: list[str]) -> str:
    """``page`` with ``lines`` between the markers, and nothing else changed.

    Raises:
        ValueError: the page has no such markers.
    """
    begin, end = f"<!-- {marker}: written by benchmarks/gpu.py -->", f"<!-- end of {marker} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"docs/gpu.md has no place for tables: it must have the lines {begin} and {end}")
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])
