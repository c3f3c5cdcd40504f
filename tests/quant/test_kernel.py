"""The compiled kernel is there when it can be, and nothing is lost when it cannot."""

import pytest

from qexplore.quant.kernel import fused_kernel


@pytest.mark.parametrize(
    "environment", [{"QEXPLORE_COMPILE": "0"}, {"PATH": "/nowhere", "CC": ""}, {"PATH": "/nowhere", "CC": "/bin/false"}]
)
def test_there_is_none_without_leave_or_a_compiler_that_works(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert fused_kernel.__wrapped__() is None
