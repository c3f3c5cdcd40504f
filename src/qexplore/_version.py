"""The version, in one place: `setup.py` reads this line, the package exports it."""

__version__ = "0.1.0"
