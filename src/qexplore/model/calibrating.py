"""A calibration from its data to its report: collect in full precision, compute all ranges, then set them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexplore._choices import MAX_NUM_BITS, has_range, is_float_code, stored_bits
from qexplore.errors import CalibrationError, DataError
from qexplore.model.arithmetic import measuring
from qexplore.model.calibration import (
    CalibrationReport,
    PointRange,
    RangeCollector,
    Ranges,
    gives_each_width_its_own,
    set_ranges,
)
from qexplore.model.examples import Examples
from qexplore.model.inputs import Placement, first_samples
from qexplore.model.marks import NO_MARKS, Marks, sample_marks
from qexplore.model.methods import AUTOMATIC, Methods, methods_text
from qexplore.model.observation import CallCounter
from qexplore.model.passes import Pass
from qexplore.model.point_hook import floating_tensors
from qexplore.model.replaying import SinglePointRuns
from qexplore.model.selectors import KINDS_OF_WORD, PointModules
from qexplore.model.state import in_eval_mode
from qexplore.model.weight_points import WeightPoint, calibrated_rows
from qexplore.model.wrapped import WrappedNetwork
from qexplore.quant import (
    COMPARED,
    WEIGHT_CALIBRATORS,
    WHOLE_RANGE,
    TensorQuantizer,
    known_codes,
    weight_amax_table,
)

Note = Callable[[Examples, set[str]], None]

_COMPARED_BITS = {"activation": 8, "weight": 5}
"""Wider ones take what the widest compared one takes: ranges matter little there."""
_COMPARED_SAMPLES = 32


class OutputWatcher:
    """Finds the points whose tensor is the network's output, or its logits: what is clipped there is lost to the loss.

    Logits are told by their softmax, or its logarithm, over the last axis or the second.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._passed: dict[str, set[tuple[int, int, float]]] = {}
        self._last: dict[str, Tensor] = {}

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Listen at a point."""
        self._passed.setdefault(name, set()).update(map(_mark, tensors))
        self._last.pop(name, None)
        self._last.update((name, tensor) for tensor in tensors[-1:])
        if len(self._last) > _NEAR_THE_END:
            del self._last[next(iter(self._last))]

    def finish(self, output: Any) -> None:
        """Compare with what the network returned, and forget."""
        returned = floating_tensors(output)
        marks = set(map(_mark, returned))
        self.names |= {name for name, passed in self._passed.items() if passed & marks}
        self.names |= {name for name, last in self._last.items() if any(_are_logits(last, one) for one in returned)}
        self._passed.clear()
        self._last.clear()


_NEAR_THE_END = 3
"""So many points at the end of a forward are asked whether they are the logits."""


def _are_logits(tensor: Tensor, output: Tensor) -> bool:
    if tensor.shape != output.shape or tensor.dim() < 2:
        return False
    if tensor.device != output.device:  # a network on several devices may bring its output to another one
        tensor = tensor.to(output.device)
        if torch.equal(tensor, output):
            return True
    functions = (torch.softmax, torch.log_softmax)
    return any(torch.equal(function(tensor, axis), output) for function in functions for axis in {-1, 1})


def _mark(tensor: Tensor) -> tuple[int, int, float]:
    # The address alone may be that of a tensor that is no more.
    return tensor.untyped_storage().data_ptr(), tensor.numel(), float(tensor.sum(dtype=torch.float64))


def calibrate(
    model: WrappedNetwork,
    batches: Pass | None,
    *,
    method: Any,
    weight_method: Any,
    clip_outputs: bool,
    options: dict[str, Any],
    note: Note,
) -> CalibrationReport:
    """As `QuantizedModel.calibrate`; tells ``note`` what the forwards passed, and which points they did."""
    weight_methods = _checked_weight_methods(weight_method, has_data=batches is not None)
    quantizers = model.activation_fake_quantizers
    collector = RangeCollector(quantizers, method, options, is_for_histograms=model.collects_histograms)
    if batches is None and AUTOMATIC in (*collector.methods.names, *weight_methods.names):
        raise DataError('weight_method "auto" compares outputs on data: pass a loader')
    collected = _collect(model, batches, collector)
    if options and not model.activation_fake_quantizers:  # calls of functions are points once data was seen
        raise CalibrationError(f"options of a method are for activations, but there are none to calibrate: {options}")
    count = collected.num_batches
    points = PointModules.of(model)
    asked = collector.methods.of(points.of_kinds(KINDS_OF_WORD["activations"], CalibrationError))
    # A descriptor's histograms were asked for point by point already.
    whole = set() if clip_outputs or collector.is_for_histograms else collected.outputs
    methods = asked | dict.fromkeys(whole, WHOLE_RANGE)
    by_weight_methods = weight_methods.of(points.of_kinds(KINDS_OF_WORD["weights"], CalibrationError))
    by_activation = {
        name: {one: collector.ranges(name, one) for one in _compared(methods[name])} for name in collector.names
    }
    by_weight = {
        point.name: {one: weight_ranges(point, one) for one in _compared(by_weight_methods[point.name], "weight")}
        for point in model.weight_points
    }
    collector.load({name: next(iter(by_method.values())) for name, by_method in by_activation.items()})
    for name, by_method in by_weight.items():
        set_ranges(model.fake_quantizers[name], *next(iter(by_method.values())))
    if any(len(by_method) > 1 for by_method in (*by_activation.values(), *by_weight.values())):
        _take_least_error(model, {**by_activation, **by_weight}, collected.example)
    collector.note_clipped()
    weights = [
        weight_row(point, model.fake_quantizers[point.name], by_weight_methods[point.name])
        for point in model.weight_points
    ]
    report = CalibrationReport(
        (*collector.rows(methods), *weights),
        count,
        methods_text(asked.values()) or collector.methods.default,
        methods_text(by_weight_methods.values()) or None,
        model.inputs_left_float,
    )
    if count:  # last, for it is not undone
        note(collected.examples, collector.names)
        model.calibrated_on = collected.marks
    return report


@dataclass(frozen=True)
class _Collected:
    """What passed the points while data ran through the float network.

    Attributes:
        examples: what passed at the points for a sample, and inputs that show it.
        outputs: names of the points whose tensor is the network's output.
        example: inputs of the first batch; None without data.
        num_batches: how many there were.
        marks: of the samples.
    """

    examples: Examples
    outputs: set[str]
    example: Any
    num_batches: int
    marks: Marks


def _collect(model: WrappedNetwork, batches: Pass | None, collector: RangeCollector) -> _Collected:
    survey = model.survey()
    if batches is None and model.activation_fake_quantizers:
        raise DataError("calibrating activations needs data: pass a loader, model.calibrate(loader)")
    examples, outputs, example, marks = Examples(model.watch), OutputWatcher(), None, [NO_MARKS]
    with measuring(Placement.of(model.model).device):
        for inputs, target in batches or ():
            marks.append(sample_marks(inputs))
            survey.meet(inputs)
            model.settle(survey)
            if example is None:
                model.discover(inputs)
            examples.rename(collector.follow(model.activation_fake_quantizers))
            example, seen = inputs if example is None else example, CallCounter()
            output = model.watch(inputs, seen, collector, outputs)
            outputs.finish(output)
            examples.add(inputs, target, output, seen)
        if batches is not None:
            model.settle(survey, to_the_end=True)
            examples.rename(collector.follow(model.activation_fake_quantizers))
    num_batches = 0 if batches is None else batches.num_done
    return _Collected(examples, outputs.names, example, num_batches, np.concatenate(marks))


def weight_row(point: WeightPoint, quantizer: TensorQuantizer, method: str) -> PointRange:
    """What calibration saw of a weight, and what it made of it."""
    lowest, highest = (float(extreme) for extreme in torch.aminmax(point.parameter.detach()))
    return PointRange.of(point.name, quantizer, lowest, highest, method)


def weight_ranges(point: WeightPoint, method: str) -> Ranges:
    """The ranges of a weight's rows at every choice."""
    rows, shape = calibrated_rows(point)
    if not bool(torch.isfinite(rows).all()):
        raise CalibrationError(f"the weight '{point.name}' must be finite to be calibrated, got NaN or an infinity")
    # One range for all choices is kept as such.
    codes = known_codes(unsigned=False) if gives_each_width_its_own(method) else (0,)
    return {code: amax.reshape(shape) for code, amax in weight_amax_table(rows, method, codes).items()}, None


