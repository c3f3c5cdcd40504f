"""The cluster that workers are of: found, joined, begun on this machine, looked at."""

from __future__ import annotations

import json
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch

from qexplore.distributed.ray_workers import RayWorkers
from qexplore.distributed.shipping import ray_module
from qexplore.errors import WorkersError

LOCAL = "local"
"""Stands for a Ray of our own on this machine."""
_STORE_BYTES = 200_000_000
"""Of the object store of such a one, beside what is sent."""
_PATIENCE, _PAUSE = 10.0, 0.5
"""Seconds in which a cluster that is being started may come to listen, and its nodes to join; and between looks."""
_CLIENT_PORT = 10001
"""Of Ray's client, where an address ``ray://`` names none."""
_STATUS = "__autoscaling_status"
"""Key under which Ray's monitor writes which kinds of nodes there are."""
_SECOND, _NAMESPACE = "__autoscaler_v2_enabled", "__autoscaler"
"""Likewise where its newer autoscaler is at work, which is there only where somebody asked for it."""
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
    address = _address(workers)
    options = _own(workers, num_bytes) if address == LOCAL else {}
    if workers.runtime_env is not None:
        options["runtime_env"] = dict(workers.runtime_env)
    try:
        _init(address, **options)
    except Exception as error:
        raise WorkersError(_unanswered(workers, address, _reason(error))) from None
    return True


def _address(workers: RayWorkers) -> str:
    return workers.address or os.environ.get("RAY_ADDRESS") or LOCAL


def _unanswered(workers: RayWorkers, address: str, reason: str) -> str:
    if address == LOCAL:
        return f"RayWorkers: Ray must start on this machine, got {reason}. Mend that, or give a cluster's `address`"
    owner, way_out = ("`address`", "leave `address` out") if workers.address else ("RAY_ADDRESS", "unset RAY_ADDRESS")
    return (
        f"{owner} must be that of a Ray cluster, got {address!r}: {reason}. Start one there, or {way_out} for Ray on "
        "this machine"
    )


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
    _await_listener(address)
    with _environment(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray_module().init(address=address, log_to_driver=False, logging_level="ERROR", **options)


def _await_listener(address: str) -> None:
    """Ray itself warns for minutes of an address where nothing listens.

    Raises:
        ConnectionError: says where nothing does.
    """
    place = _listener(address)
    until = time.monotonic() + _PATIENCE
    while place is not None:
        try:
            socket.create_connection(place, timeout=_PATIENCE).close()
            return
        except OSError as error:
            if time.monotonic() + _PAUSE > until:
                raise ConnectionError(f"nothing listens at {place[0]}, port {place[1]} ({error})") from None
            time.sleep(_PAUSE)


def _listener(address: str) -> tuple[str, int] | None:
    """Host and port of an address that has them; None for a word, which Ray looks up itself."""
    is_client = address.startswith("ray://")
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or (_CLIENT_PORT if is_client else None)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.scheme in ("", "ray") and parts.hostname and port else None


def require_nodes(workers: RayWorkers, was_joined: bool) -> str:
    """See that some node of the cluster can ever hold a worker.

    Args:
        workers: what was asked for.
        was_joined: what `join` said; a cluster that was not begun here may still be gathering its nodes.

    Returns:
        What there is to tell: that nodes which are not there are waited for; nothing where they are there.

    Raises:
        WorkersError: no node has them, and none can come.
    """
    wanted, is_local = workers.wanted, was_joined and _address(workers) == LOCAL
    until = time.monotonic() + (0.0 if is_local else min(workers.start_seconds, _PATIENCE))
    while True:
        nodes = _node_resources()
        if any(all(node.get(name, 0.0) >= value for name, value in wanted.items()) for node in nodes):
            return ""
        if not is_local and _autoscales():
            return f"no node has {wanted} yet: the cluster is left to start one, within `start_seconds`"
        if time.monotonic() + _PAUSE > until:
            raise WorkersError(_missing(wanted, nodes))
        time.sleep(_PAUSE)


def _node_resources() -> list[dict[str, float]]:
    return [node.get("Resources", {}) for node in ray_module().nodes() if node["Alive"]]


def _missing(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in {name for node in nodes for name in node}}
    short = [f"{value:g} '{name}'" for name, value in wanted.items() if most.get(name, 0.0) < value]
    meant = [other for name in wanted for other in most if name not in most and name.lower() == other.lower()]
    there = {name: most[name] for name in sorted(most) if ":" not in name}
    return (
        f"RayWorkers: `resources` of a worker must be there on one node, got {dict(wanted)}: no node has "
        f"{' or '.join(short) or 'all of them'}; the most on a node is {there}. "
        + (f"Did you mean {meant[0]!r}? " if meant else "")
        + "Ask for less, or add such a node to the cluster first"
    )


def _autoscales() -> bool:
    """Whether nodes may come of themselves; Ray's monitor has named kinds for them, and else lists those there are."""
    try:
        kept = ray_module().experimental.internal_kv._internal_kv_get
        if kept(_SECOND, namespace=_NAMESPACE) == b"1":
            return True
        told = json.loads(kept(_STATUS) or "{}")
    except Exception:  # what cannot be found out is waited for
        return True
    kinds = (told.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not kind.startswith("node_") for kind in kinds)


class Cluster(NamedTuple):
    """A cluster as it is seen from here.

    Attributes:
        address: where it was looked for.
        num_nodes: machines that are alive.
        resources: of all of them.
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
