"""What one forward of the float network shows: which tensors modules and calls read, and what is called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qexplore._functions import public_function
from qexplore._trees import tensors_of
from qexplore.model.argument_points import no_number, version_of
from qexplore.model.frames import aside
from qexplore.model.input_points import INPUT, ArgumentNames, floating_inputs, is_mask
from qexplore.model.points import FoundPoint, Site, call_name
from qexplore.predicates import Predicate

Numbers = frozenset[int]
"""The tensors that one site was given."""


@dataclass
class ReadingSurvey:
    """Which floating tensors modules and calls read in one forward of the float network.

    Attributes:
        modules: those that are asked about, by name.
        one_range: functions that give what they are given in the same range, so that it is at the same point; None for
            none.
        reads: of each argument of each the tensors that it was given, as numbers.
        operands: likewise of each operand of calls.
        masks: arguments that are additive masks.
        without: modules that were given no floating tensor, with the reason.
    """

    modules: Mapping[str, nn.Module]
    one_range: Predicate | None = None
    reads: dict[Site, set[int]] = field(default_factory=dict)
    operands: dict[Site, set[int]] = field(default_factory=dict)
    masks: set[Site] = field(default_factory=set)
    without: dict[str, str] = field(default_factory=dict)
    _numbers: dict[int, tuple[Any, int, int]] = field(default_factory=dict)
    _makers: dict[int, str] = field(default_factory=dict)
    _same: dict[int, int] = field(default_factory=dict)
    _count: int = 0

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow ranges through the calls of a block."""
        if self.one_range is None:
            yield
        else:
            with _Following(self, self.one_range):
                yield

    def unite(self, numbers: Iterable[int]) -> None:
        """Note that these tensors have one range."""
        first, *others = map(self._range_of, numbers)
        self._same |= dict.fromkeys((one for one in others if one != first), first)

    def _range_of(self, number: int) -> int:
        while number in self._same:
            number = self._same[number]
        return number

    def _ranges(self, numbers: Iterable[int]) -> Numbers:
        return frozenset(map(self._range_of, numbers))

    def made_at(self, point: str, tree: Any) -> None:
        """Note that the tensors in ``tree`` are at a point."""
        for tensor in tensors_of(tree):
            self._makers[self.number(tensor)] = point

    def read(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Note what the module ``name`` is given."""
        found = floating_inputs(ArgumentNames.of(module), args, kwargs)
        if not found:
            self.without[name] = no_number(name, args, kwargs)
        for argument, tensors in found.items():
            if any(map(is_mask, tensors)):
                self.masks.add((name, argument))
            else:
                self.reads.setdefault((name, argument), set()).update(map(self.number, tensors))

    def given(self, operand: Site, tensor: Tensor) -> None:
        """Note what a call is given as one operand."""
        self.operands.setdefault(operand, set()).add(self.number(tensor))

    def number(self, tensor: Tensor) -> int:
        """The same for a tensor as long as nothing writes into it."""
        reference, version, number = self._numbers.get(id(tensor), (None, 0, 0))
        if reference is None or reference() is not tensor or version != version_of(tensor):
            self._count += 1
            number = self._count
            self._numbers[id(tensor)] = weakref.ref(tensor), version_of(tensor), number
        return number

    @property
    def served(self) -> dict[Site, str]:
        """What is at points already, with the names of these."""
        readers = {site: point.name for point in self._arguments for site in point.sites}
        makers = {site: {self._makers.get(one, "") for one in numbers} for site, numbers in self.reads.items()}
        for site, numbers in self.operands.items():
            inside = {one: readers[around] for around in self._around(site) for one in self.reads[around]}
            makers[site] = {self._makers.get(one) or inside.get(one, "") for one in numbers}
        return {site: ", ".join(sorted(names)) for site, names in makers.items() if all(names)}

    def _around(self, operand: Site) -> Iterable[Site]:
        """The arguments, of modules that the call is in, that are no mere handing on of what has a point."""
        inside = f"{operand[0]}."
        return [site for site in self.reads if inside.startswith(f"{site[0]}.") and not self._is_made(site)]

    def _is_made(self, argument: Site) -> bool:
        return all(one in self._makers for one in self.reads[argument])

    @property
    def _arguments(self) -> tuple[FoundPoint, ...]:
        """One for each range that modules read and that is at no point: what is read alike everywhere is one."""
        groups: dict[Numbers, list[Site]] = {}
        for site in sorted(self.reads, key=lambda one: list(self.modules).index(one[0])):
            if not self._is_made(site):
                groups.setdefault(self._ranges(self.reads[site]), []).append(site)
        met = {name for name, _ in (*self.reads, *self.masks)}
        lone = [[(name, "")] for name in self.modules if name not in met and name not in self.without]
        return tuple(FoundPoint(self._named(sites[0]), "argument", tuple(sites)) for sites in (*groups.values(), *lone))

    def points(self, calls: Iterable[Site]) -> tuple[FoundPoint, ...]:
        """Those on what modules read, then on ``calls``; a range has one, whoever reads it.

        Args:
            calls: in order, results and operands.
        """
        served = self.served
        calls = [site for site in calls if site not in served]
        shared: dict[Numbers, list[Site]] = {}
        for site in calls:
            if site in self.operands:
                shared.setdefault(self._ranges(self.operands[site]), []).append(site)
        found = []
        for one in self._arguments:
            operands = shared.pop(self._ranges(self.reads.get(one.sites[0], ())), ())
            found.append(FoundPoint(one.name, one.kind, one.sites, tuple(operands)))
        for site in calls:
            sites = [site] if site not in self.operands else shared.pop(self._ranges(self.operands[site]), [])
            found += [FoundPoint(call_name(site), "function", tuple(sites))] if sites else []
        return tuple(found)

    def _named(self, site: Site) -> str:
        module, argument = site
        is_only = sum(name == module for name, _ in self.reads) < 2
        return f"{module}.{INPUT}" if is_only else f"{module}.{INPUT}.{argument}"


class _Following(TorchFunctionMode):
    """Notes what goes into and comes out of functions that leave ranges as they are, inside torch's layers too."""

    def __init__(self, survey: ReadingSurvey, one_range: Predicate) -> None:
        super().__init__()
        self._survey = survey
        self._one_range = one_range

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for each of its functions."""
        kwargs = kwargs or {}
        if not self._one_range("", public_function(func)):
            return func(*args, **kwargs)
        given = self._numbers((args, kwargs))
        output = func(*args, **kwargs)
        if given:
            self._survey.unite([*given, *self._numbers(output)])
        return output

    def _numbers(self, tree: Any) -> list[int]:
        return [self._survey.number(tensor) for tensor in tensors_of(tree) if tensor.is_floating_point()]


class SurveyHook:
    """Forward pre-hook of a module that is asked what it reads."""

    def __init__(self, survey: ReadingSurvey, name: str) -> None:
        self._survey = survey
        self._name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """What torch calls before the module's forward."""
        with aside():
            self._survey.read(self._name, module, args, kwargs)


@dataclass
class CallSurvey:
    """What one forward of the float network calls.

    Args:
        made_at: told of each selected call's site and result.
        given: told of each selected operand's site and tensor.

    Attributes:
        calls: of each module that makes selected calls: their names, in order, and functions.
        left: selected calls that stay float, with the reasons.
        whole: selected calls and operands without a floating tensor.
        inside: calls that layers of torch's make, which are none of the network's.
        seen: names of all calls, selected or not.
        fixed: buffers, and what is made of these and of parameters alone, by identity.
    """

    made_at: Callable[[Site, Any], None] = lambda site, output: None
    given: Callable[[Site, Tensor], None] = lambda site, tensor: None
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    left: dict[Site, str] = field(default_factory=dict)
    whole: dict[Site, None] = field(default_factory=dict)
    inside: dict[Site, Any] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    fixed: dict[int, Tensor] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those of the selected calls and operands, each module's in order."""
        return tuple((module, call) for module, calls in self.calls.items() for call in calls)

    def follow(self, args: Any, kwargs: Any, output: Any) -> None:
        """Note what a call has made of parameters and buffers alone."""
        given = tensors_of((args, kwargs))
        if given and all(map(self.is_fixed, given)):
            self.fixed |= {id(tensor): tensor for tensor in tensors_of(output)}

    def is_fixed(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the same for every sample."""
        return isinstance(tensor, nn.Parameter) or id(tensor) in self.fixed
