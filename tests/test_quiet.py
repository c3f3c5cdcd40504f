"""What is silenced, and what passes."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import ExitStack

import pytest

from qexplore._quiet import quiet, silenced


def test_warnings_of_a_users_own_code_pass_through_quiet():
    with pytest.warns(UserWarning, match="the user's own"), quiet():
        warnings.warn("the user's own", UserWarning, stacklevel=1)


def test_nothing_that_is_warned_logged_or_printed_leaves_a_silenced_block(capsys, caplog):
    with silenced():
        warnings.warn("a warning", UserWarning, stacklevel=1)
        logging.getLogger("torch.onnx").critical("a record")
        print("a line")
        print("another", file=sys.stderr)
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


def test_everything_is_heard_again_after_an_error_in_a_silenced_block(capsys):
    logging.disable(logging.DEBUG)
    try:
        with pytest.raises(RuntimeError, match="inside"), silenced():
            raise RuntimeError("inside")
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    print("a line")
    assert capsys.readouterr().out == "a line\n"


def filters():
    return list(warnings.filters)


@pytest.mark.parametrize("kinds", [(silenced, silenced), (quiet, silenced), (silenced, quiet)])
def test_silenced_blocks_of_two_threads_leave_nothing_silent_whichever_ends_first(kinds, capsys):
    before = sys.stdout, sys.stderr, logging.root.manager.disable, filters()
    first, second = ExitStack(), ExitStack()
    first.enter_context(kinds[0]())
    second.enter_context(kinds[1]())
    first.close()
    second.close()
    assert (sys.stdout, sys.stderr, logging.root.manager.disable, filters()) == before
    print("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_silenced_block_lets_nothing_be_warned_of_again_that_was_warned_of_once(recwarn):
    warnings.simplefilter("default")

    def say():
        warnings.warn("once", UserWarning, stacklevel=1)

    for _ in range(2):
        say()
        with silenced():
            pass
    assert [str(one.message) for one in recwarn] == ["once"]
