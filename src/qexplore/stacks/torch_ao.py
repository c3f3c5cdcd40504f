"""The one door to torch.ao: what this torch still has of it, its engines and its observers."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import nn

from qexplore._quiet import quiet
from qexplore.errors import WorkflowError
from qexplore.model import TRANSPOSED
from qexplore.stacks.base import OBSERVERS, Engine, Settings, observer_class

_QUANTIZATION = "torch.ao.quantization"
_HOMES = {
    "prepare_fx": f"{_QUANTIZATION}.quantize_fx",
    "convert_fx": f"{_QUANTIZATION}.quantize_fx",
    "FloatFunctional": "torch.ao.nn.quantized",
    "QFunctional": "torch.ao.nn.quantized",
    "get_native_backend_config": f"{_QUANTIZATION}.backend_config",
    "freeze_bn_stats": "torch.ao.nn.intrinsic.qat",
    "BackendConfig": f"{_QUANTIZATION}.backend_config",
}
"""Where a name lives that is not in `torch.ao.quantization` itself."""

_MODULES = {
    "nnq": "torch.ao.nn.quantized",
    "nnqd": "torch.ao.nn.quantized.dynamic",
    "nni": "torch.ao.nn.intrinsic",
    "nniq": "torch.ao.nn.intrinsic.quantized",
    "nniqd": "torch.ao.nn.intrinsic.quantized.dynamic",
    "fx_prepare": f"{_QUANTIZATION}.fx.prepare",
}
"""Short names, as torch's own code has them, of whole modules."""

RECURRENT = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
"""Layers that torch.ao quantizes dynamically, and no other way."""

_CHOICES = (
    ", ".join(f'"{name}"' for name in OBSERVERS)
    + ", an observer class of torch.ao (ObserverBase), or a factory of one such as Observer.with_args(...)"
)


def require(feature: str) -> Any:
    """The function, class or module ``feature`` of torch.ao, such as ``"prepare_fx"``, ``"QConfig"`` or ``"nnq"``.

    Raises:
        WorkflowError: the installed torch does not have it (any more); the sentence says what to use instead.
    """
    home = _MODULES.get(feature) or _HOMES.get(feature, _QUANTIZATION)
    try:
        with quiet():
            module = importlib.import_module(home)
            return module if feature in _MODULES else getattr(module, feature)
    except (ImportError, AttributeError) as error:
        missing = home if feature in _MODULES else f"{home}.{feature}"
        raise WorkflowError(
            f'the stacks "eager" and "fx" need {missing}, which torch {torch.__version__} does not have ({error}): '
            'torch.ao\'s quantization has moved to the package torchao. Use stack="pt2e" (pip install '
            "'qexplore[pt2e]') or stack=\"onnxruntime\" (pip install 'qexplore[onnx]'), or an older torch"
        ) from error


def has(feature: str) -> bool:
    """Whether the installed torch has ``feature``, named as for `require`."""
    try:
        require(feature)
    except WorkflowError:
        return False
    return True


def dynamic_recurrent() -> tuple[type[nn.Module], ...]:
    """The integer forms of `RECURRENT`; none where the installed torch has none."""
    return tuple(getattr(require("nnqd"), kind.__name__) for kind in RECURRENT) if has("nnqd") else ()


def check_engine(engine: str | None) -> Engine:
    """The engine to use: ``engine`` itself, or this machine's default for None.

    Raises:
        WorkflowError: no engine of that name, or not on this machine; the sentence lists those there are.
    """
    here: list[Engine] = [name for name in get_args(Engine) if name in torch.backends.quantized.supported_engines]
    if not here:
        raise WorkflowError(
            f'torch {torch.__version__} has no engine for quantized networks on this machine: use stack="onnxruntime"'
        )
    wanted = torch.backends.quantized.engine if engine is None else engine
    found = next((name for name in here if name == wanted), None)
    if found is None and engine is None:
        return here[0]
    if found is None:
        known = "is not on this machine" if engine in get_args(Engine) else "is not known"
        raise WorkflowError(
            f"the engine {engine!r} {known}; torch {torch.__version__} has {', '.join(here)} here: choose one, "
            "or leave engine=None for the default"
        )
    return found


@contextmanager
def using_engine(engine: str | None) -> Iterator[Engine]:
    """Run a block under ``engine`` (None: the default), and give the former one back, also after an error.

    Raises:
        WorkflowError: as `check_engine` says.
    """
    name = check_engine(engine)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield name
    finally:
        torch.backends.quantized.engine = before


def wrong_kernel(module: nn.Module | None, engine: str | None) -> str:
    """Why ``module`` must stay float, where torch has an integer kernel on ``engine`` that is wrong; else empty."""
    name = check_engine(engine)
    # Kernels of other engines read memory that is not theirs, and give other numbers at every call.
    if not isinstance(module, TRANSPOSED) or name == "qnnpack":
        return ""
    return f"torch's {name} kernel of {type(module).__name__} gives wrong numbers; engine='qnnpack' has a right one"


def check(settings: Settings) -> None:
    """Refuse what torch.ao's kernels do not have.

    Raises:
        WorkflowError: dynamic quantization without zero points.
    """
    if settings.method == "dynamic" and settings.activations == "symmetric":
        raise WorkflowError(
            'the dynamic kernels of torch.ao choose a zero point at run time, so activations="symmetric" cannot be '
            'had: use activations="affine", or quantize statically'
        )


