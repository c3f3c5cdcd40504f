"""What the file holds: its tables, their version, and how a row is known to be whole."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from hashlib import blake2b

from qexplore.study.packing import Cell, Read

APPLICATION_ID = 0x71787374  # "qxst", by which a file is known for a study
SCHEMA_VERSION = 1

# Numbers have no declared type: SQLite would store whole ones in another form, and NaN as NULL (packing.py).
COLUMNS = {
    "fingerprint": "id INTEGER PRIMARY KEY, name, value",
    "runs": "id INTEGER PRIMARY KEY, settings, budget, facts",
    "evaluations": (
        "id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), role, candidate, must_beat, sample_order, "
        "state, score, interval_low, interval_high, bound, further, divergence, num_samples INTEGER, reason, seconds, "
        "at, scores"
    ),
    "parts": (
        "id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), role, metric, num_samples INTEGER, "
        "against_float INTEGER, candidate, scores, seconds, at"
    ),
    "snapshots": (
        "id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), num_evaluations INTEGER, num_passes, "
        "seconds, hypervolume, generation INTEGER, candidates"
    ),
    "events": "id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), at, kind, text",
}
# What must not be there twice. NULL differs from NULL in an index, so nothing to beat is an empty text there.
KEYS = {
    "fingerprint": "name",
    "runs": "settings",
    "evaluations": "candidate, role, ifnull(must_beat, ''), sample_order",
    "parts": "candidate, role, metric, num_samples, against_float",
    "snapshots": "run, num_evaluations, num_passes, generation",
}
TABLES = tuple(COLUMNS)
OF_RUNS = tuple(table for table, columns in COLUMNS.items() if "REFERENCES runs" in columns)

STATEMENTS = (
    *(f"CREATE TABLE {table} ({columns}, checksum)" for table, columns in COLUMNS.items()),
    *(f"CREATE UNIQUE INDEX {table}_key ON {table} ({key})" for table, key in KEYS.items()),
)


def checksum(table: str, cells: Sequence[Cell]) -> bytes:
    """Of a row without its checksum, id first: rows that changed places are found too.

    Marshal's second form, numbers in binary and text as its bytes, is a row's plain and unambiguous spelling, and has
    been the same in every Python; it is made here and never read.
    """
    row = tuple(cell.encode() if isinstance(cell, str) else cell for cell in cells)
    return checksum_of_read(table, row)


def checksum_of_read(table: str, cells: tuple[Read, ...]) -> bytes:
    """The same of cells as they are read."""
    return blake2b(marshal.dumps(cells, 2), digest_size=8, person=table.encode()).digest()
