"""Networks that torch.fx cannot take apart share the blocks of a stack, and give what the hooked network gives."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.evaluation import PrefixEvaluator
from qexplore.metrics import kl_divergence

DEPTH, WIDTH = 4, 8
CALLS = Counter()
"""How often a block ran, by its number; outside of the blocks, which must not change."""


class Cache:
    """What blocks write into, as those of a decoder do."""

    def __init__(self):
        self.held = []


class Block(nn.Module):
    """A tuple out, keywords in, and a question that a proxy cannot answer."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.act = nn.ReLU()

    def forward(self, hidden, *, scale=None, cache=None):
        CALLS[self.number] += 1
        if hidden.isnan().any():
            raise ValueError("NaN")
        if cache is not None:
            cache.held.append(hidden.mean(dim=1))
        return hidden + scale * self.second(self.act(self.first(hidden))), None


class Stack(nn.Module):
    """Tokens or features through blocks, one after the other."""

    def __init__(self, block=Block):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, WIDTH)
        self.blocks = nn.ModuleList(block(number) for number in range(DEPTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, **kwargs):
        return self.head(self.passed(self.embed(x), torch.tensor(0.5)))

    def passed(self, hidden, scale):
        for block in self.blocks:
            hidden, _ = block(hidden, scale=scale)
        return hidden


class WithCache(Stack):
    def forward(self, x, **kwargs):
        hidden, cache = self.embed(x), Cache()
        for block in self.blocks:
            hidden, _ = block(hidden, scale=1.0, cache=cache)
        return {"logits": self.head(hidden) + torch.stack(cache.held).sum(dim=0)[:, None], "cache": cache}


class ByData(Stack):
    """Batches of a negative first number take the blocks the other way round."""

    def passed(self, hidden, scale):
        for block in self.blocks if hidden[0, 0] > 0 else list(self.blocks)[::-1]:
            hidden, _ = block(hidden, scale=scale)
        return hidden


class Written(Stack):
    """Writes into what its blocks give."""

    def passed(self, hidden, scale):
        for block in self.blocks:
            hidden, _ = block(hidden, scale=scale)
            hidden.mul_(0.9)
        return hidden


class Nested(Stack):
    """Sequences in blocks: a part of a block can be skipped too."""

    def __init__(self):
        super().__init__()
        self.blocks[1].act = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH))


SHARED = {"plain": Stack, "cache": WithCache, "by data": ByData, "written": Written, "nested": Nested}


def data(count=4, size=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 6, generator=generator), torch.arange(size) % 3) for _ in range(count)]


def wrapped(network):
    is_layer = predicates.by_type(nn.Linear)
    model = qx.QuantizedModel(network.eval(), predicates.by_type(nn.ReLU), weights=is_layer, weight_granularity=4)
    model.calibrate(data(), weight_method="max")
    return model


def both(network, metric=qx.negative_log_likelihood, **options):
    model = wrapped(network)
    direct = qx.DirectEvaluator(model, data(), metric, divergence=kl_divergence)
    return direct, PrefixEvaluator(direct, **options)


def candidates_of(model, count=24):
    rows = np.random.default_rng(0).integers(2, 9, (count, len(model.points)))
    single = np.full((len(model.points), len(model.points)), 8)
    np.fill_diagonal(single, 3)
    return np.concatenate([rows, single, rows[:2]])


def told(evaluations):
    return [(e.state, e.score, e.divergence, e.scores.tobytes()) for e in evaluations]


@pytest.mark.parametrize("network", SHARED.values(), ids=SHARED)
def test_candidates_that_share_blocks_get_what_the_hooked_network_gives(network):
    direct, fast = both(network())
    assert "blocks ('blocks.0' to " in fast.description
    rows = candidates_of(direct.model)
    expected = told(direct.evaluate(rows))
    for answer, right in zip(told(fast.evaluate(rows)), expected, strict=True):
        assert answer == (*right[:2], pytest.approx(right[2], rel=1e-5), right[3])


def test_a_part_of_the_set_is_scored_as_by_the_direct_evaluator():
    direct, fast = both(Stack())
    asked = candidates_of(direct.model, 2), kl_divergence, 20
    subsets = [one.scores_on_subset(*asked, against_float=True) for one in (fast, direct)]
    np.testing.assert_allclose(*subsets, rtol=1e-3, atol=5e-7)  # logits of another batch size, in float32


