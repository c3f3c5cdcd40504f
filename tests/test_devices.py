"""No device is named in the package: what belongs to a network lies where the network lies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "qexplore"

KIND = re.compile(r"(cpu|cuda|mps|xpu|hip|hpu|npu|privateuseone)(:\d+)?")
OF_ONE_KIND = {"cuda", "is_cuda", "mps", "is_mps", "xpu", "is_xpu"}
"""Attributes of modules, tensors and ``torch`` that stand for one kind of accelerator."""

NAMES_ONE = {
    "_random.py": "the generators that loaders draw from",
    "config/parts.py": "a factory draws weights on the CPU",
    "distributed/ray_crew.py": "how a worker says that it has no accelerator",
    "evaluation/advice.py": "words for a network that is elsewhere",
    "evaluation/batches.py": "loaders draw on the CPU; what is held there is pinned",
    "evaluation/direct.py": "where a network without parameters lies",
    "evaluation/engine.py": "cores have a cache and worker threads, accelerators launches",
    "evaluation/replays.py": "starting a step on the CPU costs little",
    "evaluation/softmax.py": "cores take few numbers in a row one by one",
    "evaluation/whole.py": "on the CPU a metric of a whole set has nothing to move",
    "export/exporting.py": "exporters trace a copy on the CPU",
    "model/arithmetic.py": "torch keeps its settings under the names of devices",
    "model/inputs.py": "where a network without parameters lies",
    "pipeline/factories.py": "a factory draws weights on the CPU",
    "pipeline/image_subject.py": "loaders draw on the CPU",
    "pipeline/language_subject.py": "loaders draw on the CPU",
    "pipeline/loading.py": "loaders draw on the CPU",
    "pipeline/networks.py": "a file's weights are read to the CPU first",
    "pipeline/quantizing.py": "converted networks run on the CPU",
    "pipeline/run.py": "loaders draw on the CPU",
    "pipeline/subject.py": "loaders draw on the CPU",
    "preparation/equalization.py": "Apple's devices have no float64",
    "quant/device_kernel.py": "the CPU's kernel is another",
    "quant/kernel.py": "the CPU's kernel",
    "search/pymoo_proposer.py": "pymoo draws on the CPU",
    "stacks/eager_nodes.py": "torch.ao's networks run on the CPU",
    "stacks/pt2e.py": "torchao draws on the CPU",
    "training/refinement.py": "states kept beside training take no memory of the device",
    "workflows/calling.py": "torch.ao's networks run on the CPU",
    "workflows/inputs.py": "torch.ao's networks run on the CPU",
    "workflows/running.py": "torch.ao's networks run on the CPU",
}

FACTORIES = {"tensor", "as_tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "rand", "randn"}
MEET_A_NETWORK = ("quant", "metrics", "model", "evaluation", "preparation", "cost", "training")
MAKES_ELSEWHERE = {
    "evaluation/simplify.py": "asks whether a number can be had in a dtype",
    "model/calibrating.py": "compares descriptors",
    "model/calibration.py": "what upstream's calibrators give; a quantizer takes it to its device",
    "model/state.py": "stands for what cannot be read",
    "quant/fixed.py": "a scale as a Python number",
    "quant/histogram_calibrator.py": "upstream asks for it; a quantizer takes it to its device",
    "quant/kernel.py": "cases for the CPU's kernel",
    "quant/ranged.py": "taken to the quantizer's device once it is checked",
    "quant/ranges.py": "an empty table, made anew with its first row",
    "quant/small_floats.py": "tables that are moved to the tensor, and a number",
    "quant/step_size.py": "a Python number of a limit",
    "quant/tensor_quantizer.py": "entries of a state dict",
}


def named_devices(source: str) -> Iterator[int]:
    """Lines of code that name a kind of device."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value)
        if (is_name and id(node) not in texts) or (isinstance(node, ast.Attribute) and node.attr in OF_ONE_KIND):
            yield node.lineno


def made_without_a_place(source: str) -> Iterator[int]:
    """Lines that make a tensor with ``torch`` and do not say on which device."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        says = any(keyword.arg in ("device", None) for keyword in node.keywords)
        if of_torch and node.func.attr in FACTORIES and not says:
            yield node.lineno


def found(package: Path, rooms: tuple[str, ...], lines: object) -> dict[str, list[int]]:
    """Lines by file, of the files that have some."""
    files = (file for room in rooms for file in sorted((package / room).rglob("*.py")))
    by_file = {file.relative_to(package).as_posix(): list(lines(file.read_text())) for file in files}  # type: ignore[operator]
    return {name: places for name, places in by_file.items() if places}


def test_no_device_is_named_but_where_it_has_a_reason() -> None:
    assert {name: lines for name, lines in found(PACKAGE, ("",), named_devices).items() if name not in NAMES_ONE} == {}


def test_tensors_that_meet_a_network_are_made_on_a_device() -> None:
    places = found(PACKAGE, MEET_A_NETWORK, made_without_a_place)
    assert {name: lines for name, lines in places.items() if name not in MAKES_ELSEWHERE} == {}


def test_no_reason_is_left_over() -> None:
    assert set(NAMES_ONE) == set(found(PACKAGE, ("",), named_devices))
    assert set(MAKES_ELSEWHERE) == set(found(PACKAGE, MEET_A_NETWORK, made_without_a_place))


@pytest.mark.parametrize(
    "planted",
    [
        'x.to("cuda")',
        'x.to("cuda:1")',
        "x.cuda()",
        "torch.cuda.synchronize()",
        "y = x.is_cuda",
        'if x.device.type == "mps": pass',
        'f(device="cpu")',
    ],
)
def test_a_named_device_is_found(planted: str) -> None:
    assert list(named_devices(f'"""cuda"""\n{planted}\n')) == [2]


@pytest.mark.parametrize("planted", ["torch.tensor(1.0)", "torch.arange(3, dtype=torch.int64)", "torch.zeros(2, 2)"])
def test_a_tensor_made_without_a_place_is_found(planted: str) -> None:
    assert list(made_without_a_place(f"import torch\n{planted}\n")) == [2]
    assert list(made_without_a_place(planted[:-1] + ", device=x.device)")) == []
