"""The one door to ONNX files: writing a network with torch, running a file with onnxruntime."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qexplore._arguments import checked_int, checked_name
from qexplore._optional import import_optional
from qexplore._quiet import silenced
from qexplore._sizes import Sizes, as_forward_takes, path_name, settled_batch, settled_sizes
from qexplore._trees import map_tensors, tensors_of
from qexplore.errors import DataError, ExportError, MissingPackageError, QExploreError, TraceError, first_line

Optimization = Literal["all", "extended", "basic", "off"]
"""How far onnxruntime may rewrite a graph before it runs."""

SETTLED = "qexplore.settled"
"""Under this key files hold the conditions on sizes that `as_onnx` found, a line each."""

LOWEST_OPSET = 18
"""What torch writes without converting it afterwards, which may fail without a word."""

_LEVELS = {"off": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
OPTIMIZATIONS = tuple(_LEVELS)
_ERRORS_ONLY = 3
_OTHER_SIZES = "the network decides by a size, which the example settled; others need a file of their own"
_UNKNOWN_CLASS = re.compile(r"Unsupported input type (<class '[^']+'>)|Found (<class '[^']+'>) in output")
_UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>")


def as_onnx(
    network: nn.Module,
    example_input: Any,
    *,
    opset: int,
    custom_translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> Any:
    """``network`` as a ``torch.onnx.ONNXProgram`` with a dynamic batch, as called in eval mode; it is not changed.

    Inputs stand in the order of its forward. Outputs in dicts and objects have the names that they have there, tensors
    alone: numbers and other things beside them are left out.

    Args:
        network: any network that ``torch.export`` can take apart; forward hooks and parametrizations are included.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments.
        opset: of the file that `save_onnx` writes, at least `LOWEST_OPSET`.
        custom_translations: from an operator (``torch.ops.name.op.default``) to a function that builds it with
            onnxscript.

    Raises:
        TraceError: the network cannot be taken apart, or not for every batch size.
        ExportError: no example input, an operator or a layer that ONNX does not have, or an opset out of range.
        MissingPackageError: onnx or onnxscript is missing.
    """
    check_opset(opset)
    _refuse_projections(network)
    flags = [(module, module.training) for module in network.modules()]
    # The fused kernel of attention layers has no ONNX form; the same layers one by one have.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    network.eval()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with silenced(), torch.no_grad():
            args, kwargs = _arguments(example_input, network)
            exported = _take_apart(network, args, kwargs)
            settled = settled_sizes(network, exported, args, kwargs)
            names = _tensors_alone(exported)
            program = _translate(exported, opset, custom_translations)
            if settled:
                program.model.metadata_props[SETTLED] = "\n".join(settled)
            _name_outputs(program.model, names)
            return program
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, training in flags:
            module.training = training


def _refuse_projections(network: nn.Module) -> None:
    projected = [name for name, one in network.named_modules() if isinstance(one, nn.LSTM) and one.proj_size]
    if projected:
        raise ExportError(
            f"ONNX has no LSTM with a projection, got {', '.join(map(repr, projected))} (proj_size): write it out, "
            "qexplore.unroll_recurrent(network), before the network is wrapped"
        )


def save_onnx(program: Any, path: str | Path) -> None:
    """Write a program to a file; weights beside it only where they pass 2 GB.

    Raises:
        ExportError: the path cannot be written.
    """
    try:
        with silenced():
            program.save(str(path))
    except OSError as error:
        raise ExportError(
            f"`path` must be a file that can be written, got '{path}': {error.strerror or error}"
        ) from error


def check_opset(opset: object) -> None:
    """Raise unless files of ``opset`` can be written.

    Raises:
        ExportError: no int, or out of range.
        MissingPackageError: onnx or onnxscript is missing.
    """
    import_optional("onnx", extra="onnx", purpose="writing an ONNX file")
    import_optional("onnxscript", extra="onnx", purpose="writing an ONNX file")
    hint = ": what the installed onnx writes and the installed onnxruntime runs"
    checked_int("`opset`", opset, ExportError, low=LOWEST_OPSET, high=_highest_opset(), hint=hint)


@functools.cache
def _highest_opset() -> int:
    """The newest opset that onnx knows and whose quantizers the installed onnxruntime runs, where there is one."""
    onnx = import_optional("onnx", extra="onnx", purpose="writing an ONNX file")
    highest = int(onnx.defs.onnx_opset_version())
    try:
        runtime = import_optional("onnxruntime", extra="onnx", purpose="running an ONNX file")
    except MissingPackageError:
        return highest
    while highest > LOWEST_OPSET and not _runs(onnx, runtime, highest):
        highest -= 1
    return highest


def _runs(onnx: Any, runtime: Any, opset: int) -> bool:
    make, kinds = onnx.helper, onnx.TensorProto
    value = make.make_tensor_value_info
    constants = [make.make_tensor("s", kinds.FLOAT, [], [1.0]), make.make_tensor("z", kinds.INT8, [], [0])]
    nodes = [make.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    ends = [value("x", kinds.FLOAT, [1])], [value("y", kinds.FLOAT, [1])]
    graph = make.make_graph(nodes, "quantizer", *ends, constants)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=10)
    try:
        runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # of a class of onnxruntime's own, one for each way to fail
        return False
    return True


def _arguments(example_input: Any, network: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments, and keyword ones in forward's order; one sample twice where ``network`` takes two.

    Torch takes 1 for a constant.
    """
    if not tensors_of(example_input):
        raise ExportError(
            "`example_input` must hold a tensor (a tensor, a tuple of positional or a dict of keyword arguments), got "
            f"{type(example_input).__name__}: give the inputs of one call"
        )
    once, twice = (_placed(one, network) for one in (example_input, map_tensors(_repeat, example_input)))
    is_single = _batch_size(example_input) == 1
    return twice if is_single and (_takes(network, twice) or not _takes(network, once)) else once


