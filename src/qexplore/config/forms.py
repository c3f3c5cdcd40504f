"""Forms of values: what a field may hold, in words, and the nearest right spelling of what it may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qexplore._arguments import is_number, is_whole
from qexplore._references import REFERENCE, did_you_mean

Known = Callable[[], Sequence[Any]]

_LONGEST = 90


@dataclass(frozen=True)
class Form:
    """What a value must be.

    Attributes:
        words: that, as it stands after "must be".
        fits: whether a value is so.
        known: words among which the nearest right spelling is looked for; loaded on use.
        many: whether the field takes a sequence; one value alone is a sequence of one.
        metavar: what stands for the value in the help of a flag.
        held: what a value holds, each with the name that it stands behind, "" for none; nothing of what holds nothing.
        each: what that must be, so that the part which is not is named.
        taken: a value that fits as a `Config` holds it.
    """

    words: str
    fits: Callable[[Any], bool]
    known: Known = tuple
    many: bool = False
    metavar: str = "VALUE"
    held: Callable[[Any], Sequence[tuple[str, Any]]] = lambda value: ()
    each: Form | None = None
    taken: Callable[[Any], Any] = lambda value: value

    def mistakes(self, value: Any) -> list[str]:
        """What is wrong with ``value``, a sentence each, without the name of the field."""
        if not self.many:
            whole = [f"must be {self.words}, got {shown(value)}{self._near(value)}"]
            return [] if self.fits(value) else self._mistakes_within(value) or whole
        parts = self.shaped(value)
        if not parts:
            return [f"must hold at least one of {self.words}, got {shown(value)}"]
        wrong = [part for part in parts if not self.fits(part)]
        return [f"must hold {self.words}, got {shown(part)}{self._near(part)}" for part in wrong]

    def _mistakes_within(self, value: Any) -> list[str]:
        each = self.each
        wrong = [] if each is None else [(name, part) for name, part in self.held(value) if not each.fits(part)]
        return [
            f"must hold {each.words}, got {shown(part)}{f' for {name!r}' if name else ''}{each._near(part)}"
            for name, part in wrong
            if each is not None
        ]

    def shaped(self, value: Any) -> Any:
        """``value``, which fits, as a `Config` holds it."""
        if not self.many:
            return self.taken(value)
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)

    @property
    def told(self) -> str:
        """The words, for a reader who has not made a mistake."""
        return self.words

    def _near(self, value: Any) -> str:
        known = list(self.known())
        unknown = [word for word in _words(value) if word not in known]
        return next(filter(None, (did_you_mean(word, known) for word in unknown)), "")


def _as_yaml(value: Any) -> str:
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def _words(value: Any) -> Iterator[str]:
    """Texts in ``value``, at any depth; of a mapping those that stand behind names."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from _words(part)


