"""Rows of a file that SQLite refuses, as one that was cut off: read from its pages, by SQLite's documented format."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from typing import Any

_USUAL_SIZE = 4096  # bytes of a page, where the head of the file that tells it is lost
_LEAF_OF_TABLE = 0x0D
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type to its size in bytes
_FLOAT, _ZERO, _ONE, _BYTES = 7, 8, 9, 12
_NOT_A_ROW = (IndexError, ValueError, struct.error)


class Text(bytes):
    """A cell that was text: it must be text again, for to SQLite the same bytes are another value."""


def rows_of_pages(path: str | os.PathLike[str]) -> Iterator[tuple[Any, ...]]:
    """What looks like a row of any table, id first; whoever reads them compares checksums, for much may be none.

    The pages need no list of tables and no page that leads to them: each is read as if it were the only one.
    """
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        pages = _Pages(data)
        for begin in range(pages.size, len(data), pages.size):
            for place in pages.places(begin):
                try:
                    yield pages.row(place)
                except _NOT_A_ROW:
                    continue


class _Pages:
    def __init__(self, data: mmap) -> None:
        self._data = data
        told = int.from_bytes(data[16:18], "big")
        self.size = told if data[:6] == b"SQLite" and told >= 512 else _USUAL_SIZE

    def places(self, begin: int) -> list[int]:
        """Where the rows of the page that begins there lie in the file."""
        if self._data[begin] != _LEAF_OF_TABLE:
            return []
        head = self._data[begin : begin + self.size]
        count = min(int.from_bytes(head[3:5], "big"), (len(head) - 8) // 2)
        return [begin + place for (place,) in struct.iter_unpack(">H", head[8 : 8 + 2 * max(count, 0)])]

    def row(self, place: int) -> tuple[Any, ...]:
        length, place = _varint(self._data, place)
        id, place = _varint(self._data, place)
        _, *cells = _cells(self._content(place, length))  # the first is the id's place, which is left empty
        return (id, *cells)

    def _content(self, place: int, length: int) -> bytes:
        """What begins in a page and goes on in a chain of others."""
        if length > len(self._data):
            raise ValueError("longer than the file")
        here = self._share_of_first(length)
        content = self._data[place : place + here]
        place += here
        while len(content) < length:
            place = self.size * (int.from_bytes(self._data[place : place + 4], "big") - 1)
            more = self._data[place + 4 : place + self.size][: length - len(content)] if place > 0 else b""
            if not more:
                raise ValueError("the chain ends")
            content += more
        return content

    def _share_of_first(self, length: int) -> int:
        most, least = self.size - 35, (self.size - 12) * 32 // 255 - 23
        if length <= most:
            return length
        share = least + (length - least) % (self.size - 4)
        return share if share <= most else least


def _varint(data: bytes | mmap, place: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where the next one begins."""
    value = 0
    for end in range(place, place + 8):
        value = value << 7 | data[end] & 0x7F
        if data[end] < 0x80:
            return value, end + 1
    return value << 8 | data[place + 8], place + 9


def _cells(content: bytes) -> list[Any]:
    begin, place = _varint(content, 0)
    end, cells = min(begin, len(content)), []
    while place < end:
        kind, place = _varint(content, place)
        size = _INTEGERS.get(kind, 8 if kind == _FLOAT else max(kind - _BYTES, 0) // 2)
        cells.append(_cell(kind, content[begin : begin + size]))
        begin += size
    return cells


def _cell(kind: int, read: bytes) -> Any:
    if kind in _INTEGERS:
        return int.from_bytes(read, "big", signed=True)
    if kind == _FLOAT:
        return struct.unpack(">d", read)[0]
    if kind >= _BYTES:
        return Text(read) if kind % 2 else read
    return {_ZERO: 0, _ONE: 1}.get(kind)
