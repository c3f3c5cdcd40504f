"""What torchao is told: widths, observers, and which operators of an exported graph are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from qexplore._optional import import_optional
from qexplore._quiet import silenced
from qexplore.errors import WorkflowError
from qexplore.stacks.base import OBSERVERS, Settings, observer_class
from qexplore.stacks.exported_modules import innermost

_PACKAGE = "torchao.quantization.pt2e"
_CHOICES = (
    ", ".join(f'"{name}"' for name in OBSERVERS)
    + f", an observer class of {_PACKAGE}, or a factory of one such as MinMaxObserver.with_args(...)"
)
_PATTERNS = ("_fuse_conv_bn_qat", "_fold_conv_bn_qat")
_SMALLEST_SCALE = 2**-12
_LEFT_BEHIND = (torch.ops.aten.linear.default, torch.ops.aten.conv1d.default)
"""Operators that torchao's quantizer can annotate, but does not find where no module of their own calls them."""

_OWN_RANGE = (
    *(torch.ops.aten.cat.default, torch.ops.aten.mean.default, torch.ops.aten.mean.dim),
    *(torch.ops.aten.avg_pool2d.default, torch.ops.aten.adaptive_avg_pool2d.default),
)
"""Operators whose output has another range than their inputs, or whose inputs have different ones."""

_WITH_NUMBER = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


def torchao(name: str = "") -> Any:
    """The module ``name`` of torchao's PT2E part.

    Raises:
        MissingPackageError: torchao is not installed.
    """
    with silenced():
        return import_optional(f"{_PACKAGE}{name}", extra="pt2e", purpose='the stack "pt2e"')


@contextmanager
def without_patterns(*, unless: bool) -> Iterator[None]:
    """Let torchao not look for convolutions with a BatchNorm for a block, ``unless`` there are some that it must find.

    It traces its patterns anew for each network with any BatchNorm, which takes a minute and more.
    """
    module = torchao(".quantize_pt2e")
    known = {name: getattr(module, name) for name in _PATTERNS if hasattr(module, name) and not unless}
    for name in known:
        setattr(module, name, lambda model: model)
    try:
        yield
    finally:
        for name, function in known.items():
            setattr(module, name, function)


class Quantizer:
    """torchao's X86InductorQuantizer with the settings of a workflow, and the operators that it leaves behind.

    Args:
        settings: of the workflow.
        float_modules: names of modules, and of functions, that stay float.

    Raises:
        WorkflowError: observers that torchao does not have.
    """

    def __init__(self, settings: Settings, float_modules: frozenset[str]) -> None:
        self._config = _configuration(settings)
        self._float_modules = float_modules
        self._targets = _LEFT_BEHIND if settings.method != "dynamic" else _LEFT_BEHIND[:1]
        self._x86 = torchao(".quantizer.x86_inductor_quantizer").X86InductorQuantizer()
        for name in float_modules:
            self._x86.set_module_name_qconfig(name, None)
        if settings.method == "dynamic":
            self._x86.set_module_type_qconfig(nn.Linear, self._config)
            return
        if settings.modules is not None:
            # A predicate chooses modules, and a product is none.
            self._x86.set_function_type_qconfig(torch.mul, None)
        self._x86.set_global(self._config)

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        """Asked by torchao before `annotate`: nothing to change."""
        return model

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Mark what is quantized, and how."""
        _hide_numbers(model)
        _tell_calls_apart(model)
        self._x86.annotate(model)
        for node in model.graph.nodes:
            if node.name in self._float_modules:  # a function
                node.meta.pop("quantization_annotation", None)
            elif node.target in _OWN_RANGE and _is_annotated(node):
                self._give_own_ranges(node.meta["quantization_annotation"])
            if node.target in self._targets and not _is_annotated(node):
                self._annotate(node)
        return model

    def _annotate(self, node: fx.Node) -> None:
        if innermost(node) in self._float_modules:
            return
        # Both have a weight and may have a bias in the same places.
        self._x86._annotate_conv_node_helper(node, True, self._config)

    def _give_own_ranges(self, annotation: Any) -> None:
        """Let what ``annotation`` is of have a range for each tensor, where torchao has one for all."""
        shared, own = torchao(".quantizer").SharedQuantizationSpec, self._config.input_activation
        given = annotation.input_qspec_map
        annotation.input_qspec_map = {one: own if isinstance(spec, shared) else spec for one, spec in given.items()}
        if isinstance(annotation.output_qspec, shared):
            annotation.output_qspec = self._config.output_activation

    def validate(self, model: fx.GraphModule) -> None:
        """Asked by torchao after `annotate`: everything was checked before."""

    def prepare_obs_or_fq_callback(self, model: fx.GraphModule, observers: Any) -> None:
        """Asked by torchao before it inserts observers: they stay as they are."""


def _hide_numbers(model: fx.GraphModule) -> None:
    """Let sums with a number be no part of a pattern: torchao's quantizer stops where it looks for a second tensor."""
    for node in model.graph.nodes:
        if node.target in _WITH_NUMBER and len(node.all_input_nodes) < 2:
            node.meta.pop("source_fn_stack", None)
            node.meta.pop("torch_fn", None)


