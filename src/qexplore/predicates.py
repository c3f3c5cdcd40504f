"""Predicates say which modules of a network get a quantizer.

A predicate is asked with the qualified name and the module, as ``named_modules()`` gives them::

    >>> from torch import nn
    >>> from qexplore import predicates
    >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))
    >>> chosen = predicates.by_type(nn.ReLU, nn.Linear) & ~predicates.by_name("3")
    >>> list(predicates.select_modules(network, chosen))
    ['1']

Predicates combine with ``&``, ``|`` and ``~``. A plain function of one module is accepted wherever a predicate is.

Of calls of functions a predicate is asked with the call's name and torch's function; see `by_function`.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore._functions import Operand, function_name, is_of_torch, is_same
from qexplore.errors import SelectionError

PredicateLike = Callable[..., bool]
"""A `Predicate`, or a function of one module."""

_LISTED = 40
"""How many modules an error lists before it says how many more there are."""


class Predicate:
    """A yes-or-no question about a module, with a name that error messages and plans can show.

    Args:
        function: called as ``function(name, module)``.
        description: how the predicate is shown, for example ``by_type(ReLU)``.
        parts: what it lists, each of which is to be met somewhere.
        about: what it is made of; where one of these is, it is asked about what calls are given, too.
    """

    is_about_operands = False

    def __init__(
        self, function: Callable[..., bool], description: str, parts: tuple[Predicate, ...] = (), *about: Predicate
    ) -> None:
        self.is_about_operands = any(one.is_about_operands for one in about)
        self._function = function
        self._description = description
        self._parts = parts

    @property
    def parts(self) -> tuple[Predicate, ...]:
        """What it lists, such as each pattern of `by_name`; itself where that is one."""
        return self._parts or (self,)

    def __call__(self, name: str, module: Any) -> bool:
        """The answer for ``module``, or a function of torch, known as ``name``."""
        return bool(self._function(name, module))

    def __and__(self, other: PredicateLike) -> Predicate:
        right = as_predicate(other)
        return Predicate(partial(_both, self, right), f"({self} & {right})", (), self, right)

    def __or__(self, other: PredicateLike) -> Predicate:
        right = as_predicate(other)
        return Predicate(partial(_either, self, right), f"({self} | {right})", (*self.parts, *right.parts), self, right)

    def __rand__(self, other: PredicateLike) -> Predicate:
        return as_predicate(other) & self

    def __ror__(self, other: PredicateLike) -> Predicate:
        return as_predicate(other) | self

    def __invert__(self) -> Predicate:
        return Predicate(partial(_not, self), f"~{self}", (), self)

    def __repr__(self) -> str:
        return self._description


# Functions of the module, where lambdas would do, so that predicates pickle.
def _both(left: Predicate, right: Predicate, name: str, module: nn.Module) -> bool:
    return left(name, module) and right(name, module)


def _either(left: Predicate, right: Predicate, name: str, module: nn.Module) -> bool:
    return left(name, module) or right(name, module)


def _not(asked: Predicate, name: str, module: nn.Module) -> bool:
    return not asked(name, module)


def _of_module(function: PredicateLike, name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Module) and bool(function(module))


def _is_of(types: tuple[type[nn.Module], ...], name: str, module: nn.Module) -> bool:
    return isinstance(module, types)


def _is_named(patterns: tuple[str, ...], name: str, module: nn.Module) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matches(compiled: re.Pattern[str], name: str, module: nn.Module) -> bool:
    return compiled.fullmatch(name) is not None


def _is_leaf(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Module) and next(module.children(), None) is None


def _is_weighted(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Module) and float_reason(name, module) == ""


def _is_function(functions: tuple[Any, ...], name: str, called: Any) -> bool:
    return not isinstance(called, nn.Module) and any(is_same(called, function) for function in functions)


def _is_operand(functions: tuple[Any, ...], name: str, called: Any) -> bool:
    return isinstance(called, Operand) and any(is_same(called.of, function) for function in functions)


def _is_any(name: str, module: nn.Module) -> bool:
    return True


def as_predicate(predicate: PredicateLike) -> Predicate:
    """Take a `Predicate` as it is and a plain function of one module as a predicate that ignores the name.

    Raises:
        SelectionError: ``predicate`` is neither, such as a module, its class or a name, or takes several arguments.
    """
    if isinstance(predicate, Predicate):
        return predicate
    if isinstance(predicate, (type, nn.Module)) or not callable(predicate):
        shown = predicate.__name__ if isinstance(predicate, type) else repr(predicate)
        kind = type(predicate).__name__ if isinstance(predicate, nn.Module) else shown
        way = "by_name" if isinstance(predicate, str) else "by_type" * isinstance(predicate, (type, nn.Module))
        hint = f": use predicates.{way}({kind})" if way else ""
        raise SelectionError(f"a predicate must be a Predicate or a function of one module, got {shown}{hint}")
    _require_one_argument(predicate)
    return Predicate(partial(_of_module, predicate), getattr(predicate, "__name__", repr(predicate)))


def _require_one_argument(function: PredicateLike) -> None:
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise SelectionError(
            f"a function used as a predicate must take one module, got {function!r} ({error}): for one of name and "
            "module write Predicate(function, 'description')"
        ) from error
    except ValueError:
        return  # a built-in function that does not tell its signature


def by_type(*types: type[nn.Module]) -> Predicate:
    """Modules that are instances of one of ``types`` (subclasses included).

    Raises:
        SelectionError: no type was given, or something that is not a module class.
    """
    for given in types or (None,):
        if not (isinstance(given, type) and issubclass(given, nn.Module)):
            raise SelectionError(f"by_type takes nn.Module classes, got {given!r}: write by_type(nn.ReLU, nn.Linear)")
    return Predicate(partial(_is_of, types), f"by_type({', '.join(t.__name__ for t in types)})")


def by_name(*patterns: str) -> Predicate:
    """Modules whose qualified name matches one of the globs ``patterns`` (``*`` also crosses dots; case counts).

    Raises:
        SelectionError: no pattern was given, or one that is not a string.
    """
    for pattern in patterns or (None,):
        if not isinstance(pattern, str):
            raise SelectionError(f"by_name takes glob strings, got {pattern!r}: write by_name('layer1.*', 'fc')")
    parts = tuple(by_name(pattern) for pattern in patterns) if len(patterns) > 1 else ()
    return Predicate(partial(_is_named, patterns), f"by_name({', '.join(map(repr, patterns))})", parts)


def by_regex(pattern: str) -> Predicate:
    """Modules whose whole qualified name matches the regular expression ``pattern``.

    Raises:
        SelectionError: ``pattern`` is not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise SelectionError(f"by_regex takes a regular expression, got {pattern!r}: {error}") from error
    return Predicate(partial(_matches, compiled), f"by_regex({pattern!r})")


