"""How pictures name costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qexplore._choices import is_float_code
from qexplore.cost import COST_NAMES
from qexplore.front import cost_text

_TOTAL_BITS_AXIS = "total bits over all quantization points (bits)"
_COUNTED = ("bits", "bytes", "BOPs", "MACs")  # last words of a cost's name that say what is counted
_UNITS = ("s", "ms", "us", "ns", "J", "mJ", "uJ", "nJ", "W", "mW")  # last words that are nothing but a unit
_LARGE = 1e5
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def cost_words(name: str) -> str:
    """A cost's name as words: "total bits", "BOPs", "latency" of ``latency_ms``."""
    words, unit = _split(name)
    return " ".join(words) if unit in _UNITS else " ".join([*words, unit]).strip()


def opening_words(name: str) -> str:
    """A cost's name at the start of a sentence: with a capital letter, unless the name is the user's own."""
    words = cost_words(name)
    return f"{words[0].upper()}{words[1:]}" if name in COST_NAMES else words


def cost_axis(name: str) -> str:
    """A cost's name on an axis, with its unit where the name does not hold it."""
    unit = _split(name)[1]
    if name == "total_bits":
        return _TOTAL_BITS_AXIS
    return f"{cost_words(name)} ({unit})" if unit in _UNITS else cost_words(name)


def cost_amount(name: str, value: float) -> str:
    """A cost with what is counted: "1,234 bits", "3.2 ms", and "energy 5" where the name does not tell."""
    unit = _split(name)[1]
    return f"{cost_text(value)} {unit}" if unit else f"{cost_words(name)} {cost_text(value)}"


def amount_text(value: float) -> str:
    """A cost in few characters: as in the table, but 1.25 G from a hundred thousand on."""
    if abs(value) < _LARGE:
        return cost_text(value)
    size, prefix = next(one for one in _PREFIXES if abs(value) >= one[0])
    return f"{value / size:.4g} {prefix}"


def cost_unit(name: str) -> str:
    """The unit that a cost's words leave out; often none."""
    unit = _split(name)[1]
    return unit if unit in _UNITS else ""


def choices_axis(codes: Iterable[int]) -> str:
    """What stands at points, on an axis."""
    return "num_bits (bits) and float formats" if any(map(is_float_code, codes)) else "num_bits (bits)"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Values along an axis, with as many decimals as the longest of them needs."""
    if max(map(abs, ticks), default=0.0) >= _LARGE:
        return [amount_text(tick) for tick in ticks]
    decimals = max((len(f"{tick:.6g}".partition(".")[2]) for tick in ticks if abs(tick) >= 1e-4), default=6)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _split(name: str) -> tuple[list[str], str]:
    """A name's words, the last one apart when it says what is counted or measured, else ""."""
    *first, last = name.split("_")
    known = {known.lower(): known for known in _COUNTED} | ({unit: unit for unit in _UNITS} if first else {})
    unit = known.get(last, "")
    return (first if unit else [*first, last]), unit
