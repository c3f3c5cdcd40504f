"""The script that builds TensorRT engines, where it cannot."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tensorrt_engine.py"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_script_says_what_is_missing_and_how_to_get_it_and_ends_with_code_2():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--onnx", "model.onnx"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1] == (
        "TensorRT engines cannot be built here, for want of the package 'tensorrt' (python -m pip install tensorrt) "
        "and of an NVIDIA GPU that torch sees"
    )
