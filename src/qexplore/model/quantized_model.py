"""The wrapper around a float network: quantizers by name, one vector of widths, calibration."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from qexplore._progress import Progress
from qexplore._random import isolated
from qexplore.errors import CalibrationError, DataError, ModelError
from qexplore.model.calibration import CalibrationReport, RangeCollector, check_num_batches, length
from qexplore.model.hooks import Hooks, Listener, Outputs
from qexplore.model.inputs import Loader, Placement, Unpack, call, unpack_batch
from qexplore.model.observation import CallCounter, Plan, PlannedPoint, both, refuse_never_called
from qexplore.model.points import Candidates, NumBits, QuantizationPoint, free_name
from qexplore.model.quantizer_view import QuantizerView, module_key
from qexplore.model.state import content_version, in_eval_mode
from qexplore.model.widths import DEFAULT_NUM_BITS, checked_num_bits, initial_num_bits
from qexplore.model.wrapping import unwrap
from qexplore.predicates import PredicateLike, as_predicate, select_modules
from qexplore.quant import QuantDescriptor, TensorQuantizer


class QuantizedActivationsModel(nn.Module):
    """A float network with a fake quantizer on its input and on the output of every selected module.

    The network keeps its weights and its code; hooks do the work, and `detach` takes them off again. Called like the
    network itself. Until `calibrate` ran (or an ``amax`` is set) a quantizer takes each tensor's own maximum.

    Args:
        model: the float network. ``torch.compile`` and data-parallel shells are taken off.
        predicate: which modules; see `qexplore.predicates`. A plain function of one module will do.
        unsigned: ``"auto"`` (calibration decides: unsigned where a tensor is never negative), True or False.
        init_num_bits: the width to begin with, for all points.
        quant_desc: pytorch-quantization's ``QuantDescriptor`` for everything else a quantizer takes. An ``amax`` set
            there stays through calibration; a width or ``unsigned=True`` set there counts where the arguments here are
            left alone.
        quantize_input: put a quantizer on the network's input. Every floating tensor among the arguments goes through
            it; integer tensors pass. A network that turns out to have no floating input loses the point.
        outputs: ``"tensor"`` refuses modules that return anything but one tensor; ``"all"`` quantizes every floating
            tensor of a tuple, list or dict with the module's one quantizer.

    Raises:
        SelectionError: the predicate selects nothing.
        ModelError: a model that hooks cannot serve (``torch.jit``), or one that is wrapped already.
        NumBitsError: ``init_num_bits`` is no width that the sign allows.
    """

    def __init__(
        self,
        model: nn.Module,
        predicate: PredicateLike,
        *,
        unsigned: Any = "auto",
        init_num_bits: int = DEFAULT_NUM_BITS,
        quant_desc: Any = None,
        quantize_input: bool = True,
        outputs: Outputs = "tensor",
    ) -> None:
        super().__init__()
        if outputs not in ("tensor", "all"):
            raise ModelError(f'`outputs` must be "tensor" or "all", got {outputs!r}')
        network = unwrap(model)
        selected = select_modules(network, predicate)
        self._predicate_text = repr(as_predicate(predicate))  # a predicate itself cannot be pickled
        self._input_name = free_name("input", selected)
        modules = {name or free_name("output", selected): module for name, module in selected.items()}
        names = [self._input_name, *modules] if quantize_input else list(modules)
        width = initial_num_bits(init_num_bits, quant_desc)
        # Everything that can fail happens before the first hook is on.
        built = {name: _build_quantizer(name, quant_desc, unsigned, width) for name in names}
        self._keys = {name: module_key(name) for name in names}
        self._observed: CallCounter | None = None
        self._dropped_input: TensorQuantizer | None = None
        self._hooks: Hooks | None = Hooks()
        self.quantizers = nn.ModuleDict({self._keys[name]: quantizer for name, quantizer in built.items()})
        self.quantizers.to(Placement.of(network).device)
        self.model = network
        self.training = network.training  # not train(): submodules keep flags of their own
        if quantize_input:
            self._hooks.add_input(network, self._input_name, built[self._input_name])
        for name, module in modules.items():
            self._hooks.add_output(module, name, built[name], outputs)
        self._module_types = {name: type(module).__name__ for name, module in modules.items()}
        self.register_load_state_dict_pre_hook(_drop_absent_input)  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward, tensors at the points fake-quantized."""
        self._attached()
        return self.model(*args, **kwargs)

    @property
    def activation_fake_quantizers(self) -> QuantizerView:
        """Each point's `TensorQuantizer` by name: ``"input"`` first, then qualified module names."""
        return QuantizerView(self._keys, self.quantizers)

    @property
    def points(self) -> tuple[QuantizationPoint, ...]:
        """The points, in the order of ``num_bits``; shapes and calls are known after `calibrate` or `describe`."""
        seen = self._observed
        return tuple(
            QuantizationPoint(
                name,
                "input" if name not in self._module_types else "activation",
                index,
                self._module_types.get(name, ""),
                seen.shapes.get(name) if seen else None,
                seen.calls[name] if seen else None,
            )
            for index, name in enumerate(self._keys)
        )

    @property
    def call_order(self) -> tuple[int, ...]:
        """Indices of `points` in the order in which a forward passes them; that of `points` until one was seen."""
        names = list(self._keys)
        seen = [name for name in self._observed.calls if name in self._keys] if self._observed else names
        return tuple(names.index(name) for name in dict.fromkeys([*seen, *names]))

    @property
    def num_bits(self) -> NumBits:
        """Widths, shape ``[L]``, in the order of `points`; 0 where a quantizer is off. Settable by any sequence.

        Raises:
            NumBitsError: on setting, a wrong length, or a width that a point cannot have; nothing is changed then.
        """
        quantizers = self.activation_fake_quantizers.values()
        return np.array([q.num_bits if q.is_active else 0 for q in quantizers], dtype=np.int64)

    @num_bits.setter
    def num_bits(self, value: Sequence[int | None] | NumBits) -> None:
        quantizers = self.activation_fake_quantizers
        for quantizer, width in zip(quantizers.values(), checked_num_bits(value, quantizers), strict=True):
            if width:
                quantizer.enable()
                quantizer.num_bits = width
            else:
                quantizer.switched_off = True

    @contextmanager
    def using(self, num_bits: Sequence[int | None] | NumBits) -> Iterator[None]:
        """Set widths for a block and bring the old ones back. Quantizers disabled by hand stay disabled."""
        quantizers = self.activation_fake_quantizers
        widths = checked_num_bits(num_bits, quantizers)
        before = [(quantizer, quantizer.num_bits, quantizer.switched_off) for quantizer in quantizers.values()]
        try:
            for quantizer, width in zip(quantizers.values(), widths, strict=True):
                quantizer.switched_off = width == 0
                quantizer.num_bits = width or quantizer.num_bits
            yield
        finally:
            for quantizer, width, switched_off in before:
                quantizer.num_bits, quantizer.switched_off = width, switched_off

    def canonical(self, candidates: Candidates) -> Candidates:
        """``candidates``, shape ``[N, L]``, with one width for all those that make no difference at a point.

        Rows that are equal afterwards give equal outputs: a quantizer disabled by hand stays off, and one with a range
        of nothing gives 0 at any width.
        """
        canonical = candidates.copy()
        for column, quantizer in zip(canonical.T, self.activation_fake_quantizers.values(), strict=True):
            if quantizer.disabled:
                column[:] = 0
            elif quantizer.is_dead:
                column[column > 0] = quantizer.min_num_bits
        return canonical

    def calibrate(
        self,
        loader: Loader,
        *,
        method: str | None = None,
        num_batches: int | None = None,
        unpack: Unpack | None = None,
        progress: bool | None = None,
        **method_options: Any,
    ) -> CalibrationReport:
        """Run data through the float network and set every point's ``amax`` and automatic sign.

        Runs in eval mode, without gradients and without quantization. When it fails, ranges stay as they were.

        Args:
            loader: batches ``x``, ``(x, y, ...)`` or dicts; moved to the network's device and floating dtype.
            method: ``"max"`` covers the largest magnitude. With a ``quant_desc`` whose ``calib_method`` is
                ``"histogram"``, one of ``"percentile"`` (the default there) and ``"entropy"``.
            num_batches: stop after so many batches; None takes all.
            unpack: ``unpack(batch) -> (inputs, target)``, where inputs are a tensor, a tuple or a dict of arguments.
            progress: show a bar; None shows it on a terminal.
            method_options: passed to pytorch-quantization's calibrator, for example ``percentile=99.9``.

        Returns:
            One row per point: amax, extremes, sign, and whether the point is dead.

        Raises:
            DataError: the loader is empty, a batch cannot be unpacked, or ``num_batches`` is no positive int.
            CalibrationError: NaN or infinity at a point, or an unknown method.
            SelectionError: a selected module is never called, or gives no floating tensor.
        """
        self._attached()
        check_num_batches(num_batches)
        with self._input_reconsidered():
            return self._calibrate(loader, method, num_batches, unpack, progress, method_options)

    def _calibrate(
        self,
        loader: Loader,
        method: str | None,
        num_batches: int | None,
        unpack: Unpack | None,
        progress: bool | None,
        method_options: dict[str, Any],
    ) -> CalibrationReport:
        collector = RangeCollector(self.activation_fake_quantizers, method)
        seen, count = CallCounter(), 0
        bar = Progress(length(loader, num_batches), description="calibrate", unit="batch", shown=progress)
        with bar, isolated(Placement.of(self.model).device):
            for batch in islice(loader, num_batches):
                inputs = unpack_batch(batch, unpack)[0]
                # Shapes and calls are those of one forward, the first.
                self.listen(inputs, collector if count else both(collector, seen))
                count += 1
                bar.advance()
        if count == 0:
            raise DataError("the calibration loader must yield at least one batch, got none")
        computed = collector.compute(method_options)
        self._note(seen, called=collector.names)
        return collector.load(computed, count)

    def describe(self, example_input: Any = None) -> Plan:
        """The plan: every point with its type, output shape, calls, width, sign and amax.

        Args:
            example_input: a tensor, a tuple of positional or a dict of keyword arguments; run once in full precision.
                None shows what an earlier `describe` or `calibrate` saw.

        Raises:
            SelectionError: a selected module is never called, or gives no floating tensor.
        """
        self._attached()
        if example_input is not None:
            seen = CallCounter()
            with isolated(Placement.of(self.model).device):
                self.listen(example_input, seen)
            self._note(seen, called=set(seen.calls))
        quantizers = self.activation_fake_quantizers
        planned = [
            PlannedPoint(
                point,
                quantizer.num_bits if quantizer.is_active else 0,
                quantizer.unsigned,
                quantizer.auto_sign,
                None if quantizer.amax is None else float(quantizer.amax.max()),
            )
            for point, quantizer in zip(self.points, quantizers.values(), strict=True)
        ]
        return Plan(type(self.model).__name__, self._predicate_text, tuple(planned))

    def listen(self, inputs: Any, listener: Listener, *, quantized: bool = False) -> Any:
        """Run the network once and show ``listener(name, tensors)`` the floating tensors of every call at a point.

        Runs in eval mode and without gradients. The tensors are the network's own: copy what is to be kept, for a
        later module may write into them.

        Args:
            inputs: a tensor, a tuple of positional or a dict of keyword arguments; copied first.
            listener: called in the order of the forward.
            quantized: show tensors as the quantizers leave them, at the present widths, instead of running the float
                network.

        Returns:
            The network's output.
        """
        with self._attached().heard_by(listener, quantized=quantized), in_eval_mode(self), torch.no_grad():
            return call(self.model, Placement.of(self.model).copy_inputs(inputs))

    def _note(self, seen: CallCounter, called: set[str]) -> None:
        refuse_never_called([name for name in self._module_types if name not in called], self.model)
        self._observed = seen
        if self._input_name in self._keys and self._input_name not in called:
            self._drop_input()

    def _drop_input(self) -> None:
        """Leave the input out: the network takes no floating tensor."""
        self._attached().remove(self._input_name)
        self._dropped_input = self.activation_fake_quantizers[self._input_name]
        del self.quantizers[self._keys.pop(self._input_name)]

    @contextmanager
    def _input_reconsidered(self) -> Iterator[None]:
        """Bring a dropped input point back for a calibration: one example may have left a floating argument out."""
        dropped = self._dropped_input
        if dropped is None:
            yield
            return
        self._keys = {self._input_name: module_key(self._input_name), **self._keys}
        self.quantizers[self._keys[self._input_name]] = dropped.to(Placement.of(self.model).device)
        self._attached().add_input(self.model, self._input_name, dropped)
        self._dropped_input = None
        try:
            yield
        except BaseException:
            if self._input_name in self._keys:
                self._drop_input()
            raise

    def detach(self) -> nn.Module:
        """Take every hook off and return the float network as it was. The wrapper cannot be used afterwards."""
        self._attached().remove_all()
        self._hooks = None
        return self.model

    def _attached(self) -> Hooks:
        if self._hooks is None or not self._hooks.are_on:
            raise ModelError("this wrapper is detached from its network: wrap the network anew")
        return self._hooks

    def require_attached(self) -> None:
        """Raise when the quantizers are no longer on the network.

        Raises:
            ModelError: `detach` was called, or the network was wrapped anew.
        """
        self._attached()

    def require_calibrated(self) -> None:
        """Raise unless every point has its range.

        Raises:
            CalibrationError: names the points without an ``amax``.
        """
        missing = [name for name, quantizer in self.activation_fake_quantizers.items() if not quantizer.is_calibrated]
        if missing:
            raise CalibrationError(
                f"every point must be calibrated, but these have no `amax`: {', '.join(missing)}. Call "
                "model.calibrate(loader) first"
            )

    def version(self) -> Hashable:
        """Changes whenever weights, ranges, signs or hand-made switches do; widths set by `num_bits` do not count."""
        switches = tuple(
            (name, q.disabled, q.stages, q.unsigned, bool(q.narrow_range), bool(q.fake_quant))
            for name, q in self.activation_fake_quantizers.items()
        )
        return switches, content_version(self)


def _build_quantizer(name: str, quant_desc: Any, unsigned: Any, width: int) -> TensorQuantizer:
    quantizer = TensorQuantizer(QuantDescriptor() if quant_desc is None else quant_desc, unsigned=unsigned, name=name)
    quantizer.num_bits = width
    return quantizer


def _drop_absent_input(model: QuantizedActivationsModel, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Follow a state dict that was saved after calibration had found no floating input."""
    if model._input_name not in model._keys:
        return
    key = f"{prefix}quantizers.{model._keys[model._input_name]}."
    ours = [name for name in state_dict if name.startswith(f"{prefix}quantizers.")]
    if ours and not any(name.startswith(key) for name in ours):
        model._drop_input()
