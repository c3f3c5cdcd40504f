"""Regions of ``torch.autocast``: which one the code is in, and entering one that was seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Autocast:
    """The setting of ``torch.autocast`` for one kind of device.

    Attributes:
        kind: of device, such as "cpu".
        enabled: whether operations choose their own dtype.
        dtype: what those that gain by it choose.
        cached: whether a weight is cast once in a region.
    """

    kind: str
    enabled: bool
    dtype: torch.dtype
    cached: bool

    @classmethod
    def here(cls, kind: str) -> Autocast:
        """The setting in this thread, at this line; for a kind of device that has no autocast, that it is off."""
        if not torch.amp.is_autocast_available(kind):
            return cls(kind, False, torch.float32, False)
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return cls(kind, enabled, dtype, torch.is_autocast_cache_enabled())

    def region(self) -> torch.autocast:
        """A block in which this is the setting: ``with seen.region(): ...``."""
        return torch.autocast(self.kind, self.dtype, self.enabled, self.cached)
