"""From a configuration to a calibrated model and the problem on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qexplore.config.layers import unknown_layers
from qexplore.config.reading import ReadConfig
from qexplore.distributed import RayWorkers
from qexplore.model import QuantizedModel
from qexplore.search import ChoicePlan, LayerwiseQuantizationProblem, checked_plan

_RULES = "pinned", "tied", "first_last", "target"
_OF_PROBLEM = (
    "num_bits_lower_limit",
    "num_bits_upper_limit",
    "choices",
    *_RULES,
    "min_accuracy",
    "max_drop",
    "limits",
    "max_total_bits",
    "engine",
    "precision",
    "output",
)
_OF_SEARCH = (
    "max_evaluations",
    "max_seconds",
    "patience",
    "seed",
    "algorithm",
    "population_size",
    "generation_size",
    "racing",
    "judge",
)


def calibrated(read: ReadConfig, *, progress: bool | None = None) -> QuantizedModel:
    """The network, wrapped, with ranges from the calibration data.

    Raises:
        ConfigError: rules for layers that the network has not.
        QExploreError: as `QuantizedModel` and its ``calibrate``.
    """
    config, parts = read.config, read.parts
    model = QuantizedModel(
        parts.network,
        activations=parts.activations,
        weights=parts.weights,
        inputs=parts.inputs,
        functions=parts.functions,
        scheme=parts.scheme,
        asymmetric=config.asymmetric,
        weight_granularity=config.weight_granularity,  # type: ignore[arg-type]
        outputs=config.outputs,  # type: ignore[arg-type]
    )
    model.calibrate(
        parts.loaders.get("calibration_loader"),
        method=config.calibration_method,
        weight_method=config.weight_method,
        unpack=parts.unpack,
        progress=progress,
    )
    unknown = list(unknown_layers(config.given, model))
    if unknown:
        model.detach()
        raise read.error(unknown)
    return model


def problem_arguments(read: ReadConfig) -> dict[str, Any]:
    """Arguments of `LayerwiseQuantizationProblem` that the configuration holds, beside model, data and metric."""
    return {name: getattr(read.config, name) for name in _OF_PROBLEM} | {
        "costs": read.parts.costs,
        "unpack": read.parts.unpack,
    }


def choices_of(read: ReadConfig, model: QuantizedModel) -> ChoicePlan:
    """What each point may have in the problem that is to be searched.

    Raises:
        ProblemError: as `LayerwiseQuantizationProblem`.
    """
    config = read.config
    limits = config.num_bits_lower_limit, config.num_bits_upper_limit
    return checked_plan(model, config.choices, limits, {name: getattr(config, name) for name in _RULES})


def posed(read: ReadConfig, model: QuantizedModel) -> LayerwiseQuantizationProblem:
    """The problem that is to be searched.

    Raises:
        QExploreError: as `LayerwiseQuantizationProblem`.
    """
    return LayerwiseQuantizationProblem(
        model, read.parts.loaders["search_loader"], read.parts.metric, **problem_arguments(read)
    )


def search_arguments(read: ReadConfig) -> dict[str, Any]:
    """Arguments of `explore` that the configuration holds, beside problem and study."""
    return {name: getattr(read.config, name) for name in _OF_SEARCH} | report_arguments(read)


def report_arguments(read: ReadConfig) -> dict[str, Any]:
    """Those that concern the report set, and who measures: what no study holds.

    Raises:
        MissingPackageError: workers without Ray.
    """
    workers = None if read.config.workers is None else RayWorkers(read.config.workers)
    report_loader = read.parts.loaders.get("report_loader")
    return {"report_loader": report_loader, "unpack": read.parts.unpack, "workers": workers}


def study_of(read: ReadConfig) -> Path:
    """The file that explorations of the configuration are written to."""
    return Path("runs", f"{read.name}.db") if read.config.study is None else Path(read.config.study)
