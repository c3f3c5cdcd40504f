"""What every turn-key workflow is asked for, and what each stack gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from qexplore._arguments import checked_int, checked_name
from qexplore.errors import WorkflowError
from qexplore.model import Loader, Unpack
from qexplore.predicates import PredicateLike
from qexplore.stacks.layer import LayerStrategy

Method = Literal["dynamic", "static", "qat"]
"""Post-training dynamic, post-training static, quantization-aware training."""

Engine = Literal["x86", "fbgemm", "onednn", "qnnpack"]

OBSERVERS = {
    # per tensor, per channel; torch.ao and torchao call them alike
    "minmax": ("MinMaxObserver", "PerChannelMinMaxObserver"),
    "moving_average": ("MovingAverageMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"),
    "histogram": ("HistogramObserver", None),
}


def observer_class(which: str, name: str, *, is_per_channel: bool, package: str, choices: str) -> str:
    """What torch.ao and torchao call the observer ``name``, which was given as the argument ``which``.

    Raises:
        WorkflowError: none of that name, or not per channel.
    """
    if name not in OBSERVERS:
        raise WorkflowError(f"{which} must be {choices}, got {name!r}")
    found = OBSERVERS[name][is_per_channel]
    if found is None:
        raise WorkflowError(
            f'{which}="{name}" has no per-channel form in {package}: use "minmax", or weight_granularity="tensor"'
        )
    return found


@dataclass(frozen=True)
class Settings:
    """How a float network is quantized, whichever stack does it.

    Attributes:
        method: what is measured when: ranges of activations at run time (dynamic), on data before (static), or in
            training (qat).
        stack: who does it, by its name in the registry; ``row_for`` says what it can.
        modules: which modules are quantized; None for all that the stack can quantize.
        weight_granularity: one scale per output channel, or one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels the network is made for; None for this machine's default.
        activation_observer: a name (``"minmax"``, ``"moving_average"``, ``"histogram"``), or a class or factory of
            the stack's own observers; None for the stack's default.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
        float_format: of a stack that has formats of its own, see `qexplore.quantize_float8`; None for its default.
        recalibrate: whether such a stack measures BatchNorm statistics anew.
        left_float: layers and functions that stay float whatever ``modules`` says, by their names in the strategy, with
            the reason.

    Raises:
        WorkflowError: what no stack could do.
    """

    method: Method
    stack: str = "fx"
    modules: PredicateLike | None = None
    weight_granularity: Literal["channel", "tensor"] = "channel"
    activations: Literal["affine", "symmetric"] = "affine"
    engine: Engine | None = None
    activation_observer: Any = None
    weight_observer: Any = None
    linear_num_bits: int = 8
    float_format: str | None = None
    recalibrate: bool = True
    left_float: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_own_ranges(self) -> bool:
        """Whether observers of the user's own choose ranges."""
        return callable(self.activation_observer) or callable(self.weight_observer)

    def with_copies(self, copies: Mapping[str, str]) -> Settings:
        """The same of a network in which calls of a module are ``copies`` of it, by whose names they are told."""
        of_copies = {one: self.left_float[name] for one, name in copies.items() if name in self.left_float}
        return replace(self, left_float={**of_copies, **self.left_float})

    def __post_init__(self) -> None:
        checked_name("method", self.method, get_args(Method), WorkflowError)
        checked_name("weight_granularity", self.weight_granularity, ("channel", "tensor"), WorkflowError)
        checked_name("activations", self.activations, ("affine", "symmetric"), WorkflowError)
        if self.engine is not None:
            default = "; leave engine=None for this machine's default"
            checked_name("engine", self.engine, get_args(Engine), WorkflowError, hint=default)
        checked_int("linear_num_bits", self.linear_num_bits, WorkflowError, low=2, high=8)
        if self.method == "dynamic" and self.activation_observer is not None:
            raise WorkflowError(
                "activation_observer must be None in dynamic quantization, where ranges of activations are taken at "
                f"run time, got {self.activation_observer!r}: leave it out, or quantize statically"
            )


@dataclass(frozen=True)
class Step:
    """One call of a layer of a quantized network.

    Attributes:
        name: of its row in the strategy.
        given: what the layer gave, in float; a tree of tensors.
        expected: what the float layer gives on the inputs that the quantized one got.
        ideal: what rounding alone makes of that, to the widths that the row tells, over the ranges of the data.
        read: the inputs.
    """

    name: str
    given: Any
    expected: Any
    ideal: Any
    read: Any


Listener = Callable[[Step], None]

Beside = Callable[[tuple[Any, ...], Listener], None]
"""Runs a quantized network on positional arguments, and tells of each layer that can be held against float alone."""


@dataclass(frozen=True)
class Converted:
    """What a stack gives back.

    Attributes:
        model: the quantized network, on CPU, called like the float one.
        strategy: one row per layer, in call order.
        notes: what the stack changed so that the network passes, or could not do; one sentence each.
        save: writes ``model`` to a file that `load` of the same stack reads.
        script: gives a TorchScript module; None where the stack cannot.
        beside: holds layers against float; None where the stack cannot.
        trained: what training made of the float network's parameters and buffers, by name; empty without training.
    """

    model: nn.Module
    strategy: tuple[LayerStrategy, ...]
    save: Callable[[Path], None]
    notes: tuple[str, ...] = ()
    script: Callable[[], Any] | None = None
    beside: Beside | None = None
    trained: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What a workflow may show to a network. Steps that the settings do not need are None.

    Attributes:
        example: positional arguments of one call, the first a batch of at least two samples.
        calibrate: runs the calibration data through a prepared network, in eval mode and without gradients.
        train: ``train(prepared, freeze)`` trains a prepared network, with an optimizer over its own parameters, and
            leaves it in eval mode, on its device; ``freeze()`` is called once, when observers and BatchNorm statistics
            are to stay as they are.
        loader: the calibration data, for a stack that goes through it in its own way.
        unpack: of its batches.
        progress: whether bars are shown meanwhile; None shows them on a terminal.
    """

    example: tuple[Any, ...]
    calibrate: Callable[[nn.Module], None] | None = None
    train: Callable[[nn.Module, Callable[[], None]], None] | None = None
    loader: Loader | None = None
    unpack: Unpack | None = None
    progress: bool | None = None

    def show(self, prepared: nn.Module, method: Method, freeze: Callable[[nn.Module], None]) -> None:
        """Calibrate or train a prepared network, as ``method`` says; ``freeze`` is for training."""
        if method == "static":
            assert self.calibrate is not None
            self.calibrate(prepared)
        elif method == "qat":
            assert self.train is not None
            self.train(prepared, lambda: freeze(prepared))


class StackFile(Protocol):
    """What each stack's own file offers."""

    def quantize(self, network: nn.Module, settings: Settings, data: Data) -> Converted:
        """Quantize a copy of ``network``, which is on CPU and in eval mode; the given one stays as it is.

        Raises:
            WorkflowError: the stack cannot do this with this network, engine or torch; the sentence says what can.
        """

    def check(self, settings: Settings) -> None:
        """Refuse what the stack does not have, of what its row does not tell already.

        Raises:
            WorkflowError: with what it has.
        """

    def reads(self, path: Path) -> bool:
        """Whether the file at ``path`` was saved by this stack."""

    def load(self, path: Path, network: Any) -> nn.Module:
        """The quantized network in a file that `reads` takes; its outputs equal those of the saved one bit for bit.

        Args:
            path: of the file.
            network: a copy of the float network; None where the stack's row does not ask for it.

        Raises:
            WorkflowError: a torn file, or one of another network.
        """
