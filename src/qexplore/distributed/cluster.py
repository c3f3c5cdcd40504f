"""The cluster that workers are of: found, joined, begun on this machine, looked at."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qexplore.distributed.ray_workers import RayWorkers
from qexplore.distributed.shipping import ray_module
from qexplore.errors import WorkersError

LOCAL = "local"
"""Stands for a Ray of our own on this machine."""
_STORE_BYTES = 200_000_000
"""Of the object store of such a one, beside what is sent."""
_NOTED = "ray_current_cluster"
"""The file in Ray's folder in which ``ray start`` writes the address of this machine's cluster."""


def join(workers: RayWorkers, num_bytes: int) -> bool:
    """Join the cluster that is asked for, or begin one for ``num_bytes`` that are sent; False where it was joined.

    Raises:
        WorkersError: nobody answers there.
    """
    ray = ray_module()
    if ray.is_initialized():
        return False
    address = workers.address or os.environ.get("RAY_ADDRESS") or LOCAL
    options = _own(workers, num_bytes) if address == LOCAL else {}
    if workers.runtime_env is not None:
        options["runtime_env"] = dict(workers.runtime_env)
    try:
        _init(address, **options)
    except Exception as error:
        raise WorkersError(
            f"`address` must be that of a Ray cluster, got {address!r}: {_reason(error)}. Start one "
            "there, or leave `address` out for Ray on this machine"
        ) from None
    return True


def _reason(error: BaseException) -> str:
    """What Ray says, and what was behind it: a token that it lacks is a cluster that it cannot connect to."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    behind = "" if first is error else f", for {type(first).__name__}: {str(first).partition(chr(10))[0]}"
    return f"{type(error).__name__}: {error}{behind}"


def _own(workers: RayWorkers, num_bytes: int) -> dict[str, Any]:
    """What a Ray of our own has: room for all workers, whatever the machine has."""
    count = workers.num_workers or max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    return {
        "num_cpus": max(1, math.ceil(count * workers.wanted["CPU"])),
        "object_store_memory": _STORE_BYTES + 3 * num_bytes,
        "include_dashboard": False,
    }


def _init(address: str, **options: Any) -> None:
    # Ray's workers have the least priority unless told otherwise: where others compute, they would never be ready.
    with _environment(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray_module().init(address=address, log_to_driver=False, logging_level="ERROR", **options)


class Cluster(NamedTuple):
    """A cluster as it is seen from here.

    Attributes:
        address: where it was looked for.
        num_nodes: machines that are alive.
        resources: of all of them.
        versions: of Ray and Python there, if they can be had.
        error: why it does not answer; empty where it does.
    """

    address: str
    num_nodes: int = 0
    resources: Mapping[str, float] = {}
    error: str = ""


def seen_cluster() -> Cluster | None:
    """The cluster that this machine knows of, looked at; None where it knows of none.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    ray = ray_module()
    address = os.environ.get("RAY_ADDRESS") or _noted()
    if address is None or address == LOCAL:
        return None
    was_up = ray.is_initialized()
    try:
        if not was_up:
            _init(address)
        alive = [node for node in ray.nodes() if node["Alive"]]
        resources = {name: value for name, value in ray.cluster_resources().items() if ":" not in name}
        return Cluster(address, len(alive), resources)
    except Exception as error:
        return Cluster(address, error=_reason(error))
    finally:
        if not was_up and ray.is_initialized():
            ray.shutdown()


def _noted() -> str | None:
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"
    try:
        return (folder / _NOTED).read_text("utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that are set for a block, unless the user has set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
