"""The wrapper around a float network as users have it: it calibrates and describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from qexplore._arguments import checked_keywords
from qexplore._coverage import Coverage
from qexplore.model.alone import alone
from qexplore.model.arithmetic import measuring
from qexplore.model.calibrating import calibrate
from qexplore.model.calibration import CalibrationReport, known_options
from qexplore.model.covering import covered
from qexplore.model.examples import Examples
from qexplore.model.input_points import unasked_text
from qexplore.model.inputs import Loader, Placement, Unpack, as_arguments
from qexplore.model.left_float import left_float, overlaps
from qexplore.model.observation import CallCounter, Data, refuse_not_called
from qexplore.model.passes import Pass
from qexplore.model.plan import Plan, planned
from qexplore.model.selectors import Selector
from qexplore.model.state import undone_on_failure
from qexplore.model.unpacking import unpacking
from qexplore.model.wrapped import WrappedNetwork


class QuantizedModel(WrappedNetwork):
    """A float network with fake quantizers on module outputs and inputs, on calls of functions, and on weights.

    Hooks and parametrizations do the work, and `detach` takes them off again. Called like the network itself. Weights
    have their range from the start; until `calibrate` ran, or a manifest brought ranges, the other quantizers take each
    tensor's own maximum, and the first call of the model warns of it (`qexplore.UncalibratedWarning`).

    Args:
        model: the float network. ``torch.compile`` and data-parallel shells are taken off.
        activations: whose outputs; see `qexplore.predicates`. A plain function of one module will do. None for none.
        weights: whose weights, such as ``predicates.weighted``; None for none. A weight that several modules share has
            one quantizer.
        inputs: before which modules what they read is quantized: each floating tensor has a point, ``"conv.input"``,
            or ``"cross.input.query"`` in a module that has several. Modules, and calls whose operands are asked for,
            that read one tensor share its point (``point.readers``), and one that is at a point already has no other.
            Additive masks stay float. Until data
            is seen each module has one point for all that it reads; `describe` and `calibrate` find what there is.
        functions: which calls of torch's functions have their result quantized, such as
            ``predicates.by_function(torch.add, torch.cat)`` or ``predicates.by_name("layer1.0.add_1")``: the module
            that calls, the function, its number there. Operators and methods are the function that they stand for.
            Points are there once `describe` or `calibrate` has seen data; a network whose calls then change is refused.
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
        quantize_input: put quantizers on the network's inputs; None does so where there are ``activations``. Until data
            is seen there is one point, ``"input"``, for all floating tensors among the arguments; integer tensors pass.
            `describe` and `calibrate` find what there is: a network with several floating inputs gets a point for
            each, named after the forward's argument (``"input.x"``, in a tuple or dict ``"input.state.0"``; tensors of
            a list share one), one without loses the point. Additive masks (0 and -inf, or very negative) stay float.
            Names of arguments, such as ``["x"]``, take these alone, and their points are there from the start.
        outputs: ``"tensor"`` refuses modules that return anything but one tensor; ``"all"`` quantizes every floating
            tensor of a tuple, list, dict, dataclass or other object with the module's one quantizer.
        scheme: what a runtime quantizes, in the place of the four predicates: ``"tensorrt"``, ``"onnxruntime"``,
            ``"xnnpack"``, ``"all-int8"``, or what `qexplore.scheme` gives, changed at will. Of ``unsigned``,
            ``asymmetric``, ``weight_granularity`` and ``quantize_input`` it decides those that are left alone. Layers
            that data never reach stay float, and so does what it names and the network has not.

    Raises:
        SelectionError: a predicate selects nothing, or a module without a weight; nothing is to be quantized.
        ModelError: a model that hooks cannot serve (``torch.jit``), one that is wrapped already, or a weight that is
            parametrized.
        NumBitsError: ``init_num_bits`` is no choice that the sign allows.
    """

    @alone
    def calibrate(
        self,
        loader: Loader | None = None,
        *,
        method: str | Mapping[Selector, str] | None = None,
        weight_method: str | Mapping[Selector, str] | None = None,
        num_batches: int | None = None,
        clip_outputs: bool = False,
        unpack: Unpack | None = None,
        progress: bool | None = None,
        **method_options: Any,
    ) -> CalibrationReport:
        """Run data through the float network and set every point's range and automatic sign.

        Runs in eval mode, without gradients and without quantization. When it fails or is interrupted, wherever that
        is, ranges, signs and widths stay as they were.

        Args:
            loader: batches ``x``, ``(x, y, ...)`` or dicts; moved to the network's device and floating dtype. None
                where only weights are quantized.
            method: ``"max"`` (as None), one range for all widths. The others give every width its own: ``"percentile"``
                of the magnitudes, ``"mse"`` (least squared error), ``"entropy"`` (least Kullback-Leibler divergence).
                ``"auto"`` takes at each point and width the one under which the network's output differs least. With a
                ``quant_desc`` whose ``calib_method`` is ``"histogram"``, ``"percentile"`` (as None) or ``"entropy"``.
                Or a mapping from selectors, as the problem's ``choices`` has them, to methods: the last about a point
                counts, and a point that none is about has the method of None.
            weight_method: the same for weights, ``"entropy"`` apart. None is ``"auto"``, without a loader ``"max"``:
                what changes a weight least often changes the output more.
            num_batches: stop after so many batches; None takes all.
            clip_outputs: let the method also clip tensors that are the network's output, and so go into the loss; else
                these get the largest magnitude.
            unpack: ``unpack(batch) -> (inputs, target)``, where inputs are a tensor, a tuple or a dict of arguments.
            progress: show a bar; None shows it on a terminal.
            method_options: of the method, such as ``percentile=99.9``, at all points that have it.

        Returns one row per point: amax, extremes, sign, and whether the point is dead.

        Raises:
            DataError: the loader is empty or missing, a batch cannot be unpacked, ``num_batches`` is no positive int.
            CalibrationError: NaN or infinity at a point, an unknown method, or a selector that means no such point.
            SelectionError: a selected module is called by no batch, or gives no floating tensor; ``quantize_input``
                names an input that is not there.
        """
        checked_keywords(QuantizedModel.calibrate, method_options, None, beside=known_options())
        self._attached()
        batches = Pass(
            "the calibration loader",
            () if loader is None else loader,
            num_batches=num_batches,
            unpack=unpacking(self.model, unpack),
            bar="calibrate",
            progress=progress,
        )
        with undone_on_failure(self.quantizers), self.inputs_reconsidered():
            report = calibrate(
                self,
                None if loader is None else batches,
                method=method,
                weight_method=weight_method,
                clip_outputs=clip_outputs,
                options=method_options,
                note=self._note,
            )
            self._follow_network()
        return report

    @alone
    def describe(self, example_input: Any = None, *, choices: Any = None) -> Plan:
        """The plan: every point with its type, shape, calls, choice, sign and amax, and what stays float.

        That is the share of the network that is at points (`coverage`), weights and masks that are at none and points
        that are off with the reasons, and what the predicates could have taken. It takes one more forward, of one
        sample, and another where points are off.

        Args:
            example_input: a tensor, a tuple of positional or a dict of keyword arguments; run once in full precision.
                None shows what an earlier `describe` or `calibrate` saw. Where the network branches, it may leave out
                modules that calibration reached: their calls are 0, and costs keep to what calibration saw.
            choices: the plan of a search, ``problem.plan`` or what `qexplore.plan_choices` gives: a point is off where
                it may have nothing else. None looks at what the points have at present.

        Raises:
            SelectionError: a selected module that no data has reached is not called, or gives no floating tensor.
            NumBitsError: ``choices`` are no plan, or one of other points.
        """
        self._attached()
        if example_input is None:
            return self._plan(choices)
        kept = self._observed, self._examples
        with measuring(Placement.of(self.model).device), self.inputs_reconsidered():
            misses_some = self._look_at(example_input)
            self._follow_network()
        try:
            return self._plan(choices)
        finally:
            if misses_some:  # costs go on with the data that reached all
                self._observed, self._examples = kept

    def _plan(self, choices: Any) -> Plan:
        quantized = [holder for point in self.weight_points for holder in point.holders]
        passed_over, notes = (left_float(self.model, quantized), overlaps(self.model)) if quantized else ((), ())
        is_unasked = self._is_input_unasked and self.examples
        unasked = unasked_text(self.model, *as_arguments(self.examples[0].inputs)) if is_unasked else ""
        notes = *notes, *filter(None, [unasked]), *self.found_notes, *([self.scheme.searched] if self.scheme else [])
        found, rows = covered(self, choices), planned(self.points, self.fake_quantizers)
        name, left = type(self.model).__name__, (*self.inputs_left_float, *found.left_float, *passed_over)
        return Plan(name, self._predicate_text, rows, left, notes, found.coverage, found.left_out)

    def coverage(self, example_input: Any = None, *, choices: Any = None) -> Coverage:
        """Which share of the network is quantized: of parameters, multiply-accumulates and activations.

        That is what is at points, but at those that are off: ``with model.using(front[0])`` around it tells the share
        of a front's member.

        Args:
            example_input: as for `describe`, which shows the same beside the points.
            choices: as for `describe`: which share a search has at points.

        Raises:
            SelectionError: as `describe`.
        """
        return cast(Coverage, self.describe(example_input, choices=choices).coverage)

    def _note(self, examples: Examples, called: set[str], by: Data = "calibration") -> None:
        never = [name for name in self._modules_of_points if name not in called]
        modules = (self._found[name].sites[0][0] if name in self._found else name for name in never)
        refuse_not_called(list(dict.fromkeys(modules)), self.model, by)
        placement = Placement.of(self.model)
        found = tuple(replace(one, inputs=placement.copy_inputs(one.inputs)) for one in examples.found)
        self._observed, self._examples = examples.seen, found

    def _look_at(self, example: Any) -> bool:
        """Run the example, and tell whether it leaves out points that earlier data reached."""
        quantizers = self.activation_fake_quantizers.values()
        is_calibrated = any(quantizer.is_calibrated and not quantizer.has_fixed_amax for quantizer in quantizers)
        reached: set[str] = set()
        if self.is_pending or not is_calibrated:
            survey = self.survey()
            survey.meet(example)
            self.settle(survey)
            self.discover(example)
        elif self._observed is not None:
            reached = set(self._observed.calls)
        examples, seen = Examples(self.watch), CallCounter()
        examples.add(example, None, self.watch(example, seen), seen)
        self._note(examples, set(seen.calls) | reached, by="example")
        return not reached <= set(seen.calls)
