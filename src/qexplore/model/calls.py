"""Calls of functions as points: ``add``, ``add_1``, ... of each module, found and quantized as they are made."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore._functions import Operand, function_called, function_name, operand_name, public_function
from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import CalibrationError, SelectionError
from qexplore.model.argument_points import ArgumentHook, shows_a_mask
from qexplore.model.attention import FUSED, LAYER, PARTS, attention_in_parts, opened_layer
from qexplore.model.frames import Framed, aside, calls_in
from qexplore.model.input_points import is_mask
from qexplore.model.operands import LAYERS, SUMS, operands_of, reading, written_by
from qexplore.model.point_hook import PointHook, floating_tensors
from qexplore.model.points import Site, call_name
from qexplore.model.surveys import CallSurvey
from qexplore.predicates import Predicate


class CallHook(PointHook):
    """Puts what one call gives through the point's quantizer: also where it is written into an argument."""

    def around(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call's result, quantized."""
        written = written_by(function, args, kwargs)
        if written is None:
            return self.pass_through(function(*args, **kwargs))
        # What is saved for gradients must not be written into a second time.
        handed = written.clone() if torch.is_grad_enabled() else written
        swap = partial(map_tensors, lambda tensor: handed if tensor is written else tensor)
        quantized = self.pass_through(function(*swap(args), **swap(kwargs)))
        with aside():
            return written if quantized is written else written.copy_(quantized)


class Calls:
    """The calls of a network's modules that are points.

    Args:
        wanted: asked with a call's name and torch's function; None takes the points that there are.

    Attributes:
        hooks: of each module those of its calls and of what these are given, in the order in which it makes them.
        left: selected calls that stay float.
        survey: in a survey what is noted; hooks rest meanwhile.
    """

    asks_for_operands = False  # a model that was pickled before there were any has no answer of its own
    namer: Any = None
    """Told of the names of all calls in a block of `met`."""

    def __init__(self, wanted: Predicate | None) -> None:
        self.wanted = wanted
        self.are_wanted = wanted is not None
        self.hooks: dict[str, dict[str, PointHook]] = {}
        self.left: frozenset[Site] = frozenset()
        self.survey: CallSurvey | None = None
        self.asks_for_operands = wanted is not None and wanted.is_about_operands
        self._answers: dict[Site, bool] = {}
        self._framed: list[Framed] = []

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.wanted)
        except Exception:  # a function of the user's own, without a name: the points that there are remain
            return self.__dict__ | {"wanted": None, "_answers": {}}
        return self.__dict__

    def put_on(self, network: nn.Module, within: str = "") -> None:
        """Meet every call of ``network`` from now on; those in modules of torch's that hold no other stay theirs.

        Of one module in it and all that it holds, where ``within`` names one.
        """
        if not within:
            self.take_off()
        for name, module in network.named_modules():
            is_within = f"{name}.".startswith(f"{within}." if within else "")
            is_framed = isinstance(module.__dict__.get("forward"), Framed)
            if is_within and not is_framed and "parametrizations" not in name.split("."):
                self._framed.append(Framed(module, name, self if is_looked_into(module) else _Layers(self)))
                self._framed[-1].put_on()

    def frame(self, module: str) -> CallsFrame:
        """As `qexplore.model.frames.Frames.frame`."""
        return CallsFrame(self, module) if self.namer is None else self.namer.frame(self, module)

    def hooks_of(self, module: str) -> Iterable[PointHook]:
        """As `qexplore.model.frames.Frames.hooks_of`."""
        return self.hooks.get(module, {}).values()

    def take_off(self) -> None:
        """Leave every forward as it was."""
        for framed in self._framed:
            framed.take_off()
        self._framed = []

    @property
    def are_on(self) -> bool:
        """Whether calls are met."""
        return bool(self._framed) and all(framed.is_on for framed in self._framed)

    @contextmanager
    def met(self, network: nn.Module, namer: Any = None) -> Iterator[None]:
        """Meet the calls of a block, and tell ``namer`` of them."""
        was_on, self.namer = self.are_on, namer
        try:
            if not was_on:
                self.put_on(network)
            yield
        finally:
            self.namer = None
            if not was_on:
                self.take_off()

    @contextmanager
    def surveyed(self, network: nn.Module, survey: CallSurvey) -> Iterator[None]:
        """Note the calls of a block in ``survey``."""
        self.survey = survey
        try:
            with self.met(network):
                yield
        finally:
            self.survey = None

    def selects(self, site: Site, function: Any) -> bool:
        """Whether the call at ``site`` is wanted as a point."""
        if site not in self._answers:
            wanted = self.wanted
            known = site[1] in self.hooks.get(site[0], {})
            self._answers[site] = known if wanted is None else wanted(call_name(site), public_function(function))
        return self._answers[site]


