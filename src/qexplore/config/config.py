"""`Config`: everything that can be asked for in a file, or by flags of the same names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, NamedTuple

from qexplore._references import did_you_mean
from qexplore.config import forms
from qexplore.config.forms import Form
from qexplore.errors import ConfigError

SECTIONS = {
    "network": "The network and its data: functions without arguments, found from the current folder too",
    "activations": "What is quantized: a class, a name or a glob of modules; ~ in front leaves out",
    "num_bits_lower_limit": "What each point may have",
    "min_accuracy": "What the answer must meet",
    "algorithm": "The search",
    "study": "What is written",
}
"""Heads over groups of fields, by the first field of each."""

_OF_DATA = ("activations", "inputs", "functions")
_PREDICATES = (*_OF_DATA, "weights")


class Described(NamedTuple):
    """A field: what it may hold, what it is, what it holds where nothing is said, and its flag."""

    name: str
    form: Form
    text: str
    default: Any
    flag: str


def _field(form: Form, text: str, default: Any = None, flag: str = "") -> Any:
    return field(default=default, metadata={"form": form, "text": text, "flag": flag})


@dataclass(frozen=True)
class Config:
    """What to explore, and how; frozen, and checked as a whole when it is built.

    Its fields are the keys of a configuration file and, with dashes, the flags of the command line; `described` says
    what each is. None is the default of most, and means that nothing was said. A field that holds several values is a
    tuple.

    Raises:
        ConfigError: names every mistake.
    """

    network: str = _field(forms.REFERENCE_FORM, "Gives the float network, trained.", "")
    calibration_loader: str | None = _field(forms.REFERENCE_FORM, "Gives the batches that ranges are calibrated on.")
    search_loader: str = _field(forms.REFERENCE_FORM, "Gives the batches that candidates are measured on.", "")
    report_loader: str | None = _field(
        forms.REFERENCE_FORM, "Gives batches of neither of these, on which the front is measured at last."
    )
    metric: str = _field(forms.METRIC, "The score of a batch's samples, by name or by reference.", "top1_accuracy")
    output: int | str | None = _field(
        forms.OUTPUT, "Which of several outputs is judged: its place or its name.", flag="--judged-output"
    )
    unpack: str | None = _field(forms.REFERENCE_FORM, "A function of a batch that returns (inputs, target).")

    activations: tuple[str, ...] | None = _field(forms.SELECTION, "Modules whose outputs are quantized, such as ReLU.")
    weights: tuple[str, ...] | None = _field(
        forms.SELECTION, "Modules whose weights are quantized, such as weighted: all that multiply by a matrix."
    )
    inputs: tuple[str, ...] | None = _field(forms.SELECTION, "Modules before which what they read is quantized.")
    functions: tuple[str, ...] | None = _field(
        forms.CALLS, "Calls of functions whose results are quantized, or operands, such as [cat, operand of add]."
    )
    scheme: str | None = _field(
        forms.SCHEME, "What a runtime quantizes, in the place of these four; its choices and ties where none are said."
    )
    calibration_method: Any = _field(forms.METHOD, "How ranges of activations are chosen, for all or by layer.")
    weight_method: Any = _field(forms.WEIGHT_METHOD, "How ranges of weights are chosen, likewise.")
    asymmetric: bool | str = _field(forms.ASYMMETRIC, "Whether activations have a zero point.", False)
    weight_granularity: str | int = _field(forms.GRANULARITY, "Which values of a weight share a scale.", "channel")
    outputs: str = _field(forms.OUTPUTS, "What modules may return: one tensor, or anything that holds some.", "tensor")

    num_bits_lower_limit: int | None = _field(forms.whole(1), "Narrowest width; 2 where no scheme says more.")
    num_bits_upper_limit: int | None = _field(forms.whole(1), "Widest width; 8 likewise.")
    choices: Any = _field(forms.CHOICES, "Choices in the place of these limits, for all or by layer.")
    pinned: Any = _field(forms.PINNED, "One choice for some layers.")
    tied: Any = _field(forms.TIED, "Groups of layers that share a choice, or residual, qkv, weights_with_activations.")
    first_last: Any = _field(forms.CHOICE, "The choice of the first and of the last points.")
    target: str | None = _field(forms.PATH, "YAML file that says what a device can run.")

    min_accuracy: float | None = _field(forms.number(), "Worst acceptable score, the largest where lower is better.")
    max_drop: float | None = _field(forms.number(low=0), "The same, counted from the float network's score.")
    costs: tuple[str, ...] = _field(forms.COSTS, "What is kept small; each is an axis of the front.", ("total_bits",))
    limits: Any = _field(forms.LIMITS, "Upper limits of costs, which need not be axes.")
    max_total_bits: float | None = _field(forms.number(above=0), "The most total bits.")

    algorithm: str = _field(forms.ALGORITHM, "How candidates are proposed.", "nsga2")
    seed: int = _field(forms.whole(0), "Of everything that is drawn, in the factories too.", 0)
    max_evaluations: int | None = _field(forms.whole(1), "Budget in full passes over the search set.", 400)
    max_seconds: float | None = _field(forms.number(above=0), "End after so many seconds.")
    patience: int | None = _field(forms.whole(1), "End after so many passes without progress.")
    population_size: int = _field(forms.whole(2), "Of the algorithm.", 40)
    generation_size: int | None = _field(forms.whole(1), "Candidates of a generation, at least; more for many workers.")
    workers: int | None = _field(forms.whole(1), "Workers of Ray: of RAY_ADDRESS's cluster, else of this machine.")
    judge: str = _field(forms.JUDGE, "What decides between points that the data cannot tell apart.", "divergence")
    racing: bool = _field(forms.SWITCH, "Whether candidates that cannot matter any more are stopped early.", True)
    engine: str = _field(forms.ENGINE, "Whether candidates share work.", "auto")
    precision: str = _field(forms.PRECISION, "Full float32, or as torch is set.", "full")

    study: str | None = _field(
        forms.PATH, "File of the study; without one runs/NAME.db, after the name of the configuration."
    )
    page: str | None = _field(forms.PATH, "HTML file for the report page, written at the end.")

    def __post_init__(self) -> None:
        given = {one.name: getattr(self, one.name) for one in described() if getattr(self, one.name) != one.default}
        mistakes = [f"`{name}` {text}" for name, text in mistakes_of(given)]
        if mistakes:
            raise ConfigError.of("the configuration", mistakes)
        for one in described():
            if one.name in given:
                object.__setattr__(self, one.name, one.form.shaped(given[one.name]))

    @property
    def given(self) -> dict[str, Any]:
        """Fields that hold something else than their default, as plain data."""
        values = {one.name: (getattr(self, one.name), one.default) for one in described()}
        plain = {name: value for name, (value, default) in values.items() if value != default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def described() -> tuple[Described, ...]:
    """Every field, in the order of a file."""
    return tuple(_described(one.name, one.default, **one.metadata) for one in fields(Config))


def _described(name: str, default: Any, *, form: Form, text: str, flag: str) -> Described:
    return Described(name, form, text, default, flag or f"--{name.replace('_', '-')}")


def mistakes_of(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Field and sentence of every mistake in known fields; None stands for nothing said."""
    said = {name: value for name, value in given.items() if value is not None}
    wrong = set()
    for one in described():
        for text in one.form.mistakes(said[one.name]) if one.name in said else ():
            wrong.add(one.name)
            yield one.name, text
    yield from _missing(said)
    yield from _contradictions(said, wrong, given)