def by_function(*functions: Callable[..., Any]) -> Predicate:
    """Calls of torch's ``functions``, for ``functions=`` of `qexplore.QuantizedModel`.

    ``torch.add`` stands for ``+`` too, for ``+=``, methods such as ``x.add(y)`` and ``x.add_(y)``; ``F.relu`` for
    ``torch.relu``; a product of matrices for all of them (``@``, ``torch.matmul``, ``torch.bmm``).

    Raises:
        SelectionError: none was given, or something that is no function of torch.
    """
    _require_functions("by_function", functions)
    parts = tuple(by_function(function) for function in functions) if len(functions) > 1 else ()
    return Predicate(
        partial(_is_function, functions), f"by_function({', '.join(map(function_name, functions))})", parts
    )


def by_operand(*functions: Callable[..., Any]) -> Predicate:
    """What calls of torch's ``functions`` are given, for ``functions=`` of `qexplore.QuantizedModel`.

    Each floating tensor has a point: ``"layer1.0.add.input"``, ``"layer1.0.add.input_1"``; one for all who read it.

    Raises:
        SelectionError: none was given, or something that is no function of torch.
    """
    _require_functions("by_operand", functions)
    parts = tuple(by_operand(function) for function in functions) if len(functions) > 1 else ()
    asked = Predicate(partial(_is_operand, functions), f"by_operand({', '.join(map(function_name, functions))})", parts)
    asked.is_about_operands = True
    return asked


def _require_functions(owner: str, functions: tuple[Any, ...]) -> None:
    for given in functions or (None,):
        if not is_of_torch(given):
            shown = getattr(given, "__name__", repr(given))
            is_module = isinstance(given, (type, nn.Module))
            hint = (
                "modules are chosen by other arguments" if is_module else "of one of your own name those that it calls"
            )
            raise SelectionError(f"{owner} takes functions of torch, got {shown}: write {owner}(torch.add); {hint}")


leaves = Predicate(_is_leaf, "leaves")
"""Modules that hold no other module."""

weighted = Predicate(_is_weighted, "weighted")
"""Modules with weights that are multiplied as matrices: convolutions, linear and bilinear layers, embeddings, recurrent
layers and cells, attention of torch, and modules of your own with a ``weight`` of two axes or more.

Norms stay float whatever their axes are, and so does the ``weight`` of a module of your own that is a vector: one axis
longer than 1.
"""

everything = Predicate(_is_any, "everything")
"""Every module that can be called, containers and the network itself included."""


