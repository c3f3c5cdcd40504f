"""How a workflow runs: what is asked for is checked, a copy quantized by its stack, and both networks measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qexplore._quiet import quiet
from qexplore._random import isolated
from qexplore.errors import MetricError, ModelError
from qexplore.metrics import WholeSetMetric, as_metric
from qexplore.model import (
    Loader,
    Pass,
    Placement,
    Unpack,
    arithmetic,
    call,
    foreign_hooks,
    num_samples,
    unpack_batch,
    unpacking,
)
from qexplore.predicates import as_predicate, select_modules
from qexplore.preparation import copied_network
from qexplore.stacks import (
    ChosenModules,
    Converted,
    Data,
    Settings,
    StackRow,
    check_engine,
    drop_qconfigs,
    frozen_norms,
    left_out_by_qconfig,
    listed,
    of_user,
    other_qconfigs,
    reasons,
    refuse_quantized,
    row_for,
    using_engine,
    with_state,
)
from qexplore.training import EpochRecord, Loss, TrainingOptions, check_share, train
from qexplore.workflows.finite import far_outside, finite, require_finite
from qexplore.workflows.holding import Held, hold, quantized_and_held
from qexplore.workflows.inputs import calls, example_arguments, few_samples, require_again, shown
from qexplore.workflows.measuring import bytes_on_disk, float_bytes_on_disk, measure_accuracy, measure_latency
from qexplore.workflows.reach import beyond, is_far
from qexplore.workflows.results import QuantizationResult, WorkflowReport
from qexplore.workflows.ways_out import with_way_out

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reporting:
    """What a report is measured on; `ReportingKeywords` says what each field is."""

    report_loader: Loader | None = None
    metric: Any = None
    unpack: Unpack | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        require_again("report_loader", self.report_loader)
        if (self.report_loader is None) != (self.metric is None):
            given, missing = ("metric", "report_loader") if self.report_loader is None else ("report_loader", "metric")
            raise MetricError(f"accuracy needs report_loader= and metric= together, got {given}= without {missing}=")
        if self.metric is not None:
            as_metric(self.metric)

    def watched(self, network: nn.Module) -> Reporting:
        """The same with the report set looked at on its way; a metric of a whole set gets the user's own loader."""
        if self.report_loader is None or isinstance(as_metric(self.metric), WholeSetMetric):
            return self
        loader = finite("report_loader", self.report_loader, unpacking(network, self.unpack))
        return dataclasses.replace(self, report_loader=loader)

    def accuracy(self, network: nn.Module) -> float | None:
        """The metric of ``network``; None where there is nothing to measure it on."""
        if self.report_loader is None:
            return None
        metric = as_metric(self.metric)
        return measure_accuracy(network, self.report_loader, metric, unpack=self.unpack, progress=self.progress)


@dataclass(frozen=True)
class Training:
    """What a prepared network is trained on, and how.

    Attributes:
        loader: batches of inputs and target.
        loss: ``loss(output, target)``, a tensor of one number.
        options: epochs, rate and the like.
        freeze_after: share of the steps after which ranges and BatchNorm statistics stay as they are; 0 for those of
            the float network.
    """

    loader: Loader
    loss: Loss
    options: TrainingOptions
    freeze_after: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.freeze_after)

    def where(self, network: nn.Module) -> Training:
        """The same where ``network`` lies, unless another device was asked for: what is trained is a copy on CPU."""
        place = self.options.place_for(network)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, device=place))

    def run(self, unpack: Unpack | None, prepared: nn.Module, freeze: Callable[[], None]) -> tuple[EpochRecord, ...]:
        """Train ``prepared``, gently; ``freeze()`` is called at its share of the steps, of which ranges need one."""
        if not self.freeze_after:
            _observe(prepared, self.loader, unpack)
        freezing: dict[str, Any] = {"freeze": freeze, "freeze_after": self.freeze_after}
        return train(prepared, self.loader, self.loss, self.options.gentle(), unpack=unpack, **freezing)


