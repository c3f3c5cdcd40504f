"""Workers that Ray starts, watches and moves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

import torch

from qexplore._warnings import warn
from qexplore.distributed.census import ALWAYS_EQUAL, Census, differences
from qexplore.distributed.cluster import join, require_nodes
from qexplore.distributed.dispatch import Lost, NobodyLeft, Reply
from qexplore.distributed.measurer import Measurer, Present, Setup
from qexplore.distributed.ray_workers import RayWorkers
from qexplore.distributed.records import WorkerRecord
from qexplore.distributed.shipping import ray_module
from qexplore.distributed.signals import Sigterm
from qexplore.distributed.tasks import Answer, Task
from qexplore.errors import WorkersError
from qexplore.evaluation import Order

_LAST_WORD = ("direct", "report")
"""Beginnings of roles whose measurements stand in a front."""
_LARGE = 100_000
"""Bytes from which on what several tasks share is put into the object store once."""
_ACCELERATORS = ("GPU", "TPU", "NPU", "HPU", "neuron_cores")
"""What Ray calls what is no CPU."""
_MOST_STARTS = 20
"""Workers in a row that do not come to be ready, before there is no hope."""
_LONGEST = 160
"""Letters of a reason."""


@dataclass(eq=False)
class _Member:
    """A worker: what Ray calls by its handle."""

    handle: Any
    name: str = ""
    facts: Census = field(default_factory=dict)
    state: str = "starting"
    is_like_here: bool = True
    num_candidates: int = 0
    busy_seconds: float = 0.0
    setup_seconds: float = 0.0
    since: float = 0.0
    until: float = 0.0
    sent_bytes: int = 0

    def record(self, now: float) -> WorkerRecord:
        there = (self.until or now) - self.since if self.since else 0.0
        return WorkerRecord(
            self.name or ("never ready" if self.until else "not ready yet"),
            self.facts.get("device", ""),
            self.state,
            self.num_candidates,
            self.busy_seconds,
            self.setup_seconds,
            there,
            self.sent_bytes,
        )


class RayCrew:
    """As `Crew`; begun with `begin`, and left with `close`.

    Args:
        workers: what was asked for.
        here: facts about this process, which workers are compared with.
    """

    def __init__(self, workers: RayWorkers, here: Census) -> None:
        self._ray = ray_module()
        self._asked = workers
        self._here = here
        self._packets: list[tuple[Any, int]] = []
        self._open: dict[Any, tuple[int, Task | None]] = {}
        self._members: list[_Member] = []
        self._busy: set[int] = set()
        self._num_missed = 0
        self._is_ours = False
        self.num_workers = 0
        self.events: list[str] = []
        self.differing: list[str] = []
        self._sigterm = Sigterm()
        self._sigterm.take_from_ray()

    # ------------------------------------------------------------------------------------------------- its beginning

    def begin(self, packets: Sequence[bytes]) -> None:
        """Start Ray where that is needed, and as many workers as were asked for; none is waited for."""
        if not self._asked.factory:
            self._require_accelerator("this process", self._here)
        standing = Sigterm()
        self._is_ours = join(self._asked, sum(map(len, packets)))
        standing.take_from_ray()
        told = require_nodes(self._asked, self._is_ours)
        self.events += [told] if told else []
        self._packets = [(self._ray.put(packet), len(packet)) for packet in packets]
        self.num_workers = self._asked.num_workers or self._num_fitting()
        for _ in range(self.num_workers):
            self._start()

    def add(self, packet: bytes) -> None:
        """Send all workers, those to come too, evaluators of further roles."""
        put = self._ray.put(packet)
        self._packets.append((put, len(packet)))
        for member in self._members:
            if member.state in ("starting", "ready"):
                member.handle.add.remote(put)
                member.sent_bytes += len(packet)

    def renew(self, packets: Sequence[bytes]) -> None:
        """Other evaluators in place of all that were sent: the network has changed."""
        for member in self._members:
            if member.state in ("starting", "ready"):
                member.state, member.until = "ended: the network has changed", self.now()
                self._ray.kill(member.handle)
        self._open.clear()
        self._busy.clear()
        self._packets = [(self._ray.put(packet), len(packet)) for packet in packets]
        for _ in range(self.num_workers):
            self._start()

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        self._sigterm.give_back()
        if not self._ray.is_initialized():
            return
        for member in self._members:
            if member.state in ("starting", "ready"):
                self._ray.kill(member.handle)
        self._open.clear()
        if self._is_ours:
            self._ray.shutdown()

    def _num_fitting(self) -> int:
        there = self._ray.cluster_resources()
        counts = [int(there.get(name, 0.0) // value) for name, value in self._asked.wanted.items() if value]
        return max(1, min(counts, default=1))

    def _start(self) -> None:
        wanted = dict(self._asked.wanted)
        options = {
            "num_cpus": wanted.pop("CPU"),
            "num_gpus": wanted.pop("GPU", 0),
            "memory": wanted.pop("memory", None),
        }
        try:
            handle = self._ray.remote(Measurer).options(max_restarts=0, resources=wanted, **options).remote()
        except ValueError as error:
            asked = self._asked.wanted
            raise WorkersError(f"RayWorkers: `resources` must be what Ray takes, got {asked}: {error}") from None
        paths = tuple(os.path.abspath(path) for path in sys.path)
        setup = Setup(paths, torch.get_num_threads(), self._asked.factory)
        member = _Member(handle, sent_bytes=sum(size for _, size in self._packets))
        self._members.append(member)
        self._open[handle.begin.remote(setup, *(put for put, _ in self._packets))] = len(self._members) - 1, None

    # ------------------------------------------------------------------------------------------------- as `Crew`

    def idle(self, role: str) -> Sequence[int]:
        """As `Crew.idle`; those that differ from this process have no last word."""
        is_last = role.startswith(_LAST_WORD)
        return [
            place
            for place, one in enumerate(self._members)
            if one.state == "ready" and place not in self._busy and (one.is_like_here or not is_last)
        ]

    def num_able(self, role: str) -> int:
        """Workers that measure ``role``, or may once they are ready."""
        is_last = role.startswith(_LAST_WORD)
        states = ("starting", "ready")
        return sum(one.state in states and (one.is_like_here or not is_last) for one in self._members)

    def share(self, order: Order | None) -> Any:
        """``order`` as several tasks should have it: a large one is sent to each machine once."""
        is_large = order is not None and order.nbytes > _LARGE
        return self._ray.put(order) if is_large else order

    def give(self, worker: int, task: Task) -> None:
        """As `Crew.give`."""
        self._busy.add(worker)
        self._open[self._members[worker].handle.answer.remote(replace(task, order=None), task.order)] = worker, task

    def wait(self, seconds: float | None) -> Sequence[Reply]:
        """As `Crew.wait`."""
        if not self._open:
            raise NobodyLeft(f"no worker is left: {'; '.join(self.events[-3:])}")
        until_late = None if self._has_begun else self._asked.start_seconds
        limit = min((one for one in (seconds, until_late) if one is not None), default=None)
        ready, _ = self._ray.wait(list(self._open), num_returns=1, timeout=limit)
        if not ready and not self._has_begun:
            raise WorkersError(
                f"RayWorkers: a worker must be ready within {self._asked.start_seconds:g} s (start_seconds), got none: "
                f"each needs {self._asked.wanted}, and the cluster has {self._resources()}"
            )
        if ready:  # all that have come, not one alone
            ready, _ = self._ray.wait(list(self._open), num_returns=len(self._open), timeout=0)
        return [reply for one in ready if (reply := self._received(one)) is not None]

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def tell(self, event: str) -> None:
        """As `Crew.tell`."""
        self.events.append(event)

    def records(self) -> tuple[WorkerRecord, ...]:
        """A record of every worker that there was."""
        return tuple(one.record(self.now()) for one in self._members)

    @property
    def _has_begun(self) -> bool:
        return any(one.state == "ready" for one in self._members)

    def _resources(self) -> dict[str, float]:
        return {name: value for name, value in self._ray.cluster_resources().items() if ":" not in name}

    def _received(self, ref: Any) -> Reply | None:
        worker, task = self._open.pop(ref)
        member = self._members[worker]
        try:
            answer: Answer = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            return self._lost(worker, task, _short(error))
        except self._ray.exceptions.RayError as error:
            answer = Answer(error=WorkersError(f"a worker failed: {_short(error)}"))
        for category, text in answer.warnings:
            warn(text, category)
        if task is None:
            self._present(member, answer)
            return None
        self._busy.discard(worker)
        member.busy_seconds += answer.seconds
        member.num_candidates += len(task)
        return Reply(task, answer)

    def _present(self, member: _Member, answer: Answer) -> None:
        """Take a new worker in, if it measures as this process does."""
        if answer.error is not None:
            raise answer.error
        [present] = answer.values
        assert isinstance(present, Present)
        self._require_accelerator(f"worker {present.name}", present.facts)
        member.name, member.facts, member.setup_seconds = present.name, present.facts, present.seconds
        differing = differences(self._here, present.facts)
        is_hopeless = any(self._here[name] != present.facts[name] for name in ALWAYS_EQUAL)
        if differing and (is_hopeless or self._asked.on_mixed == "refuse"):
            way_out = "" if is_hopeless else ', or let the front be measured again: RayWorkers(on_mixed="verify")'
            raise WorkersError(
                f"workers must measure as this process does, got {present.name}: {'; '.join(differing)}. Mend "
                f"it{way_out}"
            )
        member.is_like_here = not differing
        if differing:
            self.differing.append(f"{present.name}: {'; '.join(differing)}")
            self.tell(f"{present.name} differs, so the last word is left to others: {'; '.join(differing)}")
        member.state, member.since, self._num_missed = "ready", self.now(), 0

    def _require_accelerator(self, whose: str, facts: Census) -> None:
        """Whoever asks for a GPU would else be served by the CPU, and not know it."""
        asked = [name for name in _ACCELERATORS if self._asked.wanted.get(name)]
        if asked and facts["device"].startswith("cpu"):
            raise WorkersError(
                f"RayWorkers: the network must be on the {asked[0]} that `resources` gives each worker, got one on "
                f"{facts['device']} in {whose}. Move it there before the problem is posed, on a machine that has one, "
                f"or leave {asked[0]!r} out of `resources`"
            )

    def _lost(self, worker: int, task: Task | None, reason: str) -> Reply | None:
        """Have another take the place of a worker that is gone."""
        member = self._members[worker]
        was_ready = member.state == "ready"
        member.state, member.until = f"lost: {reason}", self.now()
        self._busy.discard(worker)
        self._num_missed += not was_ready
        self._ray.kill(member.handle)  # or one that was merely out of reach would keep what another could have
        if self._num_missed >= _MOST_STARTS:
            raise WorkersError(f"RayWorkers: {_MOST_STARTS} workers in a row could not be started, the last: {reason}")
        self._start()
        return None if task is None else Reply(task, Lost(f"{member.name}: {reason}"))


def _short(error: BaseException) -> str:
    """What Ray says, without the pages that come after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else type(error).__name__
    if type(error).__name__ == "ActorUnavailableError":
        return "its machine cannot be reached"
    return "it was killed for want of memory" if "out of memory" in str(error).lower() else shorten(told, _LONGEST)
