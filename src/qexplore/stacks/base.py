"""What every turn-key workflow is asked for, and what each stack gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from qexplore.predicates import PredicateLike

Method = Literal["dynamic", "static", "qat"]
"""Post-training dynamic, post-training static, quantization-aware training."""

Stack = Literal["eager", "fx", "pt2e", "onnxruntime"]

Engine = Literal["x86", "fbgemm", "onednn", "qnnpack"]


@dataclass(frozen=True)
class Settings:
    """How a float network is quantized, whichever stack does it.

    Attributes:
        method: what is measured when: ranges of activations at run time (dynamic), on data before (static), or in
            training (qat).
        stack: who does it.
        modules: which modules are quantized; None for all that the stack can quantize.
        weight_granularity: one scale per output channel, or one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels the network is made for; None for this machine's default.
        activation_observer: a name (``"minmax"``, ``"moving_average"``, ``"histogram"``), or a class or factory of
            the stack's own observers; None for the stack's default.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
        float_format: of `qexplore.quantize_float8`, which is no stack that `quantize_static` knows; None for integers.
    """

    method: Method
    stack: Stack | Literal["float8"]
    modules: PredicateLike | None = None
    weight_granularity: Literal["channel", "tensor"] = "channel"
    activations: Literal["affine", "symmetric"] = "affine"
    engine: Engine | None = None
    activation_observer: Any = None
    weight_observer: Any = None
    linear_num_bits: int = 8
    float_format: str | None = None


@dataclass(frozen=True)
class LayerStrategy:
    """How one layer is quantized, read back from the converted model.

    Attributes:
        name: qualified name in the float network, or the node's name for a function such as an addition.
        type: such as ``"Conv2d"``, or ``"add"``.
        weights: such as ``"int8 per channel"``; empty for a layer without weights, or whose weights stay float.
        activations: such as ``"uint8 per tensor, affine"``; empty where the output stays float.
        reason: why so; for a layer left float, why.
    """

    name: str
    type: str
    weights: str
    activations: str
    reason: str

    @property
    def is_quantized(self) -> bool:
        """Whether anything of the layer is in integers."""
        return bool(self.weights or self.activations)


@dataclass(frozen=True)
class Converted:
    """What a stack gives back.

    Attributes:
        model: the quantized network, on CPU, called like the float one.
        strategy: one row per layer, in call order.
        notes: what the stack changed so that the network passes, or could not do; one sentence each.
        save: writes ``model`` to a file that `load` of the same stack reads.
        script: gives a TorchScript module; None where the stack cannot.
    """

    model: nn.Module
    strategy: tuple[LayerStrategy, ...]
    save: Callable[[Path], None]
    notes: tuple[str, ...] = ()
    script: Callable[[], Any] | None = None


class Train(Protocol):
    """Trains a prepared network."""

    def __call__(
        self,
        prepared: nn.Module,
        freeze: Callable[[], None],
        *,
        set_mode: Callable[[nn.Module, bool], None] | None = None,
    ) -> None:
        """Train ``prepared`` with an optimizer over its own parameters, and leave it in eval mode, on its device.

        Args:
            prepared: what a stack made of a float network, ready for training.
            freeze: called once, when observers and BatchNorm statistics are to be frozen.
            set_mode: switches to training (True) or eval mode, for exported modules that have no ``train()``.
        """


@dataclass(frozen=True)
class Data:
    """What a workflow may show to a network. Steps that the settings do not need are None.

    Attributes:
        example: positional arguments of one call, the first a batch of at least two samples.
        calibrate: runs the calibration data through a prepared network, in eval mode and without gradients.
        train: trains a prepared network with an optimizer over that network's own parameters.
    """

    example: tuple[Any, ...]
    calibrate: Callable[[nn.Module], None] | None = None
    train: Train | None = None


class Quantize(Protocol):
    """The one function that each stack's file offers."""

    def __call__(self, network: nn.Module, settings: Settings, data: Data) -> Converted:
        """Quantize a copy of ``network``, which is on CPU and in eval mode; the given one stays as it is.

        Raises:
            WorkflowError: the stack cannot do this with this network, engine or torch; the sentence says what can.
        """
