"""Which file an exploration goes on with: that of its name, if it was measured as it will be."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path

from qexplore.errors import ExistingStudyError
from qexplore.study.fingerprint import mismatches, require_same
from qexplore.study.store import Store


def opened_for(fingerprint: Mapping[str, str], path: Path, *, share: bool, on_mismatch: str) -> Store:
    """The study at ``path``, made where there is none.

    Args:
        fingerprint: what decides a measurement now.
        path: of the file.
        share: whether other processes that share it may write to it too.
        on_mismatch: ``"refuse"`` a study of another fingerprint, or go on with a ``"new"`` one beside it, the first of
            ``name-2.db``, ``name-3.db`` and so on that is not there or fits.

    Raises:
        StudyMismatchError: it is refused; names what differs and both values.
        StudyError: see `Store`.
    """
    for number in itertools.count(1):
        file = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not file.exists():
            with contextlib.suppress(ExistingStudyError):  # another process that shares it was quicker
                return Store.create(file, fingerprint, share=share)
        store = Store.open(file, writes=True, share=share)
        if not mismatches(store.fingerprint, fingerprint):
            return store
        store.close()
        if on_mismatch == "refuse":
            require_same(file, store.fingerprint, fingerprint)
    raise AssertionError("names do not end")