def test_blocks_before_the_first_point_that_differs_are_skipped_and_others_run_once_a_batch():
    direct, fast = both(Stack())
    names = list(direct.model.fake_quantizers)
    rows = np.full((1 + DEPTH, len(names)), 8)
    for number in range(DEPTH):
        rows[number, names.index(f"blocks.{number}.second.weight")] = 4
    CALLS.clear()
    list(fast.evaluate(rows[-1:]))
    assert dict.fromkeys(range(DEPTH), 4) == CALLS
    CALLS.clear()
    list(fast.evaluate(rows))  # the first one goes on from what the call before it has left
    # In order each differs from the one before it in the block that it narrows and in the one before that.
    assert CALLS == {0: 2 * 4, 1: 3 * 4, 2: 4 * 4, 3: 5 * 4}


def test_candidates_are_stopped_batch_by_batch():
    direct, fast = both(Stack())
    rows = candidates_of(direct.model)
    limits = np.where(np.arange(len(rows)) % 2, 0.4, 9.0)  # a network that knows nothing scores about 1.1
    answers = list(fast.evaluate(rows, must_beat=limits))
    assert fast.early_stop == "on"
    for answer, right, limit in zip(answers, direct.evaluate(rows), limits, strict=True):
        assert answer.is_complete == (limit == 9.0)
        if answer.is_complete:
            assert answer.score == right.score
        else:
            assert answer.num_samples < 20 and limit <= answer.bound <= right.score


def test_a_changed_weight_and_a_changed_range_are_noticed():
    direct, fast = both(Stack())
    rows = candidates_of(direct.model, 4)
    list(fast.evaluate(rows))
    with torch.no_grad():
        direct.model.model.blocks[1].first.parametrizations["weight"].original.data.mul_(1.5)
    assert told(fast.evaluate(rows)) == told(direct.evaluate(rows))
    direct.model.fake_quantizers["blocks.1.act"].amax = 0.3
    assert told(fast.evaluate(rows)) == told(direct.evaluate(rows))


def test_with_little_memory_fewer_blocks_are_noted_and_the_numbers_are_the_same():
    direct, fast = both(Stack(), budget_bytes=800)
    rows = candidates_of(direct.model)
    CALLS.clear()
    answers = told(fast.evaluate(rows))
    assert CALLS[0] < CALLS[1] < CALLS[3] == 4 * len(rows)
    assert answers == told(direct.evaluate(rows))


class Twice(Stack):
    def passed(self, hidden, scale):
        for block in (*self.blocks, *self.blocks):
            hidden, _ = block(hidden, scale=scale)
        return hidden


class Remembering(Block):
    def forward(self, hidden, **kwargs):
        self.last, _ = super().forward(hidden, **kwargs)
        return self.last, None


class WritesItsInput(Block):
    def forward(self, hidden, **kwargs):
        output, _ = super().forward(hidden, **kwargs)
        hidden.zero_()
        return output, None


class Drawing(Block):
    def forward(self, hidden, **kwargs):
        return super().forward(hidden, **kwargs)[0] + torch.rand(()), None


REFUSED = {
    "called twice": (Twice, "no two modules in an nn.ModuleList or nn.Sequential that are called once each"),
    "state in modules": (lambda: Stack(Remembering), "modules keep what they give to themselves"),
    "written input": (lambda: Stack(WritesItsInput), "a block writes into what it is given"),
    "random": (lambda: Stack(Drawing), "draws random numbers"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_where_blocks_cannot_be_skipped_the_direct_evaluator_answers_and_says_why(case):
    make, reason = case
    direct, fast = both(make())
    assert fast.description.startswith("direct: ") and reason in fast.description
    assert all(e.is_complete for e in fast.evaluate(candidates_of(direct.model, 2)))


def test_a_batch_on_which_a_block_writes_its_input_is_left_to_the_direct_evaluator():
    class ByBatch(Block):
        def forward(self, hidden, **kwargs):
            output, _ = super().forward(hidden, **kwargs)
            if len(hidden) == 3:
                hidden.zero_()
            return output, None

    model = wrapped(Stack(ByBatch))
    direct = qx.DirectEvaluator(model, [*data(), *data(1, 3)], qx.negative_log_likelihood)
    fast = PrefixEvaluator(direct)
    assert "blocks" in fast.description
    rows = candidates_of(model, 4)
    assert told(fast.evaluate(rows)) == told(direct.evaluate(rows))


def test_modules_that_cannot_be_taken_apart_for_one_reason_are_named_together():
    class Asks(nn.Module):
        def __init__(self, *sizes):
            super().__init__()
            self.layer = nn.Linear(*sizes)

        def forward(self, x):
            return self.layer(x) if x.isfinite().all() else x

    model = wrapped(nn.Sequential(Asks(6, 8), nn.ReLU(), Asks(8, 8), Asks(8, 3)))
    fast = PrefixEvaluator(qx.DirectEvaluator(model, data(), qx.negative_log_likelihood))
    assert "'0' and 2 more, each as one step (" in fast.description
