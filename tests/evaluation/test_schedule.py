"""Every step runs once for all candidates that agree upstream, and values are held no longer than they are read."""

import numpy as np
import pytest

from qexplore.evaluation.graph import Step, Steps
from qexplore.evaluation.schedule import make_schedule
from qexplore.evaluation.variants import Variants


def step(inputs, point=None, upstream=(), **options):
    settings = {"clamp": None, "adds": False, "hidden": {}, "shapes": ((1,),), "nbytes": 1, "is_fresh": True}
    settings |= {"is_rowwise": False, "name": "step", "function": lambda values: values[0], **options}
    return Step(inputs=inputs, point=point, upstream=upstream, **settings)


def chain():
    """An argument, then three points with an operation behind each."""
    steps, upstream = [step(())], ()
    for point in range(3):
        upstream = (*upstream, point)
        steps += [step((len(steps) - 1,), point, upstream), step((len(steps),), None, upstream)]
    return Steps(tuple(steps), 1, len(steps) - 1, (0, 1, 2))


def branches():
    """Two branches with a point each, and one behind their sum."""
    steps = (
        step(()),
        step((0,), 0, (0,)),
        step((1,), None, (0,)),
        step((0,), 1, (1,)),
        step((3,), None, (1,)),
        step((2, 4), None, (0, 1)),
        step((5,), 2, (0, 1, 2)),
        step((6,), None, (0, 1, 2)),
    )
    return Steps(steps, 1, 7, (0, 1, 2))


def with_tail():
    """The last quantizer and what is behind it treat every sample alone."""
    steps = chain().steps
    return Steps((*steps[:-1], step((5,), None, (0, 1, 2), is_rowwise=True)), 1, 6, (0, 1, 2))


def replay(steps, schedule, candidates):
    """Run a schedule on tuples of what each value depends on; gives the outputs and how often each step ran."""
    slots, outputs, runs, held = dict.fromkeys(range(steps.num_inputs), ()), {}, [], 0
    peak = 0
    for operation in schedule.operations:
        for slot in operation.inputs:
            assert slot in slots, "a value is read after it was dropped"
        value = tuple(sorted({pair for slot in operation.inputs for pair in slots[slot]}))
        own = steps.steps[operation.step].points
        copies = 1
        if operation.is_stacked:
            copies = len(operation.widths)
            for row, width in zip(operation.rows, operation.widths, strict=True):
                outputs[row] = (*value, (own[0], width))
        else:
            value = tuple(sorted({*value, *zip(own, operation.widths, strict=True)}))
            outputs.update((row, value) for row in operation.rows)
        slots[operation.output] = value
        runs.append((operation.step, operation.widths, value))
        held += copies
        peak = max(peak, held)
        for slot in operation.last_reads:
            if slot >= steps.num_inputs:
                held -= copies if slot == operation.output else 1
            del slots[slot]
    assert peak <= schedule.peak
    for row, candidate in enumerate(candidates.tolist()):
        assert outputs[row] == tuple(enumerate(candidate))
    return runs


NETWORKS = {"chain": chain, "branches": branches, "tail": with_tail}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("seed", range(20))
def test_outputs_are_right_and_each_step_runs_once_for_all_that_agree_upstream(build, seed):
    rng, steps = np.random.default_rng(seed), build()
    candidates = np.unique(rng.integers(2, 5, size=(int(rng.integers(1, 25)), 3)), axis=0)
    candidates = candidates[rng.permutation(len(candidates))]
    runs = replay(steps, make_schedule(steps, candidates), candidates)
    for index, one in enumerate(steps.steps):
        if index >= steps.num_inputs and index not in steps.tail:
            expected = len(np.unique(candidates[:, list(one.upstream)], axis=0))
            assert sum(run[0] == index for run in runs) == expected
    if steps.tail:
        assert sum(run[0] == steps.tail[0] for run in runs) == len(np.unique(candidates[:, :2], axis=0))


def test_one_at_a_time_shares_half_of_the_steps():
    steps = chain()
    rows = [(8, 8, 8)] + [tuple(8 if k != point else width for k in range(3)) for point in range(3) for width in (2, 3)]
    candidates = np.array(rows)
    runs = replay(steps, make_schedule(steps, candidates), candidates)
    # Six operations for the base; six, four and two for the others at the first, second and last point.
    assert len(runs) == 6 + 2 * (6 + 4 + 2)


def test_few_values_are_held_in_a_chain_however_many_candidates_there_are():
    steps = chain()
    grid = np.stack(np.meshgrid(*[np.arange(2, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    assert make_schedule(steps, grid).peak <= 5


def test_what_is_kept_is_loaded_and_nothing_before_it_runs():
    steps, candidates = chain(), np.array([(2, 2, 2), (2, 2, 3), (3, 2, 2)])
    key = (2, 2)  # step 2 with width 2 at the first point
    schedule = make_schedule(steps, candidates, kept_steps=frozenset({2}), is_kept=lambda known: known == key)
    loaded = [operation for operation in schedule.operations if operation.is_loaded]
    assert [operation.key for operation in loaded] == [key]
    assert sum(operation.step == 1 for operation in schedule.operations) == 1  # for the width 3 only


def test_variants_keep_to_their_budget_and_go_as_deep_as_fits():
    import torch

    steps = chain()
    candidates = np.stack(np.meshgrid(*[np.arange(2, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for budget, deepest in ((0, None), (7 * 4, 2), (49 * 4, 4), (10**6, 4)):
        variants = Variants(steps, budget)
        variants.expect(candidates, scale=4)
        assert variants.kept_steps == (frozenset() if deepest is None else frozenset({deepest}))
    variants = Variants(steps, 100)
    for batch in range(50):
        variants.put(batch, (2, 2), torch.zeros(8))  # 32 bytes
    assert variants.nbytes == 96
    assert [variants.has(batch, (2, 2)) for batch in range(4)] == [True, True, True, False]
