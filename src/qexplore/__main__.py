"""``python -m qexplore``."""

from qexplore.cli import main

if __name__ == "__main__":
    main(prog_name="qexplore")
