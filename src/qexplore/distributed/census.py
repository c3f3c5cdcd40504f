"""What decides a measurement on a machine; where it differs, results depend on who measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qexplore._version import __version__
from qexplore.distributed.shipping import direct_of
from qexplore.evaluation import Evaluator
from qexplore.model import Placement, device_text, fingerprint_of

Census = dict[str, str]
"""Facts by name."""

ALWAYS_EQUAL = ("qexplore", "network")
"""What no re-verification makes up for."""
_MEANINGS = {
    "qexplore": "install the same version everywhere",
    "torch": "install the same version everywhere",
    "numpy": "install the same version everywhere",
    "device": "ask for one kind of device with `resources`",
    "threads": "the workers could not be given as many",
    "network": "`factory` builds another network",
    "engine": "samples are cut otherwise there, perhaps for want of memory: give the problem `budget_bytes`",
}


def census(evaluators: Mapping[str, Evaluator]) -> Census:
    """Facts about this process, and what the float network scored here by the direct evaluator of every role."""
    search = evaluators["search"]
    direct = direct_of(search)
    model = direct.model
    facts = {
        "qexplore": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_text(Placement.of(model.model).device),
        "threads": str(torch.get_num_threads()),
        "network": str(fingerprint_of(model)),
        "engine": _engine(search),
    }
    found = {role: direct_of(one) for role, one in evaluators.items() if one is direct_of(one)}
    return facts | {f"float network by '{role}'": _digest(one.float_evaluation) for role, one in found.items()}


def differences(here: Census, there: Census) -> list[str]:
    """A phrase for each fact that differs; facts of roles that only one has are left out."""
    return [
        f"{name} is {there[name]} there and {here[name]} here ({_MEANINGS.get(name, _ELSE)})"
        for name in here
        if name in there and there[name] != here[name]
    ]


_ELSE = "scores differ in their bits: another device, processor, data or weights"


def _engine(evaluator: Any) -> str:
    count, size = getattr(evaluator, "num_workers", 0), getattr(evaluator, "batch_size", None)
    return f"{f'{count} at a time' if count else 'direct'}, batches of {size or 'the loader'}"


def _digest(evaluation: Any) -> str:
    content = repr(evaluation.score) if evaluation.scores is None else evaluation.scores.tobytes()
    return hashlib.blake2b(content.encode() if isinstance(content, str) else content, digest_size=8).hexdigest()