def _placed(inputs: Any, network: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        order = [name for name in inspect.signature(network.forward).parameters if name in inputs]
        return (), {name: inputs[name] for name in dict.fromkeys([*order, *inputs])}
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _takes(network: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    args, kwargs = copy.deepcopy(arguments)
    try:
        network(*args, **kwargs)
    except Exception:  # whatever a network stops at
        return False
    return True


def _batch_size(tree: Any) -> int:
    """Length of the first axis of the first tensor that has axes; 0 where none has."""
    return next((tensor.shape[0] for tensor in tensors_of(tree) if tensor.dim()), 0)


def _repeat(tensor: Tensor) -> Tensor:
    is_batch = tensor.dim() > 0 and tensor.shape[0] == 1
    return torch.cat([tensor, tensor]) if is_batch else tensor


def _take_apart(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    size = _batch_size((args, kwargs))
    batch = torch.export.Dim("batch")

    def axes(leaf: Any) -> Any:
        # A network that takes one sample a call has no batch.
        return {0: batch} if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size != 1 else None

    shapes = pytree.tree_map(axes, kwargs) if kwargs else as_forward_takes(network, pytree.tree_map(axes, args))
    try:
        return torch.export.export(network, args, kwargs, dynamic_shapes=shapes, strict=False)
    except QExploreError:
        raise
    except Exception as error:
        raise TraceError(_untraceable(network, error)) from error


def _untraceable(network: nn.Module, error: Exception) -> str:
    name = type(network).__name__
    text = first_line(error)
    if "Cache" in text:
        return (
            f"{name} must give tensors to be exported, but it gives a cache of keys and values as well "
            f"({text.partition(',')[0]}): switch that off (network.config.use_cache = False), or wrap a module whose "
            "forward returns network(input_ids, use_cache=False).logits"
        )
    unknown = _UNKNOWN_CLASS.search(text)
    if unknown:
        takes, gives = unknown.groups()
        way_out = f"forward makes {takes} of plain tensors" if takes else "forward gives the tensors in it"
        return (
            f"{name} must take and give tensors, tuples, lists or dicts to be exported, but it "
            f"{'takes' if takes else 'gives'} {takes or gives}: wrap it in a module whose {way_out}"
        )
    return settled_batch(network, error) or (
        f"{name} must be a network that torch.export can take apart, but it stops: {text} Ways that depend on values "
        "of tensors (if, int(), .item()) are what usually stands in the way: replace them with torch.where or leave "
        "them out of forward"
    )


def _tensors_alone(exported: Any) -> list[str]:
    """Take what is no tensor from the outputs of a program; the names of the others, "" for those that have none."""
    from torch.export.graph_signature import ConstantArgument

    spec, node = exported.call_spec.out_spec, exported.graph.output_node()
    outputs = list(node.args[0])
    specs = exported.graph_signature.output_specs
    first = len(outputs) - spec.num_leaves  # before them, what is written into buffers
    names: list[str | None] = [""] * spec.num_leaves
    for path, place in pytree.tree_flatten_with_path(pytree.tree_unflatten(range(spec.num_leaves), spec))[0]:
        names[place] = path_name(path) if any(not isinstance(key, pytree.SequenceKey) for key in path) else ""
    for place in range(first, len(outputs)):
        is_tensor = isinstance(outputs[place], torch.fx.Node) and isinstance(outputs[place].meta.get("val"), Tensor)
        if not is_tensor:
            outputs[place], names[place - first] = None, None
            specs[place].arg = ConstantArgument(name="", value=None)
    node.args = (tuple(outputs),)
    return [name for name in names if name is not None]


def _name_outputs(model: Any, names: Sequence[str]) -> None:
    """Give outputs their names in the dict that the network returns."""
    outputs = list(model.graph.outputs)
    if len(outputs) != len(names):
        return
    inner = [value for node in model.graph for value in node.outputs]
    taken = {value.name for value in (*model.graph.inputs, *inner, *model.graph.initializers.values())}
    for value, wanted in zip(outputs, names, strict=True):
        name = wanted
        if name and name != value.name and not value.is_graph_input():
            while name in taken:
                name += "_out"
            value.name = name
            taken.add(name)


def _translate(exported: Any, opset: int, custom_translations: Mapping[Any, Callable[..., Any]] | None) -> Any:
    translations = dict(custom_translations) if custom_translations else None
    try:
        program: Any = torch.onnx.export(
            exported, dynamo=True, opset_version=opset, custom_translation_table=translations, verbose=False
        )
        _name_batch(program.model)
        _drop_origins(program.model)
        return program
    except torch.onnx.OnnxExporterError as error:
        found = _UNSUPPORTED.search(str(error))
        if found is None:
            raise ExportError(f"the network cannot be written in opset {opset}: {_last_cause(error)}") from error
        operator = found[1] if found[2] == "default" else f"{found[1]}.{found[2]}"
        raise ExportError(
            f"every operator of the network must have an ONNX form, but {operator} has none in opset {opset}: replace "
            "it in forward, or export the network without the part that needs it"
        ) from error


def _name_batch(model: Any) -> None:
    """Call the free axis "batch" in place of torch's own name for it, in products with it too."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    values = [value for value in values if value.shape is not None]
    taken = [value for value in values if value.is_graph_input()]
    symbols = {dim.value for value in taken for dim in value.shape if not isinstance(dim, int)}
    if len(symbols) != 1:
        return
    pattern = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    for value in values:
        dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        value.shape = type(value.shape)([pattern.sub("batch", dim) if isinstance(dim, str) else dim for dim in dims])


def _drop_origins(model: Any) -> None:
    """Leave out torch's notes on every node: stack traces with local paths, larger than a small network."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


class OnnxModel(nn.Module):
    """An ONNX file run by onnxruntime on the CPU, called like the network that it was written from.

    Args:
        path: of the file.
        optimization: how far onnxruntime rewrites the graph: "all" (its default), "extended", "basic", "off".
        threads: how many it uses; None leaves it to onnxruntime.

    Raises:
        ExportError: no such level, no such file, or one that onnxruntime cannot run.
        MissingPackageError: onnxruntime is missing.
    """

    def __init__(self, path: str | Path, *, optimization: Optimization = "all", threads: int | None = None) -> None:
        super().__init__()
        runtime = import_optional("onnxruntime", extra="onnx", purpose="running an ONNX file")
        checked_name("`optimization`", optimization, OPTIMIZATIONS, ExportError)
        options = runtime.SessionOptions()
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, f"ORT_{_LEVELS[optimization]}")
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        if not Path(path).is_file():
            raise ExportError(f"there is no file '{path}'")
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # Its exceptions have no common base.
            raise ExportError(f"onnxruntime cannot run '{path}': {_last_cause(error)}") from error
        settled = self._session.get_modelmeta().custom_metadata_map.get(SETTLED, "")
        self._sizes = Sizes({}, tuple(settled.splitlines()))
        self.path = Path(path)
        self.input_names: tuple[str, ...] = tuple(one.name for one in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(one.name for one in self._session.get_outputs())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file on the tensors among the arguments; those given by keyword go by their names, nested ones too.

        Returns:
            One tensor, or a tuple of those that the network gives.

        Raises:
            DataError: more or fewer tensors than the file takes, or of another size or kind.
        """
        leaves = [(path_name(path), leaf) for path, leaf in pytree.tree_flatten_with_path(kwargs)[0]]
        given = [(name, leaf) for name, leaf in leaves if isinstance(leaf, Tensor)]
        named = {name: value for name, value in given if name in self.input_names}
        others = [name for name in self.input_names if name not in named]
        rest = [*tensors_of(args), *(value for name, value in given if name not in named)]
        if len(rest) != len(others):
            raise DataError(
                f"'{self.path.name}' takes the inputs {self._taken()}, got {len(named) + len(rest)} tensors"
            )
        feed = named | dict(zip(others, rest, strict=True))
        refusal = self._sizes.refusal({name: tuple(value.shape) for name, value in feed.items()})
        if refusal:
            raise DataError(f"'{self.path.name}' {refusal}: {_OTHER_SIZES}")
        outputs = self._run({name: value.detach().cpu().numpy() for name, value in feed.items()})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    @property
    def conditions(self) -> tuple[str, ...]:
        """On sizes that the file leaves open, such as ``"x.shape[0] != 1"``; other calls are refused."""
        return self._sizes.shown

    def _run(self, feed: dict[str, Any]) -> list[Any]:
        try:
            return self._session.run(None, feed)  # type: ignore[no-any-return]
        except Exception as error:
            given = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feed.items())
            raise DataError(
                f"'{self.path.name}' takes the inputs {self._taken()}, got {given} ({_last_cause(error)[:200]}): other "
                "sizes and types than those of the example need a file of their own"
            ) from error

    def _taken(self) -> str:
        return ", ".join(f"{one.name} {one.type} {one.shape}" for one in self._session.get_inputs())
