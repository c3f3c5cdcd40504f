"""What pictures are drawn of, without a search, and whether their text is within them."""

from types import SimpleNamespace

import numpy as np

from qexplore.front import Front

SPENT = {"seconds": 12.0, "num_passes": 40.0, "num_verifications": 8, "num_report_passes": 0}


def uniform_front(accuracies, points, **fields):
    widths = np.array([[width] * points for width in accuracies])
    return Front(
        num_bits=widths,
        accuracy=list(accuracies.values()),
        costs=widths.sum(axis=1, keepdims=True),
        point_names=tuple(f"layer{index % 4}.{index}.relu{index % 2}" for index in range(points)),
        **fields,
    )


def an_exploration(members=8, points=20, *, lower=False, **fields):
    """What `explore` returns, as far as pictures look at it."""
    score = np.linspace(0.90, 0.94, members)
    widths = np.random.default_rng(0).integers(3, 7, (members, points))
    widths[:, 0] = np.arange(members) % 9
    costs = np.sort(np.where(widths == 0, 32, widths).sum(axis=1))[:, None] + np.arange(members)[:, None]
    direction = {"metric_name": "loss" if lower else "accuracy", "higher_is_better": not lower}
    front = Front(
        num_bits=widths,
        accuracy=1 - score if lower else score,
        costs=costs,
        point_names=tuple(f"layer{index % 4}.{index}.relu{index % 2}" for index in range(points)),
        interval=np.column_stack([1 - score - 0.01, 1 - score + 0.01] if lower else [score - 0.01, score + 0.01]),
        report_accuracy=(1 - score if lower else score) - 0.002,
        min_accuracy=0.12 if lower else 0.88,
        verified=True,
        **direction | fields,
    )
    known = {2: 0.10, 3: 0.30, 4: 0.88, 5: 0.91, 6: 0.92, 7: 0.925, 8: 0.93}
    uniform = uniform_front({w: 1 - s if lower else s for w, s in known.items()}, points, **direction)
    history = tuple(
        SimpleNamespace(num_passes=count, seconds=count / 10, hypervolume=volume, generation=1, front=front)
        for count, volume in ((1, 0.0), (5, 1.5), (40, 2.0))
    )
    return SimpleNamespace(
        front=front,
        uniform=uniform,
        float_accuracy=0.06 if lower else 0.94,
        history=history,
        **SPENT,
        reference_point=(front.min_accuracy, 8.0 * points),
    )


def a_costly_exploration(members=24, costs=("total_bits", "bops"), points=20, **fields):
    """A front over several costs, with float formats and a point that is off."""
    rng = np.random.default_rng(7)
    choices = np.array([2, 4, 5, 8, 403, 1201, 0])
    values = rng.random((members, len(costs))) * [10.0 ** (3 + 3 * place) for place in range(len(costs))]
    rank = (values / values.max(axis=0)).sum(axis=1)
    known = {
        "accuracy": 0.88 + 0.05 * rank / rank.max(),
        "point_names": tuple(f"layer{index % 4}.{index}.weight" for index in range(points)),
        "cost_names": costs,
    }
    front = Front(num_bits=rng.choice(choices, (members, points)), costs=values, **known | {"verified": True} | fields)
    uniform = Front(
        num_bits=np.repeat(choices[:, None], points, axis=1),
        costs=np.linspace(0.2, 1, len(choices))[:, None] * values.max(axis=0),
        **known | {"accuracy": np.linspace(0.7, 0.93, len(choices))},
    )
    reference = (0.8, *values.max(axis=0))
    history = tuple(
        SimpleNamespace(num_passes=count, seconds=count, hypervolume=front.hypervolume(reference), front=front)
        for count in (1, 9)
    )
    return SimpleNamespace(
        front=front, uniform=uniform, float_accuracy=0.95, history=history, reference_point=reference, **SPENT
    )


def assert_within(figure):
    figure.canvas.draw()
    width, height = figure.bbox.size
    renderer = figure.canvas.get_renderer()

    texts = [text for axes in figure.axes for text in axes.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text().strip()]

    assert len(boxes) > 5
    inside = [box for box in boxes if box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1]
    assert len(inside) >= len(boxes) - outside_ticks(figure, renderer)


def outside_ticks(figure, renderer):
    """Tick labels beyond the limits of an axis have a place outside the picture, but are not drawn."""
    labels = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in (*axis.get_ticklabels(minor=False), *axis.get_ticklabels(minor=True))
        if label.get_text().strip()
    ]
    boxes = [label.get_window_extent(renderer) for label in labels]
    width, height = figure.bbox.size
    return sum(box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1 for box in boxes)
