"""Values to the cells of a row and back: every one comes back as it was, to the bit.

A cell is what SQLite keeps without changing it: an int, a float, text, bytes or nothing.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.errors import StudyError

Cell = int | float | str | bytes | None
"""As it is written."""
Read = int | float | bytes | None
"""As it is read: text comes as its bytes."""

_CODES = {b"1": "<u1", b"2": "<u2", b"8": "<i8"}
_BITS, _FLOATS = b"b", b"f"
_ONE = 0x3F800000  # 1.0 as bits


def pack_number(value: float | None) -> float | str | None:
    """A float as a cell; as text where SQLite would lose it: it takes NaN for NULL, and -0.0 loses its sign."""
    if value is None:
        return None
    number = float(value)
    is_lost = math.isnan(number) or (number == 0 and math.copysign(1, number) < 0)
    return repr(number) if is_lost else number


def unpack_number(cell: Read) -> float | None:
    """The float of a cell."""
    return None if cell is None else float(cell)


def pack_text(text: str) -> str | bytes:
    """Text as a cell; as bytes where it is no valid Unicode, such as a surrogate alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
    return text


def unpack_text(cell: Read) -> str:
    """The text of a cell."""
    return _as_bytes(cell).decode(errors="surrogatepass")


def pack_json(owner: str, value: Mapping[str, Any]) -> str:
    """A mapping as JSON text, the same for equal ones.

    Raises:
        StudyError: it holds what JSON cannot; ``owner`` begins the sentence.
    """
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{owner} must hold texts, numbers, lists and mappings only, got what JSON has no form for: {error}"
        ) from error


def unpack_json(cell: Read) -> dict[str, Any]:
    """The mapping of a cell."""
    value = json.loads(unpack_text(cell))
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, got {type(value).__name__}")
    return value


def pack_candidate(candidate: Sequence[int]) -> bytes:
    """Codes as bytes, one form for each candidate: a byte a point where they allow it."""
    codes = np.asarray(candidate, dtype=np.int64)
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    kind = b"8" if low < 0 or high > 0xFFFF else b"1" if high <= 0xFF else b"2"
    return kind + codes.astype(_CODES[kind]).tobytes()


def unpack_candidate(cell: Read) -> tuple[int, ...]:
    """The codes of a cell."""
    data = _as_bytes(cell)
    return tuple(np.frombuffer(data[1:], _CODES[data[:1]]).tolist())


def unpack_candidates(cells: Sequence[bytes]) -> NDArray[np.int64]:
    """The codes of many cells, shape ``[N, L]``.

    Raises:
        ValueError: they are not of one length.
    """
    if not cells:
        return np.zeros((0, 0), np.int64)
    if len({(cell[:1], len(cell)) for cell in cells}) > 1:
        return np.array([unpack_candidate(cell) for cell in cells], dtype=np.int64).reshape(len(cells), -1)
    kind = np.dtype(_CODES[cells[0][:1]])
    rows = np.frombuffer(b"".join(cells), np.uint8).reshape(len(cells), -1)
    return np.ascontiguousarray(rows[:, 1:]).view(kind).astype(np.int64)


def pack_candidate_list(candidates: Iterable[Sequence[int]]) -> str:
    """Several candidates as text."""
    return json.dumps([[int(code) for code in candidate] for candidate in candidates])


def unpack_candidate_list(cell: Read) -> tuple[tuple[int, ...], ...]:
    """The candidates of a cell."""
    return tuple(tuple(candidate) for candidate in json.loads(unpack_text(cell)))


def pack_scores(scores: NDArray[np.float32] | None) -> bytes | None:
    """Scores by sample: eight to a byte where they are 0 and 1, else compressed."""
    if scores is None:
        return None
    values = np.ascontiguousarray(scores, dtype=np.float32)
    as_bits = values.view(np.uint32)
    if ((as_bits == 0) | (as_bits == _ONE)).all():  # -0.0 is neither
        return _BITS + len(values).to_bytes(8, "little") + np.packbits(as_bits == _ONE).tobytes()
    return _FLOATS + zlib.compress(values.astype("<f4").tobytes())


def unpack_scores(cell: Read) -> NDArray[np.float32] | None:
    """The scores of a cell."""
    if cell is None:
        return None
    data = _as_bytes(cell)
    if data[:1] == _BITS:
        bits = np.frombuffer(data[9:], np.uint8)
        return np.unpackbits(bits, count=int.from_bytes(data[1:9], "little")).astype(np.float32)
    return np.frombuffer(zlib.decompress(data[1:]), "<f4").astype(np.float32)


def pack_floats(values: Sequence[float]) -> bytes:
    """A few floats as bytes."""
    return np.asarray(values, "<f8").tobytes()


def unpack_floats(cell: Read) -> tuple[float, ...]:
    """The floats of a cell."""
    return tuple(np.frombuffer(_as_bytes(cell), "<f8").tolist())


def _as_bytes(cell: Read) -> bytes:
    if not isinstance(cell, bytes):
        raise TypeError(f"must be text or bytes, got {cell!r}")
    return cell
