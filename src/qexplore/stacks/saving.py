"""Files of networks that torch.ao quantized: integers and scales alone, read without running anything in the file."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._quiet import quiet
from qexplore.errors import TraceError, WorkflowError
from qexplore.model import layers_of
from qexplore.predicates import Predicate
from qexplore.stacks.base import Settings
from qexplore.stacks.packed_functions import packed_functions, parameters_of, with_parameters
from qexplore.stacks.torch_ao import dynamic_recurrent

_FORMAT = "qexplore quantized network"
_VERSION = 2
"""Version 1 had no weights of functions, and no classes and settings of the float network's modules."""
_PARTS = ("state", "attributes", "recurrent", "functions")
_NAMED = 3
_INTEGERS = "integers"
_OFFSET = "offset"
_ALIGNMENT = 8


class ChosenModules(Predicate):
    """The modules of these names; a predicate that a file can hold.

    Args:
        names: qualified names.
        description: how it is shown.
    """

    def __init__(self, names: Iterable[str], description: str = "chosen modules") -> None:
        self.names = frozenset(names)
        super().__init__(lambda name, module: name in self.names, description)


@dataclass(frozen=True)
class SavedNetwork:
    """What a file holds.

    Attributes:
        settings: how the network was quantized; observers are left out, for ranges are settled.
        structure: the stack's own text about the network's structure.
        state: what `load_state` gives to it.
        layers: class and settings of each module of the float network, by name; empty from files of version 1.
    """

    settings: Settings
    structure: str
    state: dict[str, Any]
    layers: dict[str, str]

    def require_same(self, network: nn.Module) -> None:
        """Refuse a float ``network`` whose modules have other classes or settings than those of the file.

        Raises:
            WorkflowError: names the first that differ.
        """
        here = layers_of(network) if self.layers else {}
        others = [name for name in {**self.layers, **here} if self.layers.get(name) != here.get(name)]
        if others:
            differing = "; ".join(
                f"'{name or 'the network'}' is {_shown(here.get(name))}, in the file {_shown(self.layers.get(name))}"
                for name in others[:_NAMED]
            )
            raise WorkflowError(
                f"the file is of another network than the {type(network).__name__} given: {differing}. "
                "Load it with the network that was quantized"
            )


def _shown(described: str | None) -> str:
    kind, _, settings = (described or "not there").partition(" ")
    return f"{kind}({settings})" if described else f"{kind} {settings}"


def write_model(path: Path, model: nn.Module, settings: Settings, network: nn.Module, *, structure: str) -> None:
    """Write ``model``, which torch.ao has converted with ``settings`` from ``network``; see `write_state`."""
    recurrent = {name: {**module.get_weight(), **module.get_bias()} for name, module in _recurrent_modules(model)}
    functions = {name: parameters_of(packed) for name, packed in packed_functions(model).items()}
    write_state(path, settings, network, structure, _plain_state(model), _attributes(model), recurrent, functions)


def write_state(path: Path, settings: Settings, network: nn.Module, structure: str, *parts: dict[str, Any]) -> None:
    """Write what a quantized network is made of.

    Args:
        path: the file.
        settings: what was asked for; its ``modules`` are None or `ChosenModules`.
        network: the float one, whose modules are described.
        structure: a text that the stack's ``load`` finds again, such as a fingerprint of the structure.
        parts: tensors by name: the state, what modules keep out of it, weights by the name of a recurrent layer, and
            by that of a function's attribute.
    """
    modules = settings.modules
    assert modules is None or isinstance(modules, ChosenModules)
    plain = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    plain["modules"] = None if modules is None else sorted(modules.names)
    plain["activation_observer"] = plain["weight_observer"] = None
    plain["left_float"] = dict(settings.left_float)
    del plain["recalibrate"]  # done
    content = {"format": _FORMAT, "version": _VERSION, "settings": plain, "structure": structure}
    content["layers"] = _pressed(layers_of(network))
    writer = _Writer()
    content |= {name: writer.encode(part) for name, part in zip(_PARTS, (*parts, {}, {}, {}), strict=False)}
    torch.save({**content, "bytes": writer.joined()}, path)


def describe_arguments(example: tuple[Any, ...]) -> list[Any]:
    """Shape and dtype of tensors, other arguments themselves, inside tuples, lists and dicts too; for a file.

    Raises:
        WorkflowError: an argument that is none of these.
    """
    return [_described(one) for one in example]


