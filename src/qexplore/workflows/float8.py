"""Post-training quantization to 8-bit floats in one call, in float arithmetic: what a float8 device would lose."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qexplore._choices import FloatFormat, choice_of
from qexplore._random import isolated
from qexplore.errors import SelectionError, WorkflowError
from qexplore.metrics import as_metric
from qexplore.model import Loader, QuantizedModel, Unpack, num_samples
from qexplore.predicates import PredicateLike, as_predicate, select_modules, weighted
from qexplore.preparation import recalibrate_batchnorm
from qexplore.quant import decode_floats, encode_floats
from qexplore.stacks import ChosenModules, Feeding, LayerStrategy, Settings, feeding_of, read_state, write_state
from qexplore.workflows.measuring import bytes_on_disk, float_bytes_on_disk, measure_latency
from qexplore.workflows.results import QuantizationResult, WorkflowReport
from qexplore.workflows.running import Reporting, example_arguments, first_inputs, float_copy

Format = Literal["E4M3", "E5M2", "E3M4", "mixed"]

FORMATS: dict[str, tuple[str, str]] = {
    "E4M3": ("E4M3", "E4M3"),
    "E5M2": ("E5M2", "E5M2"),
    "E3M4": ("E3M4", "E3M4"),
    "mixed": ("E4M3", "E3M4"),
}
"""By name: the format of activations, and that of weights."""


def quantize_float8(
    network: nn.Module,
    calibration_loader: Loader,
    *,
    format: Format = "E4M3",
    modules: PredicateLike | None = None,
    recalibrate: bool = True,
    report_loader: Loader | None = None,
    metric: Any = None,
    unpack: Unpack | None = None,
    progress: bool | None = None,
) -> QuantizationResult:
    """Quantize a float network to 8-bit floats after training: weights, and the tensors that quantized layers read.

    Weights have a scale per output channel, activations one per tensor, both from the largest magnitude seen (arXiv
    2209.05433 and 2309.14592). The arithmetic is emulated in float32: accuracy is what a device with these formats
    would give but for its own summation; time is not.

    Args:
        network: a float network, left as it is.
        calibration_loader: batches of typical inputs, for scales and BatchNorm statistics.
        format: ``"E4M3"``, ``"E5M2"``, ``"E3M4"``, or ``"mixed"``, E4M3 activations with E3M4 weights.
        modules: which layers are quantized, of those with weights; None for all of them.
        recalibrate: measure BatchNorm statistics anew through the quantized network, see `recalibrate_batchnorm`.
        report_loader: batches on which accuracy before and after is measured; comes with ``metric``.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show bars on stderr; None shows them on a terminal.

    Returns:
        A `QuantizedModel` and its report. Saved files hold weights as one byte each, with their scales.

    Raises:
        WorkflowError: an unknown format.
        SelectionError: ``modules`` selects no layer with weights.
        ModelError: the network is wrapped (call ``detach()``), carries hooks, or cannot be copied.
        DataError, CalibrationError: the calibration data cannot be used.
        MetricError: ``report_loader`` without ``metric``, or the other way round.
    """
    if format not in FORMATS:
        raise WorkflowError(f"`format` must be one of {', '.join(map(repr, FORMATS))}, got {format!r}")
    reporting = Reporting(report_loader, metric, unpack, progress)
    inputs = first_inputs(calibration_loader, "calibration_loader", unpack)
    with isolated(torch.device("cpu")):
        copied = float_copy(network)
        example = example_arguments(copied, inputs)
        wanted = weighted if modules is None else weighted & as_predicate(modules)
        chosen = select_modules(copied, wanted)
        feeding = feeding_of(copied, example, chosen)
        settings = Settings(
            "static",
            "float8",
            None if modules is None else ChosenModules(chosen, str(as_predicate(modules))),
            float_format=format,
        )
        model = _wrapped(float_copy(network), tuple(chosen), feeding.producers, feeding.reads_input, format)
        model.calibrate(
            calibration_loader, method="max", weight_method="max", unpack=unpack, progress=progress, clip_outputs=True
        )
        notes = ["float8 is emulated in float32: accuracy is measured, its time is not"]
        if recalibrate:
            recalibrated = recalibrate_batchnorm(model, calibration_loader, unpack=unpack, progress=progress)
            notes += [str(recalibrated).splitlines()[0]] if recalibrated.layers else []
        save = partial(_save, model, settings, feeding)
        report = _report(copied, model, settings, reporting, example, feeding, save, tuple(notes))
    return QuantizationResult(model, report, save)


def _wrapped(
    network: nn.Module, weights: tuple[str, ...], producers: tuple[str, ...], reads_input: bool, format: str
) -> QuantizedModel:
    """Quantizers on these modules' weights and outputs, all of the format."""
    activations, of_weights = FORMATS[format]
    model = QuantizedModel(
        network,
        ChosenModules(producers) if producers else None,
        ChosenModules(weights),
        quantize_input=reads_input,
        unsigned=False,
        outputs="all",
        init_num_bits=activations,
    )
    names = set(model.weight_fake_quantizers)
    model.num_bits = {name: of_weights if name in names else activations for name in model.fake_quantizers}
    return model.eval()


