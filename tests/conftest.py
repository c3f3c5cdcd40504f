"""Settings and fixtures of the whole test session."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from networks import KEPT_IN
from pretended_device import CAN_BE_MADE, pretended_device, register
from project import own_project

register()  # here, for importing a test may train a network
gc.set_threshold(20_000)  # the collector walks through thousands of tests: it begins less often

if KEPT_IN not in os.environ:  # in the first process, from which the others have it
    os.environ[KEPT_IN] = tempfile.mkdtemp(prefix="qexplore-tests-")
    atexit.register(shutil.rmtree, os.environ[KEPT_IN], ignore_errors=True)


# Torch begins every process with a seed of its own: what is drawn before a test has run is seeded here.
def pytest_collectstart(collector: pytest.Collector) -> None:
    """A network that a file makes as it is imported is the same in every run."""
    torch.manual_seed(0)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    """So is one that tests share, whichever of them comes first."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names of tests are the same in every process: an address in one stops a run in two of them."""
    moving = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if moving:
        raise pytest.UsageError(f"names of tests must not hold addresses, got {moving[0]!r}: give their cases `ids`")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # The networks here are tiny: a second thread costs more than it brings, most of all on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    """A network that a test makes without a seed of its own is the same in every run and in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a project of a user's own in it: ``mine.py`` and ``mine.yaml``."""
    monkeypatch.chdir(tmp_path)
    with own_project(tmp_path):
        yield tmp_path


@pytest.fixture
def accelerator() -> Iterator[torch.device]:
    """A device that is not the CPU, for the time of a test."""
    with _accelerator() as device:
        yield device


@pytest.fixture(scope="module", params=["cpu", "accelerator"])
def place(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device that a promise has to hold on, one after the other."""
    with nullcontext(torch.device("cpu")) if request.param == "cpu" else _accelerator() as device:
        yield device


@contextmanager
def _accelerator() -> Iterator[torch.device]:
    if not CAN_BE_MADE:
        pytest.skip("this torch cannot host a device that is written in Python")
    with pretended_device() as device:
        yield device
