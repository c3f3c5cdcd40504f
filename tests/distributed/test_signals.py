"""SIGTERM with workers does what it does without them, though Ray takes it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qexplore.distributed.signals import Sigterm


def of_ray(number: int, frame: Any) -> None:
    """As the handler that `ray.init` sets."""


of_ray.__module__ = "ray._private.worker"


def of_the_user(number: int, frame: Any) -> None:
    """A handler that stands before."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "before",
    [signal.SIG_DFL, signal.SIG_IGN, of_the_user],
)
def test_what_stood_before_ray_stands_again(before: Any) -> None:
    signal.signal(signal.SIGTERM, before)
    kept = Sigterm()
    signal.signal(signal.SIGTERM, of_ray)
    kept.take_from_ray()
    assert signal.getsignal(signal.SIGTERM) == before
    kept.give_back()
    assert signal.getsignal(signal.SIGTERM) == before


def test_handler_of_a_program_that_has_started_ray_itself_is_set_aside_meanwhile() -> None:
    signal.signal(signal.SIGTERM, of_ray)
    kept = Sigterm()
    kept.take_from_ray()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    kept.give_back()
    assert signal.getsignal(signal.SIGTERM) is of_ray


def test_another_thread_touches_nothing() -> None:
    def work() -> None:
        kept = Sigterm()
        kept.take_from_ray()
        kept.give_back()

    signal.signal(signal.SIGTERM, of_ray)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is of_ray