def _report(
    network: nn.Module,
    model: QuantizedModel,
    settings: Settings,
    reporting: Reporting,
    example: tuple[Any, ...],
    feeding: Feeding,
    save: Callable[[Path], None],
    notes: tuple[str, ...],
) -> WorkflowReport:
    return WorkflowReport(
        settings=settings,
        metric="" if reporting.metric is None else as_metric(reporting.metric).name,
        accuracy_before=reporting.accuracy(network),
        accuracy_after=reporting.accuracy(model),
        bytes_before=float_bytes_on_disk(network),
        bytes_after=bytes_on_disk(save),
        latency=measure_latency(network, model, example, num_samples(example)),
        strategy=_strategy(model, settings, feeding),
        notes=notes,
    )


def _strategy(model: QuantizedModel, settings: Settings, feeding: Feeding) -> tuple[LayerStrategy, ...]:
    """Read back from the quantizers."""
    weights = {point.module: point.name for point in model.points if point.kind == "weight"}
    rows = [
        LayerStrategy("input", "input", "", _format_of(model, "input"), _read_by(feeding.readers["input"]))
        for _ in range(feeding.reads_input)
    ]
    for name, kind in feeding.layers:
        of_weights = f"{_format_of(model, weights[name], 'channel')}" if name in weights else ""
        output = _format_of(model, name) if name in feeding.producers else ""
        rows.append(LayerStrategy(name, kind, of_weights, output, _reason(name, of_weights, output, settings, feeding)))
    return tuple(rows)


def _format_of(model: QuantizedModel, point: str, granularity: str = "tensor") -> str:
    return f"{model.fake_quantizers[point].num_bits} per {granularity}"


def _read_by(readers: tuple[str, ...]) -> str:
    more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
    return f"read by '{readers[0]}'{more}"


def _reason(name: str, weights: str, output: str, settings: Settings, feeding: Feeding) -> str:
    parts = []
    if weights:
        from_function = name in feeding.fed_by_function
        parts.append("its input comes from a function and stays float" if from_function else "reads float8")
    if output:
        parts.append(f"output {_read_by(feeding.readers[name])}")
    if parts:
        return "; ".join(parts)
    if settings.modules is not None and name in feeding.weighted:
        return f"not selected by modules={settings.modules}"
    return "no quantized layer reads its output"


# ---------------------------------------------------------------------------------------------------- files


class _Stored(nn.Module):
    """What a file holds, for `write_state`."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self._state = state

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state as it was given."""
        return self._state


def _save(model: QuantizedModel, settings: Settings, feeding: Feeding, path: Path) -> None:
    weights = {point.name: point for point in model.weight_points}
    held = {id(point.parameter) for point in weights.values()}
    state: dict[str, Tensor] = {}
    for name, parameter in [*model.model.named_parameters(), *model.model.named_buffers()]:
        if id(parameter) not in held:
            state[f"float.{name.replace('parametrizations.', '').removesuffix('.original')}"] = parameter.detach()
    for name, quantizer in model.fake_quantizers.items():
        assert quantizer.amax is not None
        state[f"amax.{name}"] = quantizer.amax
    for name, point in weights.items():
        quantizer = model.fake_quantizers[name]
        fmt = quantizer.num_bits
        assert isinstance(fmt, FloatFormat) and quantizer.amax is not None
        state[f"codes.{name}"] = encode_floats(point.layout.rows(point.parameter.detach()), fmt, quantizer.amax)
    structure = {
        "weights": [name.rpartition(".")[0] for name in weights],
        "producers": feeding.producers,
        "reads_input": feeding.reads_input,
    }
    write_state(path, _Stored(state), settings, structure=json.dumps(structure))


def load(path: Path, network: nn.Module | None, settings: Settings) -> QuantizedModel:
    """The model that ``save`` of the result wrote; ``network`` gives the structure.

    Raises:
        WorkflowError: the file is of another network.
    """
    saved = read_state(path)
    structure, state = json.loads(saved.structure), saved.state["state"]
    assert network is not None and settings.float_format is not None
    try:
        model = _wrapped(
            network,
            tuple(structure["weights"]),
            tuple(structure["producers"]),
            structure["reads_input"],
            settings.float_format,
        )
        _fill(model, state)
    except (SelectionError, KeyError, RuntimeError) as error:
        raise WorkflowError(f"the file is of another network than {type(network).__name__}: {error}") from error
    return model


@torch.no_grad()
def _fill(model: QuantizedModel, state: dict[str, Tensor]) -> None:
    points = {point.name: point for point in model.weight_points}
    held = {id(point.parameter) for point in points.values()}
    for name, tensor in [*model.model.named_parameters(), *model.model.named_buffers()]:
        if id(tensor) not in held:
            tensor.copy_(state[f"float.{name.replace('parametrizations.', '').removesuffix('.original')}"])
    for name, quantizer in model.fake_quantizers.items():
        quantizer.set_amax(state[f"amax.{name}"])
    for name, point in points.items():
        quantizer, parameter = model.fake_quantizers[name], point.parameter
        fmt = choice_of(quantizer.code)
        assert isinstance(fmt, FloatFormat) and quantizer.amax is not None
        rows = decode_floats(state[f"codes.{name}"], fmt, quantizer.amax)
        parameter.copy_(point.layout.restore(rows, parameter))
