"""Bias correction: what quantized weights add to the mean of a layer's output is taken off its bias again.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, with the
mean input measured on data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore._table import Tabular, text_table
from qexplore.errors import CalibrationError, ModelError
from qexplore.model import (
    TRANSPOSED,
    Loader,
    Pass,
    Placement,
    QuantizedModel,
    Unpack,
    alone,
    bare,
    bias_corrections,
    calls_heard_by,
    correct_bias,
    first_samples,
    float_weight,
    is_layer,
    measuring,
    num_groups,
    num_samples,
    num_spatial,
    require_wrapped,
    restore_biases,
    taken_apart,
    unpacking,
)
from qexplore.preparation.connections import outputs_of
from qexplore.preparation.noise import COMPARED_WIDTHS, output_sqnr, weights_at

_COMPARED_SAMPLES = 256


@dataclass(frozen=True)
class LayerShift:
    """By how much quantized weights move the mean output of a layer's channels, in absolute value, averaged over them.

    Attributes:
        name: of the layer.
        before: by width of all weights, with float biases.
        after: the same with corrected ones.
    """

    name: str
    before: Mapping[int, float]
    after: Mapping[int, float]


@dataclass(frozen=True)
class BiasCorrectionReport(Tabular):
    """What `correct_biases` did; ``print`` shows it.

    Attributes:
        layers: each corrected layer and the shift of its output: measured on up to 256 samples, all weights at one
            width and activations in float, so that shifts of earlier layers are in it.
        skipped: other layers with a quantized weight, with the reason.
        sqnr: by width of all weights, ``(before, after)``: signal to quantization noise of the network's output on
            the first batch in dB.
        num_batches: that mean inputs were measured on.
    """

    layers: tuple[LayerShift, ...]
    skipped: Mapping[str, str]
    sqnr: Mapping[int, tuple[float, float]]
    num_batches: int

    def __str__(self) -> str:
        batches = "1 batch" if self.num_batches == 1 else f"{self.num_batches} batches"
        lines = [f"Corrected the biases of {len(self.layers)} layers, mean inputs measured on {batches}"]
        lines += [
            f"Outputs with {width}-bit weights: SQNR {before:.1f} dB -> {after:.1f} dB"
            for width, (before, after) in self.sqnr.items()
        ]
        if self.layers:
            widths = list(self.sqnr)
            rows = [
                (one.name, *(f"{one.before[width]:.2g} -> {one.after[width]:.2g}" for width in widths))
                for one in self.layers
            ]
            header = ("mean |shift| of a layer's output", *(f"{width} bits" for width in widths))
            lines += ["", text_table(header, rows, numeric=range(1, len(header)))]
        if self.skipped:
            lines += ["", text_table(("layer", "bias stays"), list(self.skipped.items()))]
        return "\n".join(lines)


@alone
def correct_biases(
    model: QuantizedModel,
    loader: Loader,
    *,
    num_batches: int | None = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> BiasCorrectionReport:
    """Let the bias of every layer with a quantized weight make up for the shift of its mean output.

    A quantized weight ``W_q`` moves the mean output by ``(W_q - W) E[x]``. ``E[x]`` is measured once, in the float
    network; the shift follows from it for each choice, and the bias that the layer reads is the float bias less that
    shift at the present choice: the float bias itself where the weight is off. All else (evaluation, search, copies,
    ``detach``) goes on as before; called again, it measures anew. `remove_bias_corrections` takes them off.

    Args:
        model: wrapped with ``weights``, and calibrated; as it was when this fails.
        loader: batches as in calibration.
        num_batches: stop after so many; None takes all.
        unpack: ``unpack(batch) -> (inputs, target)``.
        progress: show a bar; None shows it on a terminal.

    Raises:
        ModelError: not a wrapped network with quantized weights, or one without a layer that can be corrected.
        CalibrationError: the model is not calibrated, or NaN or infinity comes to a layer.
        DataError: the loader is empty, or a batch cannot be unpacked.
    """
    _check("correct_biases", model)
    unpack = unpacking(model, unpack)
    batches = Pass(
        "the loader", loader, num_batches=num_batches, unpack=unpack, bar="bias correction", progress=progress
    )
    layers, skipped = _sorted_out(model)
    with measuring(Placement.of(model.model).device):
        means, kept = _measured(model, batches, layers)
        found = {module: mean for module, mean in means.items() if module in layers}
        skipped |= {name: "it is never called" for module, name in layers.items() if module not in found}
        _check_means(found, layers, skipped)
        held = [(module, correction.mean_input) for module, correction in bias_corrections(model.model)]
        try:
            before, after = _before_and_after(model, found, kept)
        except BaseException:
            restore_biases(model.model)
            for module, mean_input in held:
                correct_bias(module, mean_input)
            raise
    return BiasCorrectionReport(
        tuple(LayerShift(layers[module], before.shifts[module], after.shifts[module]) for module in found),
        skipped,
        {width: (noise, after.sqnr[width]) for width, noise in before.sqnr.items()},
        batches.num_done,
    )


@alone
def remove_bias_corrections(model: QuantizedModel) -> None:
    """Give every layer of ``model`` its float bias back, bit for bit."""
    _check("remove_bias_corrections", model)
    restore_biases(model.model)


def _check(owner: str, model: object) -> None:
    if not require_wrapped(owner, model, calibrated=False).weight_points:
        raise ModelError("the model must have quantized weights, but it has none: wrap the network with `weights`")
    require_wrapped(owner, model)


def _sorted_out(model: QuantizedModel) -> tuple[dict[nn.Module, str], dict[str, str]]:
    """Layers that can be corrected, with their names; the others by name, with the reason."""
    names = {id(module): name for name, module in model.model.named_modules()}
    layers: dict[nn.Module, str] = {}
    skipped: dict[str, str] = {}
    for point in model.weight_points:
        for module, _ in point.holders:
            reason = _refusal(module)
            if reason is None:
                layers[module] = names[id(module)]
            else:
                skipped[names[id(module)]] = reason
    return layers, skipped


def _refusal(module: Any) -> str | None:
    if not is_layer(module):
        return f"{parametrize.type_before_parametrizations(module).__name__} is no convolution or linear layer of torch"
    corrected = [layer for layer, _ in bias_corrections(module)]
    if "bias" in module.parametrizations and module not in corrected:
        return "its bias is parametrized"
    if module.bias is None:
        return "it has no bias: qexplore.fold_batchnorm gives one to a layer before BatchNorm"
    return None


def _measured(
    model: QuantizedModel, batches: Pass, layers: Mapping[nn.Module, str]
) -> tuple[dict[nn.Module, Tensor], list[Any]]:
    """Mean inputs of the layers that are called, and inputs for comparing."""
    means, kept, room = _MeanInputs(), [], _COMPARED_SAMPLES
    for inputs, _ in batches:
        if room > 0:
            kept.append(first_samples(inputs, room))
            room -= num_samples(kept[-1])
        with calls_heard_by(layers, means):
            model.listen(inputs, lambda *_: None)
    return {layer: mean.float() for layer, mean in means.found().items()}, kept


def _check_means(
    found: Mapping[nn.Module, Tensor], layers: Mapping[nn.Module, str], skipped: Mapping[str, str]
) -> None:
    if not found:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in skipped.items())
        raise ModelError(f"at least one layer must have a bias that can be corrected, but none has: {reasons}")
    for module, mean in found.items():
        if not bool(torch.isfinite(mean).all()):
            raise CalibrationError(f"inputs of '{layers[module]}' must be finite, got NaN or an infinity")


def _before_and_after(
    model: QuantizedModel, found: Mapping[nn.Module, Tensor], inputs: Sequence[Any]
) -> tuple[_Comparison, _Comparison]:
    """Correct the biases; the model before and after that."""
    restore_biases(model.model)
    before = _Comparison(model, list(found), inputs)
    for module, mean in found.items():
        correct_bias(module, mean)
    return before, _Comparison(model, list(found), inputs)


class _Means:
    """Means by layer, of what is added call by call."""

    def __init__(self) -> None:
        self._totals: dict[nn.Module, Tensor] = {}
        self._counts: dict[nn.Module, int] = {}

    def add(self, layer: nn.Module, total: Tensor, count: int) -> None:
        """Add a sum of ``count`` values."""
        self._totals[layer] = self._totals[layer] + total if layer in self._totals else total
        self._counts[layer] = self._counts.get(layer, 0) + count

    def found(self) -> dict[nn.Module, Tensor]:
        """The means in float64, in the order in which layers were first called."""
        return {layer: total / self._counts[layer] for layer, total in self._totals.items()}


class _MeanInputs(_Means):
    """Hears calls of layers, and finds the mean of what each weight of a kernel is multiplied with.

    That is the gradient of a mean output with respect to the weight, exact whatever padding, stride or dilation.
    Shape ``[groups, inputs of a group, kernel]``.
    """

    @torch.enable_grad()
    def __call__(self, layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        """Listen to one call."""
        groups, is_transposed = num_groups(layer), isinstance(layer, TRANSPOSED)
        # One output channel a group is enough.
        weight: Any = float_weight(layer, "weight").detach().float()
        weight = weight[:, :1] if is_transposed else weight[:: len(weight) // groups]
        plain: Any = bare(layer, {"weight": weight, "bias": None})
        plain.weight.requires_grad_(True)
        given = [one.detach().float() if isinstance(one, Tensor) else one for one in args]
        named = {key: one.detach().float() if isinstance(one, Tensor) else one for key, one in kwargs.items()}
        (total,) = torch.autograd.grad(plain.forward(*given, **named).sum(), plain.weight)
        total = taken_apart(total, groups, is_transposed)[:, 0].double()
        self.add(layer, total, output.numel() // output.shape[_channel_axis(layer, output)])


class _MeanOutputs(_Means):
    """Hears calls of layers, and finds the mean of each channel that they give, shape ``[channels]``."""

    def __call__(self, layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        """Listen to one call."""
        axis = _channel_axis(layer, output)
        total = output.detach().double().transpose(0, axis).flatten(1).sum(dim=1)
        self.add(layer, total, output.numel() // output.shape[axis])


def _channel_axis(layer: nn.Module, output: Tensor) -> int:
    return output.dim() - num_spatial(layer) - 1


class _Comparison:
    """The model with all weights at one width and activations in float, beside the float network.

    Attributes:
        shifts: by layer and width, how far the means of its channels are moved, averaged over channels.
        sqnr: by width, of the network's output in dB.
    """

    def __init__(self, model: QuantizedModel, layers: Sequence[nn.Module], batches: Sequence[Any]) -> None:
        plain = self._means(model, layers, batches, None)
        self.shifts: dict[nn.Module, dict[int, float]] = {layer: {} for layer in layers}
        self.sqnr: dict[int, float] = {}
        with model.using(weights_at(model, 0)):
            expected = outputs_of(model.model, batches[0])
        for width in COMPARED_WIDTHS:
            moved = self._means(model, layers, batches, width)
            for layer in layers:
                self.shifts[layer][width] = float((moved[layer] - plain[layer]).abs().mean())
            self.sqnr[width] = output_sqnr(model, width, batches[0], expected)

    @staticmethod
    def _means(
        model: QuantizedModel, layers: Sequence[nn.Module], batches: Sequence[Any], width: int | None
    ) -> dict[nn.Module, Tensor]:
        means = _MeanOutputs()
        with model.using(weights_at(model, width or 0)), calls_heard_by(layers, means):
            for inputs in batches:
                model.listen(inputs, lambda *_: None, quantized=width is not None)
        return means.found()
