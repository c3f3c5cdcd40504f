"""Post-training quantization to 8-bit floats, in float arithmetic: what a float8 device would lose."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._arguments import checked_name
from qexplore._choices import FloatFormat, choice_of
from qexplore.errors import SelectionError, WorkflowError
from qexplore.model import QuantizedModel
from qexplore.predicates import as_predicate, select_modules, weighted
from qexplore.preparation import copied_network, recalibrate_batchnorm
from qexplore.quant import decode_floats, encode_floats
from qexplore.stacks import reasons
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.stacks.beside import modules_beside
from qexplore.stacks.called_wrongly import explain_calls
from qexplore.stacks.feeding import Feeding, feeding_of
from qexplore.stacks.layer import LayerStrategy, Stored
from qexplore.stacks.saving import (
    ChosenModules,
    described_if_any,
    read_state,
    reading,
    stack_of_state,
    write_state,
    zero_arguments,
)
from qexplore.stacks.trained import with_state

FORMATS: dict[str, tuple[str, str]] = {
    "E4M3": ("E4M3", "E4M3"),
    "E5M2": ("E5M2", "E5M2"),
    "E3M4": ("E3M4", "E3M4"),
    "mixed": ("E4M3", "E3M4"),
}
"""By name: the format of activations, and that of weights."""

_DEFAULT = "E4M3"


def check(settings: Settings) -> None:
    """Refuse what 8-bit floats do not have.

    Raises:
        WorkflowError: an unknown format, or settings of integers.
    """
    if settings.float_format is not None:
        checked_name("`format`", settings.float_format, FORMATS, WorkflowError)
    plain = Settings(settings.method, settings.stack)
    for name in ("weight_granularity", "engine", "activation_observer", "weight_observer"):
        given, only = getattr(settings, name), getattr(plain, name)
        if given != only:
            raise WorkflowError(
                f'{name} of stack="float8" must be {only!r}, got {given!r}: weights have a scale per channel, '
                "activations one per tensor, both from the largest magnitude, and float32 emulates the arithmetic"
            )


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Wrap a copy of ``network`` in quantizers and calibrate it: a `QuantizedModel`.

    Raises:
        SelectionError: ``settings.modules`` selects no layer with weights.
        DataError, CalibrationError: the calibration data cannot be used.
    """
    assert data.loader is not None
    chosen = select_modules(
        network, weighted if settings.modules is None else weighted & as_predicate(settings.modules)
    )
    chosen = {name: module for name, module in chosen.items() if name not in settings.left_float}
    feeding = feeding_of(network, data.example, chosen)
    format = settings.float_format or _DEFAULT
    settings = dataclasses.replace(settings, float_format=format)
    model = _wrapped(copied_network(network), tuple(chosen), feeding.producers, feeding.reads_input, format)
    shown: dict[str, Any] = {"unpack": data.unpack, "progress": data.progress}
    model.calibrate(data.loader, method="max", weight_method="max", clip_outputs=True, **shown)
    notes = ["float8 is emulated in float32: accuracy is measured, its time is not"]
    if settings.recalibrate:
        recalibrated = recalibrate_batchnorm(model, data.loader, **shown)
        notes += [str(recalibrated).splitlines()[0]] if recalibrated.layers else []
    rows = _strategy(model, settings, feeding)
    statistics = {name: one for name, one in model.model.named_buffers() if name in dict(network.named_buffers())}
    beside = modules_beside(with_state(network, statistics), model.model, rows, settings, model)
    explain_calls(model, data.example, model.model)
    save = partial(_save, model, settings, feeding, described_if_any(data.example))
    return Converted(model, rows, save, tuple(notes), beside=beside)


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


def _strategy(model: QuantizedModel, settings: Settings, feeding: Feeding) -> tuple[LayerStrategy, ...]:
    """Read back from the quantizers."""
    weights = {point.module: point.name for point in model.points if point.kind == "weight"}
    rows = [
        LayerStrategy.present(point.name, "input", None, _stored(model, point.name), _read_by(feeding.readers["input"]))
        for point in model.points
        if point.kind == "input"
    ]
    for name, kind in feeding.layers:
        of_weights = _stored(model, weights[name], of="weights", granularity="channel") if name in weights else None
        output = _stored(model, name) if name in feeding.producers else None
        reason = settings.left_float.get(name) or _reason(name, of_weights, output, settings, feeding)
        rows.append(LayerStrategy.present(name, kind, of_weights, output, reason))
    return tuple(rows)


