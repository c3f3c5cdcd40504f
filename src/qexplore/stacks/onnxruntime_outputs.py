"""What a quantized ONNX file returns has the structure of the float network's own output; the file says it too."""

from __future__ import annotations

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
            self._form = _read(json.loads(told))

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


def _read(told: dict[str, Any]) -> Any:
    if "tensor" in told:
        return torch.tensor(told["tensor"])
    if "value" in told:
        return told["value"]
    parts, keys = [_read(part) for part in told["parts"]], told["keys"]
    kind = _kind(told["kind"])
    if keys is None:
        return (kind or list)(parts)
    named = dict(zip(keys, parts, strict=True))
    if kind in (None, *_BUILT_IN.values()):
        return (kind or dict)(named)
    try:
        return kind(**named)
    except TypeError:  # its constructor takes something else
        return named


def _kind(name: str) -> Any:
    """The class of that name, of a module that is imported already: a file imports nothing."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        warn(
            f"the network returned {name}, which is not imported here, so the file returns a dict or a list in its "
            "place: import it before the file is loaded"
        )
        return None
    return found
