"""One pass over a loader: what it gives, counts, shows and refuses."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from qexplore.errors import DataError
from qexplore.model import Pass, Placement, first_batch

X = torch.arange(6.0).reshape(3, 2)


class Unsized:
    """A loader that does not tell its length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([X, X + 1])


class Indexed:
    """The old protocol: places from 0 up to an IndexError."""

    def __getitem__(self, place: int) -> Any:
        return [X, X + 1][place]


def batches(loader: Any, **options: Any) -> Pass:
    return Pass("the loader", loader, **options)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest sets stderr anew between a fixture and its test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.mark.parametrize(
    "loader", [[X, X + 1], iter([X, X + 1]), Unsized(), Indexed()], ids=lambda one: type(one).__name__
)
def test_every_kind_of_loader_gives_its_batches(loader: Any) -> None:
    passing = batches(loader)
    assert [float(inputs[0, 0]) for inputs, _ in passing] == [0.0, 1.0]
    assert passing.num_done == 2


def test_batches_are_unpacked_by_their_form_or_by_the_user() -> None:
    assert [(inputs["x"] is X, target) for inputs, target in batches([{"x": X, "labels": 3}])] == [(True, 3)]
    assert list(batches(["text"], unpack=lambda batch: (X, batch))) == [(X, "text")]
    with pytest.raises(DataError, match="pass unpack="):
        list(batches(["text"]))


def test_inputs_are_copied_and_cast_where_a_placement_is_given_and_targets_moved() -> None:
    target = torch.ones(3, dtype=torch.float64)
    ((inputs, moved),) = batches([(X, target)], placement=Placement(torch.device("cpu"), torch.float16))
    assert inputs.dtype == torch.float16
    assert moved is target
    ((same, _),) = batches([(X, target)], placement=Placement(torch.device("cpu"), torch.float32))
    assert torch.equal(same, X)
    assert same.data_ptr() != X.data_ptr()
    ((given, _),) = batches([(X, target)])
    assert given is X


@pytest.mark.parametrize("loader", [[], iter(()), torch.utils.data.DataLoader([])], ids=lambda one: type(one).__name__)
def test_nothing_in_the_loader_is_an_error_with_its_name(loader: Any) -> None:
    passing = batches(loader, hint=": look at it")
    with pytest.raises(DataError, match="^the loader must hold at least one batch, got none: look at it$"):
        list(passing)
    with pytest.raises(DataError, match="^the loader must hold at least one batch, got none$"):
        first_batch("the loader", loader)


@pytest.mark.parametrize("loader", [3, None, 2.5], ids=repr)
def test_what_is_no_loader_is_refused_when_the_pass_is_made(loader: Any) -> None:
    with pytest.raises(DataError, match=f"the loader must be a loader of batches, got {type(loader).__name__}"):
        batches(loader)
    with pytest.raises(DataError, match="must be a loader of batches"):
        first_batch("the loader", loader)


def test_the_first_batch_is_given_as_it_is() -> None:
    assert first_batch("the loader", [(X, 1), (X, 2)]) == (X, 1)


@pytest.mark.parametrize("limit", [1, 2, 9, np.int64(1)], ids=repr)
def test_a_limit_stops_the_pass_and_takes_no_batch_more(limit: Any) -> None:
    taken: list[int] = []

    def watched() -> Iterator[Any]:
        for number in range(3):
            taken.append(number)
            yield X

    passing = batches(watched(), num_batches=limit)
    assert len(list(passing)) == passing.num_done == min(int(limit), 3) == len(taken)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "all"], ids=repr)
def test_a_limit_is_a_positive_int(limit: Any) -> None:
    with pytest.raises(DataError, match="`num_batches` must be an int of at least 1, got .*: None takes all"):
        batches([X], num_batches=limit)


def test_a_pass_can_be_made_again_and_counts_anew() -> None:
    passing = batches([X, X])
    assert len(list(passing)) == len(list(passing)) == passing.num_done == 2


def test_an_error_in_the_block_closes_the_bar_and_leaves_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch)
    passing = batches([X, X, X], bar="going", progress=True)
    with pytest.raises(ArithmeticError):
        for number, _ in enumerate(passing):
            if number == 1:
                raise ArithmeticError
    assert passing.num_done == 1
    assert shown.getvalue().rsplit("\r", 1)[-1].strip() == ""


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        ({"bar": "going"}, True),
        ({"bar": "going", "progress": True}, True),
        ({"bar": "going", "progress": False}, False),
        ({}, False),
        ({"progress": True}, False),
    ],
    ids=str,
)
def test_the_bar_is_shown_on_a_terminal_unless_it_is_switched_off_or_has_no_name(
    monkeypatch: pytest.MonkeyPatch, options: Any, is_shown: bool
) -> None:
    shown = terminal(monkeypatch)
    for _ in batches([X, X], **options):
        pass
    assert ("going" in shown.getvalue()) == is_shown == bool(shown.getvalue())


def test_the_bar_knows_the_length_within_the_limit_and_shows_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    passing = batches([X, X, X], num_batches=2, bar="going", progress=True)
    for _ in passing:
        passing.show(loss="0.5")
    assert "/2" in shown.getvalue()
    shown.truncate(0)
    for _ in batches(Unsized(), bar="going"):
        pass
    assert "/" not in shown.getvalue().replace("batch/s", "").replace("s/batch", "")
