"""A float network with its quantizers on: points by name, one vector of choices, hooks on and off."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from qexplore._choices import has_range
from qexplore.errors import ModelError, SelectionError
from qexplore.model.alone import OneThread, alone
from qexplore.model.autocast import Autocast
from qexplore.model.building import Recipe, checked_asymmetric, initial_num_bits, weight_quantizer
from qexplore.model.calls import Calls
from qexplore.model.data_points import DataPoints, checked_readers
from qexplore.model.examples import Example
from qexplore.model.fingerprint import Brought, require_same_model
from qexplore.model.following import follow, home_of
from qexplore.model.hooks import Hooks, calls_heard_by
from qexplore.model.input_points import INPUT, ArgumentNames, checked_selection
from qexplore.model.inputs import Placement, call
from qexplore.model.marks import NO_MARKS, Marks
from qexplore.model.observation import CallCounter, activation_point, all_of
from qexplore.model.pickling import make_picklable
from qexplore.model.point_hook import Listener, Outputs
from qexplore.model.points import Candidates, NumBits, QuantizationPoint, free_name, in_call_order
from qexplore.model.quantizer_view import QuantizerView, module_key
from qexplore.model.rangeless import have_been_told, require_ranges
from qexplore.model.schemes import Options, Scheme, checked_scheme
from qexplore.model.state import content_version, follow_saved_inputs, in_eval_mode
from qexplore.model.weight_points import WeightPoint, weight_points
from qexplore.model.weights import Granularity, check_granularity, float_weights, forget_cached, weight_quantizations
from qexplore.model.widths import DEFAULT_NUM_BITS, checked_num_bits, widths_set
from qexplore.model.wrapping import detach, unwrap
from qexplore.predicates import PredicateLike, as_predicate, select_modules
from qexplore.quant import TensorQuantizer, are_dead

_PREDICATES = ("activations", "inputs", "functions", "weights")


class WrappedNetwork(DataPoints):
    """What `qexplore.QuantizedModel` is apart from calibrating and describing itself; its arguments and errors.

    Attributes:
        scheme: what it was wrapped by; None where predicates were given.
        brought: what a manifest made of it; None before one was applied.
        lock: held by the one thread that sets or reads the model's state; `using` holds it for a block.
    """

    scheme: Scheme | None = None
    brought: Brought | None = None
    _is_input_unasked = False  # nothing was said of the network's inputs, neither to have points nor to have none
    _told_of_ranges = False  # a model that was pickled before these were asked has none of its own

    def __init__(
        self,
        model: nn.Module,
        activations: PredicateLike | None = None,
        weights: PredicateLike | None = None,
        *,
        inputs: PredicateLike | None = None,
        functions: PredicateLike | None = None,
        unsigned: Any = "auto",
        asymmetric: Any = False,
        init_num_bits: Any = DEFAULT_NUM_BITS,
        quant_desc: Any = None,
        weight_granularity: Granularity = "channel",
        quantize_input: bool | Sequence[str] | None = None,
        outputs: Outputs = "tensor",
        scheme: Scheme | str | None = None,
    ) -> None:
        super().__init__()
        self.lock = OneThread()
        if outputs not in ("tensor", "all"):
            raise ModelError(f'`outputs` must be "tensor" or "all", got {outputs!r}')
        check_granularity(weight_granularity)
        network = unwrap(model)
        asked = dict(zip(_PREDICATES, (activations, inputs, functions, weights), strict=True))
        self.scheme = checked_scheme(scheme, asked)
        given = Options(asked, unsigned, asymmetric, weight_granularity, quantize_input).under(self.scheme, network)
        activations, inputs, functions, weights = (given.asked[kind] for kind in _PREDICATES)
        weight_granularity, quantize_input = given.granularity, given.quantize_input
        is_asymmetric = checked_asymmetric(given.asymmetric)
        self._wanted_inputs = checked_selection(quantize_input, network)
        has_input = activations is not None if quantize_input is None else bool(quantize_input)
        if not has_input and all(predicate is None for predicate in given.asked.values()):
            raise SelectionError(
                "nothing is to be quantized: give a predicate as `activations` or as `weights`, `inputs` or `functions`"
            )
        self._is_input_unasked = not has_input and quantize_input is None and inputs is None
        selected = {} if activations is None else select_modules(network, activations)
        held = [] if weights is None else weight_points(network, weights, weight_granularity)
        # A function that was given as a predicate may be one that cannot be pickled.
        self._predicate_text = (
            ", ".join(f"{kind} {as_predicate(one)!r}" for kind, one in asked.items() if one is not None)
            or f"scheme '{self.scheme and self.scheme.name}'"
        )
        named = [f"{INPUT}.{name}" for name in self._wanted_inputs or ()] or [INPUT]
        taken = [*selected, *(point.name for point in held)]
        entries = [free_name(name, taken) for name in named if has_input]
        modules = {name or free_name("output", selected): module for name, module in selected.items()}
        width = initial_num_bits(init_num_bits, quant_desc)
        # Everything that can fail happens before the first hook is on.
        self._recipe = Recipe(quant_desc, given.unsigned, is_asymmetric, width)
        self._readers = {} if inputs is None else checked_readers(network, inputs)
        self.calls = Calls(None if functions is None else as_predicate(functions))
        built = self._recipe.quantizers_of(dict.fromkeys(entries) | modules)
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
        self.calibrated_on: Marks = NO_MARKS
        """Marks of the samples that the last calibration saw; none where ranges came from elsewhere."""
        self._dropped_input: TensorQuantizer | None = None
        self._left_float: dict[str, str] = {}
        self._hooks: Hooks | None = Hooks()
        self.quantizers = nn.ModuleDict({self._keys[name]: quantizer for name, quantizer in built.items()})
        self.model = network
        self._follow_network()
        self.training = network.training  # not train(): submodules keep flags of their own
        for name in entries:
            self._hooks.add_input(network, name, built[name], ArgumentNames.of(network))
        for name, module in modules.items():
            self._hooks.add_output(module, name, built[name], outputs)
        for point in held:
            point.attach(built[point.name])
        self._begin_found()
        self.register_load_state_dict_pre_hook(follow_saved_inputs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        make_picklable(self.model)
        return self.__dict__ | self._picklable_recipe()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward, tensors at the points fake-quantized; warns once of points without a range."""
        self._attached()
        self._require_found()
        if not (self._told_of_ranges or torch.compiler.is_compiling()):
            self._told_of_ranges = have_been_told(self.fake_quantizers)
        return self.model(*args, **kwargs)

    @property
    def fake_quantizers(self) -> QuantizerView:
        """Each point's `TensorQuantizer` by name: ``"input"`` or several, qualified module names, names of weights."""
        return QuantizerView(self._keys, self.quantizers)

    @property
    def activation_fake_quantizers(self) -> QuantizerView:
        """Those of all but weights: ``"input"`` (or ``"input.x"``...) first."""
        keys = {name: key for name, key in self._keys.items() if name not in self._weights}
        return QuantizerView(keys, self.quantizers)

    @property
    def collects_histograms(self) -> bool:
        """Whether the descriptor asks for histograms at these, or at those that data is yet to find."""
        known = [one.collects_histogram for one in self.activation_fake_quantizers.values()]
        return (
            self._recipe.collects_histograms if not known and self._recipe is not None else bool(known) and all(known)
        )

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
        found = self._found.get(name)
        return activation_point(name, index, self._modules_of_points.get(name), self._observed, found)

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
        forget_cached()

    @contextmanager
    def using(self, num_bits: Any) -> Iterator[None]:
        """Set choices for a block and bring the old ones back. Quantizers disabled by hand stay disabled.

        Other threads that ask for the model's state wait until the block ends.
        """
        require_same_model(self, num_bits)
        with self.lock, widths_set(self.fake_quantizers, num_bits):
            forget_cached()
            try:
                yield
            finally:
                forget_cached()

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
        self._require_found()
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
