"""What a quantized ONNX file returns has the structure of the float network's own output; the file says it too."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qexplore._onnx import OnnxModel
from qexplore._trees import map_tensors, opened, tensors_of
from qexplore._warnings import warn
from qexplore.errors import WorkflowError

_KEY = "qexplore.output"
_PLAIN = (bool, int, float, str, type(None))
_BUILT_IN = {"dict": dict, "OrderedDict": OrderedDict, "list": list, "tuple": tuple}


class StructuredOnnxModel(OnnxModel):
    """A file of onnxruntime that returns what the float network does.

    Args:
        path: of the file.
        output: of the float network; None for the form that the file tells, or a tensor or tuple without one.
    """

    def __init__(self, path: Path, output: Any = None) -> None:
        super().__init__(path, threads=torch.get_num_threads())
        told = self._session.get_modelmeta().custom_metadata_map.get(_KEY)
        self._form: Any = None
        if output is not None and len(tensors_of(output)) == len(self.output_names):
            self._form = numbered(output)
        elif told is not None:
            self._form = _told(told, path)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The float network's output, with the tensors that onnxruntime gives. See `OnnxModel.forward`."""
        given = super().forward(*args, **kwargs)
        if self._form is None:
            return given
        tensors = given if isinstance(given, tuple) else (given,)
        return map_tensors(lambda place: tensors[int(place)], self._form)


def numbered(output: Any) -> Any:
    """``output`` with its place in the place of every tensor."""
    places = iter(range(len(tensors_of(output))))
    return map_tensors(lambda _: torch.tensor(next(places)), output)


def written(output: Any) -> dict[str, str]:
    """What a file's metadata say of the form of ``output``; nothing of a tensor, or of a tuple of several."""
    if isinstance(output, Tensor) or (type(output) is tuple and len(output) > 1 and _are_tensors(output)):
        return {}
    return {_KEY: json.dumps(_written(numbered(output)))}


def _are_tensors(parts: Any) -> bool:
    return all(isinstance(one, Tensor) for one in parts)


def _written(form: Any) -> Any:
    if isinstance(form, Tensor):
        return {"tensor": int(form)}
    if isinstance(form, _PLAIN):
        return {"value": form}
    whole = opened(form)
    if whole is None:
        return {"value": None}
    kind = type(form)
    name = kind.__name__ if _BUILT_IN.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__qualname__}"
    is_named = isinstance(form, Mapping) or not isinstance(form, (tuple, list)) or hasattr(form, "_fields")
    keys = [key if isinstance(key, _PLAIN) else str(key) for key in whole.keys] if is_named else None
    return {"kind": name, "keys": keys, "parts": [_written(part) for part in whole.parts]}


def _told(text: str, path: Path) -> Any:
    try:
        return _read(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise WorkflowError(
            f"'{path}' must tell the form of its output as a result's save() writes it, got {text[:80]!r} "
            f"({type(error).__name__}): load the file as it was saved"
        ) from error


def _read(told: Any) -> Any:
    if "tensor" in told:
        return torch.tensor(int(told["tensor"]))
    if "value" in told:
        if not isinstance(told["value"], _PLAIN):
            raise ValueError("a value of an output must be a number, a text or nothing")
        return told["value"]
    parts, keys = [_read(part) for part in told["parts"]], told["keys"]
    plain = parts if keys is None else dict(zip(keys, parts, strict=True))
    name = told["kind"]
    if name in _BUILT_IN:
        return _BUILT_IN[name](plain)
    kind = _kind(name)
    made = None if kind is None else _filled(kind, plain)
    if made is None:
        warn(
            f"the network returned {name}, which is not imported here or more than a container, so the file returns a "
            "dict or a list in its place: import it before the file is loaded"
        )
        return plain
    return made


def _kind(name: str) -> type | None:
    """The class of that name, of a module that is imported already: a file imports nothing."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def _filled(kind: type, plain: list[Any] | dict[Any, Any]) -> Any:
    """A container of ``kind`` with these parts, none of whose own code has run; None for any other class.

    The file names the class: what calls it, or leaves it to be deleted by code of its own, does what the file asks.
    """
    if hasattr(kind, "__del__"):
        return None
    parts = list(plain.values()) if isinstance(plain, dict) else plain
    if issubclass(kind, tuple):
        return tuple.__new__(kind, parts)
    if issubclass(kind, list):
        made: Any = list.__new__(kind)
        list.extend(made, parts)
        return made
    if not isinstance(plain, dict) or not (issubclass(kind, dict) or dataclasses.is_dataclass(kind)):
        return None
    base: Any = next((one for one in (OrderedDict, dict) if issubclass(kind, one)), object)
    made = base.__new__(kind)
    if isinstance(made, dict):
        base.update(made, plain)
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        default = None if field.default is dataclasses.MISSING else field.default
        object.__setattr__(made, field.name, plain.get(field.name, default))
    return made
