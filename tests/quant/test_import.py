"""What importing and using the quantizer does to an application's logging and warnings: nothing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each in a Python of its own

USE = """
import torch
from qexplore.quant import QuantDescriptor, TensorQuantizer
quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True))  # upstream logs a warning here
TensorQuantizer(QuantDescriptor(calib_method="histogram"), if_calib=True)(torch.ones(3))
quantizer.amax = 2.0
quantizer.load_state_dict(quantizer.state_dict())
"""


def run(program: str, *flags: str) -> list[str]:
    """What ``program`` prints to either stream in a Python of its own."""
    finished = subprocess.run(
        [sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return (finished.stdout + finished.stderr).splitlines()


def test_root_logger_and_warning_filters_are_kept_and_nothing_is_said_where_warnings_are_errors() -> None:
    program = f"""
import logging, warnings
import torch
root, mine = logging.getLogger(), logging.NullHandler()
root.addHandler(mine)
root.setLevel(logging.INFO)
filters = list(warnings.filters)
{USE}
assert root.handlers == [mine], root.handlers
assert root.level == logging.INFO, root.level
assert warnings.filters == filters
"""
    assert run(program, "-W", "error") == []


def test_basic_config_before_the_import_goes_on_logging_and_upstreams_messages_can_be_asked_for() -> None:
    lines = run(
        f"""
import logging
logging.basicConfig(level=logging.INFO, format="mine %(name)s %(message)s")
{USE}
logging.getLogger("application").info("after use")
logging.getLogger("pytorch_quantization").setLevel(logging.WARNING)
quantizer.enable_clip()
"""
    )
    assert lines == [
        "mine application after use",
        "mine pytorch_quantization Enable `clip` stage for amax learning.",
    ]


def test_basic_config_after_the_import_and_after_use_still_works() -> None:
    lines = run(
        f"""
import logging
{USE}
assert logging.getLogger().handlers == []
logging.basicConfig(level=logging.INFO, format="mine %(message)s")
logging.getLogger("application").info("after use")
"""
    )
    assert lines == ["mine after use"]
