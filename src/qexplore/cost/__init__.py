"""What a candidate costs."""

from qexplore.cost.base import Candidates, Cost, TotalBits

__all__ = ["Candidates", "Cost", "TotalBits"]
