"""Candidates in parts for workers."""

import numpy as np
import pytest

from qexplore.distributed import divided


def rows_of(count, points=5, seed=0):
    return np.random.default_rng(seed).integers(2, 9, size=(count, points))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40, 501])
@pytest.mark.parametrize("num_workers", [1, 2, 8, 512])
@pytest.mark.parametrize("seconds", [1e-4, 0.1, 60.0])
def test_every_candidate_is_in_one_part(count, num_workers, seconds):
    parts = divided(rows_of(count), num_workers, seconds)
    assert sorted(np.concatenate([*parts, np.arange(0)]).tolist()) == list(range(count))
    assert all(len(part) for part in parts)


@pytest.mark.parametrize(("count", "num_workers"), [(40, 2), (40, 8), (8, 8), (5, 8), (512, 64)])
def test_no_worker_is_left_without_a_part_where_there_are_enough_candidates(count, num_workers):
    for seconds in (1e-4, 1.0):
        assert len(divided(rows_of(count), num_workers, seconds)) >= min(count, num_workers)


def test_parts_become_smaller_and_the_last_ones_level_the_end_out():
    sizes = [len(part) for part in divided(rows_of(400), 4, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 50
    assert sizes[-1] == 1


def test_what_is_quick_is_not_cut_so_finely_that_sending_costs_more_than_measuring():
    quick = divided(rows_of(400), 2, 0.002)
    assert min(len(part) for part in quick[:-1]) * 0.002 >= 0.2


def test_candidates_that_agree_on_the_first_layers_go_together():
    rows = rows_of(64, points=6)
    parts = divided(rows, 4, 1.0)
    lowest = [tuple(rows[part].min(axis=0))[0] for part in parts]
    highest = [tuple(rows[part].max(axis=0))[0] for part in parts]
    assert all(high <= low for high, low in zip(highest, lowest[1:], strict=False))


def test_the_order_in_which_layers_are_passed_decides_what_goes_together():
    rows = rows_of(64, points=6)
    parts = divided(rows, 4, 1.0, np.array([3, 0, 1, 2, 4, 5]))
    assert all(rows[a, 3].max() <= rows[b, 3].min() for a, b in zip(parts, parts[1:], strict=False))
