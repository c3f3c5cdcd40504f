"""What a turn-key call makes of a network, judged from outside: near the float network, alarmed, refused, or wrong."""

from __future__ import annotations

import copy
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from network_state import network_state
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

import qexplore as qx
from qexplore.errors import QExploreError

STACKS = ("eager", "fx", "pt2e", "onnxruntime")
METHODS = ("dynamic", "static", "qat")
NEAR = 0.1
KINDS = ("near", "alarmed", "refused", "beyond", "raw error")
STILL = 1e-7
"""A learning rate at which training leaves the float network what it was, so that both can be compared."""
Inputs = tuple[Any, ...] | dict[str, Any]
"""Positional or keyword arguments of one call."""


@dataclass(frozen=True)
class Verdict:
    """What became of one network.

    Attributes:
        kind: one of `KINDS`: within `NEAR` of float, farther but alarmed in the report, refused by an error of ours,
            farther and not a word, or another project's error.
        error: of the output, relative to the float one; None where there is no result.
        said: the sentence of an error with where it was raised, or the alarms.
        faults: promises broken beside that: of the file, of the report's own figure, of the network left as it was.
    """

    kind: str
    error: float | None = None
    said: str = ""
    faults: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether every promise holds."""
        return self.kind in ("near", "alarmed", "refused") and not self.faults


def runs(stack: str, method: str) -> bool:
    """Whether ``stack`` has ``method`` at all."""
    return stack != "onnxruntime" or method != "qat"


def judged(build: Callable[[int], nn.Module], inputs: Inputs, stack: str, method: str) -> Verdict:
    """Quantize ``build(0)`` with data of one batch, ``inputs``, and hold what comes out against it.

    ``build(seed)`` gives the same network with other weights, as somebody has it who loads the file.
    """
    network = build(0)
    expected = outputs(network, inputs)  # before the state is taken: a forward may assign attributes
    before = state(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = quantized(network, inputs, expected, stack, method)
            found = of_result(result, build, inputs, expected)
    except QExploreError as error:
        found = Verdict("refused", said=sentence(error))
    except Exception as error:
        found = Verdict("raw error", said=sentence(error))
    changed = () if state(network) == before else ("the network is not as it was",)
    return Verdict(found.kind, found.error, found.said, (*found.faults, *changed))


def quantized(network: nn.Module, inputs: Inputs, expected: list[Tensor], stack: str, method: str) -> Any:
    """The result of the call for ``method``."""
    if method == "dynamic":
        return qx.quantize_dynamic(network, copy.deepcopy(inputs), stack=stack)
    options: dict[str, Any] = {"stack": stack, "unpack": lambda batch: copy.deepcopy(batch), "progress": False}
    loader = [(inputs, expected)] * 3
    if method == "static":
        return qx.quantize_static(network, loader, **options)
    return qx.quantize_qat(network, loader, distance, learning_rate=STILL, **options)


def distance(output: Any, target: list[Tensor]) -> Tensor:
    """The loss that is least where the network gives what it gave before."""
    pairs = zip(floating(output), target, strict=True)
    return torch.stack([(mine - theirs).square().mean() for mine, theirs in pairs]).sum()


def of_result(result: Any, build: Callable[[int], nn.Module], inputs: Inputs, expected: list[Tensor]) -> Verdict:
    """The verdict on a result that there is."""
    got = outputs(result.model, inputs)
    error, faults = relative_error(got, expected), faults_of_file(result, build, inputs, got)
    alarms = [str(alarm) for alarm in getattr(result.report, "alarms", ())]
    is_rounding = rounding_alone(build(0), inputs, expected) if error > NEAR else []
    if any(is_rounding):
        pairs = zip(got, expected, is_rounding, strict=False)
        meant = [(mine, theirs) for mine, theirs, is_none in pairs if not is_none]
        error = relative_error([mine for mine, _ in meant], [theirs for _, theirs in meant])
    else:
        faults += faults_of_report(result.report, error)
    kind = "near" if error <= NEAR else "alarmed" if alarms else "beyond"
    return Verdict(kind, error, "; ".join(alarms), tuple(faults))


def rounding_alone(network: nn.Module, inputs: Inputs, expected: list[Tensor]) -> list[bool]:
    """Which outputs hold nothing but float's own rounding, as the mean of what is normalized does."""
    try:
        exact = outputs(network.double(), pytree.tree_map_only(Tensor, _doubled, inputs))
    except RuntimeError:  # it makes tensors of float32 itself
        return []
    return [float((one - two).norm()) > NEAR * float(two.norm()) for one, two in zip(expected, exact, strict=True)]


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def faults_of_report(report: Any, error: float) -> list[str]:
    """That the report says another error than there is."""
    told = getattr(report, "error", None)
    if told is None or abs(told - error) <= 0.005 + 0.1 * error:
        return []
    return [f"the report says an error of {told:.3f}, it is {error:.3f}"]


