"""One range for every width: what calibration by error or divergence gives, looked up when the width is set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class RangeTable(nn.Module):
    """Ranges by choice (see `qexplore._choices` for the codes); empty where one ``amax`` serves all widths.

    Buffers, all empty without a table: ``codes [W]``; ``high [W, ...]``, float32, of the shape of an ``amax`` behind
    the first axis; ``low``, of the same shape, only for ranges that are not symmetric.
    """

    codes: Tensor
    high: Tensor
    low: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in _BUFFERS:
            self.register_buffer(name, torch.empty(0, dtype=torch.int64 if name == "codes" else torch.float32))
        self._rows: dict[int, int] = {}

    def fill(self, high: Mapping[int, Tensor], low: Mapping[int, Tensor] | None = None) -> None:
        """Take ``high`` by code, all of one shape, and ``low`` where ranges are not symmetric."""
        device = next(iter(high.values())).device
        self.codes = torch.tensor(list(high), dtype=torch.int64, device=device)
        self.high = torch.stack([value.detach().float() for value in high.values()])
        self.low = self.high[:0] if low is None else torch.stack([low[code].detach().float() for code in high])
        self._index()

    def clear(self) -> None:
        """One range for all widths again."""
        if self._rows:
            for name in _BUFFERS:
                setattr(self, name, getattr(self, name).new_empty(0))
            self._index()

    def row(self, code: int) -> tuple[Tensor | None, Tensor] | None:
        """``(low, high)`` of a choice, low None where the range is symmetric; None where the table does not hold it."""
        place = self._rows.get(code)
        if place is None:
            return None
        return (self.low[place] if len(self.low) else None), self.high[place]

    @property
    def known(self) -> tuple[int, ...]:
        """Codes of the choices that have a range here."""
        return tuple(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return True  # torch asks modules whether they are there

    def _index(self) -> None:
        self._rows = {int(code): place for place, code in enumerate(self.codes.tolist())}

    def _apply(self, fn: Any, recurse: bool = True) -> RangeTable:
        before = self.high, self.low
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.high.dtype != torch.float32:  # a model cast to half must not round its ranges
            self.high, self.low = (tensor.to(self.high.device) for tensor in before)
        return self

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        for name in _BUFFERS:
            saved, present = state_dict.get(prefix + name), getattr(self, name)
            # A state dict from before there were tables has none to load.
            setattr(self, name, present.new_full((0,) if saved is None else saved.shape, _unset(present)))
            if saved is None:
                state_dict[prefix + name] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        self._index()


_BUFFERS = ("codes", "high", "low")


def _unset(tensor: Tensor) -> float:
    return math.nan if tensor.is_floating_point() else 0
