"""Sizes of batches and moments to stop, by numbers."""

from __future__ import annotations

import pytest

from qexplore.evaluation.cutting import (
    Demand,
    size_for_accelerator,
    size_for_cores,
    turns_for_accelerator,
    turns_for_cores,
)

MIB = 2**20
RESNET20 = 16 * 28 * 28 * 4  # bytes of its largest value, per image
RESNET18 = 64 * 112 * 112 * 4


def demand(num_samples: int, largest: float, *, budget: int = 2**35, stops: bool = True) -> Demand:
    return Demand(num_samples, largest, 3 * largest, budget, stops)


@pytest.mark.parametrize(
    ("demanded", "size"),
    [
        (demand(1024, RESNET20), 256),  # 16 MiB are 334 images: in four, as even as can be
        (demand(1024, RESNET20, stops=False), 1024),
        (demand(10_000, RESNET20), 1250),  # an eighth
        (demand(10_000, RESNET20, stops=False), 5000),  # 256 MiB are 5,349 images
        (demand(512, RESNET18), 64),
        (demand(512, RESNET18, stops=False), 74),  # 256 MiB are 83 images, in seven batches
        (demand(200, 1024), 200),  # all of it is not worth a launch
        (demand(1024, RESNET20, budget=240 * RESNET20), 10),  # half of it, for four times three values
        (demand(1024, RESNET20, budget=1), 1),
        (demand(3, 2**40), 1),
        (demand(1, 0.0), 1),
    ],
)
def test_batches_on_an_accelerator_are_as_large_as_launches_memory_and_stops_ask_for(
    demanded: Demand, size: int
) -> None:
    assert size_for_accelerator(demanded) == size


@pytest.mark.parametrize(
    ("demanded", "num_workers", "size"),
    [
        (demand(1024, RESNET20), 2, 64),  # 4 MiB are 83 images
        (demand(400, 1024), 1, 32),  # an eighth
        (demand(400, 1024, stops=False), 2, 128),
        (demand(3, 1024), 1, 8),
        (demand(1024, RESNET20, budget=60 * RESNET20), 2, 4),
    ],
)
def test_batches_on_cores_stay_in_the_cache(demanded: Demand, num_workers: int, size: int) -> None:
    assert size_for_cores(demanded, num_workers) == size


@pytest.mark.parametrize("num_batches", [1, 2, 3, 4, 5, 8, 10, 33, 64])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_turns_hold_every_batch_once_and_in_order(num_batches: int, num_workers: int) -> None:
    for turns in (turns_for_accelerator(num_batches), turns_for_cores(num_batches, num_workers)):
        assert all(len(turn) for turn in turns)
        assert [place for turn in turns for place in turn] == list(range(num_batches))


def test_turns_grow_on_an_accelerator_and_stay_on_cores() -> None:
    assert [len(turn) for turn in turns_for_accelerator(10)] == [1, 1, 2, 4, 2]
    assert [len(turn) for turn in turns_for_cores(10, 2)] == [1] * 10
    assert [len(turn) for turn in turns_for_cores(33, 2)] == [2] * 16 + [1]
