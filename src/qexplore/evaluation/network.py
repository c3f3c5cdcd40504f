"""A network taken apart into steps, accepted only when it gives what the hooked network gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qexplore._random import isolated
from qexplore._trees import cloned, map_tensors, tensors_of
from qexplore.evaluation.graph import Steps, build_steps
from qexplore.evaluation.samples import Batch, Samples
from qexplore.evaluation.simplify import drop_idle, fold_batchnorm, merge_clamps, merge_sums
from qexplore.evaluation.trace import CaptureError, trace, without_writes
from qexplore.model import (
    Candidates,
    Placement,
    QuantizedModel,
    bake_weights,
    call,
    content_version,
    foreign_hooks,
    in_eval_mode,
)
from qexplore.quant import FixedQuantizer

_EXAMPLE_SIZE = 32
_TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output, that folding and another memory layout may make in float."""

Quantizers = list[FixedQuantizer | None]


class Network:
    """The engine's own copy of a wrapped network, in steps.

    The copy has BatchNorm folded into the layers before it, clamps taken over by quantizers, and channels-last tensors
    where the network can take them. It is accepted when, before all that, it equals the hooked network bit for bit at
    two width vectors, and after it the float outputs agree.

    Args:
        model: calibrated; left as it is.
        samples: asked for an example; told to keep the loader's batches where outputs depend on a sample's company.

    Raises:
        CaptureError: says why the network cannot be used in steps.
    """

    def __init__(self, model: QuantizedModel, samples: Samples) -> None:
        self._quantizers = list(model.fake_quantizers.values())
        self._fixed: dict[tuple[int, int], FixedQuantizer | None] = {}
        try:
            copied = copy.deepcopy(model).eval().requires_grad_(False)
            bake_weights(copied.model)
        except Exception as error:
            raise CaptureError(f"the network cannot be copied: {type(error).__name__}: {error}") from error
        copied.num_bits = [0] * self.num_points  # whatever widths the model has just now play no part
        example = samples.part(0, min(_EXAMPLE_SIZE, len(samples))) if samples.can_be_cut else samples.cut(1)[0]
        example = samples.fetched(example)
        self.device = Placement.of(model.model).device
        with torch.no_grad(), isolated(self.device):
            before = content_version(copied)
            self._trace = trace(copied, cloned(example.inputs))
            without_writes(self._trace, cloned(example.inputs))
            self.num_folded = 0
            self.is_channels_last = False
            self._root = self._trace.root
            self.steps = build_steps(self._trace, self._root)
            self._accept(model, example)
            if content_version(copied) != before:  # while it was traced, or run
                raise CaptureError("the network changes its own buffers")
            self._simplify(example)
            self._check_company(samples)
        self.example_size = len(example)

    @property
    def num_points(self) -> int:
        """L, the length of a candidate."""
        return len(self._quantizers)

    @property
    def has_state(self) -> bool:
        """Whether two threads need a copy each: steps set widths inside modules, or run code of the user's own."""
        hooked = any(foreign_hooks(module) for module in self._root.modules())
        return bool(self._trace.hidden or self._trace.opaque or hooked)

    @property
    def opaque(self) -> dict[str, str]:
        """Modules of the user's own that are run as a whole, and why."""
        return self._trace.opaque

    def another(self) -> Steps:
        """The same steps on a copy of the modules."""
        return build_steps(self._trace, copy.deepcopy(self._root))

    def quantizer(self, point: int, width: int) -> FixedQuantizer | None:
        """The quantizer of a point at a width; None where it is off.

        Raises:
            NumBitsError: no width of that quantizer.
        """
        key = point, width
        if key not in self._fixed:
            quantizer = self._quantizers[point]
            off = width == 0 or quantizer.disabled
            self._fixed[key] = None if off else FixedQuantizer.of(quantizer, width)
        return self._fixed[key]

    def quantizers(self, candidate: Sequence[int]) -> Quantizers:
        """One quantizer for each point."""
        return [self.quantizer(point, int(width)) for point, width in enumerate(candidate)]

    def arguments(self, inputs: Any) -> list[Any]:
        """Values of the first steps for one batch."""
        return self._trace.bind(self.laid_out(inputs))

    def laid_out(self, inputs: Any) -> Any:
        """``inputs`` in the memory layout of this copy."""
        if not self.is_channels_last:
            return inputs
        return map_tensors(
            lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor,
            inputs,
        )

    def run(self, inputs: Any, candidate: Sequence[int]) -> Any:
        """The network's output with the widths of ``candidate``."""
        return self.steps.run(self.arguments(inputs), self.quantizers(candidate))

    # ------------------------------------------------------------------------------------------------- acceptance

    def _accept(self, model: QuantizedModel, example: Batch) -> None:
        for candidate in _two_candidates(model):
            expected = _hooked(model, candidate, example, seed=0)
            if not equal(expected, _hooked(model, candidate, example, seed=1)):
                raise CaptureError("the network draws random numbers")
            if not equal(expected, self.run(cloned(example.inputs), candidate)):
                raise CaptureError("the traced network does not equal the hooked one")

    def _simplify(self, example: Batch) -> None:
        off = [0] * len(self._quantizers)
        expected = self.run(cloned(example.inputs), off)
        drop_idle(self._trace)
        self.num_folded = fold_batchnorm(self._trace)
        merge_clamps(self._trace)
        merge_sums(self._trace)
        for channels_last in (True, False):
            self.is_channels_last = channels_last
            layout = torch.channels_last if channels_last else torch.contiguous_format
            _lay_out(self._root, layout)
            self.steps = build_steps(self._trace, self._root)
            try:
                if _close(expected, self.run(cloned(example.inputs), off)):
                    return
            except RuntimeError as error:  # a view that this layout does not allow
                if not channels_last:
                    raise CaptureError(f"the simplified network fails: {error}") from error
        raise CaptureError("folding BatchNorm changes the network's output")

    def _check_company(self, samples: Samples) -> None:
        """A sample's output must not depend on the others in its batch, for batches are cut anew."""
        if not samples.can_be_cut:
            return
        size = min(_EXAMPLE_SIZE, len(samples))
        halfway = samples.part(size // 2, min(size + size // 2, len(samples)))
        first, other = samples.fetched(samples.part(0, size)), samples.fetched(halfway)
        off = [0] * len(self._quantizers)
        try:
            outputs = self.run(cloned(first.inputs), off), self.run(cloned(other.inputs), off)
            shared = [_rows(output, len(batch)) for output, batch in zip(outputs, (first, other), strict=True)]
            alone = not self.opaque and _close(
                map_tensors(lambda tensor: tensor[size // 2 :], shared[0]),
                map_tensors(lambda tensor: tensor[: size - size // 2], shared[1]),
            )
        except (RuntimeError, ValueError):
            alone = False
        if not alone:
            samples.keep_batches()


def _rows(output: Any, size: int) -> Any:
    """``output``, when every tensor in it counts samples on its first axis."""
    if any(not leaf.dim() or leaf.shape[0] != size for leaf in tensors_of(output)):
        raise ValueError("an output without an axis of samples")
    return output


def _lay_out(root: nn.Module, layout: torch.memory_format) -> None:
    for module in root.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=layout)


def _two_candidates(model: QuantizedModel) -> Candidates:
    least = np.array([quantizer.min_num_bits for quantizer in model.fake_quantizers.values()], dtype=int)
    return np.stack([np.maximum(least, 8), np.maximum(least, 2 + np.arange(len(least)) % 7)])


def _hooked(model: QuantizedModel, candidate: Sequence[int], example: Batch, seed: int) -> Any:
    device = Placement.of(model.model).device
    with model.using(list(map(int, candidate))), in_eval_mode(model), isolated(device, seed):
        return call(model, cloned(example.inputs))


def _pairs(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    left, right = tensors_of(first), tensors_of(second)
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        raise CaptureError("the traced network gives another structure than the hooked one")
    return zip(left, right, strict=True)


def equal(first: Any, second: Any) -> bool:
    """Whether all tensors are equal, NaN to NaN."""
    return all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in _pairs(first, second))


def _close(first: Any, second: Any) -> bool:
    def is_close(a: Tensor, b: Tensor) -> bool:
        if not a.is_floating_point():
            return bool((a == b).float().mean() > 1 - _TOLERANCE) if a.numel() else True
        scale = float(a.abs().nan_to_num(posinf=0).max()) if a.numel() else 0.0
        return torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)

    return all(is_close(a, b) for a, b in _pairs(first, second))
