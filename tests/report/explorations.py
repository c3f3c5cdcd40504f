"""Explorations made up from real fronts and snapshots: what the pictures are drawn from."""

from __future__ import annotations

import numpy as np

from qexplore.exploration.records import Exploration, Snapshot
from qexplore.front import Front

MOST_ACCURATE = 0.934
UNIFORM_ACCURACY = {2: 0.104, 3: 0.235, 4: 0.871, 5: 0.914, 6: 0.926, 7: 0.9305, 8: 0.932}


def names(count):
    """Names as torchvision's networks have them: input, relu, layer1.0.relu1, ..."""
    inner = [f"layer{stage}.{block}.relu{turn}" for stage in range(1, 64) for block in range(3) for turn in (1, 2)]
    return ("input", "relu", *inner)[:count]


def interval(accuracy, samples=2000):
    reach = 1.96 * np.sqrt(accuracy * (1 - accuracy) / samples)
    return np.column_stack([accuracy - reach, np.minimum(accuracy + reach, 1)])


def a_front(members=20, points=20, *, lower=False, **fields):
    """A front that climbs steeply, then slowly, with widths that climb too."""
    levels = np.linspace(3.4, 6.6, members)[:, None] + np.random.default_rng(0).uniform(-1.5, 1.5, points)
    num_bits = levels.round().astype(np.int64)
    accuracy = MOST_ACCURATE - 0.05 * np.exp(-4 * np.linspace(0, 1, members))
    score = 20 * (1 - accuracy) if lower else accuracy
    known = {
        "metric_name": "perplexity" if lower else "accuracy",
        "higher_is_better": not lower,
        "interval": np.sort(20 * (1 - interval(accuracy)), axis=1) if lower else interval(accuracy),
        "report_accuracy": score + (0.06 if lower else -0.004),
        "min_accuracy": 2.6 if lower else 0.88,
        "float_accuracy": 1.29 if lower else 0.9355,
        "verified": True,
    }
    return Front(
        num_bits=num_bits,
        accuracy=score,
        costs=num_bits.sum(axis=1, keepdims=True),
        point_names=names(points),
        **known | fields,
    )


def uniform_of(front, accuracy=UNIFORM_ACCURACY):
    """The uniform widths beside `front`, in its own metric."""
    scores = np.array(list(accuracy.values()))
    num_bits = np.repeat([[width] for width in accuracy], len(front.point_names), axis=1)
    return Front(
        num_bits=num_bits,
        accuracy=scores if front.higher_is_better else 20 * (1 - scores),
        costs=num_bits.sum(axis=1, keepdims=True).astype(float),
        point_names=front.point_names,
        metric_name=front.metric_name,
        higher_is_better=front.higher_is_better,
        interval=interval(scores) if front.higher_is_better else np.sort(20 * (1 - interval(scores)), axis=1),
        min_accuracy=front.min_accuracy,
        float_accuracy=front.float_accuracy,
    )


def an_exploration(front=None, uniform=None, *, moments=25):
    """What explore would hand out with `front` as its answer."""
    front = a_front() if front is None else front
    uniform = uniform_of(front) if uniform is None else uniform
    worst = front.min_accuracy if front.min_accuracy is not None else float(uniform.accuracy.min())
    return Exploration(
        front=front,
        uniform=uniform,
        history=tuple(
            Snapshot(front, num_evaluations=7 + 11 * k, seconds=2.0 * k, hypervolume=4 * k**0.5, generation=k)
            for k in range(moments)
        ),
        float_accuracy=front.float_accuracy,
        report_float_accuracy=None,
        reference_point=(worst, 8.0 * len(front.point_names)),
        num_evaluations=7 + 11 * moments,
        num_verifications=len(front),
        seconds=61.5,
        failures=(),
        stopped_by="max_evaluations",
        algorithm="nsga2",
        seed=1,
    )
