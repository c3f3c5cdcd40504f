"""A network taken apart into steps, accepted only when it gives what the hooked network gives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from qexplore._trees import cloned, map_tensors, tensors_of
from qexplore.evaluation.agreement import Precision, as_one, equal, is_close, largest_difference
from qexplore.evaluation.graph import Steps, build_steps
from qexplore.evaluation.samples import Batch, Samples
from qexplore.evaluation.series import series_of
from qexplore.evaluation.simplify import drop_idle, fold_batchnorm, has_batchnorm, merge_clamps, merge_sums
from qexplore.evaluation.softmax import quicken_softmax
from qexplore.evaluation.trace import CaptureError, trace
from qexplore.evaluation.written import without_writes
from qexplore.model import (
    Candidates,
    Placement,
    QuantizedModel,
    WeightStore,
    bake_weights,
    call,
    content_version,
    foreign_hooks,
    in_eval_mode,
    measuring,
)
from qexplore.quant import FixedQuantizer

_EXAMPLE_SIZES = 8, 32
_SHARE_OF_SET = 16
"""An example is run about a dozen times: so much of a set it may be, within those sizes."""


class MostlyOpaque(CaptureError):
    """A network most of which is one step."""


Quantizers = list[FixedQuantizer | None]


class Network:
    """The engine's own copy of a wrapped network, in steps.

    The copy has BatchNorm folded into the layers before it, clamps taken over by quantizers, and channels-last tensors
    where the network can take them. It is accepted when, before all that, it equals the hooked network bit for bit at
    two width vectors, and after it the float outputs agree: within a thousandth of the largest, and where values are of
    half precision no further apart than a batch of another size drives them. Nothing is folded there, for what rounds
    weights once more moves outputs by more than that.

    Args:
        model: calibrated; left as it is.
        samples: asked for an example; told to keep the loader's batches where outputs depend on a sample's company.

        weights: holds quantized weights of modules that run as a whole.

    Raises:
        MostlyOpaque: most points lie in one module that cannot be taken apart, and ``whole`` is not asked for.
        CaptureError: says why the network cannot be used in steps.
    """

    is_stack = False
    """Whether it runs as it is written, in the calling thread, and shares modules instead of steps."""

    def __init__(
        self, model: QuantizedModel, samples: Samples, weights: WeightStore | None = None, *, whole: bool = True
    ) -> None:
        self._quantizers = list(model.fake_quantizers.values())
        self._fixed: dict[tuple[int, int], FixedQuantizer | None] = {}
        self.weights = WeightStore() if weights is None else weights
        self.device = Placement.of(model.model).device
        self.num_folded = 0
        self.is_channels_last = False
        self.notes: tuple[str, ...] = ()
        self._capture(model, samples, whole)

    def _capture(self, model: QuantizedModel, samples: Samples, whole: bool) -> None:
        try:
            copied = copy.deepcopy(model).eval().requires_grad_(False)
            bake_weights(copied.model)
        except Exception as error:
            raise CaptureError(f"the network cannot be copied: {type(error).__name__}: {error}") from error
        copied.num_bits = [0] * self.num_points  # whatever widths the model has just now play no part
        example = example_of(samples, _example_size(samples))
        with torch.no_grad(), measuring(self.device):
            before = content_version(copied)
            self._trace = trace(copied, cloned(example.inputs))
            if not whole:
                self._refuse_most_in_one()
            expected = without_writes(self._trace, cloned(example.inputs))
            self._precision = Precision.of(self._trace.graph)
            self._root = self._trace.root
            self.steps = build_steps(self._trace, self._root, self.weights)
            self._accept(model, example)
            if content_version(copied) != before:  # while it was traced, or run
                raise CaptureError("the network changes its own buffers")
            output = self._simplify(samples, example, expected)
            self._check_company(samples, example, output)
        self.example_size = len(example)

    def _refuse_most_in_one(self) -> None:
        for name, reason in self._trace.opaque.items():
            if 2 * len(self._trace.hidden.get(name, ())) > self.num_points:
                raise MostlyOpaque(f"'{name}' is one step ({reason})")

    @property
    def num_points(self) -> int:
        """L, the length of a candidate."""
        return len(self._quantizers)

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """As `series_of`."""
        return series_of(self._trace)

    @property
    def has_state(self) -> bool:
        """Whether two threads need a copy each: steps set widths inside modules, or run code of the user's own."""
        return bool(self._trace.hidden) or self.runs_own_code

    @property
    def runs_own_code(self) -> bool:
        """Whether a step runs code of the user's own: modules as a whole, and hooks."""
        return bool(self._trace.opaque) or any(foreign_hooks(module) for module in self._root.modules())

    @property
    def opaque(self) -> dict[str, str]:
        """Modules of the user's own that are run as a whole, and why."""
        return self._trace.opaque

    def another(self) -> Steps:
        """The same steps on a copy of the modules."""
        return build_steps(self._trace, copy.deepcopy(self._root), self.weights)

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
        first, last = two_candidates(model)
        for candidate in (first, last):
            expected = hooked(model, candidate, example, seed=0)
            if candidate is first and not equal(expected, hooked(model, candidate, example, seed=1)):
                raise CaptureError("the network draws random numbers")
            if not equal(expected, self.run(cloned(example.inputs), candidate)):
                autocast = ", which enters torch.autocast" if self._precision.is_mixed else ""
                raise CaptureError(f"the traced network does not equal the hooked one{autocast}")

    def _simplify(self, samples: Samples, example: Batch, expected: Any) -> Any:
        """The output for ``example`` of as few steps as can be, which is near ``expected``; both in float."""
        largest = self._by_batch_size(samples, example, expected) if self._precision.is_half else None
        drop_idle(self._trace)
        merge_clamps(self._trace)
        merge_sums(self._trace)
        quicken_softmax(self._trace, self.device)
        wants_folding = has_batchnorm(self._trace)
        output = self._folded(example, expected) if wants_folding and not self._precision.is_half else None
        if output is not None:
            return output
        output = self._laid_out(example, expected, largest)
        if output is None:
            raise CaptureError("fewer steps, or another memory layout, change the network's output")
        reason = "in half precision" if self._precision.is_half else "it changes outputs by more than a thousandth"
        if wants_folding:
            self.notes += (f"BatchNorm not folded ({reason})",)
        return output

    def _folded(self, example: Batch, expected: Any) -> Any:
        """The output with BatchNorm folded; None where that cannot be done, and all is as it was."""
        graph, modules = copy.deepcopy(self._trace.graph), dict(self._root.named_modules())
        self.num_folded = fold_batchnorm(self._trace)
        output = self._laid_out(example, expected, None)
        if output is not None:
            return output
        self.num_folded, self._trace.graph = 0, graph
        for name, module in modules.items():
            if name and self._root.get_submodule(name) is not module:
                self._root.set_submodule(name, module)
        return None

    def _laid_out(self, example: Batch, expected: Any, largest: float | None) -> Any:
        """The output in the first memory layout whose is close to ``expected``, or at most ``largest`` apart."""
        for layout in (torch.channels_last, torch.contiguous_format):
            self.is_channels_last = layout is torch.channels_last
            _lay_out(self._root, layout)
            self.steps = build_steps(self._trace, self._root, self.weights)
            try:
                output = self.run(cloned(example.inputs), [0] * len(self._quantizers))
            except RuntimeError as error:  # a view that this layout does not allow
                if not self.is_channels_last:
                    raise CaptureError(f"the simplified network fails: {error}") from error
                continue
            if largest is None and is_close(expected, output):
                return output
            if largest is not None and (difference := largest_difference(expected, output)) <= largest:
                self.notes += (self._precision.note(difference, largest),)
                return output
        return None

    def _by_batch_size(self, samples: Samples, example: Batch, expected: Any) -> float:
        """How far the network's own outputs move when a batch is cut in two, within what its precision explains."""
        if not samples.can_be_cut or len(example) < 2:
            return 0.0
        half, size, off = len(example) // 2, len(example), [0] * len(self._quantizers)
        try:
            parts = [
                _rows(self.run(cloned(samples.part(*ends).inputs), off), ends[1] - ends[0])
                for ends in ((0, half), (half, size))
            ]
            both = as_one(parts)
            return min(self._precision.tolerance, largest_difference(expected, both))
        except (RuntimeError, ValueError):
            return 0.0

    def _check_company(self, samples: Samples, example: Batch, output: Any) -> None:
        """A sample's output must not depend on the others in its batch, for batches are cut anew.

        ``output`` is that for ``example``, the first samples.
        """
        if not samples.can_be_cut:
            return
        size = len(example)
        other = samples.fetched(samples.part(size // 2, min(size + size // 2, len(samples))))
        try:
            halfway = self.run(cloned(other.inputs), [0] * len(self._quantizers))
            shared = _rows(output, size), _rows(halfway, len(other))
            alone = not self.opaque and is_close(
                map_tensors(lambda tensor: tensor[size // 2 :], shared[0]),
                map_tensors(lambda tensor: tensor[: size - size // 2], shared[1]),
                self._precision.one_rounding,
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


def _example_size(samples: Samples) -> int:
    least, most = _EXAMPLE_SIZES
    return min(most, max(least, len(samples) // _SHARE_OF_SET))


def example_of(samples: Samples, size: int) -> Batch:
    """``size`` samples at most, on the network's device; a batch of the loader's where they cannot be cut."""
    return samples.fetched(samples.part(0, min(size, len(samples))) if samples.can_be_cut else samples.cut(1)[0])


def two_candidates(model: QuantizedModel) -> Candidates:
    """What a copy is held against the network at, shape ``[2, L]``."""
    least = np.array([quantizer.min_num_bits for quantizer in model.fake_quantizers.values()], dtype=int)
    return np.stack([np.maximum(least, 8), np.maximum(least, 2 + np.arange(len(least)) % 7)])


def hooked(model: QuantizedModel, candidate: Sequence[int], example: Batch, seed: int) -> Any:
    """The network's own output at ``candidate``."""
    device = Placement.of(model.model).device
    with model.using(list(map(int, candidate))), in_eval_mode(model), measuring(device, seed):
        return call(model, cloned(example.inputs))
