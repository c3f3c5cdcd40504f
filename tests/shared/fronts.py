"""Fronts for tests, made by hand: nothing is measured."""

from __future__ import annotations

import numpy as np

from qexplore.front import Front, FurtherMetric


def a_front(points=3, **fields):
    num_bits = np.array([[4] * points, [5] * points])
    known = {
        "num_bits": num_bits,
        "accuracy": [0.91, 0.95],
        "costs": num_bits.sum(axis=1, keepdims=True),
        "point_names": tuple(f"layer{index}" for index in range(points)),
        "interval": [(0.9, 0.92), (0.94, 0.96)],
        "report_accuracy": [0.9, np.nan],
        "min_accuracy": 0.9,
        "float_accuracy": 0.96,
        "verified": True,
    }
    return Front(**known | fields)


FURTHER = (FurtherMetric("f1", True, 0.7, 0.8), FurtherMetric("loss", False, 0.5))


def with_further(**fields):
    known = {"further": FURTHER, "further_scores": [[0.71, 0.4], [np.nan, 0.3]]}
    return a_front(**known | {"report_further_scores": [[0.69, np.nan], [np.nan, 0.31]]} | fields)


def reported():
    uniform = a_front(
        num_bits=[[6] * 3, [403] * 3], report_accuracy=[0.9, 0.91], report_float_accuracy=0.92, min_accuracy=None
    )
    return a_front(
        uniform=uniform,
        report_float_accuracy=0.92,
        report_from_float=[(-0.03, 0.01), (np.nan, np.nan)],
        report_from_uniform=[[(-0.01, 0.01), (-0.02, 0.0)], [(np.nan, np.nan)] * 2],
    )
