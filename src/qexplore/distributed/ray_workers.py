"""What a user says of workers, checked when it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qexplore._arguments import checked_int, checked_name, checked_number, is_number
from qexplore.distributed.shipping import ray_module
from qexplore.errors import WorkersError

ON_MIXED = ("refuse", "verify")


@dataclass(frozen=True)
class RayWorkers:
    """Workers of a Ray cluster, or of this machine, for ``explore(..., workers=RayWorkers(...))``.

    Each worker is a process with its own copy of the network and an engine of its own. It gets network, ranges and
    data once, and then candidates. The search itself, its study and its random numbers stay in this process, and what
    it proposes never depends on which worker is faster: front, history and number of passes are those of one process,
    bit for bit, where the workers' devices and versions are those of this one.

    A worker has as many threads as torch has here (``torch.set_num_threads``), since the number decides the last bits
    of sums. On one machine workers pay only where this is less than its cores.

    Args:
        num_workers: how many; None takes as many as the cluster's resources allow when they are asked for.
        resources: of each worker, by Ray's names, such as ``{"GPU": 1}``; None is one CPU. A worker with a GPU sees
            that one only, and the network must be on it: in this process too, unless ``factory`` builds it there.
        address: of the cluster, as `ray.init` takes it, such as ``"auto"`` on one of its machines. None takes that of
            the environment (``RAY_ADDRESS``), or starts Ray on this machine and ends it afterwards. A program that has
            called `ray.init` goes on with what it has.
        factory: ``"package.module:function"``, called without arguments on every worker to build the problem anew, for
            networks that cannot be pickled. What it builds is compared with the problem that is explored.
        on_mixed: what to do with a worker that has another version of torch or numpy, another kind of device or other
            bits than this process: ``"refuse"`` it with an error; or take part in the search and leave the last word to
            others, ``"verify"``: the front is measured again by workers like this process, or here. Results then depend
            on who measured what. Another version of qexplore is always refused.
        most_lost: workers that may be lost with a candidate, with others or at last alone, before it fails.
        start_seconds: for the first worker to be ready, nodes that the cluster starts itself included. What no node
            has, and an address where nothing listens, are refused after ten seconds.
        runtime_env: of the workers, as `ray.init` takes it: packages and files that they need.

    Raises:
        MissingPackageError: Ray is not installed.
        WorkersError: names the argument.
    """

    num_workers: int | None = None
    resources: Mapping[str, float] | None = None
    address: str | None = None
    factory: str | None = None
    on_mixed: str = "refuse"
    most_lost: int = 3
    start_seconds: float = 300.0
    runtime_env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.num_workers is not None:
            checked_int("`num_workers`", self.num_workers, WorkersError, low=1)
        _check_resources(self.resources)
        for name, value in (("address", self.address), ("factory", self.factory)):
            if value is not None and not isinstance(value, str):
                raise WorkersError(f"`{name}` must be a text or None, got {value!r}")
        if self.factory is not None and not all(self.factory.partition(":")):
            raise WorkersError(f'`factory` must be "package.module:function", got {self.factory!r}')
        checked_name("`on_mixed`", self.on_mixed, ON_MIXED, WorkersError)
        checked_int("`most_lost`", self.most_lost, WorkersError, low=1)
        checked_number("`start_seconds`", self.start_seconds, WorkersError, above=0)
        ray_module()

    @property
    def wanted(self) -> dict[str, float]:
        """Resources of each worker."""
        return {"CPU": 1.0} | dict(self.resources or {})


def _check_resources(resources: Any) -> None:
    if resources is None:
        return
    is_mapping = isinstance(resources, Mapping) and all(isinstance(name, str) for name in resources)
    if not is_mapping or not all(is_number(value) and value >= 0 for value in resources.values()):
        raise WorkersError(
            f'`resources` must map names of Ray\'s resources to numbers, such as {{"GPU": 1}}, got {resources!r}'
        )