def _tell_calls_apart(model: fx.GraphModule) -> None:
    """Let ``torch.add(x, y)`` and ``x + y`` be two: torch counts calls of each, torchao takes equal counts for one."""
    for node in model.graph.nodes:
        if "torch_fn" in node.meta:
            call, function = node.meta["torch_fn"]
            node.meta["torch_fn"] = (f"{call} of {function}", function)


def _is_annotated(node: fx.Node) -> bool:
    annotation = node.meta.get("quantization_annotation")
    return annotation is not None and annotation._annotated


def _configuration(settings: Settings) -> Any:
    quantizer = torchao(".quantizer")
    activation = _activation(settings)
    weight = _weight(settings)
    return quantizer.QuantizationConfig(activation, activation, weight, None, settings.method == "qat")


def _activation(settings: Settings) -> Any:
    # Symmetric integers have the zero point 0, which only signed ones can.
    is_symmetric = settings.activations == "symmetric"
    format = {
        "dtype": torch.int8 if is_symmetric else torch.uint8,
        "quant_min": -128 if is_symmetric else 0,
        "quant_max": 127 if is_symmetric else 255,
        "qscheme": torch.per_tensor_symmetric if is_symmetric else torch.per_tensor_affine,
    }
    if settings.method == "dynamic":
        constructor = torchao().PlaceholderObserver.with_args(eps=_SMALLEST_SCALE)
    else:
        default = "moving_average" if settings.method == "qat" else "histogram"
        constructor = _constructor("activation_observer", settings, default, format)
    return _spec(format, constructor, is_dynamic=settings.method == "dynamic")


def _weight(settings: Settings) -> Any:
    is_per_channel = settings.weight_granularity == "channel"
    format: dict[str, Any] = {
        "dtype": torch.int8,
        "quant_min": -128,
        "quant_max": 127,
        "qscheme": torch.per_channel_symmetric if is_per_channel else torch.per_tensor_symmetric,
    }
    if is_per_channel:
        format["ch_axis"] = 0
    default = "moving_average" if settings.method == "qat" else "minmax"
    return _spec(format, _constructor("weight_observer", settings, default, format), is_dynamic=False)


def _spec(format: dict[str, Any], constructor: Any, *, is_dynamic: bool) -> Any:
    return torchao(".quantizer").QuantizationSpec(
        **format, is_dynamic=is_dynamic, observer_or_fake_quant_ctr=constructor
    )


def _constructor(which: str, settings: Settings, default: str, format: dict[str, Any]) -> Any:
    """What torchao builds an observer with, or a fake quantizer for QAT; tried once, so that mistakes show here."""
    pt2e = torchao()
    given = getattr(settings, which)
    constructor = default if given is None else given
    if isinstance(constructor, str):
        is_per_channel = "ch_axis" in format
        name = observer_class(which, constructor, is_per_channel=is_per_channel, package="torchao", choices=_CHOICES)
        constructor = getattr(pt2e, name).with_args(eps=_SMALLEST_SCALE)  # as torchao's own configurations have it
    if isinstance(constructor, nn.Module) or not hasattr(constructor, "with_args"):
        raise WorkflowError(f"{which} must be {_CHOICES}, got {given!r}")
    try:
        built = constructor.with_args(**format)()
    except (AssertionError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise WorkflowError(f"{which}={given!r} cannot be built for {format}: {error}") from error
    if settings.method == "qat" and isinstance(built, pt2e.FakeQuantizeBase):
        return constructor
    if not isinstance(built, pt2e.ObserverBase):
        raise WorkflowError(f"{which} must be {_CHOICES}, got {given!r}, which gives a {type(built).__name__}")
    return _fake_quantizing(constructor, built) if settings.method == "qat" else constructor


def _fake_quantizing(constructor: Any, built: Any) -> Any:
    pt2e = torchao()
    averages = (pt2e.MovingAverageMinMaxObserver, pt2e.MovingAveragePerChannelMinMaxObserver)
    # One kernel observes and rounds, but in symmetric ranges on another grid than conversion does.
    fused = isinstance(built, averages) and built.qscheme == torch.per_tensor_affine
    kind = pt2e.FusedMovingAvgObsFakeQuantize if fused else pt2e.FakeQuantize
    return kind.with_args(observer=constructor)
