"""Archives of exported graphs from elsewhere: looked through before torch reads them.

``torch.export.load`` unpickles what an archive asks it to, loads compiled libraries that are in it, and evaluates
expressions. A file that `qexplore.stacks.pt2e_graph.save` wrote needs none of that.
"""

from __future__ import annotations

import builtins
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from qexplore.errors import WorkflowError

_ENTRY = re.compile(
    r"(?:[^/]+/)?(?:archive_format|archive_version|version|byteorder|\.data/\w+|models/[^/]+\.json"
    r"|data/(?:weights|constants)/[^/]+|data/sample_inputs/[^/]+\.pt"
    r"|serialized_exported_program\.json|serialized_(?:state_dict|constants|example_inputs)\.pt)"
)
_STORED = re.compile(r"(?:weight|tensor)_\d+")
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.\w+(?:\.\w+)?|torch\._?sym_\w+|math\.\w+|_operator\.\w+")
_CALLS_BY_NAME = {"_operator.attrgetter", "_operator.methodcaller", "_operator.call", "_operator.itemgetter"}
_NO_NAMESPACE = {"load_library", "import_module", "loaded_libraries"}
_WRITES = "torch.ops.aten.from_file"
_SYMBOL = re.compile(r"Symbol\('\w+'")
_IMPORTS = re.compile(r"default_factory_module|__enum__|\\u00[2-7]")
_BUILTINS = set(dir(builtins)) - {"True", "False", "None"}


def unwritten(form: pytree.TreeSpec) -> str:
    """The first container in ``form`` that torch does not write, or that is not read here; empty where none is."""
    for inner in map(form.child, range(form.num_children)):
        if found := unwritten(inner):
            return found
    try:
        if not _IMPORTS.search(pytree.treespec_dumps(form)):
            return ""
    except NotImplementedError:
        pass
    return str(getattr(form.context, "__name__", getattr(form.type, "__name__", form.type)))


def read_archive(path: Path) -> io.BytesIO:
    """The archive at ``path``, written anew from entries that hold data alone.

    Raises:
        WorkflowError: it holds, or asks for, something that would be run while it is read.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(clean, "w") as write:
        names = archive.namelist()
        for name in names:
            _require(path, bool(_ENTRY.fullmatch(name)) and names.count(name) == 1, f"an entry {name!r}")
            write.writestr(name, _checked(path, archive, name))
    clean.seek(0)
    return clean


def _checked(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    content = archive.read(name)
    if name.endswith(".pt"):
        _require_plain(path, name, content)
    elif name.endswith("_config.json"):
        for entry in _configured(path, name, content):
            stored = str(entry.get("path_name"))
            _require(path, bool(_STORED.fullmatch(stored)), f"an object {stored!r}")
            if entry.get("use_pickle"):
                _require_plain(path, stored, archive.read(f"{name.rpartition('/')[0]}/{stored}"))
    elif name.endswith(".json"):
        for key, text in _texts("", json.loads(content)):
            _require(path, _is_harmless(key, text), f"{key} {text[:80]!r}")
    return content


def _configured(path: Path, name: str, content: bytes) -> Iterator[dict[str, Any]]:
    for entry in json.loads(content)["config"].values():
        _require(path, isinstance(entry, dict), f"another form of {name!r}")
        yield entry


def _require_plain(path: Path, name: str, content: bytes) -> None:
    """What torch cannot read as plain tensors it would unpickle."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise WorkflowError(_refusal(path, f"a pickle {name!r} of more than tensors")) from error


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(key, inner)
    elif isinstance(value, str):
        yield key, value


def _is_harmless(key: str, text: str) -> bool:
    """Whether reading ``text`` runs nothing: an operator that torch looks up, an expression of sizes, a plain tree."""
    if key == "target":
        found = _OPERATOR.fullmatch(text)
        is_known = bool(found) and text not in _CALLS_BY_NAME and not text.startswith(_WRITES)
        return is_known and found[1] not in _NO_NAMESPACE  # type: ignore[index]
    if key == "expr_str":
        rest = _SYMBOL.sub("Symbol(", text)
        names = set(re.findall(r"[A-Za-z_]\w*", rest))
        return not (names & _BUILTINS or "__" in rest or re.search(r"[\"'`\\;@]|[A-Za-z_)\]]\s*\.", rest))
    return key not in ("in_spec", "out_spec") or not _IMPORTS.search(text)


def _require(path: Path, holds: bool, found: str) -> None:
    if not holds:
        raise WorkflowError(_refusal(path, found))


def _refusal(path: Path, found: str) -> str:
    return (
        f"'{path}' must be a file written by a result's save(), which holds tensors and operators alone, got {found}: "
        "reading that could run code of whoever wrote it, and nothing was read"
    )
