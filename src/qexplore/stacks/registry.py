"""Every stack in one row: what it can, and the file that does it.

A new stack is a file that offers what `StackFile` says, and a row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from qexplore._arguments import checked_name
from qexplore.errors import WorkflowError
from qexplore.stacks import eager, float8, fx, onnxruntime, pt2e
from qexplore.stacks.base import Method, Settings, StackFile


@dataclass(frozen=True)
class StackRow:
    """What a stack can.

    Attributes:
        name: how it is asked for.
        home: its file.
        methods: which of ``"dynamic"``, ``"static"``, ``"qat"`` it has.
        uses_engine: whether its networks run on the engine that torch is set to.
        packs_weights: whether Linear layers may have weights of less than 8 bits.
        needs_network: whether its files hold integers and scales alone, and the float network must be given with them.
        extra: what to install for it, as in ``pip install 'qexplore[extra]'``; empty where torch is enough.
        formats: number formats that it has in the place of widths and granularities.
        is_emulated: whether its arithmetic is emulated in float, so that its time tells nothing.
    """

    name: str
    home: StackFile
    methods: tuple[Method, ...] = get_args(Method)
    uses_engine: bool = False
    packs_weights: bool = False
    needs_network: bool = False
    extra: str = ""
    formats: tuple[str, ...] = ()
    is_emulated: bool = False


STACKS = {
    row.name: row
    for row in (
        StackRow("eager", eager, uses_engine=True, packs_weights=True, needs_network=True),
        StackRow("fx", fx, uses_engine=True, packs_weights=True, needs_network=True),
        StackRow("pt2e", pt2e, extra="pt2e"),
        StackRow("onnxruntime", onnxruntime, ("dynamic", "static"), extra="onnx"),
        StackRow("float8", float8, ("static",), needs_network=True, formats=(*float8.FORMATS,), is_emulated=True),
    )
}


def row_for(settings: Settings) -> StackRow:
    """The row of the stack that ``settings`` name, which can do what they ask for.

    Raises:
        WorkflowError: it cannot, or there is none of that name.
    """
    row = STACKS[checked_name("stack", settings.stack, STACKS, WorkflowError)]
    if settings.method not in row.methods:
        others = _named(one for one in STACKS.values() if settings.method in one.methods)
        export = ", or fine-tune a point (qexplore.fine_tune) and write it with qexplore.export_onnx"
        raise WorkflowError(
            f'method of stack="{row.name}" must be {_listed(map(repr, row.methods))}, got {settings.method!r}: '
            f"use stack={others}{export if settings.method == 'qat' else ''}"
        )
    if settings.linear_num_bits < 8 and not row.packs_weights:
        others = _named(one for one in STACKS.values() if one.packs_weights)
        raise WorkflowError(
            f'stack="{row.name}" has no packed weights, so linear_num_bits must be 8, got {settings.linear_num_bits}: '
            f"use stack={others}"
        )
    row.home.check(settings)
    return row


def row_of_file(path: Path) -> StackRow:
    """The row of the stack that saved ``path``.

    Raises:
        WorkflowError: there is no such file, or no stack reads it.
    """
    if not path.is_file():
        raise WorkflowError(f"there is no file '{path}'")
    found = next((row for row in STACKS.values() if row.home.reads(path)), None)
    if found is None:
        raise WorkflowError(f"'{path}' is no file of a quantized network: it was not written by result.save(path)")
    return found


def _named(rows: Iterable[StackRow]) -> str:
    return _listed(f'"{row.name}"' + (f" (pip install 'qexplore[{row.extra}]')" if row.extra else "") for row in rows)


def _listed(texts: Iterable[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} or {last}" if others else last
