"""What ``torch.pretended`` is: the devices that there are, their memory and their random states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

NAME = "pretended"
recorder: list[Any] = [None]
"""A graph of `pretended_graph` that takes down what is run, while one is captured."""


class PretendedModule:
    """As ``torch.cuda``, for two devices of which nobody knows until they are in use."""

    def __init__(self) -> None:
        self._current = 0
        self.is_in_use = False
        self.free_bytes, self.reserved_bytes = 2**30, 0
        self._debug_mode = 0
        self.is_spoilt = False
        self._states = [torch.Generator().manual_seed(10 + index).get_state() for index in range(2)]

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.is_in_use  # or shells such as DataParallel would take networks there that nobody sent

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return len(self._states) if self.is_in_use else 1  # torch warns of several that nobody asked for

    def current_device(self) -> int:
        return self._current

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self._current = self._current, self._index(device)
        try:
            yield
        finally:
            self._current = before

    def _index(self, device: Any) -> int:
        if isinstance(device, int):
            return device
        index = torch.device(device).index
        return self._current if index is None else index

    def synchronize(self, device: Any = None) -> None:
        if recorder[0] is not None:
            recorder[0].refuse("synchronize")

    def get_sync_debug_mode(self) -> int:
        return self._debug_mode

    def set_sync_debug_mode(self, mode: int) -> None:
        self._debug_mode = mode

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return self.free_bytes, 2**31

    def memory_reserved(self, device: Any = None) -> int:
        return self.reserved_bytes

    def memory_allocated(self, device: Any = None) -> int:
        return 0

    def manual_seed(self, seed: int) -> None:
        self._states[self._current] = torch.Generator().manual_seed(seed).get_state()

    def manual_seed_all(self, seed: int) -> None:
        self._states = [torch.Generator().manual_seed(seed).get_state() for _ in self._states]

    def get_rng_state(self, device: Any = NAME) -> Tensor:
        return self._states[self._index(device)].clone()

    def set_rng_state(self, state: Tensor, device: Any = NAME) -> None:
        self._states[self._index(device)] = state.clone()

    @contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """A block whose draws come from ``device``'s state.

        Raises:
            RuntimeError: a capture was begun that did not come to its end, and none since.
        """
        if self.is_spoilt:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        before = torch.get_rng_state()
        torch.set_rng_state(self._states[device.index])
        try:
            yield
        finally:
            self._states[device.index] = torch.get_rng_state()
            torch.set_rng_state(before)
