"""The compiled kernel is there when it can be, and nothing is lost when it cannot."""

import os
import subprocess
import sys

import pytest

SAY = "from qexplore.quant.kernel import fused_kernel; print(fused_kernel() is not None)"


def has_kernel(**environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAY], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


@pytest.mark.parametrize(
    "environment",
    [
        {"QEXPLORE_COMPILE": "0"},
        pytest.param({"PATH": "/nowhere", "CC": ""}, marks=pytest.mark.slow),
        pytest.param({"PATH": "/nowhere", "CC": "/bin/false"}, marks=pytest.mark.slow),
    ],
)
def test_there_is_none_without_leave_or_a_compiler_that_works(environment):
    assert not has_kernel(**environment)
