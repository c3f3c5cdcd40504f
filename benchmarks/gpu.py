"""What holds on a GPU, and how fast: contracts first, then speed; it writes the tables of docs/gpu.md.

    python benchmarks/gpu.py                # five minutes at most on a GPU; without one a small run on the CPU
    python benchmarks/gpu.py --networks resnet20 --no-write

It needs this package with what it depends on, and no data: images are smooth patterns in noise, ResNet-20 is trained on
them for some seconds, other networks are random and are held against their own classes. ResNet-18 needs torchvision and
GPT-2 transformers; a row says so where they are missing. The plain recipe is pytorch-quantization's quantizers in
forward hooks, a pass for each candidate. Both sides take turns in one process, wait for the device, and are reported by
medians, in full float32; rows "as torch is set" allow TF32. A row that fails is written as such and ends nothing.

On a bare machine with python3 and a GPU, from the root of the repository (wheels/ holds what pip would fetch, where
there is no index)::

    set -e; test -f benchmarks/gpu.py
    python3 -m venv --system-site-packages .gpu-env 2>/dev/null || python3 -m virtualenv --system-site-packages .gpu-env
    P=.gpu-env/bin/python; CUDA='import torch; assert torch.cuda.is_available()'
    if $P -m pip download --quiet --no-deps --dest wheels pytorch-quantization==2.1.3 >/dev/null 2>&1; then FROM=""
    else FROM="--no-index --find-links wheels"; fi
    $P -c "$CUDA" 2>/dev/null || $P -m pip install --quiet $FROM torch torchvision
    $P -m pip install --quiet $FROM -e . || export PYTHONPATH=$PWD/src
    $P -m pip install --quiet $FROM transformers onnx onnxscript onnxruntime || true
    $P -c 'import torch, qexplore; print(torch.__version__, torch.cuda.get_device_name(0))'
    CUBLAS_WORKSPACE_CONFIG=:4096:8 $P benchmarks/gpu.py --log ${OUT:-.}/gpu.log; cp docs/gpu.md ${OUT:-..}/
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

try:
    import torch
    from _gpu_contracts import feature_rows, stage
    from _gpu_page import PAGE, Run, written
    from _gpu_rows import Check, Clock, checked
    from _gpu_speed import Speed, aims, search_rows
    from _gpu_subjects import KINDS, Size
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"benchmarks/gpu.py lacks a package: {error}. pip install -e . brings what it needs", file=sys.stderr)
    raise SystemExit(2) from error


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the tables; 0 also where rows are not met."""
    options = parsed(arguments)
    kind = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(kind) if kind == "cpu" else torch.device(kind, 0)
    small = options.small or device.type == "cpu"
    command = " ".join(["python benchmarks/gpu.py", *(sys.argv[1:] if arguments is None else arguments)])
    run = Run(device, command, small)
    report = measured(run, options.networks, Size.small() if small else Size(), Clock(options.minutes))
    print("\n".join(run.lines()))
    if options.log:
        Path(options.log).write_text("\n".join([*run.lines(), "", *report]), encoding="utf-8")
    elif report:
        print("\n".join(report), file=sys.stderr)
    if options.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), run.marker, run.lines()), encoding="utf-8")
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options; none is needed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--networks", nargs="+", choices=KINDS, default=list(KINDS), help="to time; all of them without it"
    )
    options.add_argument("--device", help="cuda where there is one, else cpu")
    options.add_argument("--small", action="store_true", help="small sizes, as on a CPU")
    options.add_argument(
        "--minutes", type=float, default=4.5, help="what would begin later is left out, and says so (%(default)s)"
    )
    options.add_argument(
        "--write", action=argparse.BooleanOptionalAction, default=True, help="the tables into docs/gpu.md (as a rule)"
    )
    options.add_argument("--log", help="a file for the tables and the tracebacks of rows that failed")
    return options.parse_args(arguments)


def measured(run: Run, kinds: list[str], size: Size, clock: Clock) -> list[str]:
    """Fill ``run``, contracts first; tracebacks of what failed."""
    report: list[str] = []
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tables say what matters, and some of torch's come with every call
        # A third of the time at most: speed has a share too.
        for row in feature_rows(stage(run.device), Clock(clock.minutes / 3), report):
            add(run.contracts, row)
        steps: dict[str, Callable[[Clock], None]] = {kind: partial(add_network, run, kind, size) for kind in kinds}
        if "resnet20" in kinds:
            steps["explore"] = partial(add_search, run, size)
        for place, (name, work) in enumerate(steps.items()):
            attempted(name, partial(work, clock.share(len(steps) - place)), run, clock, report)
    run.seconds = time.perf_counter() - start
    return report


def add(rows: list[Any], row: Any) -> None:
    """Keep a row, and print it at once: a run that is cut off has said what it had seen."""
    rows.append(row)
    print(row, flush=True)


def attempted(name: str, work: Callable[[], None], run: Run, clock: Clock, report: list[str]) -> None:
    """Do ``work``, which adds rows; one that fails, or has no time left, is a row as well."""
    if clock.left < 0:
        add(run.aims, Check(name, "no time left", "measured", None))
        return
    row = checked(name, lambda: work() or "", "measured", report)
    if row.is_met is not True:
        add(run.aims, row)


def add_network(run: Run, kind: str, size: Size, clock: Clock) -> None:
    """Counts, timings and aims of one network."""
    speed = Speed(KINDS[kind](size, run.device), size, clock)
    name = f"{speed.subject.name}, {speed.subject.shape}"
    run.engines[name] = speed.engine
    counts = speed.counts()
    add(run.contracts, replace(counts, name=f"{name}: {counts.name}"))
    for timing in speed.rows():
        add(run.timings, timing)
    for row in aims(speed):
        add(run.aims, of_a_gpu(row, run))


def add_search(run: Run, size: Size, clock: Clock) -> None:
    """What a search takes."""
    for row in search_rows(KINDS["resnet20"](size, run.device), size, clock):
        add(run.aims, of_a_gpu(row, run))


def of_a_gpu(row: Check, run: Run) -> Check:
    """The aims are a GPU's, at full size: elsewhere, and on small sets, the figure stands without a verdict."""
    return replace(row, is_met=None) if run.is_small else row


if __name__ == "__main__":
    raise SystemExit(main())
