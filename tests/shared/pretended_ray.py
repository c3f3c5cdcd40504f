"""A Ray in this process: actors answer when they are waited for, and are lost on demand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ray as real


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class _Ref:
    """What will have been found, once what stands before it in the queue is done; None for what never will."""

    def __init__(self, work: Any, queue: list[Any] | None = None) -> None:
        self.work = work
        self._queue = [] if queue is None else queue
        self._queue.append(self)
        self._found: Any = None

    def get(self) -> Any:
        while self in self._queue:
            self._queue.pop(0).run()
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def run(self) -> None:
        try:
            self._found = self.work()
        except Exception as error:
            self._found = error


class PretendedRay:
    """What `RayCrew` uses of Ray.

    Args:
        changes: of an actor, counted from 0: a function that changes the answer of one of its methods, or raises.
        cpus: of the cluster; more actors than these are never ready.

    Attributes:
        resources: of its one node, beside CPUs.
        status: what the cluster's monitor has written.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)
    cloudpickle = real.cloudpickle

    def __init__(self, changes: dict[int, Any] | None = None, cpus: int = 2) -> None:
        self.changes = changes or {}
        self.cpus = cpus
        self.resources: dict[str, float] = {}
        self.status = b"{}"
        kept = SimpleNamespace(_internal_kv_get=lambda key, namespace=None: self.status if namespace is None else b"0")
        self.experimental = SimpleNamespace(internal_kv=kept)
        self.killed: list[int] = []
        self.inits: list[dict[str, Any]] = []
        self.is_up = False
        self.num_started = 0

    def is_initialized(self) -> bool:
        return self.is_up

    def init(self, **options: Any) -> None:
        self.inits.append(options)
        if options["address"] not in ("local", "there"):
            raise ConnectionError("nobody answers")
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus), "memory": 1e9, "node:here": 1.0} | self.resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.cluster_resources()}, {"Alive": False}]

    def put(self, value: Any) -> _Ref:
        return _Ref(lambda: value)

    def get(self, ref: _Ref) -> Any:
        return ref.get()

    def wait(self, refs: list[_Ref], *, num_returns: int, timeout: float | None) -> tuple[list[_Ref], list[_Ref]]:
        ready = [ref for ref in refs if ref.work is not None][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: self._started(kind)))

    def kill(self, handle: Any) -> None:
        self.killed.append(handle.number)

    def _started(self, kind: type) -> Any:
        number, actor = self.num_started, kind()
        self.num_started += 1
        is_placed = number - len(self.killed) < self.cpus
        queue: list[Any] = []
        names = ("begin", "add", "answer")
        methods = {name: self._method(number, getattr(actor, name), queue if is_placed else None) for name in names}
        return SimpleNamespace(number=number, **methods)

    def _method(self, number: int, method: Any, queue: Any) -> Any:
        change = self.changes.get(number, lambda name, answer: answer)

        def remote(*given: Any) -> _Ref:
            def work() -> Any:
                arguments = (self.get(one) if isinstance(one, _Ref) else one for one in given)
                return change(method.__name__, method(*arguments))

            return _Ref(None if queue is None else work, queue)

        return SimpleNamespace(remote=remote)
