"""A float network with its quantizers on: points by name, one vector of choices, hooks on and off."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from qexplore._choices import has_range
from qexplore.errors import ModelError, SelectionError
from qexplore.model.alone import OneThread, alone
from qexplore.model.autocast import Autocast
from qexplore.model.building import checked_asymmetric, initial_num_bits, quantizers_of, weight_quantizer
from qexplore.model.examples import Example
from qexplore.model.fingerprint import require_same_model
from qexplore.model.following import follow, home_of
from qexplore.model.hooks import Hooks, Listener, Outputs, calls_heard_by
from qexplore.model.input_points import INPUT, ArgumentNames, InputSurvey, bare_name, checked_selection, is_input_name
from qexplore.model.inputs import Placement, call
from qexplore.model.left_float import LeftFloat
from qexplore.model.observation import CallCounter, activation_point, all_of
from qexplore.model.pickling import make_picklable
from qexplore.model.points import Candidates, NumBits, QuantizationPoint, free_name, in_call_order
from qexplore.model.quantizer_view import QuantizerView, module_key
from qexplore.model.rangeless import have_been_told, require_ranges
from qexplore.model.state import content_version, follow_saved_inputs, in_eval_mode
from qexplore.model.weight_points import WeightPoint, weight_points
from qexplore.model.weights import Granularity, check_granularity, float_weights, forget_cached, weight_quantizations
from qexplore.model.widths import DEFAULT_NUM_BITS, checked_num_bits, widths_set
from qexplore.model.wrapping import detach, unwrap
from qexplore.predicates import PredicateLike, as_predicate, select_modules
from qexplore.quant import TensorQuantizer, are_dead


class WrappedNetwork(nn.Module):
    """What `qexplore.QuantizedModel` is apart from calibrating and describing itself; its arguments and errors.

    Attributes:
        lock: held by the one thread that sets or reads the model's state; `using` holds it for a block.
    """

    _told_of_ranges = False  # a model that was pickled before this was asked has none of its own

    def __init__(
        self,
        model: nn.Module,
        activations: PredicateLike | None = None,
        weights: PredicateLike | None = None,
        *,
        unsigned: Any = "auto",
        asymmetric: Any = False,
        init_num_bits: Any = DEFAULT_NUM_BITS,
        quant_desc: Any = None,
        weight_granularity: Granularity = "channel",
        quantize_input: bool | Sequence[str] | None = None,
        outputs: Outputs = "tensor",
    ) -> None:
        super().__init__()
        self.lock = OneThread()
        if outputs not in ("tensor", "all"):
            raise ModelError(f'`outputs` must be "tensor" or "all", got {outputs!r}')
        check_granularity(weight_granularity)
        is_asymmetric = checked_asymmetric(asymmetric)
        network = unwrap(model)
        self._wanted_inputs = checked_selection(quantize_input, network)
        has_input = activations is not None if quantize_input is None else bool(quantize_input)
        if activations is None and weights is None and not has_input:
            raise SelectionError("nothing is to be quantized: give a predicate as `activations` or as `weights`")
        selected = {} if activations is None else select_modules(network, activations)
        held = [] if weights is None else weight_points(network, weights, weight_granularity)
        # A function that was given as a predicate may be one that cannot be pickled.
        asked = (("activations", activations), ("weights", weights))
        self._predicate_text = ", ".join(f"{kind} {as_predicate(one)!r}" for kind, one in asked if one is not None)
        named = [f"{INPUT}.{name}" for name in self._wanted_inputs or ()] or [INPUT]
        taken = [*selected, *(point.name for point in held)]
        inputs = [free_name(name, taken) for name in named if has_input]
        modules = {name or free_name("output", selected): module for name, module in selected.items()}
        width = initial_num_bits(init_num_bits, quant_desc)
        # Everything that can fail happens before the first hook is on.
        passed = dict.fromkeys(inputs) | modules
        built = quantizers_of(passed, quant_desc, unsigned, is_asymmetric, width)
        built |= {point.name: weight_quantizer(point, width) for point in held}
        self._keys = {name: module_key(name) for name in built}
        self._weights = {point.name: point for point in held}
        # The network's own output is a point of the module "".
        self._modules_of_points = {
            point: (name, type(module).__name__)
            for point, (name, module) in zip(modules, selected.items(), strict=True)
        }
        self._observed: CallCounter | None = None
        self._examples: tuple[Example, ...] = ()
        self._dropped_input: TensorQuantizer | None = None
        self._left_float: dict[str, str] = {}
        self._hooks: Hooks | None = Hooks()
        self.quantizers = nn.ModuleDict({self._keys[name]: quantizer for name, quantizer in built.items()})
        self.model = network
        self._follow_network()
        self.training = network.training  # not train(): submodules keep flags of their own
        for name in inputs:
            self._hooks.add_input(network, name, built[name], ArgumentNames.of(network))
        for name, module in modules.items():
            self._hooks.add_output(module, name, built[name], outputs)
        for point in held:
            point.attach(built[point.name])
        self.register_load_state_dict_pre_hook(follow_saved_inputs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        make_picklable(self.model)
        return self.__dict__.copy()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward, tensors at the points fake-quantized; warns once of points without a range."""
        self._attached()
        if not (self._told_of_ranges or torch.compiler.is_compiling()):
            self._told_of_ranges = have_been_told(self.fake_quantizers)
        return self.model(*args, **kwargs)

    @property
    def fake_quantizers(self) -> QuantizerView:
        """Each point's `TensorQuantizer` by name: ``"input"`` or several, qualified module names, names of weights."""
        return QuantizerView(self._keys, self.quantizers)

    @property
    def activation_fake_quantizers(self) -> QuantizerView:
        """Those of the inputs and of module outputs: ``"input"`` (or ``"input.x"``...) first, then module names."""
        keys = {name: key for name, key in self._keys.items() if name not in self._weights}
        return QuantizerView(keys, self.quantizers)

    @property
    def weight_fake_quantizers(self) -> QuantizerView:
        """Those of weights, by names such as ``"conv1.weight"``."""
        return QuantizerView({name: self._keys[name] for name in self._weights}, self.quantizers)

    @property
    def weight_points(self) -> tuple[WeightPoint, ...]:
        """The quantized weights, and the modules that hold them."""
        return tuple(self._weights.values())

    @property
    def example_input(self) -> Any:
        """Inputs of one sample, as `qexplore.model.call` takes them, of the last calibration or `describe`; or None.

        A whole batch where it cannot be cut into samples.
        """
        return self._examples[0].inputs if self._examples else None

    @property
    def examples(self) -> tuple[Example, ...]:
        """Of each kind of batch in the last calibration or `describe` one example."""
        return self._examples

    @property
    def points(self) -> tuple[QuantizationPoint, ...]:
        """The points, in the order of ``num_bits``; shapes and calls are known after `calibrate` or `describe`."""
        return tuple(self._point(name, index) for index, name in enumerate(self._keys))

    def _point(self, name: str, index: int) -> QuantizationPoint:
        weight = self._weights.get(name)
        if weight is not None:
            return weight.as_point(index)
        return activation_point(name, index, self._modules_of_points.get(name), self._observed)

    @property
    def call_order(self) -> tuple[int, ...]:
        """Indices of `points` in the order in which a forward passes them; that of `points` until one was seen.

        A weight stands before the first point whose module was registered with its own or behind it.
        """
        names = list(self.activation_fake_quantizers)
        seen = [name for name in self._observed.calls if name in self._keys] if self._observed else names
        return in_call_order(self.points, dict.fromkeys([*seen, *names]), self.model)

    @property
    @alone
    def num_bits(self) -> NumBits:
        """Choices as codes, shape ``[L]``, in the order of `points`: widths, 0 where a quantizer is off.

        Settable by a sequence of widths and formats, a mapping from names, or a point of a front; `NumBitsError` for a
        wrong length, a choice that a point cannot have, or a point found on another model; nothing is changed then.
        """
        return np.array([q.code if q.is_active else 0 for q in self.fake_quantizers.values()], dtype=np.int64)

    @num_bits.setter
    @alone
    def num_bits(self, value: Any) -> None:
        require_same_model(self, value)
        quantizers = self.fake_quantizers
        for quantizer, code in zip(quantizers.values(), checked_num_bits(value, quantizers), strict=True):
            if code:
                quantizer.enable()
                quantizer.num_bits = code
            else:
                quantizer.switched_off = True
        forget_cached(self.model)

    @contextmanager
    def using(self, num_bits: Any) -> Iterator[None]:
        """Set choices for a block and bring the old ones back. Quantizers disabled by hand stay disabled.

        Other threads that ask for the model's state wait until the block ends.
        """
        require_same_model(self, num_bits)
        with self.lock, widths_set(self.fake_quantizers, num_bits):
            forget_cached(self.model)
            try:
                yield
            finally:
                forget_cached(self.model)

    def canonical(self, candidates: Candidates) -> Candidates:
        """``candidates``, shape ``[N, L]``, with one choice for all those that make no difference at a point.

        Rows that are equal afterwards give equal outputs: a quantizer disabled by hand stays off, and one with a range
        of nothing gives 0 at any width.
        """
        canonical, quantizers = candidates.copy(), self.fake_quantizers.values()
        for column, quantizer, is_dead in zip(canonical.T, quantizers, are_dead(quantizers), strict=True):
            if quantizer.disabled:
                column[:] = 0
            elif is_dead:
                column[[has_range(code) for code in column.tolist()]] = quantizer.min_num_bits
        return canonical

    @alone
    def listen(self, inputs: Any, listener: Listener, *, quantized: bool = False) -> Any:
        """Run the network once and show ``listener(name, tensors)`` the floating tensors of every call at a point.

        Points are those of activations and of the input. Runs in eval mode and without gradients. The tensors are the
        network's own: copy what is to be kept, for a later module may write into them.

        Args:
            inputs: a tensor, a tuple of positional or a dict of keyword arguments; copied first.
            listener: called in the order of the forward.
            quantized: show tensors as the quantizers leave them, at the present widths, instead of running the float
                network.

        Returns:
            The network's output.
        """
        hooks = self._attached()
        with (
            hooks.heard_by(listener, quantized=quantized),
            in_eval_mode(self),
            torch.no_grad(),
            hooks.none_passed_over(),
        ):
            copied = Placement.of(self.model).copy_inputs(inputs)
            if quantized:
                return call(self.model, copied)
            with float_weights(self.model):
                return call(self.model, copied)

    @alone
    def watch(self, inputs: Any, seen: CallCounter, *others: Listener) -> Any:
        """As `listen`; ``seen`` also counts what modules with quantized weights give, and ``others`` listen with it."""
        names = {holder: point.name for point in self.weight_points for holder, _ in point.holders}
        with calls_heard_by(names, lambda module, args, kwargs, output: seen.note(names[module], output)):
            return self.listen(inputs, all_of(seen, *others))

    @contextmanager
    def passes_noted(self, onlooker: Listener | None = None) -> Iterator[set[str]]:
        """The names of the points that a block passes, there when it has ended; a weight's when it was read.

        ``onlooker`` is shown, as a listener is, what passes at points of activations, quantized or not, as it is then.
        """
        quantizations = [quantization for *_, quantization in weight_quantizations(self.model)]
        before = [quantization.num_reads for quantization in quantizations]
        with self._attached().passes_noted(onlooker) as passed:
            yield passed
        counts = zip(quantizations, before, strict=True)
        passed |= {quantization.name for quantization, count in counts if quantization.num_reads > count}

    def leave_input_out(self) -> None:
        """Take the inputs' points off, as for a network without a floating input; a calibration looks for them anew."""
        self.set_inputs(())

    @alone
    def set_inputs(self, names: Sequence[str], first: str | None = None) -> None:
        """Have these points for inputs: ``"input"`` for the only floating one or for all, else ``"input.x"`` for each.

        A point that stays keeps its quantizer, a new one begins with the choice and the range of the first. Nothing
        happens on a model that was wrapped with ``quantize_input=False``.

        Args:
            names: in the order of the forward's arguments; empty takes all off.
            first: the one of ``names`` that goes on with the quantizer of ``"input"``; None takes the first.
        """
        old = {bare_name(name): quantizer for name, quantizer in self._input_quantizers().items()}
        begin = next(iter(old.values()), self._dropped_input)
        if begin is None or list(old) == list(names):
            return
        heir = next(iter(names), None) if first not in names else first
        is_new = old.keys().isdisjoint(names)
        copies = {name: begin if is_new and name == heir else copy.deepcopy(begin) for name in names}
        self._put_inputs({name: old.get(name, copies[name]) for name in names}, begin)

    def can_have_inputs(self, names: Iterable[str]) -> bool:
        """Whether `set_inputs` can give the model these points."""
        arguments = ArgumentNames.of(self.model)
        takes_any = self._dropped_input is not None or bool(self._input_quantizers())
        return takes_any and all(name == INPUT or arguments.has(name.removeprefix(f"{INPUT}.")) for name in names)

    def _input_quantizers(self) -> dict[str, TensorQuantizer]:
        others = {*self._weights, *self._modules_of_points}
        return {name: quantizer for name, quantizer in self.fake_quantizers.items() if name not in others}

    def _put_inputs(self, quantizers: Mapping[str, TensorQuantizer], dropped: TensorQuantizer | None) -> None:
        """Take the inputs' points off and put these on; ``dropped`` is what later ones begin with if there are none."""
        for name in self._input_quantizers():
            self._attached().remove(name)
            del self._keys[name]
        others = {key: self.quantizers[key] for key in self._keys.values()}
        named = {free_name(bare_name(name), self._keys): quantizer for name, quantizer in quantizers.items()}
        self._keys = {name: module_key(name) for name in named} | self._keys
        self.quantizers.clear()
        self.quantizers.update({self._keys[name]: quantizer for name, quantizer in named.items()} | others)
        self._dropped_input = None if named else dropped
        for name, quantizer in named.items():
            quantizer.name = name
            quantizer.lie_on(Placement.of(self.model).device)
            self._attached().add_input(self.model, name, quantizer, ArgumentNames.of(self.model))

    def follow_inputs(self, points: Iterable[str]) -> None:
        """Have those points of inputs that are among the names ``points`` of a model wrapped alike."""
        others = self._keys.keys() - self._input_quantizers().keys()
        self.set_inputs([bare_name(name) for name in points if name not in others and is_input_name(name)])

    @property
    def inputs_left_float(self) -> tuple[LeftFloat, ...]:
        """The floating inputs that have no point though others may, with the reasons; as data had them last."""
        return tuple(LeftFloat(name, why, "input") for name, why in self._left_float.items())

    def survey(self) -> InputSurvey:
        """What tells, from inputs that it is shown, which points `set_inputs` is to have."""
        return InputSurvey(ArgumentNames.of(self.model), self._wanted_inputs)

    def settle(self, survey: InputSurvey, *, to_the_end: bool = False) -> None:
        """Have the points that ``survey`` tells, of all data where ``to_the_end``."""
        self.set_inputs(survey.points(to_the_end=to_the_end), survey.first)
        self._left_float = survey.left_float(to_the_end=to_the_end) if self.can_have_inputs(()) else {}

    @contextmanager
    def inputs_reconsidered(self) -> Iterator[None]:
        """Let a block change the points of inputs; after an error they are as before."""
        before = self._input_quantizers(), self._dropped_input, self._left_float
        try:
            yield
        except BaseException:
            if self._input_quantizers() != before[0]:
                self._put_inputs(*before[:2])
            self._left_float = before[2]
            raise

    @alone
    def detach(self) -> nn.Module:
        """Take every quantizer off and return the float network as it was. The wrapper cannot be used afterwards."""
        self._attached(follow=False).remove_all()
        self._hooks = None
        return detach(self.model)

    def _attached(self, follow: bool = True) -> Hooks:
        is_whole = self._hooks is not None and self._hooks.are_on
        if self._hooks is None or not is_whole or not all(point.is_attached for point in self._weights.values()):
            raise ModelError("this wrapper is detached from its network: wrap the network anew")
        for point in self._weights.values():
            point.require_one()
        if follow and not torch.compiler.is_compiling() and home_of(self.model) != self._home:
            self._follow_network()
        return self._hooks

    def _follow_network(self) -> None:
        """Have every quantizer lie where its tensor lies: the network may have been moved without them."""
        follow(self.model, self.fake_quantizers, self._weights, self._observed.devices if self._observed else {})
        self._home = home_of(self.model)

    def require_attached(self) -> None:
        """Raise `ModelError` when the quantizers are no longer on the network."""
        self._attached()

    def require_calibrated(self) -> None:
        """Raise `CalibrationError`, which names them, when points have no range."""
        require_ranges(self.fake_quantizers)

    @alone
    def version(self) -> Hashable:
        """Changes whenever weights, ranges, signs, hand-made switches, devices or regions of ``torch.autocast`` do.

        Widths set by `num_bits` do not count.
        """
        self._follow_network()
        switches = tuple(
            (name, q.disabled, q.stages, q.unsigned, q.asymmetric, bool(q.narrow_range), bool(q.fake_quant))
            for name, q in self.fake_quantizers.items()
        )
        return switches, content_version(self), Autocast.here(Placement.of(self.model).device.type)
