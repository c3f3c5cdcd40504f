"""Every experiment runs from end to end, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import qexplore as qx

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PICTURES = ("front.png", "num_bits.png", "hypervolume.png")


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    # One thread: small networks crawl when two threads share a busy core.
    return subprocess.run(
        [sys.executable, EXPERIMENTS / name / "run.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def size_of_png(file: Path) -> tuple[int, int]:
    head = file.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def check_results(done: subprocess.CompletedProcess[str], folder: Path) -> qx.Front:
    assert done.returncode == 0, done.stderr
    assert "quantization points, selected by" in done.stdout
    assert "disjoint" in done.stdout or "no sample is in two sets" in done.stdout
    for picture in PICTURES:
        assert size_of_png(folder / picture) == (1200, 800)
        assert str(folder / picture) in done.stdout
    front = qx.Front.load(folder / "front.json")
    assert front.verified
    assert front.report_accuracy is not None
    assert str(front) in done.stdout
    assert (folder / "front.csv").read_text() == front.to_csv()
    return front


def float_accuracies(output: str) -> list[float]:
    line = next(line for line in output.splitlines() if line.startswith("Float accuracy"))
    return [float(number) for number in re.findall(r"0\.\d+|1\.0+", line)]


def write_idx_files(folder: Path) -> None:
    """scikit-learn's digits, enlarged to 28 x 28, in the four files that Fashion-MNIST comes in."""
    digits = load_digits()
    enlarged = F.interpolate(torch.tensor(digits.images[:, None] * 255 / 16), size=28).squeeze(1)
    images, labels = enlarged.round().to(torch.uint8).numpy(), digits.target.astype(np.uint8)
    for part, chosen in (("train", slice(0, 1100)), ("t10k", slice(1100, 1797))):
        for kind, values in (("images-idx3", images[chosen]), ("labels-idx1", labels[chosen])):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())


def test_digits_gives_the_front_that_the_demo_promises_and_keeps_its_weights(tmp_path):
    arguments = ("--output", tmp_path / "results", "--weights-dir", tmp_path / "weights", "--evaluations")

    first = run("digits", *arguments, 150)
    front = check_results(first, tmp_path / "results")
    again = run("digits", *arguments, 10)

    assert len(front) >= 8
    assert min(float_accuracies(first.stdout)) >= 0.97
    assert "Training digits" in first.stdout
    assert "Training digits" not in again.stdout
    check_results(again, tmp_path / "results")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["small", "resnet20"])
def test_fashion_mnist_runs_on_the_files_in_a_given_folder(network, tmp_path):
    write_idx_files(tmp_path)

    done = run(
        "fashion_mnist", "--smoke", "--network", network, "--data", tmp_path, "--evaluations", 12, "--epochs", 1,
        "--output", tmp_path / "results", "--weights-dir", tmp_path / "weights",
    )  # fmt: skip

    front = check_results(done, tmp_path / "results")
    assert len(front.point_names) == {"small": 6, "resnet20": 20}[network]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["simple", "resnet18"])
def test_cifar10_runs_on_files_in_its_own_format(network, tmp_path):
    done = run(
        "cifar10", "--smoke", "--network", network, "--evaluations", 10, "--epochs", 1,
        "--output", tmp_path / "results", "--weights-dir", tmp_path / "weights",
    )  # fmt: skip

    front = check_results(done, tmp_path / "results")
    assert len(float_accuracies(done.stdout)) == 2
    assert front.point_names[0] == "input"


@pytest.mark.slow
def test_image_folder_runs_a_torchvision_classifier_on_image_files(tmp_path):
    done = run("image_folder", "--smoke", "--evaluations", 10, "--output", tmp_path / "results")

    front = check_results(done, tmp_path / "results")
    assert "layer4.1.relu" in front.point_names


WITHOUT_DATA = [
    ("fashion_mnist", ["--data", "nowhere"], "--data must name a folder with the four files"),
    ("cifar10", ["--data", "nowhere"], "or let torchvision download it: --download"),
    ("image_folder", ["--data", "nowhere", "--weights", "w.pt"], "--data must name a folder with one subfolder"),
    ("image_folder", [], "Both --data DIR and --weights FILE are needed"),
]
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
root, *calls = json.loads(sys.argv[1])
for name, arguments, _ in calls:
    script = f"{root}/{name}/run.py"
    sys.argv, sys.path[0] = [script, *arguments], f"{root}/{name}"
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        print("ended with", ended.code, file=sys.stderr)
"""


@pytest.mark.slow
def test_missing_data_is_said_with_the_way_out():
    """In one process of its own, whose modules are those of the experiments."""
    asked = json.dumps([str(EXPERIMENTS), *WITHOUT_DATA])
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, asked], capture_output=True, text=True, check=False
    )
    said = done.stderr.split("ended with 2")

    assert "Traceback" not in done.stderr
    for (name, _, sentence), one in zip(WITHOUT_DATA, said, strict=False):
        assert sentence in one, name
    assert len(said) == len(WITHOUT_DATA) + 1