def _missing(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    wanted = ["network", "search_loader"]
    wanted += ["calibration_loader"] if not said.keys().isdisjoint(_OF_DATA) or "weights" not in said else []
    for one in described():
        if one.name in wanted and one.name not in said:
            yield one.name, f"is missing: {one.form.words} that {one.text[0].lower()}{one.text[1:].rstrip('.')}"
    if said.keys().isdisjoint({*_PREDICATES, "scheme"}):
        yield (
            "activations",
            "or `weights`, `inputs` or `functions` must be given: class names, names or globs of modules, such as "
            "ReLU; or `scheme`",
        )


def _contradictions(said: Mapping[str, Any], wrong: set[str], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What fields say against each other; those that are wrong by themselves say nothing."""
    if {"min_accuracy", "max_drop"} <= said.keys():
        yield "max_drop", "must not be given beside `min_accuracy`: it is the same, counted from the float network"
    beside = [f"`{name}`" for name in _PREDICATES if name in said]
    if "scheme" in said and beside:
        yield "scheme", f"must not be given beside {' and '.join(beside)}: it says what is quantized"
    low, high = (said.get(f"num_bits_{end}_limit", default) for end, default in (("lower", 2), ("upper", 8)))
    if wrong.isdisjoint({"num_bits_lower_limit", "num_bits_upper_limit"}) and low > high:
        if "num_bits_upper_limit" in said:
            yield "num_bits_upper_limit", f"must be at least `num_bits_lower_limit`, {low}, got {high}"
        else:
            yield "num_bits_lower_limit", f"must be at most `num_bits_upper_limit`, {high}, got {low}"
    if "limits" not in wrong:
        yield from _unknown_limits(said.get("limits", {}), said.get("costs", ()))
    ends = ("max_evaluations", "max_seconds", "patience")
    if given.get("max_evaluations", 0) is None and not any(end in said for end in ends):
        yield "max_evaluations", "must not be none without `max_seconds` or `patience`: a search needs an end"


def _unknown_limits(limits: Mapping[str, Any], costs: Any) -> Iterator[tuple[str, str]]:
    """Limits of what is neither a cost by name nor one of ``costs``; what a reference is called is not known here."""
    own = [one for one in (costs if isinstance(costs, (list, tuple)) else (costs,)) if isinstance(one, str)]
    if any(map(forms.is_reference, own)):
        return
    known = [*forms.cost_names(), *(PurePath(one).stem for one in own if one.endswith(".csv"))]
    for name in limits:
        if name not in known:
            yield "limits", f"must name costs, {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"
