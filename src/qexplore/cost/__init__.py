"""What a candidate costs."""

from qexplore.cost.base import Cost, TotalBits

__all__ = ["Cost", "TotalBits"]