def _stored(model: QuantizedModel, point: str, of: Any = "activations", granularity: Any = "tensor") -> Stored:
    return Stored(of, choice_of(model.fake_quantizers[point].code), granularity)


def _read_by(readers: tuple[str, ...]) -> str:
    more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
    return f"read by '{readers[0]}'{more}"


def _reason(name: str, weights: Stored | None, output: Stored | None, settings: Settings, feeding: Feeding) -> str:
    parts = []
    if weights:
        from_function = name in feeding.fed_by_function
        parts.append("its input comes from a function and stays float" if from_function else "reads float8")
    if output:
        parts.append(f"output {_read_by(feeding.readers[name])}")
    if parts:
        return "; ".join(parts)
    if settings.modules is not None and name in feeding.weighted:
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    return "no quantized layer reads its output"


# ---------------------------------------------------------------------------------------------------- files


def _save(model: QuantizedModel, settings: Settings, feeding: Feeding, example: list[Any] | None, path: Path) -> None:
    state = {name: tensor.detach() for name, tensor in _floats(model)}
    for name, quantizer in model.fake_quantizers.items():
        assert quantizer.amax is not None
        state[f"amax.{name}"] = quantizer.amax
    weights = {point.name: point for point in model.weight_points}
    for name, point in weights.items():
        rows, amax = point.layout.rows(point.parameter.detach()), state[f"amax.{name}"]
        state[f"codes.{name}"] = encode_floats(rows, _format_at(model, name), amax)
    structure = {
        "weights": [name.rpartition(".")[0] for name in weights],
        "producers": feeding.producers,
        "reads_input": feeding.reads_input,
        "example": example,
    }
    write_state(path, settings, model.model, json.dumps(structure), state)


def reads(path: Path) -> bool:
    """See `StackFile`."""
    return stack_of_state(path) == "float8"


def load(path: Path, network: nn.Module) -> QuantizedModel:
    """The model that ``save`` of the result wrote; ``network`` gives the structure.

    Raises:
        WorkflowError: the file is of another network.
    """
    saved = read_state(path)
    format = saved.settings.float_format
    with reading(path):
        assert format is not None
        structure = json.loads(saved.structure)
        points = tuple(structure["weights"]), tuple(structure["producers"]), bool(structure["reads_input"])
        # Files had no example before.
        example = None if structure.get("example") is None else zero_arguments(structure["example"])
    saved.require_same(network)
    try:
        model = _wrapped(network, *points, format)
        _fill(model, saved.state["state"])
    except (SelectionError, KeyError, RuntimeError) as error:
        raise WorkflowError(f"the file is of another network than {type(network).__name__}: {error}") from error
    if example is not None:
        explain_calls(model, example, model.model)
    return model


@torch.no_grad()
def _fill(model: QuantizedModel, state: dict[str, Tensor]) -> None:
    model.follow_inputs(name.removeprefix("amax.") for name in state if name.startswith("amax."))
    for name, tensor in _floats(model):
        tensor.copy_(state[name])
    for name, quantizer in model.fake_quantizers.items():
        quantizer.set_amax(state[f"amax.{name}"])
    for point in model.weight_points:
        name, parameter = point.name, point.parameter
        rows = decode_floats(state[f"codes.{name}"], _format_at(model, name), state[f"amax.{name}"])
        parameter.copy_(point.layout.restore(rows, parameter))


def _floats(model: QuantizedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of the network but the quantized weights, under their names in a file."""
    held = {id(parameter) for point in model.weight_points for parameter in point.parameters}
    for name, tensor in [*model.model.named_parameters(), *model.model.named_buffers()]:
        if id(tensor) not in held:
            yield f"float.{name.replace('parametrizations.', '').removesuffix('.original')}", tensor


def _format_at(model: QuantizedModel, name: str) -> FloatFormat:
    format = choice_of(model.fake_quantizers[name].code)
    assert isinstance(format, FloatFormat)
    return format
