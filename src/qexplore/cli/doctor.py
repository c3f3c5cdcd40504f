"""``qexplore doctor``: what is there, what is not, and how to get it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from qexplore._table import text_table
from qexplore._version import __version__
from qexplore.cli.options import example, printing
from qexplore.cli.output import say

PURPOSES = {
    "onnx": "ONNX files and onnxruntime",
    "pt2e": "quantization by torch.export",
    "text": "GPT-2 in the guided pipeline",
    "demo": "the demo on handwritten digits",
    "report": "the report page, pictures with backend='plotly'",
    "frames": "fronts and tables as pandas frames",
    "optuna": "studies in optuna-dashboard",
    "tensorboard": "searches in TensorBoard",
    "mlflow": "searches in MLflow",
    "ray": "explorations on many machines",
}
"""What an extra is for."""

_FOR_DEVELOPERS = ("dev", "docs")
_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-quantization",
    "pymoo",
    "moocore",
    "numpy",
    "scipy",
    "matplotlib",
    "click",
)
_REQUIREMENT = re.compile(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]")
_SETUP = Path(__file__).parents[3] / "setup.py"


class Finding(NamedTuple):
    """A fact: of which kind, what it is about, what it is, and what to do about it where something is."""

    kind: str
    name: str
    value: str
    advice: str = ""


@click.command(short_help="Versions, devices, compilers, extras.", epilog=example("qexplore doctor --json"))
@printing
def doctor(as_json: bool) -> None:
    """Show versions, devices, threads, compilers, what each extra would add, and where can be written."""
    found = list(findings())
    rows = [(one.name, one.value, one.advice) for one in found]
    say(text_table(("what", "found", "to do"), rows), [one._asdict() for one in found], as_json=as_json)


def findings() -> Iterator[Finding]:
    """Everything that is looked at."""
    yield Finding("version", "qexplore", __version__)
    yield Finding("version", "Python", f"{platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        yield Finding("version", name, installed(name) or "missing", "" if installed(name) else f"pip install {name}")
    yield from _threads()
    yield from _devices()
    yield from _compilers()
    yield from _extras()
    yield from _cluster()
    yield from _folders()


def installed(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _threads() -> Iterator[Finding]:
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    advice = f"OMP_NUM_THREADS={allowed}: more threads than cores wait for each other" if threads > allowed else ""
    yield Finding("threads", "threads", f"{threads} of torch, {allowed} cores", advice)


def _devices() -> Iterator[Finding]:
    import torch

    accelerator: Any = getattr(torch, "accelerator", None)
    if accelerator is None or not accelerator.is_available():
        yield Finding("device", "accelerator", "none: everything runs on the CPU")
        return
    device = accelerator.current_accelerator()
    module = torch.get_device_module(device)
    for index in range(accelerator.device_count()):
        name = module.get_device_name(index) if hasattr(module, "get_device_name") else ""
        yield Finding("device", f"{device.type}:{index}", name or "there")


def _compilers() -> Iterator[Finding]:
    from qexplore.quant import SWITCH, fused_kernel

    if os.environ.get(SWITCH) == "0":
        yield Finding("compiler", "fused kernel", "switched off", f"unset {SWITCH}")
    elif fused_kernel() is not None:
        yield Finding("compiler", "fused kernel", "compiled, and equal to torch bit for bit")
    else:
        is_linux = sys.platform.startswith("linux")
        advice = "install a C compiler (cc, gcc or clang): quantizing then takes one pass instead of four"
        yield Finding("compiler", "fused kernel", "none" if is_linux else "none on this system", advice * is_linux)


def _extras() -> Iterator[Finding]:
    """Each extra for users with what it has and what it lacks."""
    for extra, packages in extras().items():
        lacking = [name for name in packages if not installed(name)]
        there = ", ".join(f"{name} {installed(name)}" for name in packages if name not in lacking)
        value = f"lacks {', '.join(lacking)}" if lacking else there
        purpose = f": {PURPOSES[extra]}" if extra in PURPOSES else ""
        yield Finding("extra", f"extra {extra}", value, f"pip install 'qexplore[{extra}]'{purpose}" if lacking else "")


def _cluster() -> Iterator[Finding]:
    """The Ray cluster that this machine knows of, where Ray is installed."""
    if not installed("ray"):
        return
    from qexplore.distributed import seen_cluster

    cluster = seen_cluster()
    if cluster is None:
        yield Finding("cluster", "Ray cluster", "none known here: RayWorkers starts Ray on this machine")
    elif cluster.error:
        advice = "ray stop, or unset RAY_ADDRESS, and it is forgotten; ray start --head begins one"
        yield Finding("cluster", "Ray cluster", f"{cluster.address} does not answer: {cluster.error}", advice)
    else:
        has = ", ".join(f"{value:g} {name}" for name, value in sorted(cluster.resources.items()) if name in _COUNTED)
        nodes = f"{cluster.num_nodes} node{'s' if cluster.num_nodes > 1 else ''}"
        yield Finding("cluster", "Ray cluster", f"{cluster.address}: {nodes}, {has}")


_COUNTED = ("CPU", "GPU")
"""Resources that workers are asked for by."""


def extras(setup: Path = _SETUP) -> dict[str, list[str]]:
    """Packages of each extra for users: as the ``setup.py`` of a checkout says, or else the distribution.

    What is installed of a checkout says what there was on the day of ``pip install -e``, or nothing.
    """
    found = _extras_in(setup) or _extras_installed()
    return {extra: names for extra, names in found.items() if extra not in _FOR_DEVELOPERS}


def _extras_in(setup: Path) -> dict[str, list[str]]:
    """Read, not run: it would make a distribution."""
    try:
        words = [one for one in ast.walk(ast.parse(setup.read_text("utf-8"))) if isinstance(one, ast.keyword)]
        told = {one.arg: ast.literal_eval(one.value) for one in words if one.arg in ("name", "extras_require")}
    except (OSError, SyntaxError, ValueError):
        return {}
    required = told.get("extras_require", {}) if told.get("name") == "qexplore" else {}
    return {extra: [re.split(r"[^\w.-]", one)[0] for one in names] for extra, names in required.items()}


def _extras_installed() -> dict[str, list[str]]:
    try:
        required = importlib.metadata.requires("qexplore") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, required)):
        found.setdefault(match[2], []).append(match[1])
    return found


def _folders() -> Iterator[Finding]:
    here = Path.cwd()
    runs = here / "runs"
    for folder in (here, runs) if runs.exists() else (here,):
        can = os.access(folder, os.W_OK)
        yield Finding(
            "folder", str(folder), "can be written to" if can else "may only be read", "" if can else _ELSEWHERE
        )


_ELSEWHERE = "work in another folder, or name files of another one with --study and --output"