def _compared(method: str, kind: str = "activation") -> tuple[str, ...]:
    return COMPARED[kind] if method == AUTOMATIC else (method,)


def _checked_weight_methods(given: Any, *, has_data: bool) -> Methods:
    default = AUTOMATIC if has_data else WHOLE_RANGE
    known = (*WEIGHT_CALIBRATORS, AUTOMATIC)
    return Methods.checked("weight_method", given, known, default, ": {} is for activations")


def _take_least_error(model: WrappedNetwork, found: Mapping[str, Mapping[str, Ranges]], example: Any) -> None:
    """Give every point, at every width, the range of the method under which the output differs least, all else float.

    The difference is the mean square over all floating tensors of the output, on a few samples. Float formats that the
    model's scheme has not are not compared.
    """
    inputs = first_samples(Placement.of(model.model).move_inputs(example), _COMPARED_SAMPLES)
    off = [0] * len(model.fake_quantizers)
    with in_eval_mode(model), torch.no_grad(), measuring(Placement.of(model.model).device), model.using(off):
        runs = SinglePointRuns(model, inputs)
        for name, by_method in found.items():
            tables = [_per_choice(ranges) for ranges in by_method.values()]
            if len(tables) < 2 or model.fake_quantizers[name].has_fixed_amax:
                continue
            chosen = dict.fromkeys(tables[0], 0)
            last = 0
            most = _COMPARED_BITS["weight" if name in model.weight_fake_quantizers else "activation"]
            for code in tables[0]:
                is_asked = not is_float_code(code) or model.scheme is None or code in model.scheme.codes
                if stored_bits(np.array(code)) <= most and has_range(code) and is_asked:
                    last = _best(runs, model.fake_quantizers[name], name, code, [table[code] for table in tables])
                    chosen[code] = last
                elif code <= MAX_NUM_BITS or not is_asked:
                    chosen[code] = last
            high = {code: tables[place][code][1] for code, place in chosen.items()}
            low = {code: tables[place][code][0] for code, place in chosen.items()}
            is_symmetric = any(end is None for end in low.values())
            model.fake_quantizers[name].set_amax_table(high, None if is_symmetric else low)


