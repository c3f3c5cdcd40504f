"""Text as bytes, cut into windows."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor

from qexplore.errors import DataError


def read_text(path: Path | None) -> tuple[str, str]:
    """The text, and what it is.

    Args:
        path: a file; None takes the language reference that ships with Python, as ``help()`` shows it.

    Raises:
        DataError: no such file, or one that is no text.
    """
    if path is None:
        return _python_reference(), "the language reference that ships with Python (pydoc_data.topics)"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--text must name a file of UTF-8 text, but '{path}' cannot be read: {error}") from error


def _python_reference() -> str:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError("this Python came without its reference: name a text with --text FILE") from error
    return "\n".join(topics[name] for name in sorted(topics))


def byte_tokens(text: str) -> Tensor:
    """The UTF-8 bytes of ``text``, int64 ``[n]``."""
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.int64)


def windows(tokens: Tensor, length: int, least: int, text_name: str) -> Tensor:
    """``tokens`` cut into pieces of ``length + 1``, each beginning with the last one's end: ``[N, length + 1]``.

    Raises:
        DataError: fewer than ``least`` pieces.
    """
    count = (len(tokens) - 1) // length
    if count < least:
        raise DataError(
            f"the text must give at least {least} pieces of {length} tokens, but {text_name} is too short: it has "
            f"{len(tokens):,} tokens, {least * length + 1:,} are needed"
        )
    return tokens[: count * length + 1].unfold(0, length + 1, length)


def split(pieces: Tensor, held_out: float = 0.1) -> tuple[Tensor, Tensor]:
    """The first pieces to train on, and the last ones, the share ``held_out``, to measure on."""
    count = max(int(len(pieces) * held_out), 1)
    return pieces[:-count], pieces[-count:]
