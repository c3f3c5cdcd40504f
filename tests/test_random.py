"""Named seed streams, and random state that is given back."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import random_state

from qexplore._random import drawn_apart, isolated, stream

CPU = torch.device("cpu")


def draw():
    """One number from each global generator."""
    return torch.rand(()).item(), float(np.random.random()), random.random()  # noqa: NPY002


def test_a_stream_depends_on_its_seed_and_its_name_only():
    first = stream(1, "sampling").random(5).tolist()
    draw()
    assert stream(1, "sampling").random(5).tolist() == first
    assert stream(2, "sampling").random(5).tolist() != first
    assert stream(1, "mutation").random(5).tolist() != first


def test_a_block_is_isolated_from_what_was_drawn_before_and_after():
    with isolated(CPU):
        first = [draw(), draw()]
    draw()
    before = random_state()
    with isolated(CPU):
        assert [draw(), draw()] == first
    assert random_state() == before
    with isolated(CPU, seed=1):
        assert draw() != first[0]
    assert random_state() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_the_state_is_given_back_after_an_error(error):
    before = random_state()
    with pytest.raises(error), isolated(CPU):
        draw()
        raise error
    assert random_state() == before


def test_isolated_blocks_nest():
    with isolated(CPU):
        alone = [draw(), draw()]
    with isolated(CPU):
        outer = [draw()]
        with isolated(CPU, seed=9):
            draw()
        outer.append(draw())
    assert outer == alone


def test_items_are_drawn_apart_from_what_is_drawn_between_them():
    def lazily():
        for _ in range(4):
            yield draw()

    before = random_state()
    expected = list(drawn_apart(lazily()))
    assert random_state() == before
    mixed, between = [], []
    with isolated(CPU):
        for item in drawn_apart(lazily()):
            mixed.append(item)
            between.append(draw())
    with isolated(CPU):
        assert between == [draw() for _ in range(4)]
    assert mixed == expected
    assert len(set(mixed)) == 4
    assert list(drawn_apart(lazily(), seed=1)) != expected


def test_an_error_while_items_are_drawn_passes_through_and_the_state_is_given_back():
    def broken():
        yield draw()
        raise OSError("no disk")

    before = random_state()
    items = drawn_apart(broken())
    next(items)
    with pytest.raises(OSError, match="no disk"):
        next(items)
    assert random_state() == before


def test_blocks_of_two_threads_draw_numbers_of_their_own_and_give_the_users_state_back():
    def block(seed, begun):
        with isolated(CPU, seed):
            drawn = [draw()]
            begun.set()
            time.sleep(0.05)
            return [*drawn, draw()]

    before, begun = random_state(), threading.Event()
    expected = [block(0, threading.Event()), block(1, threading.Event())]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(block, 0, begun)
        begun.wait(20)
        assert [block(1, threading.Event()), first.result(20)] == expected[::-1]
    assert random_state() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_block_of_a_thread_that_it_does_not_have():
    begun, done = threading.Event(), threading.Event()

    def block():
        with isolated(CPU):
            begun.set()
            done.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(block)
        begun.wait(20)
        child = os.fork()
        if not child:
            signal.alarm(5)
            with isolated(CPU):
                os._exit(0)
        done.set()
        assert os.waitpid(child, 0)[1] == 0