def described_if_any(example: tuple[Any, ...]) -> list[Any] | None:
    """As `describe_arguments`, for stacks that build nothing with them; None where one is an object of a user's."""
    try:
        return describe_arguments(example)
    except WorkflowError:
        return None


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return {"parts": [_described(one) for one in value], "is_tuple": isinstance(value, tuple)}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"named": {name: _described(one) for name, one in value.items()}}
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise WorkflowError(
            "arguments of a network must be tensors, numbers, texts and None, or tuples, lists and dicts of them, to "
            f'stand in a file of the stacks "fx" and "eager", got {type(value).__name__}: wrap the network in one that '
            "takes tensors alone"
        )
    return value


def zero_arguments(described: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments as `describe_arguments` tells, with tensors of zeros."""
    return tuple(map(_zero, described))


def _zero(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    if "named" in described:
        return {name: _zero(one) for name, one in described["named"].items()}
    if "parts" in described:
        return (tuple if described["is_tuple"] else list)(map(_zero, described["parts"]))
    return torch.zeros(described["shape"], dtype=getattr(torch, described["dtype"]))


def read_state(path: Path) -> SavedNetwork:
    """What `write_state` wrote, and `stack_of_state` has found to be so.

    Raises:
        WorkflowError: the file holds something else, or was written by a newer version.
    """
    with reading(path):
        content = torch.load(path, weights_only=True)
        _check_version(content, path)
        names = content["settings"].pop("modules")
        settings = Settings(**content["settings"], modules=None if names is None else ChosenModules(names))
        state = {name: _decoded(content.get(name, {}), content["bytes"]) for name in _PARTS}
        layers = _unpressed(content["layers"]) if "layers" in content else {}
        return SavedNetwork(settings, content["structure"], state, layers)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell in a sentence that ``path`` is damaged, whatever stops what is read of it.

    Raises:
        WorkflowError: that sentence, unless there is one already.
    """
    try:
        yield
    except WorkflowError:
        raise
    except Exception as error:
        raise WorkflowError(f"'{path}' is no file of a quantized network: {type(error).__name__}: {error}") from error


def _pressed(layers: dict[str, str]) -> str:
    """As text that takes little room."""
    return base64.b85encode(zlib.compress(json.dumps(layers).encode())).decode()


def _unpressed(text: str) -> dict[str, str]:
    layers = json.loads(zlib.decompress(base64.b85decode(text)))
    return {str(name): str(described) for name, described in layers.items()}


def stack_of_state(path: Path) -> str:
    """The stack that wrote ``path`` by `write_state`; empty for a file of another kind.

    Raises:
        WorkflowError: it was written by a newer version.
    """
    try:
        with quiet():
            content = torch.load(str(path), weights_only=True, mmap=True)  # what tensors hold is not read
    except Exception:  # files of other kinds stop it in many ways
        return ""
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return ""
    _check_version(content, path)
    return str(content["settings"]["stack"])


def _check_version(content: dict[str, Any], path: Path) -> None:
    if content["version"] not in range(1, _VERSION + 1):
        raise WorkflowError(
            f"'{path}' is of version {content['version']}, and this qexplore reads 1 to {_VERSION}: update qexplore"
        )


@contextmanager
def rebuilding(network: nn.Module, saved: SavedNetwork) -> Iterator[None]:
    """Tell in a sentence what fails while a file's network is built anew from ``network``, a wrong one for instance.

    Raises:
        WorkflowError: ``network`` has other modules; or whatever failed, unless it has a sentence of its own.
        TraceError: ``network`` cannot be traced.
    """
    saved.require_same(network)
    try:
        yield
    except (TraceError, WorkflowError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
        raise WorkflowError(
            f"the file is of another network than the {type(network).__name__} given ({' '.join(reason.split())}): "
            "load it with the network that was quantized"
        ) from error


def other_structure(file: str, network: nn.Module) -> WorkflowError:
    """What to raise where ``file``, as the message calls it, was saved of another network than ``network``."""
    return WorkflowError(
        f"{file} must be loaded with the network that was quantized, but {type(network).__name__} has another structure"
    )


def load_state(model: nn.Module, saved: SavedNetwork) -> None:
    """Give the state in ``saved`` to ``model``, which was built with its settings from the same float network.

    Raises:
        Exception: ``model`` is of another structure; `rebuilding` makes a sentence of it.
    """
    for name, module in _recurrent_modules(model):
        given = saved.state["recurrent"][name]
        is_cell = type(module).__name__.endswith("Cell")
        module.set_weight_bias({"weight": given, "bias": given} if is_cell else given)
    functions = packed_functions(model)
    for name, packed in functions.items():
        if name in saved.state["functions"]:  # files of version 1 have none
            setattr(model, name, with_parameters(packed, saved.state["functions"][name]))
    state = model.state_dict()  # with the packed parameters of recurrent layers, which have just been set
    for name in (*_plain_state(model), *functions):
        state.pop(name, None)
    state.update(saved.state["state"])
    model.load_state_dict(state)
    for name, value in saved.state["attributes"].items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, value)


def _recurrent_modules(model: nn.Module) -> list[tuple[str, Any]]:
    kinds = dynamic_recurrent()
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _plain_state(model: nn.Module) -> dict[str, Any]:
    # What these hold cannot be read without trusting the file.
    return {name: value for name, value in model.state_dict().items() if not isinstance(value, torch.ScriptObject)}


def _attributes(model: nn.Module) -> dict[str, Any]:
    """What some of torch's quantized modules, such as PReLU and ELU, keep out of their state dict."""
    stored = model.state_dict()
    return {
        f"{name}.{attribute}": vars(module)[attribute]
        for name, module in model.named_modules()
        if type(module).__module__.startswith("torch.ao.nn.quantized")
        for attribute in ("scale", "zero_point", "weight")
        if isinstance(vars(module).get(attribute), (int, float, Tensor)) and f"{name}.{attribute}" not in stored
    }


class _Writer:
    """Turns state into plain values, and the tensors in it into places in one row of bytes.

    A file has some 300 bytes a tensor besides what the tensor holds, as much as a small layer's weights in integers.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._length = 0

    def encode(self, value: Any) -> Any:
        """``value`` without tensors."""
        if isinstance(value, dict):
            return {name: self.encode(one) for name, one in value.items()}
        if isinstance(value, tuple):
            return tuple(map(self.encode, value))
        if not isinstance(value, Tensor):
            return value
        return self.encode(_taken_apart(value)) if value.is_quantized else self._place(value.detach())

    def _place(self, tensor: Tensor) -> dict[str, Any]:
        place = {"shape": tuple(tensor.shape), "dtype": tensor.dtype, _OFFSET: self._length}
        row = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        padding = -len(row) % _ALIGNMENT
        self._parts += [row, torch.zeros(padding, dtype=torch.uint8)]
        self._length += len(row) + padding
        return place

    def joined(self) -> Tensor:
        """The bytes of all tensors."""
        return torch.cat(self._parts) if self._parts else torch.empty(0, dtype=torch.uint8)


def _taken_apart(tensor: Tensor) -> dict[str, Any]:
    tensor = tensor.detach()
    integers = tensor.int_repr()
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return {_INTEGERS: integers, "scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
    scales, zero_points = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return {
        _INTEGERS: integers,
        # Observers compute in float32; torch keeps float64 and int64, 16 bytes a channel.
        "scale": scales.float() if bool((scales.float().double() == scales).all()) else scales,
        "zero_point": zero_points.to(torch.int32) if bool(zero_points.any()) else None,
        "axis": tensor.q_per_channel_axis(),
    }


def _decoded(value: Any, row: Tensor) -> Any:
    if isinstance(value, dict) and _OFFSET in value:
        count = math.prod(value["shape"]) * value["dtype"].itemsize
        part = row[value[_OFFSET] : value[_OFFSET] + count]
        return part.view(value["dtype"]).reshape(value["shape"]).clone()
    if isinstance(value, dict):
        decoded = {name: _decoded(one, row) for name, one in value.items()}
        return _put_together(decoded) if _INTEGERS in decoded else decoded
    return tuple(_decoded(one, row) for one in value) if isinstance(value, tuple) else value


def _put_together(stored: dict[str, Any]) -> Tensor:
    integers, scale, zero_point = stored[_INTEGERS], stored["scale"], stored["zero_point"]
    with quiet():
        if "axis" not in stored:
            return torch._make_per_tensor_quantized_tensor(integers, scale, zero_point)
        zero_points = torch.zeros(len(scale), dtype=torch.int64) if zero_point is None else zero_point.long()
        return torch._make_per_channel_quantized_tensor(integers, scale.double(), zero_points, stored["axis"])
