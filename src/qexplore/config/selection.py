"""Which modules, or which calls of functions, a list of words means."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import qexplore.predicates as predicates
from qexplore._functions import function_called, is_of_torch
from qexplore._references import did_you_mean
from qexplore.config.forms import is_reference
from qexplore.errors import QExploreError
from qexplore.predicates import Predicate

WORDS = {"leaves": predicates.leaves, "weighted": predicates.weighted, "everything": predicates.everything}
_REGEX = "regex:"
_OPERAND = "operand of "
_NUMBERED = re.compile(r"_\d+$")
_TORCH = re.compile(r"torch\.(nn\.functional\.)?")
_SHOWN = 8


def selection(
    words: Sequence[str], network: nn.Module, found: Mapping[str, Any], wrong: Callable[[str], None]
) -> Predicate | None:
    """Modules of ``network`` that one of ``words`` means, without those that one with ``~`` in front means.

    A word is one of `WORDS`, ``regex:`` with a regular expression, a reference, or a class name (base classes count), a
    module's name or a glob over these.

    Args:
        words: as in a configuration.
        network: whose modules.
        found: what references among the words refer to.
        wrong: told of every word that is none, or means no module.

    Returns:
        None where a word is wrong.
    """
    return _joined({word: _meant(word, network, found, wrong) for word in words}, predicates.leaves)


def calls(
    words: Sequence[str],
    found: Mapping[str, Any],
    wrong: Callable[[str], None],
    made: Callable[[], list[str]] = list,
) -> Predicate | None:
    """Calls of functions that one of ``words`` means, without those that one with ``~`` in front means.

    A word is a function of torch, ``operand of`` one for what its calls are given, a call's name or a glob over these,
    ``regex:`` with a regular expression, or a reference. Whether there are such calls is seen in data.

    Args:
        words: as in a configuration.
        found: what references among the words refer to.
        wrong: told of every word that is none.
        made: names of functions that the network calls, the first among which the nearest right spelling is looked for.

    Returns:
        None where a word is wrong.
    """
    return _joined({word: _called(word, found, wrong, made) for word in words}, predicates.everything)


def refers(word: str) -> bool:
    """Whether ``word`` is a reference; a regular expression may look like one."""
    return is_reference(word) and not word.startswith(_REGEX)


def _joined(meant: Mapping[str, Predicate | None], otherwise: Predicate) -> Predicate | None:
    """All but what is left out; of ``otherwise`` where nothing else is said."""
    if None in meant.values():
        return None
    kept = [one for word, one in meant.items() if not word.startswith("~") and one is not None]
    left = [one for word, one in meant.items() if word.startswith("~") and one is not None]
    chosen = kept[0] if kept else otherwise
    for one in kept[1:]:
        chosen = chosen | one
    for one in left:
        chosen = chosen & ~one
    return chosen


def _called(
    word: str, found: Mapping[str, Any], wrong: Callable[[str], None], made: Callable[[], list[str]]
) -> Predicate | None:
    bare = word.lstrip("~ ")
    try:
        predicate = predicates.as_predicate(found[word]) if word in found else _of_calls(bare)
    except QExploreError as error:
        wrong(f"must select calls of functions, got {word!r}: {error}")
        return None
    if predicate is None:
        asked, of_torch = bare.removeprefix(_OPERAND), [one for one in (*dir(torch), *dir(F)) if one[0] != "_"]
        near = did_you_mean(asked, made()) or did_you_mean(asked, of_torch)
        wrong(
            f"must select calls of functions, got {word!r}, which is no function of torch, nor a name of a call{near}"
        )
    return predicate


def _of_calls(word: str) -> Predicate | None:
    if word.startswith(_REGEX):
        return predicates.by_regex(word.removeprefix(_REGEX))
    name = _TORCH.sub("", word.removeprefix(_OPERAND), count=1)
    function = function_called(name)
    if name.isidentifier() and not _NUMBERED.search(name) and is_of_torch(function):
        return predicates.by_operand(function) if word.startswith(_OPERAND) else predicates.by_function(function)
    is_call = not word.startswith(_OPERAND) and (set(word) & set("*?[") or is_of_torch(function))
    return predicates.by_name(word) if is_call else None


def _meant(word: str, network: nn.Module, found: Mapping[str, Any], wrong: Callable[[str], None]) -> Predicate | None:
    bare = word.lstrip("~ ")
    try:
        predicate = predicates.as_predicate(found[word]) if word in found else _predicate(bare)
    except QExploreError as error:
        wrong(f"must select modules, got {word!r}: {error}")
        return None
    modules = dict(network.named_modules())
    if any(predicate(name, module) for name, module in modules.items()):
        return predicate
    classes = Counter(_class_name(module) for module in modules.values())
    there = ", ".join(f"{kind} ({count})" for kind, count in classes.most_common(_SHOWN))
    near = did_you_mean(bare, [*WORDS, *modules, *classes])
    wrong(f"must select modules, got {word!r}, which selects none{near or f': there are {there}'}")
    return None


def _predicate(word: str) -> Predicate:
    if word.startswith(_REGEX):
        return predicates.by_regex(word.removeprefix(_REGEX))
    return WORDS.get(word) or Predicate(partial(_is_called, word), word)


def _is_called(glob: str, name: str, module: nn.Module) -> bool:
    classes = [one.__name__ for one in type(module).__mro__[: -len(nn.Module.__mro__)]]
    return any(fnmatch.fnmatchcase(one, glob) for one in (name, *classes))


def _class_name(module: nn.Module) -> str:
    return parametrize.type_before_parametrizations(module).__name__