WEIGHT_NAMES: dict[type[nn.Module], str | tuple[str, ...]] = {
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    nn.RNNBase: "weight_*",
    nn.RNNCellBase: "weight_*",
}
"""Module kinds whose weights are not their one parameter ``weight``, with names or globs of them.

A row here, and they have quantized weights too, by `weighted` as well::

    predicates.WEIGHT_NAMES[MyAttention] = ("query", "key", "value")
"""

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_CONVOLUTIONS = nn.modules.conv._ConvNd
_PRODUCTS = (_CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
"""Their weight is a matrix also where all its axes but one are 1."""

IS_NORM = "norms stay float"
IS_VECTOR = "one axis is longer than 1: a scale; choose the module by name if it multiplies as a matrix"


def weight_attribute(module: nn.Module) -> str:
    """Name of the first parameter that is a weight of ``module``; "weight" where it has none."""
    return next(iter(weight_attributes(module)), "weight")


def weight_attributes(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that are the weights of ``module``, parametrized ones included."""
    patterns = next((names for kind, names in WEIGHT_NAMES.items() if isinstance(module, kind)), "weight")
    computed = [name for name, value in vars(module).items() if isinstance(value, Tensor)]  # by a hook, from others
    held = [name for name, value in module._parameters.items() if value is not None]
    held = [name for name in held if not any(name.startswith(f"{one}_") for one in computed)]
    held += [name for name in _chains(module) if name not in held]
    wanted = (patterns,) if isinstance(patterns, str) else patterns
    return tuple(name for pattern in wanted for name in held if fnmatch.fnmatchcase(name, pattern))


def weight_of(name: str, module: nn.Module, attribute: str | None = None) -> Tensor | None:
    """The weight ``attribute`` of ``module``, which has the qualified name ``name``; the first where none is named.

    A parametrized weight is what its parametrizations make in eval mode. None where there is none of floating numbers.

    Raises:
        SelectionError: a lazy module whose weight has no shape yet.
    """
    attribute = attribute or weight_attribute(module)
    chain = _chains(module).get(attribute)
    weight = module._parameters.get(attribute) if chain is None else evaluated(chain)
    if isinstance(weight, nn.UninitializedParameter):
        raise SelectionError(
            f"the weight of '{name}' ({type(module).__name__}) has no shape yet: call the network once before it is "
            "wrapped"
        )
    return weight if weight is not None and weight.is_floating_point() else None


def evaluated(chain: nn.Module, *args: Any) -> Any:
    """What a parametrization, or a list of them, makes in eval mode and without gradients.

    In train mode some change themselves when they are asked, as a spectral norm does.
    """
    flags = [(one, one.training) for one in chain.modules()]
    chain.eval()
    try:
        with torch.no_grad():
            return chain(*args)
    finally:
        for one, training in flags:
            one.training = training


def float_reason(name: str, module: nn.Module) -> str | None:
    """Why `weighted` leaves the weights of ``module`` float; "" where it does not, None where there is no matrix.

    Raises:
        SelectionError: a lazy module whose weight has no shape yet.
    """
    weights = [weight_of(name, module, attribute) for attribute in weight_attributes(module)]
    matrices = [weight for weight in weights if weight is not None and weight.dim() >= 2]
    if not matrices:
        return None
    if is_norm(module):
        return IS_NORM
    is_known = isinstance(module, (*_PRODUCTS, *WEIGHT_NAMES))
    return "" if is_known or any(_is_matrix(weight) for weight in matrices) else IS_VECTOR


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a norm of torch's, or by its name of someone else's: ``LayerNorm2d``, ``MyRMSNorm``."""
    kind = parametrize.type_before_parametrizations(module)
    return issubclass(kind, _NORMS) or (
        re.search(r"norm(\dd)?$", kind.__name__, re.IGNORECASE) is not None and not issubclass(kind, _PRODUCTS)
    )


def _is_matrix(weight: Tensor) -> bool:
    return sum(size > 1 for size in weight.shape) > 1


def _chains(module: nn.Module) -> Mapping[str, nn.Module]:
    return dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}  # type: ignore


def select_modules(network: nn.Module, predicate: PredicateLike) -> dict[str, nn.Module]:
    """The modules that ``predicate`` selects, by qualified name, in ``named_modules()`` order.

    Modules that cannot be called (``ModuleList``, ``ModuleDict``) and parametrizations are never selected; the network
    itself has the name ``""``. A module registered under two names appears once, under the first.

    Raises:
        SelectionError: nothing is selected. The message lists what there was to select.
    """
    asked = as_predicate(predicate)
    candidates = dict(_callable_modules(network))
    selected = {name: module for name, module in candidates.items() if asked(name, module)}
    if not selected:
        raise SelectionError(
            f"the predicate {asked} selects no module of {type(network).__name__}. There are:\n{_listing(candidates)}"
        )
    return selected


def _callable_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        has_forward = getattr(type(module), "forward", None) is not nn.Module.forward
        if has_forward and "parametrizations" not in name.split("."):
            yield name, module


def _listing(modules: dict[str, nn.Module]) -> str:
    lines = [f"  {name or '(the network itself)'}: {type(module).__name__}" for name, module in modules.items()]
    if len(lines) > _LISTED:
        kinds = Counter(type(module).__name__ for module in modules.values())
        summary = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        lines = [*lines[:_LISTED], f"  ... and {len(lines) - _LISTED} more ({summary} in all)"]
    return "\n".join(lines)