class _Layers:
    """Layers of torch's that hold no other: what they call is seen in a survey, and is no point."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def frame(self, module: str) -> _LayerFrame | None:
        """As `qexplore.model.frames.Frames.frame`."""
        survey = self._calls.survey
        return None if survey is None else _LayerFrame(survey, module)

    def hooks_of(self, module: str) -> Iterable[PointHook]:
        """As `qexplore.model.frames.Frames.hooks_of`."""
        return ()


class _LayerFrame:
    """One run of such a layer's forward."""

    def __init__(self, survey: CallSurvey, module: str) -> None:
        self._survey = survey
        self._module = module
        self._names = CallNames()

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call."""
        own = self._names.of(function)
        given = tensors_of((args, kwargs))
        if own and any(one.is_floating_point() and not isinstance(one, nn.Parameter) for one in given):
            self._survey.inside[self._module, own] = function
        return function(*args, **kwargs)

    def finish(self) -> None:
        """As `qexplore.model.frames.Frame`."""


class CallNames:
    """Names of the calls in one run of a forward: a function's own, from the second on with a number.

    Attributes:
        given: so far.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.given: list[str] = []

    def of(self, function: Any) -> str:
        """The name of the next call of ``function``; "" of what is no call, as reading an attribute."""
        name = function_name(function)
        if not name:
            return ""
        number = self._counts[name]
        self._counts[name] += 1
        self.given.append(f"{name}_{number}" if number else name)
        return self.given[-1]


