"""The points of a wrapped network that data decide: on its inputs, on what modules read, on results of calls."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from qexplore._functions import function_called, function_name
from qexplore.errors import ModelError, SelectionError
from qexplore.model.alone import alone
from qexplore.model.argument_points import unseen
from qexplore.model.building import Recipe
from qexplore.model.calls import Calls
from qexplore.model.hooks import Hooks
from qexplore.model.in_vain import asked_in_vain, nothing_called
from qexplore.model.input_points import INPUT, ArgumentNames, InputSurvey, bare_name, is_input_name
from qexplore.model.inputs import Placement
from qexplore.model.left_float import LeftFloat
from qexplore.model.point_hook import Listener
from qexplore.model.points import Found, FoundLeft, FoundPoint, QuantizationPoint, Site, call_name, free_name
from qexplore.model.quantizer_view import QuantizerView, module_key
from qexplore.model.schemes import Scheme
from qexplore.model.surveys import CallSurvey, ReadingSurvey
from qexplore.model.weight_points import WeightPoint
from qexplore.predicates import PredicateLike, as_predicate, select_modules
from qexplore.quant import TensorQuantizer

_NEVER = "never called"
_MASK = "an additive mask: 0 and very negative"


class DataPoints(nn.Module):
    """What `WrappedNetwork` knows of its data, and the points that follow from it."""

    model: nn.Module
    quantizers: nn.ModuleDict
    _keys: dict[str, str]
    _weights: dict[str, WeightPoint]
    _modules_of_points: dict[str, tuple[str, str]]
    _wanted_inputs: tuple[str, ...] | None
    _dropped_input: TensorQuantizer | None
    _left_float: dict[str, str]
    _recipe: Recipe | None
    _readers: dict[str, nn.Module]
    scheme: Scheme | None
    calls: Calls
    """What meets the calls of functions, where these are asked for."""
    is_pending: bool
    """Whether there are calls to be found, in data."""
    _found_calls: tuple[Site, ...] = ()  # a model that was pickled before they were kept has the order of its points

    @property
    def fake_quantizers(self) -> QuantizerView:
        """Each point's `TensorQuantizer` by name, in the order of ``num_bits``."""
        return QuantizerView(self._keys, self.quantizers)

    @property
    def points(self) -> tuple[QuantizationPoint, ...]:
        """As `WrappedNetwork.points`."""
        raise NotImplementedError

    def listen(self, inputs: Any, listener: Listener, *, quantized: bool = False) -> Any:
        """As `WrappedNetwork.listen`."""
        raise NotImplementedError

    def _attached(self, follow: bool = True) -> Hooks:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- the network's own inputs

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

    def survey(self) -> InputSurvey:
        """What tells, from inputs that it is shown, which points `set_inputs` is to have."""
        return InputSurvey(ArgumentNames.of(self.model), self._wanted_inputs)

    def settle(self, survey: InputSurvey, *, to_the_end: bool = False) -> None:
        """Have the points that ``survey`` tells, of all data where ``to_the_end``."""
        self.set_inputs(survey.points(to_the_end=to_the_end), survey.first)
        self._left_float = survey.left_float(to_the_end=to_the_end) if self.can_have_inputs(()) else {}

    @property
    def inputs_left_float(self) -> tuple[LeftFloat, ...]:
        """What data have shown to stay float though it was asked for, with the reasons: inputs, and calls."""
        own = [LeftFloat(name, why, "input") for name, why in self._left_float.items()]
        words = {"argument": "input", "function": "call"}
        left = [one for one in self._found_left if one.reason]
        return (*own, *(LeftFloat(call_name(one.site), one.reason, words[one.kind]) for one in left))

    @property
    def found_notes(self) -> tuple[str, ...]:
        """Sentences on what was asked for in vain, and on inputs of modules that are at other points already."""
        in_vain = f"`functions` asks for calls that nobody makes: {'; '.join(self._in_vain)}" if self._in_vain else ""
        return tuple(filter(None, (in_vain, self.served, self._carried)))

    @property
    def _carried(self) -> str:
        """A sentence on what recurrent layers with points carry from step to step; empty without any."""
        touched = {*self._readers, *(module for point in self.points for module in (point.module, *point.readers))}
        layers = [name for name, one in self.model.named_modules() if isinstance(one, nn.RNNBase) and name in touched]
        listed = ", ".join(map(repr, layers))
        way_out = "qexplore.unroll_recurrent(network) writes them out"
        return f"states and gates stay float in the kernels of {listed}: {way_out}" if layers else ""

    @property
    def served(self) -> str:
        """A sentence on the inputs of modules whose tensors are at other points already; empty without any."""
        by_point: dict[str, list[str]] = {}
        for one in self._found_left:
            if one.point:
                name = one.site[0] if one.kind == "argument" else call_name(one.site)
                by_point.setdefault(one.point, []).append(name)
        listed = "; ".join(f"{', '.join(dict.fromkeys(names))} at {point}" for point, names in by_point.items())
        return f"inputs quantized where they are made, without points of their own: {listed}" if listed else ""

    @contextmanager
    def inputs_reconsidered(self) -> Iterator[None]:
        """Let a block change the points that data decide; after an error they are as before."""
        before = self._input_quantizers(), self._dropped_input, self._left_float
        found, was_pending = self.found, self.is_pending
        quantizers = {name: self.fake_quantizers[name] for name in self._found}
        try:
            yield
        except BaseException:
            if self._input_quantizers() != before[0]:
                self._put_inputs(*before[:2])
            self._left_float = before[2]
            if self.found != found:
                self._put_found(found, quantizers)
            self.is_pending = was_pending
            raise

    # ------------------------------------------------------------------------------------ inputs of modules, and calls

    def _begin_found(self) -> None:
        """Before data: a point for whatever each reading module reads, and none for calls."""
        self._found: dict[str, FoundPoint] = {}
        self._found_left: tuple[FoundLeft, ...] = ()
        self.is_pending = self.calls.wanted is not None
        self._in_vain: tuple[str, ...] = ()
        if self._readers:
            self._put_found(Found(unseen(self._readers)))

    @property
    def found(self) -> Found:
        """The points on inputs of modules and on calls; and what of these has none of its own."""
        return Found(tuple(self._found.values()), self._found_left, self._found_calls)

    def discover(self, inputs: Any) -> None:
        """Find the points on inputs of modules and on calls in one forward of the float network.

        Raises:
            SelectionError: no call is selected, a module reads no floating tensor, or calls differ within the forward.
        """
        wanted = self.calls.wanted
        if self._recipe is None or not (self._readers or wanted):
            return
        one_range = None if self.scheme is None else self.scheme.one_range
        reading = ReadingSurvey(self._readers, None if one_range is None else as_predicate(one_range))
        met = CallSurvey(lambda site, output: reading.made_at(call_name(site), output), reading.given)
        met.fixed = {id(buffer): buffer for buffer in self.model.buffers()}
        with self._attached().surveyed(self.model, reading, self.calls, met):
            self.listen(inputs, lambda name, tensors: None)
        for why in reading.without.values():
            raise SelectionError(why)
        if wanted is not None and not met.sites and self.scheme is None:
            raise SelectionError(nothing_called(wanted, met, self.model))
        self._in_vain = () if wanted is None or self.scheme else asked_in_vain(wanted, met, self.model)
        points, served = reading.points(met.sites), reading.served
        left = [FoundLeft("argument", site, reason=_MASK) for site in sorted(reading.masks)]
        left += [FoundLeft("argument", site, point=point) for site, point in served.items() if site in reading.reads]
        left += [FoundLeft("function", site, reason=why) for site, why in met.left.items()]
        left += [FoundLeft("function", site, point=point) for site, point in served.items() if site in reading.operands]
        if self.scheme is not None:  # it chooses by kind, and nobody has asked for this module
            lone = [point for point in points if point.kind == "argument" and not point.sites[0][1]]
            left += [FoundLeft("argument", point.sites[0], reason=_NEVER) for point in lone]
            points = tuple(point for point in points if point not in lone)
            self._require_some(points)
        self.set_found(Found(points, tuple(left), tuple(site for site in met.sites if site not in served)))

    def _require_some(self, points: Sequence[FoundPoint]) -> None:
        if not points and len(self._keys) == len(self._found):
            raise SelectionError(
                f"the scheme '{self.scheme and self.scheme.name}' must find something to quantize, but "
                f"{type(self.model).__name__} has no layers and makes no calls that it names: choose by predicates"
            )

    @alone
    def set_found(self, found: Found) -> None:
        """Have these points on inputs of modules and on calls; one that stays keeps its quantizer.

        Raises:
            ModelError: they are not of a network wrapped in this way.
        """
        if not self.can_have_found(found):
            raise ModelError(
                "points on inputs of modules and on calls must be those that `inputs` and `functions` ask for, got "
                f"{', '.join(point.name for point in found.points)}: wrap the network as theirs was"
            )
        found = found._replace(points=self._named(found.points))
        if found != self.found:
            self._put_found(found)
        self.is_pending = False

    def _named(self, points: Sequence[FoundPoint]) -> tuple[FoundPoint, ...]:
        """``points`` under names that nothing else bears."""
        taken = {*self._keys} - {*self._found}
        named = []
        for point in points:
            named.append(replace(point, name=free_name(bare_name(point.name), taken)))
            taken.add(named[-1].name)
        return tuple(named)

    def can_have_found(self, found: Found) -> bool:
        """Whether `set_found` can give the model these: where it asks for any, there are some, or others in place."""
        asked = {"argument": bool(self._readers), "function": self.calls.are_wanted}
        names = {name for name, _ in self.model.named_modules()}
        fit = (
            asked[one.kind] and (asked["function"] or not one.operands) and module in names
            for one in found.points
            for module, _ in (*one.sites, *one.operands)
        )
        are_there = bool(found.points or found.left or self.scheme or not any(asked.values()))
        return self._recipe is not None and all(fit) and are_there

    def names_with(self, inputs: Sequence[str], found: Sequence[FoundPoint]) -> list[str]:
        """Names of all points, in their order, were these those that data decide."""
        ranks = {name: self._rank(name) for name in self._keys if name not in self._found and self._rank(name)}
        ranks |= {one.name: 1 if one.kind == "argument" else 3 for one in found} | dict.fromkeys(inputs, 0)
        return sorted([*inputs, *(name for name in ranks if name not in inputs)], key=lambda name: ranks[name])

    def _put_found(self, found: Found, known: Mapping[str, TensorQuantizer] | None = None) -> None:
        points = found.points
        old = {name: self.fake_quantizers[name] for name in self._found} | dict(known or {})
        made = {point.name: old[point.name] if point.name in old else self._new_quantizer(point) for point in points}
        for name in self._found:
            del self._keys[name], self._modules_of_points[name]
        self._found = {point.name: point for point in points}
        self._found_left, self._found_calls = found.left, found.calls
        self._modules_of_points |= {point.name: self._home_of(point) for point in points}
        kept = {name: self.quantizers[key] for name, key in self._keys.items()}
        every = {**made, **kept}
        self._keys = {name: module_key(name) for name in sorted(every, key=self._rank)}
        self.quantizers.clear()
        self.quantizers.update({key: every[name] for name, key in self._keys.items()})
        for quantizer in made.values():
            quantizer.lie_on(Placement.of(self.model).device)
        self.calls.left = frozenset(one.site for one in found.left if one.kind == "function")
        self._attached(follow=False).put_found(self.model, found, made, self.calls)

    def _rank(self, name: str) -> int:
        """Where a point's kind stands among all: inputs, what modules read, their outputs, calls, weights."""
        if name in self._weights:
            return 4
        if name in self._found:
            return 1 if self._found[name].kind == "argument" else 3
        return 2 if name in self._modules_of_points else 0

    def _new_quantizer(self, point: FoundPoint) -> TensorQuantizer:
        assert self._recipe is not None
        module, call = point.sites[0]
        subject = self._readers[module] if point.kind == "argument" else function_called(call)
        asked_by = module if point.kind == "argument" else call_name((module, call))
        return self._recipe.quantizer(point.name, asked_by, subject)

    def _home_of(self, point: FoundPoint) -> tuple[str, str]:
        module, call = point.sites[0]
        if point.kind == "function":
            return module, function_name(function_called(call))
        kind: Any = parametrize.type_before_parametrizations(self._readers[module])
        return module, kind.__name__

    def require_found_for(self, points: Iterable[str]) -> None:
        """Raise where a state's ``points`` are still to be found here.

        Raises:
            ModelError: which tensors they are on is seen in data alone.
        """
        unknown = [name for name in points if name not in self._keys]
        if unknown and (self._readers or self.calls.are_wanted):
            raise ModelError(
                f"the state of a wrapped network must fit its points, got '{unknown[0]}', which is not among them yet: "
                "points on inputs of modules and on calls are found in data, so call model.describe(example_input) "
                "first, on an example like the one they were found on"
            )

    def _require_found(self) -> None:
        if self.is_pending:
            raise ModelError(
                "the calls of functions that are to be quantized must be found in data first: call "
                "model.describe(example_input) or model.calibrate(loader)"
            )

    def _picklable_recipe(self) -> dict[str, Any]:
        """What new points are made by; None where a function of the user's own has no name that pickle could find."""
        try:
            pickle.dumps(self._recipe)
        except Exception:
            return {"_recipe": None}
        return {}


def checked_readers(network: nn.Module, predicate: PredicateLike) -> dict[str, nn.Module]:
    """The modules whose inputs are quantized, by name: not the network itself.

    Raises:
        SelectionError: nothing else is selected.
    """
    readers = {name: module for name, module in select_modules(network, predicate).items() if name}
    if not readers:
        raise SelectionError(
            f"`inputs` must select modules in the network, but {as_predicate(predicate)} selects the network alone: "
            "its own inputs are quantized by quantize_input=True"
        )
    return readers
