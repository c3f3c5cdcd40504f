"""Calls that are asked for and that nobody makes: why there are none, and what to ask for instead."""

from __future__ import annotations

import re

from torch import nn

from qexplore._functions import Operand, function_called, public_function
from qexplore._references import did_you_mean
from qexplore.model.points import call_name
from qexplore.model.surveys import CallSurvey
from qexplore.predicates import Predicate

_LISTED = 40


def asked_in_vain(wanted: Predicate, met: CallSurvey, network: nn.Module) -> tuple[str, ...]:
    """The parts of ``wanted`` that select none of the calls, each with the reason where there is one to see."""
    named = [(call_name(site), function_called(site[1])) for site in (*met.sites, *met.left)]
    idle = (part for part in wanted.parts if not any(part(*call) for call in named))
    return tuple(f"{part}{_reason(part, met, network)}" for part in idle)


def nothing_called(wanted: Predicate, met: CallSurvey, network: nn.Module) -> str:
    """Why nothing at all is selected."""
    names = list(met.seen)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    left = f" ({next(iter(met.left.values()))})" if met.left else ""
    reason = _reason(wanted, met, network)
    return (
        f"`functions` must select a call that gives a floating tensor, but {wanted} selects none{left}{reason}"
        f"{'' if reason.endswith('?') else '.'} There are: {', '.join(names[:_LISTED]) or 'none'}{more}"
    )


def _reason(part: Predicate, met: CallSurvey, network: nn.Module) -> str:
    reasons = (_whole(part, met), _in_layers(part, met), _in_kernels(part, network), _near(part, met))
    return next(filter(None, reasons), "")


def _whole(part: Predicate, met: CallSurvey) -> str:
    """Calls that are selected, and give or are given integers alone."""
    found = [call_name(site) for site in met.whole if part(call_name(site), function_called(site[1]))]
    return f": {', '.join(map(repr, found[:3]))} gives or is no floating tensor" if found else ""


def _in_layers(part: Predicate, met: CallSurvey) -> str:
    """Selected ones inside layers of torch's that hold no other."""
    for (module, call), function in met.inside.items():
        if part(call_name((module, call)), public_function(function)):
            return f": the one operation of '{module}' is its output, activations=predicates.by_name({module!r})"
        if part(f"{call_name((module, call))}.input", Operand(function)):
            return f": what '{module}' is given is its input, inputs=predicates.by_name({module!r})"
    return ""


def _in_kernels(part: Predicate, network: nn.Module) -> str:
    """Recurrent layers compute these, and nobody sees them do it."""
    for name, module in network.named_modules():
        computed = _COMPUTED.get(next((kind for kind in _COMPUTED if isinstance(module, kind)), nn.Module), ())
        calls = [(f"{name}.{one}", function_called(one)) for one in computed]
        operands = [(f"{call}.input", Operand(function)) for call, function in calls]
        if any(part(*call) for call in (*calls, *operands)):
            return (
                f": '{name}' ({type(module).__name__}) is one kernel, in which there are no calls; write it out, "
                "qexplore.unroll_recurrent(network), before the network is wrapped"
            )
    return ""


_COMPUTED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: ("linear", "matmul", "add", "mul", "sigmoid", "tanh"),
    nn.GRU: ("linear", "matmul", "add", "mul", "sigmoid", "tanh"),
    nn.RNN: ("linear", "matmul", "add", "tanh", "relu"),
}


def _near(part: Predicate, met: CallSurvey) -> str:
    """The nearest name of a call to one that is asked for."""
    asked = re.findall(r"'([^']+)'", str(part))
    alike = [f", did you mean {name!r}?" for one in asked for name in met.seen if _last(name) == _last(one)]
    return next(filter(None, (*alike, *(did_you_mean(name, list(met.seen)) for name in asked))), "")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
