"""What is silenced, and what passes."""

from __future__ import annotations

import logging
import sys
import warnings

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