def qconfig_of(settings: Settings) -> Any:
    """The QConfig for every layer but Linear, whose weights may be narrower: `linear_qconfig_of`.

    Raises:
        WorkflowError: an observer that is none, or settings that these stacks do not have.
    """
    return require("QConfig")(activation=_activation(settings), weight=_weight(settings, num_bits=8))


def linear_qconfig_of(settings: Settings) -> Any:
    """The QConfig for Linear layers: weights on the grid of ``linear_num_bits``, held in int8 until they are packed.

    Raises:
        WorkflowError: as for `qconfig_of`.
    """
    weight = _weight(settings, num_bits=settings.linear_num_bits)
    return require("QConfig")(activation=_activation(settings), weight=weight)


def activation_range(engine: str | None) -> tuple[int, int]:
    """Smallest and largest integer of an activation: 7 bits where the engine's kernels can overflow, else 8."""
    name = check_engine(engine)
    needs_room = name in ("x86", "fbgemm") or (name == "onednn" and not _has_vnni())
    return (0, 127) if needs_room else (0, 255)


def _has_vnni() -> bool:
    # Without these instructions onednn adds two products in 16 bits, as the others do on every machine they fear.
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def _activation(settings: Settings) -> Any:
    if settings.method == "dynamic":
        return require("default_dynamic_quant_observer")
    scheme = torch.per_tensor_symmetric if settings.activations == "symmetric" else torch.per_tensor_affine
    quant_min, quant_max = activation_range(settings.engine)
    arguments = {"dtype": torch.quint8, "qscheme": scheme, "quant_min": quant_min, "quant_max": quant_max}
    default = "moving_average" if settings.method == "qat" else "histogram"
    return _built("activation_observer", settings, default, arguments, is_per_channel=False)


def _weight(settings: Settings, *, num_bits: int) -> Any:
    is_per_channel = settings.weight_granularity == "channel"
    arguments = {
        "dtype": torch.qint8,
        "qscheme": torch.per_channel_symmetric if is_per_channel else torch.per_tensor_symmetric,
        "quant_min": -(2 ** (num_bits - 1)),
        "quant_max": 2 ** (num_bits - 1) - 1,
    }
    default = "moving_average" if settings.method == "qat" else "minmax"
    return _built("weight_observer", settings, default, arguments, is_per_channel=is_per_channel)


def _built(
    which: str, settings: Settings, default: str, arguments: dict[str, Any], *, is_per_channel: bool
) -> Callable[..., Any]:
    """A factory of observers, or of fake quantizers around them for QAT; tried once, so that mistakes show here."""
    given = getattr(settings, which)
    factory = _factory(which, default if given is None else given, arguments, is_per_channel)
    with quiet():
        try:
            observer = factory()
        except (AssertionError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise WorkflowError(f"{which}={given!r} cannot be built for {arguments}: {error}") from error
        is_fake_quantizer = settings.method == "qat" and isinstance(observer, require("FakeQuantizeBase"))
        if not is_fake_quantizer and not isinstance(observer, require("ObserverBase")):
            raise WorkflowError(f"{which} must be {_CHOICES}, got {given!r}, which gives a {type(observer).__name__}")
        if observer.dtype != arguments["dtype"]:
            raise WorkflowError(
                f"{which} must give {arguments['dtype']}, got {observer.dtype}: there are no kernels for another format"
            )
        if is_fake_quantizer:
            return factory
        return _fake_quantizing(factory, observer) if settings.method == "qat" else factory


def _factory(which: str, given: Any, arguments: dict[str, Any], is_per_channel: bool) -> Callable[..., Any]:
    if isinstance(given, str):
        given = require(
            observer_class(which, given, is_per_channel=is_per_channel, package="torch.ao", choices=_CHOICES)
        )
    if isinstance(given, type):
        # A class is told the format, as far as it takes it; a factory has been told what it needs.
        accepted = inspect.signature(given).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        told = {name: value for name, value in arguments.items() if takes_all or name in accepted}
        return getattr(given, "with_args", functools.partial(functools.partial, given))(**told)
    if isinstance(given, torch.nn.Module) or not callable(given):
        raise WorkflowError(f"{which} must be {_CHOICES}, got {given!r}: every layer gets an observer of its own")
    return given  # type: ignore[no-any-return]


_LEAST_FUSED = 127
"""Steps of the narrowest range that the fused fake quantizer is used for."""


def _fake_quantizing(factory: Callable[..., Any], observer: Any) -> Callable[..., Any]:
    averages = (require("MovingAverageMinMaxObserver"), require("MovingAveragePerChannelMinMaxObserver"))
    # One kernel observes and rounds, but takes amax / quant_max for a symmetric step where conversion will ask the
    # observer, which says amax / (quant_max + 1/2): the same at 8 bits, 7 % apart at 4.
    fused = isinstance(observer, averages) and observer.quant_max - observer.quant_min >= _LEAST_FUSED
    # The fake quantizer would tell the observer a format of its own; this one has been told its own already.
    kind = require("FusedMovingAvgObsFakeQuantize" if fused else "FakeQuantize")
    return kind.with_args(observer=lambda **_: factory())  # type: ignore[no-any-return]
