"""A project of a user's own: one module with a network and its data, in the current folder."""

import contextlib
import sys
from pathlib import Path

MINE = '''
"""The tiny network of the tests, as a user would hand it to the command line."""

import torch
from networks import digits
from problems import search_loader, tiny_network

import qexplore as qx
from qexplore import predicates

chosen = predicates.by_name("relu*")
acting = {}


def network():
    return tiny_network()


def search():
    return search_loader()


def calibration():
    return [digits().calibration.x.clone()]


def report():
    return [(digits().report.x[:100], digits().report.y[:100])]


def watched():
    """A metric that does something at one of its calls, which is no part of what it is."""
    calls = []

    def accuracy(output, target):
        calls.append(1)
        if len(calls) == acting.get("at"):
            acting["do"]()
        return qx.top1_accuracy(output, target)

    return qx.Metric(accuracy, name="watched", range=(0, 1))


def weight_sum(candidates):
    return candidates.sum(axis=1)


def failing():
    raise RuntimeError("no weights here")


def once():
    return iter(search())
'''

CONFIG = """\
network: mine:network
calibration_loader: mine:calibration
search_loader: mine:search
report_loader: mine:report
activations: [ReLU]
num_bits_upper_limit: 4
max_evaluations: 12
seed: 1
"""


@contextlib.contextmanager
def own_project(folder: Path):
    """The module ``mine``, the configuration ``mine.yaml`` and a module that cannot be imported, in ``folder``."""
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    (folder / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    try:
        yield folder
    finally:
        for name in ("mine", "broken"):
            sys.modules.pop(name, None)