def _best(runs: SinglePointRuns, quantizer: TensorQuantizer, name: str, code: int, ends: Sequence[Any]) -> int:
    if runs.repeat and all(_is_equal(one, ends[0]) for one in ends[1:]):
        return 0
    errors = []
    for low, high in ends:
        quantizer.set_amax_table({code: high}, None if low is None else {code: low})
        errors.append(_difference(runs.output(name, code), runs.expected))
    return int(np.argmin(errors))


def _is_equal(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two ranges, ``(low, high)``, are one for the quantizer."""
    pairs = zip(one, other, strict=True)
    return all(a is b is None or torch.equal(torch.as_tensor(a).float(), torch.as_tensor(b).float()) for a, b in pairs)


def _per_choice(ranges: Ranges) -> dict[int, tuple[Any, Any]]:
    high, low = ranges
    if set(high) == {0}:
        return dict.fromkeys(known_codes(unsigned=True), (None, high[0]))
    return {code: (None if low is None else low[code], end) for code, end in high.items()}


def _difference(output: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    if len(output) != len(expected) or any(a.shape != b.shape for a, b in zip(output, expected, strict=True)):
        return math.inf
    squares = [float((a.double() - b.double()).square().mean()) for a, b in zip(output, expected, strict=True)]
    total = sum(squares)
    return total if math.isfinite(total) else math.inf