def faults_of_file(result: Any, build: Callable[[int], nn.Module], inputs: Inputs, got: list[Tensor]) -> list[str]:
    """That the file does not load into the same network, or gives other numbers there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        result.save(path)
        try:
            loaded = qx.load_quantized(path, build(1))
        except QExploreError as error:
            return [f"the file does not load: {sentence(error)}"]
        again = outputs(loaded, inputs)
    same = all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(got, again, strict=True))
    return [] if same else ["the file gives other numbers"]


def settled(network: nn.Module, inputs: Inputs) -> nn.Module:
    """``network`` as after training on ``inputs``, which training does not move any more; in eval mode.

    BatchNorm knows the statistics of ``inputs`` and hardly learns, nothing is dropped to speak of, and iterations that
    go on in train mode, such as those of spectral norm, have come to their end.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = STILL
    for norm in norms:
        norm.momentum = None  # the mean over all calls
    network.train()
    iterates = any(map(parametrize.is_parametrized, network.modules()))  # some ten steps are not enough for all of them
    for _ in range(200 if iterates else 10 if norms else 0):
        outputs(network, inputs)
    for norm in norms:
        norm.momentum = STILL
    return network.eval()


def outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating tensors that ``network`` gives for ``inputs``, which stay as they are."""
    given = copy.deepcopy(inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return floating(network(**given) if isinstance(given, dict) else network(*given))


def floating(tree: Any) -> list[Tensor]:
    """The floating tensors in what a network gives."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def relative_error(got: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over norm of the float output, the worst of several; infinite where shapes differ."""
    if [one.shape for one in got] != [one.shape for one in expected]:
        return float("inf")
    errors = []
    for mine, theirs in zip(got, expected, strict=True):
        mine, theirs = mine.double(), theirs.double()
        if not torch.equal(mine.isfinite(), theirs.isfinite()):
            return float("inf")
        mine, theirs = mine.nan_to_num(0, 0, 0), theirs.nan_to_num(0, 0, 0)
        errors.append(float((mine - theirs).norm() / theirs.norm().clamp_min(1e-6)))
    return max(errors, default=0.0)


def sentence(error: BaseException) -> str:
    """Type, words and the innermost places of ``error``, on one line."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    raw = "" if isinstance(error, QExploreError) else f" ({' < '.join(places[:-4:-1])})"
    return " ".join(f"{type(error).__name__}: {error}{raw}".split())


def state(network: nn.Module) -> str:
    """All that a call must leave as it was: weights, the very parameters, modes, hooks, classes, qconfigs."""
    modules = [
        (name, type(module).__name__, id(module), repr(module.__dict__.get("qconfig", "none")))
        for name, module in network.named_modules(remove_duplicate=False)
    ]
    homes = [(name, id(value), value.requires_grad) for name, value in network.named_parameters()]
    return repr((network_state(network), modules, homes))