def run_workflow(
    network: nn.Module,
    settings: Settings,
    reporting: Reporting,
    *,
    example: Any,
    calibration_loader: Loader | None = None,
    training: Training | None = None,
    accuracy_before: float | None = None,
) -> QuantizationResult:
    """Quantize a copy of ``network`` on CPU and measure it. See `quantize_static` for the arguments.

    Args:
        network: a float network, left as it is.
        settings: what is wanted; ``modules`` may be any predicate.
        reporting: what the report is measured on.
        example: inputs of one call, as `qexplore.model.call` takes them.
        calibration_loader: for static quantization.
        training: for training.
        accuracy_before: of the float network, where it is known.
    """
    row = row_for(settings)
    with isolated(_CPU):
        copied = float_copy(network)
        reporting = reporting.watched(copied)
        chosen = _chosen(copied, settings, row)
        own = dict.fromkeys(left_out_by_qconfig(network), reasons.OWN_QCONFIG)
        chosen = dataclasses.replace(chosen, left_float={**own, **chosen.left_float})
        epochs: list[EpochRecord] = []
        training = None if training is None else training.where(network)
        unpack = unpacking(copied, reporting.unpack)
        calibration_loader = finite("calibration_loader", calibration_loader, unpack)
        if training is not None:
            training = dataclasses.replace(training, loader=finite("train_loader", training.loader, unpack))

        def run_training(*given: Any) -> None:
            assert training is not None
            epochs[:] = training.run(reporting.unpack, *given)

        data = Data(
            example=example_arguments(copied, example),
            calibrate=None if calibration_loader is None else of_user(_calibrating(calibration_loader, reporting)),
            train=None if training is None else of_user(run_training),
            loader=calibration_loader,
            unpack=reporting.unpack,
            progress=reporting.progress,
        )
        loader = calibration_loader if training is None else training.loader
        few = shown(copied, loader, reporting.unpack) if loader is not None else [few_samples(copied, data.example)]
        batches = list(few)
        require_finite("example_input", data.example)
        if accuracy_before is None:  # a metric or a report set that will not do is told before a network is trained
            with isolated(_CPU), quiet():
                accuracy_before = reporting.accuracy(copied)
        again = (
            None
            if training is None
            else dataclasses.replace(data, train=of_user(_settling(training.loader, reporting)))
        )
        with using_engine(chosen.engine if row.uses_engine else None), quiet():
            chosen, converted, held = with_way_out(
                lambda asked: quantized_and_held(row.home, copied, asked, data, batches, again),
                copied,
                chosen,
                data,
                settings,
            )
        notes = converted.notes + held.notes + (_engine_note(chosen.engine) if row.uses_engine else ())
        notes += tuple(_notes_on(network, settings))
        with using_engine(chosen.engine if row.uses_engine else None), quiet():
            accuracy_after = reporting.accuracy(converted.model)
            error, error_of, clipped = _error(copied, converted, held, reporting, data)
            report = WorkflowReport(
                settings=chosen,
                metric="" if reporting.metric is None else as_metric(reporting.metric).name,
                accuracy_before=accuracy_before,
                accuracy_after=accuracy_after,
                bytes_before=float_bytes_on_disk(copied),
                bytes_after=bytes_on_disk(converted.save),
                latency=measure_latency(copied, converted.model, data.example, num_samples(data.example)),
                strategy=held.strategy,
                notes=notes + far_outside(loader, reporting.report_loader) + clipped,
                epochs=tuple(epochs),
                error=error,
                error_of=error_of,
                alarms=held.alarms,
            )
    return QuantizationResult(converted.model, report, converted.save, converted.script)


_REPORTED = 256
"""Samples of the report set that the error of the output is measured on: a share of two norms is settled by then."""


