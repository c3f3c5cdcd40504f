"""The front: frozen arrays to pick from and compare, with a file format of its own."""

from qexplore.front.front import BitsSaved, Front, FrontPoint

__all__ = ["BitsSaved", "Front", "FrontPoint"]
