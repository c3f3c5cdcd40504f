"""The wrapper around a float network as users have it: it calibrates and describes itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from qexplore._random import isolated
from qexplore.model.calibrating import calibrate
from qexplore.model.calibration import CalibrationReport
from qexplore.model.examples import Examples
from qexplore.model.inputs import Loader, Placement, Unpack
from qexplore.model.left_float import left_float, overlaps
from qexplore.model.observation import CallCounter, refuse_never_called
from qexplore.model.passes import Pass
from qexplore.model.plan import Plan, make_plan
from qexplore.model.quantizer_view import module_key
from qexplore.model.wrapped import WrappedNetwork


class QuantizedModel(WrappedNetwork):
    """A float network with fake quantizers on module outputs, on its input, and on weights.

    Hooks and parametrizations do the work, and `detach` takes them off again. Called like the network itself. Weights
    have their range from the start; until `calibrate` ran the other quantizers take each tensor's own maximum.

    Args:
        model: the float network. ``torch.compile`` and data-parallel shells are taken off.
        activations: whose outputs; see `qexplore.predicates`. A plain function of one module will do. None for none.
        weights: whose weights, such as ``predicates.weighted``; None for none. A weight that several modules share has
            one quantizer.
        unsigned: ``"auto"`` (calibration decides: unsigned where a tensor is never negative), True or False. Weights
            are signed.
        asymmetric: give integer widths a zero point: True, False, ``"auto"`` (calibration decides, where a tensor
            reaches much further to one side of zero than to the other), or a predicate. Of activations and the input.
        init_num_bits: the choice to begin with, for all points: a width, or a float format.
        quant_desc: pytorch-quantization's ``QuantDescriptor`` for everything else an activation's quantizer takes. An
            ``amax`` set there stays through calibration; a width or ``unsigned=True`` set there counts where the
            arguments here are left alone.
        weight_granularity: which values of a weight share a scale: ``"channel"`` (output channels), ``"tensor"``, or
            groups of so many along a channel's inputs, such as 32, 64 or 128.
        quantize_input: put a quantizer on the network's input; None does so where there are ``activations``. Every
            floating tensor among the arguments goes through it; integer tensors pass. A network that turns out to have
            no floating input loses the point.
        outputs: ``"tensor"`` refuses modules that return anything but one tensor; ``"all"`` quantizes every floating
            tensor of a tuple, list or dict with the module's one quantizer.

    Raises:
        SelectionError: a predicate selects nothing, or a module without a weight; nothing is to be quantized.
        ModelError: a model that hooks cannot serve (``torch.jit``), one that is wrapped already, or a weight that is
            parametrized.
        NumBitsError: ``init_num_bits`` is no choice that the sign allows.
    """

    def calibrate(
        self,
        loader: Loader | None = None,
        *,
        method: str | None = None,
        weight_method: str | None = None,
        num_batches: int | None = None,
        clip_outputs: bool = False,
        unpack: Unpack | None = None,
        progress: bool | None = None,
        **method_options: Any,
    ) -> CalibrationReport:
        """Run data through the float network and set every point's range and automatic sign.

        Runs in eval mode, without gradients and without quantization. When it fails, ranges stay as they were.

        Args:
            loader: batches ``x``, ``(x, y, ...)`` or dicts; moved to the network's device and floating dtype. None
                where only weights are quantized.
            method: ``"max"`` (as None), one range for all widths. The others give every width its own: ``"percentile"``
                of the magnitudes, ``"mse"`` (least squared error), ``"entropy"`` (least Kullback-Leibler divergence).
                ``"auto"`` takes at each point and width the one under which the network's output differs least. With a
                ``quant_desc`` whose ``calib_method`` is ``"histogram"``, ``"percentile"`` (as None) or ``"entropy"``.
            weight_method: the same for weights, ``"entropy"`` apart. None is ``"auto"``, without a loader ``"max"``:
                what changes a weight least often changes the output more.
            num_batches: stop after so many batches; None takes all.
            clip_outputs: let the method also clip tensors that are the network's output, and so go into the loss; else
                these get the largest magnitude.
            unpack: ``unpack(batch) -> (inputs, target)``, where inputs are a tensor, a tuple or a dict of arguments.
            progress: show a bar; None shows it on a terminal.
            method_options: of the method, such as ``percentile=99.9``.

        Returns one row per point: amax, extremes, sign, and whether the point is dead.

        Raises:
            DataError: the loader is empty or missing, a batch cannot be unpacked, ``num_batches`` is no positive int.
            CalibrationError: NaN or infinity at a point, or an unknown method.
            SelectionError: a selected module is never called, or gives no floating tensor.
        """
        self._attached()
        batches = Pass(
            "the calibration loader",
            () if loader is None else loader,
            num_batches=num_batches,
            unpack=unpack,
            bar="calibrate",
            progress=progress,
        )
        with self._input_reconsidered():
            return calibrate(
                self,
                None if loader is None else batches,
                method=method,
                weight_method=weight_method,
                clip_outputs=clip_outputs,
                options=method_options,
                note=self._note,
            )

    def describe(self, example_input: Any = None) -> Plan:
        """The plan: every point with its type, shape, calls, choice, sign and amax; weights left float, and why.

        Args:
            example_input: a tensor, a tuple of positional or a dict of keyword arguments; run once in full precision.
                None shows what an earlier `describe` or `calibrate` saw.

        Raises:
            SelectionError: a selected module is never called, or gives no floating tensor.
        """
        self._attached()
        if example_input is not None:
            examples, seen = Examples(self.watch), CallCounter()
            with isolated(Placement.of(self.model).device):
                examples.add(example_input, None, self.watch(example_input, seen), seen)
            self._note(examples, called=set(seen.calls))
        quantized = [holder for point in self.weight_points for holder in point.holders]
        passed_over = (left_float(self.model, quantized), overlaps(self.model)) if quantized else ((), ())
        return make_plan(
            type(self.model).__name__, self._predicate_text, self.points, self.fake_quantizers, *passed_over
        )

    def _note(self, examples: Examples, called: set[str]) -> None:
        refuse_never_called([name for name in self._modules_of_points if name not in called], self.model)
        self._observed, placement = examples.seen, Placement.of(self.model)
        self._examples = tuple(replace(one, inputs=placement.copy_inputs(one.inputs)) for one in examples.found)
        if self._input_name in self._keys and self._input_name not in called:
            self.leave_input_out()

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
            self.leave_input_out()
            raise