def _error(
    network: nn.Module, converted: Converted, held: Held, reporting: Reporting, data: Data
) -> tuple[float | None, str, tuple[str, ...]]:
    """The error of the output, of which data it is, and a note where ranges are too narrow for the report set.

    Of calibration data it is too good, for ranges were taken of these very samples.
    """
    if reporting.report_loader is None or isinstance(as_metric(reporting.metric), WholeSetMetric):
        shown_data = "training data" if data.train else "calibration data" if data.calibrate else "the example"
        return held.error, shown_data, ()
    unpack = reporting.unpack
    batches = list(shown(network, reporting.report_loader, unpack, batches=None, samples=_REPORTED))
    trained = with_state(network, converted.trained)
    error = hold(trained, dataclasses.replace(converted, beside=None), batches).error
    if data.calibrate is None or not is_far(error, held.error):
        return error, "report set", ()
    return error, "report set", beyond(network, calls(network, data.loader, unpack), batches, (error, held.error))


def _engine_note(engine: str | None) -> tuple[str, ...]:
    if engine == check_engine(None):
        return ()
    return (f"made for the engine {engine}: set torch.backends.quantized.engine = '{engine}' where it runs",)


def _notes_on(network: nn.Module, settings: Settings) -> Iterator[str]:
    """What of a float network's own settings is obeyed, or is not."""
    others = other_qconfigs(network)
    if others:
        yield (
            f"a qconfig of the network's own is not used ({listed(others)}): observers are given by "
            "activation_observer= and weight_observer="
        )
    kept = frozen_norms(network) if settings.method == "qat" else {}
    if kept:
        yield f"statistics stay as they are, for the weights do not train (requires_grad=False): {listed([*kept])}"


def float_copy(network: nn.Module) -> nn.Module:
    """A copy on CPU in eval mode, without what torch.ao reads of a module's own ``qconfig``."""
    if isinstance(network, nn.Module):  # for another object the copy has a sentence
        refuse_quantized(network)
    copied = copied_network(network)
    hooked = next((name for name, module in copied.named_modules() if foreign_hooks(module)), None)
    if hooked is not None:
        raise ModelError(
            f"'{hooked or type(network).__name__}' carries hooks, which quantizing would lose: remove them"
        )
    dtypes = {parameter.dtype for parameter in copied.parameters() if parameter.is_floating_point()}
    if dtypes - {torch.float32}:
        raise ModelError(f"a network must be in float32 to be quantized, got {dtypes}: call network.float() first")
    drop_qconfigs(copied)
    return copied.cpu().eval()


def _chosen(network: nn.Module, settings: Settings, row: StackRow) -> Settings:
    """``settings`` with the predicate's answer, and the engine there is."""
    modules, engine = settings.modules, settings.engine
    if modules is not None:
        description = str(as_predicate(modules))
        modules = ChosenModules(select_modules(network, modules), description)
    if row.uses_engine:
        engine = check_engine(engine)
    return dataclasses.replace(settings, modules=modules, engine=engine)


_SETTLED = 16
"""Batches on which ranges are taken where training does not: it is done already, or they are frozen from the start."""


def _settling(loader: Loader, reporting: Reporting) -> Callable[[nn.Module, Callable[[], None]], None]:
    """What takes the place of training where it is done already: ranges are taken, weights stay."""

    def settle(prepared: nn.Module, freeze: Callable[[], None]) -> None:
        _observe(prepared, loader, reporting.unpack)
        freeze()

    return settle


def _observe(prepared: nn.Module, loader: Loader, unpack: Unpack | None) -> None:
    """Let observers in ``prepared``, which is on CPU, see the first batches; it is in eval mode then."""
    unpack, place = unpacking(prepared, unpack), Placement(_CPU, torch.float32)
    with torch.no_grad(), arithmetic():
        for batch in itertools.islice(loader, _SETTLED):
            call(prepared.eval(), place.copy_inputs(unpack_batch(batch, unpack)[0]))


def _calibrating(loader: Loader, reporting: Reporting) -> Callable[[nn.Module], None]:
    def calibrate(prepared: nn.Module) -> None:
        place, shown = Placement(_CPU, torch.float32), reporting.progress
        unpack = unpacking(prepared, reporting.unpack)
        batches = Pass("calibration_loader", loader, unpack=unpack, placement=place, bar="calibrating", progress=shown)
        with torch.no_grad(), arithmetic():
            for inputs, _ in batches:
                call(prepared, inputs)

    return calibrate