class CallsFrame:
    """One run of a module's forward: numbers its calls, and quantizes those that are points.

    Raises:
        SelectionError: when it ends, or on the way: the selected calls are not those that the module made before.
    """

    def __init__(self, calls: Calls, module: str) -> None:
        self._calls = calls
        self._module = module
        self._names = CallNames()
        self._made: dict[str, Any] = {}

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call, in parts where these are points."""
        output = self._call(function, args, kwargs)
        if self._calls.survey is not None:
            self._calls.survey.follow(args, kwargs, output)
        return output

    def _call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if function is LAYER:  # written in Python: its calls are met one by one
            return calls_in(opened_layer, args, kwargs)
        own = self._names.of(function)
        if not own:
            return function(*args, **kwargs)
        if function is FUSED and self._opens(own):
            parts = attention_in_parts(lambda part, *given: self._make(f"{own}.{part}", *given), *args, **kwargs)
            return self._make(own, lambda: parts, (), {}, FUSED)
        return self._make(own, function, args, kwargs)

    def _opens(self, attention: str) -> bool:
        """Whether a part of fused attention is a point, or what a part is given."""
        parts = {f"{attention}.{part}": function for part, function in PARTS.items()}
        asked = [*parts.items(), *((f"{part}.{operand_name(0)}", Operand(parts[part])) for part in parts)]
        return any(self._calls.selects((self._module, call), function) for call, function in asked)

    def _make(self, call: str, function: Any, args: Any, kwargs: Any, known_as: Any = None) -> Any:
        """Make one call, given its operands quantized where these are points."""
        read = self._operands(call, function, args, kwargs)
        if not read:
            return self._made_with(call, function, args, kwargs, known_as)
        swap = partial(map_tensors, lambda tensor: read.get(id(tensor), tensor))
        with reading((self._module, call)):
            output = self._made_with(call, function, swap(args), swap(kwargs), known_as)
        written = written_by(function, args, kwargs)
        if written is None or read.get(id(written), written) is written:
            return output
        with aside():
            return written.copy_(output)

    def _operands(self, call: str, function: Any, args: Any, kwargs: Any) -> dict[int, Tensor]:
        """What the call gets in the place of tensors that it is given, by their identities."""
        if not self._calls.asks_for_operands:
            return {}
        read: dict[int, Tensor] = {}
        written = written_by(function, args, kwargs)
        for name, tensor in operands_of(args, kwargs).items():
            site = self._module, f"{call}.{name}"
            if not self._calls.selects(site, Operand(function)):
                continue
            if not tensor.is_floating_point():
                if self._calls.survey is not None:
                    self._calls.survey.whole[site] = None
                continue
            hook = self._calls.hooks.get(self._module, {}).get(site[1])
            if self._calls.survey is not None:
                self._note_operand(self._calls.survey, site, function, tensor)
            elif isinstance(hook, ArgumentHook):
                self._require_next(site[1])
                self._made[site[1]] = function
                self._refuse_mask(hook, site, [tensor])
                # What is saved for gradients must not be written into.
                own = tensor.clone() if tensor is written and torch.is_grad_enabled() else tensor
                with aside():
                    read[id(tensor)] = hook.read(own)
            elif site not in self._calls.left and not is_mask(tensor):
                raise self._changed(site[1], "was not made before")
        return read

    def _note_operand(self, survey: CallSurvey, site: Site, function: Any, tensor: Tensor) -> None:
        if is_mask(tensor):
            survey.left[site] = "an additive mask"
        elif isinstance(tensor, nn.Parameter):
            survey.left[site] = "" if function_name(function) in LAYERS else "a parameter"
        elif survey.is_fixed(tensor) and function_name(function) in SUMS:
            survey.left[site] = "computed of parameters and buffers alone"
        else:
            self._made[site[1]] = Operand(function)
            survey.given(site, tensor)

    def _refuse_mask(self, hook: PointHook, site: Site, given: Any) -> None:
        if hook.listener is not None and any(map(shows_a_mask, floating_tensors(given))):
            raise CalibrationError(
                f"point '{hook.name}' must see no additive mask, got one among the arguments of its call: leave it out "
                f"of `functions`, & ~predicates.by_name({call_name(site)!r})"
            )

    def _made_with(self, call: str, function: Any, args: Any, kwargs: Any, known_as: Any = None) -> Any:
        site = self._module, call
        if not self._calls.selects(site, known_as or function):
            return function(*args, **kwargs)
        if _adds_a_mask(function, args, kwargs):  # the product is the point, without the mask
            return args[0] + self._made_with(call, torch.bmm, args[1:], {}, torch.baddbmm)
        if self._calls.survey is not None:
            return self._noted(self._calls.survey, site, function, args, kwargs, known_as or function)
        hook = self._calls.hooks.get(self._module, {}).get(call)
        if not isinstance(hook, CallHook):
            output = function(*args, **kwargs)
            is_left = site in self._calls.left or any(map(is_mask, floating_tensors((args, kwargs))))
            if floating_tensors(output) and not is_left:
                raise self._changed(call, "was not made before")
            return output
        self._require_next(call)
        self._made[call] = function
        self._refuse_mask(hook, site, args)
        return hook.around(function, args, kwargs)

    def _noted(self, survey: CallSurvey, site: Site, function: Any, args: Any, kwargs: Any, named: Any) -> Any:
        adds_mask = any(map(is_mask, floating_tensors((args, kwargs))))
        output = function(*args, **kwargs)
        if not floating_tensors(output):
            survey.whole[site] = None
            return output
        if adds_mask:
            survey.left[site] = "an additive mask is among its arguments"
            return output
        self._made[site[1]] = named
        survey.made_at(site, output)
        return output

    def _require_next(self, call: str) -> None:
        expected = list(self._calls.hooks[self._module])
        place = len(self._made)
        if place >= len(expected) or expected[place] != call:
            missing = expected[place] if place < len(expected) else call
            raise self._changed(missing, "was not made in its turn")

    def finish(self) -> None:
        """Compare what was called with what was called before."""
        survey = self._calls.survey
        if survey is not None:
            given = self._names.given
            parts = [f"{call}.{part}" for call in given if function_called(call) is FUSED for part in PARTS]
            survey.seen |= {call_name((self._module, call)): None for call in (*given, *parts)}
            before = survey.calls.setdefault(self._module, self._made)
            if list(before) != list(self._made):
                odd = next((call for call in (*before, *self._made) if (call in before) != (call in self._made)), None)
                odd = next(iter(before)) if odd is None else odd  # the same calls in another order
                raise self._changed(odd, "was not made each time")
            return
        for call in list(self._calls.hooks.get(self._module, {}))[len(self._made) :]:
            raise self._changed(call, "was not made")

    def _changed(self, call: str, what: str) -> SelectionError:
        name = call_name((self._module, call))
        return SelectionError(
            f"a module must make the same calls of functions whenever it runs, but '{name}' {what}: leave it out of "
            f"`functions`, your own or the scheme's, & ~predicates.by_name({name!r}), or make modules of what varies"
        )


def _adds_a_mask(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is a product and a mask, neither of them scaled."""
    return function is torch.baddbmm and len(args) == 3 and not kwargs and is_mask(args[0])


def is_looked_into(module: nn.Module) -> bool:
    """Whether calls in a module's forward may be points: not in one of torch's that holds no other."""
    kind = parametrize.type_before_parametrizations(module)
    own = [child for child in module.children() if not isinstance(child, nn.ModuleDict) or kind is type(module)]
    return not kind.__module__.startswith("torch.nn") or bool(own)