def shown(value: Any) -> str:
    """``value`` in a sentence, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 3 :]}"


def is_reference(value: Any) -> bool:
    """Whether ``value`` has the form ``package.module:name``."""
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


def whole(low: int) -> Form:
    """Whole numbers of at least ``low``."""
    return Form(f"an int of at least {low}", lambda value: _is_whole(value) and value >= low, metavar="N", taken=int)


def _is_whole(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and value.is_integer())  # YAML reads 1e3 as a float


def number(low: float | None = None, above: float | None = None) -> Form:
    """Finite numbers from ``low`` on, or above something."""
    kind = "a positive number" if above == 0 else "a number" + ("" if low is None else f" of at least {low:g}")
    return Form(
        kind,
        lambda value: (
            is_number(value) and (low is None or float(value) >= low) and (above is None or float(value) > above)
        ),
        metavar="NUMBER",
    )


def one_of(
    known: Known,
    more: str = "",
    fits: Callable[[Any], bool] = lambda value: False,
    metavar: str = "NAME",
    each: Form | None = None,
) -> Form:
    """One of some words, or ``more``, which ``fits``."""

    def is_known(value: Any) -> bool:
        return fits(value) or (isinstance(value, (str, bool)) and value in known())

    return Listed(more, is_known, known, metavar=metavar, held=_entries, each=each)


def words(*known: str | bool) -> Form:
    """One of these."""
    return one_of(lambda: known, metavar="|".join(map(_as_yaml, known)).replace("'", ""))


def by_layer(*known: str) -> Form:
    """One of these, or one for each of some layers."""
    each = _by_selector(known.__contains__)
    one = Form(f"one of {', '.join(map(repr, known))}", known.__contains__, lambda: known)
    return one_of(lambda: known, f", or such by layer ({{fc: {known[0]}}})", each, "|".join(known), one)


@dataclass(frozen=True)
class Listed(Form):
    """A form whose words name what is known."""

    def mistakes(self, value: Any) -> list[str]:
        """As those of a `Form`."""
        words = f"one of {self._listed(_as_yaml)}{self.words}"
        return Form(words, self.fits, self._texts, self.many, held=self.held, each=self.each).mistakes(value)

    @property
    def told(self) -> str:
        """The words that are known, and what else goes."""
        return self._listed(_as_yaml).replace("'", "") + self.words

    def _listed(self, shown: Callable[[Any], str]) -> str:
        return ", ".join(map(shown, self.known()))

    def _texts(self) -> list[str]:
        return [one for one in self.known() if isinstance(one, str)]


def _is_choice(value: Any) -> bool:
    from qexplore._choices import MAX_NUM_BITS, choice_code, is_float_code

    code = choice_code(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    return code is not None and (0 <= code <= MAX_NUM_BITS or is_float_code(code))


def _are_choices(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_choice, value))


def _by_selector(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and fits(one) for key, one in value.items())
    )


def _entries(value: Any) -> list[tuple[str, Any]]:
    return [(str(name), part) for name, part in value.items()] if isinstance(value, Mapping) else []


def _listed_entries(value: Any) -> list[tuple[str, Any]]:
    """What lists hold, of a list alone too."""
    lists = _entries(value) or [("", value)]
    return [(name, part) for name, parts in lists if isinstance(parts, (list, tuple)) for part in parts]


def _formats() -> list[str]:
    from qexplore._choices import FLOAT_FORMATS

    return ["off", *(one.name for one in FLOAT_FORMATS)]


def cost_names() -> Sequence[str]:
    """Costs that can be asked for by name."""
    from qexplore.cost import COST_NAMES

    return COST_NAMES


def _algorithms() -> Sequence[str]:
    from qexplore.search import ALGORITHMS

    return ALGORITHMS


def _schemes() -> Sequence[str]:
    from qexplore.model import SCHEMES

    return SCHEMES


METRICS = (
    "negative_log_likelihood",
    "perplexity",
    "pixel_accuracy",
    "squared_error",
    "token_accuracy",
    "top1_accuracy",
    "top5_accuracy",
)
"""Metrics by name; any other number of best classes goes as well, as in ``top3_accuracy``."""

_A_CHOICE = "a width up to 16, 'off', or the name of a float format such as E4M3"
_REFERRED = "package.module:factory"

TEXT = Form("text", lambda value: isinstance(value, str) and bool(value.strip()))
PATH = Form("the path of a file", TEXT.fits, metavar="FILE")
REFERENCE_FORM = Form(_REFERRED, is_reference, metavar="MODULE:NAME")
SELECTION = Form(
    "class names, names or globs of modules, 'regex:...', or package.module:predicate",
    TEXT.fits,
    many=True,
    metavar="NAME,...",
)
CALLS = Form(
    "functions of torch (add), what they are given (operand of add), names or globs of calls, 'regex:...', or "
    "package.module:predicate",
    TEXT.fits,
    many=True,
    metavar="NAME,...",
)
SCHEME = one_of(_schemes, f", or {_REFERRED}", is_reference)
OUTPUT = Form("the place of an output or its name", lambda value: is_whole(value) or TEXT.fits(value), metavar="N|NAME")
METHOD = by_layer("max", "percentile", "mse", "entropy", "auto")
WEIGHT_METHOD = by_layer("max", "percentile", "mse", "auto")
ASYMMETRIC = words(False, True, "auto")
GRANULARITY = one_of(
    lambda: ("channel", "tensor"),
    ", or the size of groups",
    lambda value: is_whole(value) and value > 0,
    "channel|tensor|N",
)
OUTPUTS = words("tensor", "all")
ENGINE = words("auto", "prefix", "direct")
PRECISION = words("full", "as set")
JUDGE = words("divergence", "accuracy")
SWITCH = words(True, False)
ALGORITHM = one_of(_algorithms)
METRIC = one_of(
    lambda: METRICS,
    f", or {_REFERRED}",
    lambda value: is_reference(value) or (isinstance(value, str) and number_of_best(value) > 0),
)
COSTS = Listed(
    f", a CSV file of a cost table, or {_REFERRED}",
    lambda value: isinstance(value, str) and (value in cost_names() or value.endswith(".csv") or is_reference(value)),
    cost_names,
    many=True,
    metavar="NAME,...",
)
LIMITS = Form(
    "the most of costs by name, such as {model_bytes: 65536}",
    _by_selector(is_number),
    held=_entries,
    each=Form("numbers", is_number),
)
CHOICE = Form(_A_CHOICE, _is_choice, _formats)
CHOICES = Form(
    "a list of choices ([2, 4, 8, E4M3]), or such lists by layer ({weights: [4, 8]})",
    lambda value: _are_choices(value) or _by_selector(_are_choices)(value),
    _formats,
    held=_listed_entries,
    each=CHOICE,
)
PINNED = Form("a choice by layer, such as {conv1: 8}", _by_selector(_is_choice), _formats, held=_entries, each=CHOICE)
TIED = Form("a list of groups of layers", lambda value: isinstance(value, (str, list, tuple)) and bool(value))


def number_of_best(name: str) -> int:
    """The 3 of ``"top3_accuracy"``; 0 for another name."""
    count = name.removeprefix("top").removesuffix("_accuracy")
    return int(count) if count.isdecimal() and name == f"top{count}_accuracy" else 0
