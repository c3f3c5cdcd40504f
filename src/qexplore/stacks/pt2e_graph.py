"""Exported graphs: taken from a network, trained, freed of BatchNorm, written to a file and read back."""

from __future__ import annotations

import inspect
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qexplore._quiet import silenced
from qexplore._sizes import Sizes, as_forward_takes, settled_batch, settled_sizes, shapes_of
from qexplore.errors import DataError, QExploreError, TraceError, WorkflowError, first_line
from qexplore.stacks.called_wrongly import Form
from qexplore.stacks.pt2e_archive import read_archive, unwritten
from qexplore.stacks.pt2e_folding import LAYERS, is_constant

_ATEN = torch.ops.aten
_SWITCHES = ("training", "train")
"""What operators call the argument by which a BatchNorm, a Dropout or an LSTM knows that it is trained."""


class ExportedNetwork(nn.Module):
    """An exported graph, called like the network that it was taken from; it has no training mode.

    Args:
        exported: the graph.
        signature: of the network's ``forward``, so that arguments can be given by keyword and have their defaults; None
            takes them by place alone.
        sizes: that it takes.
    """

    def __init__(self, exported: fx.GraphModule, signature: inspect.Signature | None, sizes: Sizes) -> None:
        super().__init__()
        self.exported = exported
        self.training = False
        self._signature = signature
        self._sizes = sizes
        places = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"]
        taken: Any = exported.graph._codegen.pytree_info  # type: ignore[attr-defined]
        self._form = Form.of(taken.orig_args, pytree.tree_unflatten(places, taken.in_spec)[0])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Raises:
            WorkflowError: an argument that is no tensor has another value than when the graph was taken.
            DataError: other arguments than the graph was taken with: their number, a tensor's size or type, a nesting;
                or an empty batch, of which it cannot take a range.
        """
        owner = "the graph that torch.export took"
        if self._signature is not None and (kwargs or len(args) < self._num_taken):
            with self._form.explaining(owner, args, kwargs, self._signature):
                bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args[: max(self._num_taken, len(args))]
        self._require_settled(args)
        self._require_sizes(args)
        with self._form.explaining(owner, args, {}):
            return self.exported(*args)

    def _require_settled(self, args: tuple[Any, ...]) -> None:
        places = [node for node in self.exported.graph.nodes if node.op == "placeholder"]
        for node, given in zip(places, pytree.tree_leaves(args), strict=False):
            settled = node.meta.get("val", given)
            if not (isinstance(settled, Tensor) or isinstance(given, Tensor) or settled == given):
                raise WorkflowError(
                    f"'{node.target}' must be {settled!r}, which torch.export settled, got {given!r}: quantize the "
                    "network anew with an example that has it"
                )

    def _require_sizes(self, args: tuple[Any, ...]) -> None:
        codegen: Any = self.exported.graph._codegen
        refusal = self._sizes.refusal(shapes_of(codegen.pytree_info.orig_args, args))
        if refusal:
            raise DataError(
                f"the graph that torch.export took {refusal}: it is the network for sizes of its example alone, the "
                "batch apart; quantize the network anew with an example of this size"
            )

    @property
    def _num_taken(self) -> int:
        """How many arguments the graph takes: those of the example that it was taken with."""
        codegen: Any = self.exported.graph._codegen
        return int(codegen.pytree_info.in_spec.child(0).num_children)

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Only note the mode: modules inside an exported graph refuse to be asked."""
        self.training = mode
        return self


class TrainableExport(ExportedNetwork):
    """An exported graph whose BatchNorm and Dropout follow the flag ``training``.

    torchao's own switch also puts torch's defaults in the place of every Dropout's p and every BatchNorm's eps.
    """

    def __init__(self, exported: fx.GraphModule, signature: inspect.Signature | None, sizes: Sizes) -> None:
        super().__init__(exported, signature, sizes)
        self._state: tuple[bool, bool] | None = None
        self._has_fixed_statistics = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph in the mode that ``training`` says."""
        state = (self.training, self._has_fixed_statistics)
        if self._state != state:
            switch_training(self.exported, self.training, statistics=not self._has_fixed_statistics)
            _keep_frozen(self.exported)
            self._state = state
        return super().forward(*args, **kwargs)

    def fix_statistics(self) -> None:
        """From here on, BatchNorm uses the statistics that it has, in training too."""
        self._has_fixed_statistics = True


def export(network: nn.Module, example: tuple[Any, ...]) -> tuple[fx.GraphModule, Sizes]:
    """The graph of ``network``, which is in eval mode, for every batch size, and the sizes that it takes.

    Raises:
        TraceError: ``torch.export`` stops, the network settles on one batch size, or no file can hold the form of what
            it takes or gives.
    """
    program = _program(network, example)
    if form := unwritten(program.call_spec.in_spec) or unwritten(program.call_spec.out_spec):
        raise TraceError(
            f"{type(network).__name__} must take and give tensors in tuples, lists or dicts, which a file can hold, "
            f"got {form}: wrap it in a module whose forward makes tuples or dicts of it"
        )
    exported = program.module(check_guards=False)
    return exported, Sizes.of(exported, settled_sizes(network, program, example))


def _program(network: nn.Module, example: tuple[Any, ...]) -> Any:
    size = next((leaf.shape[0] for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim()), 0)

    def axes(leaf: Any) -> Any:
        # What has another length than the batch, such as a mask, is taken as it comes.
        if not isinstance(leaf, Tensor) or not leaf.dim() or size == 1:
            return None  # torch.export takes 1 for a constant
        return {0: torch.export.Dim.DYNAMIC if leaf.shape[0] == size else torch.export.Dim.AUTO}

    # Nothing of the example may be written to the file, least of all the whole set that it may be a view of.
    shown = pytree.tree_map_only(Tensor, torch.clone, example)
    shapes = as_forward_takes(network, pytree.tree_map(axes, shown))
    try:
        with torch.no_grad():
            return torch.export.export(network, shown, dynamic_shapes=shapes, strict=False)
    except QExploreError:
        raise
    except Exception as error:
        # torch.export stops in many ways, which have no common base.
        raise TraceError(
            settled_batch(network, error)
            or f"torch.export must be able to take {type(network).__name__} apart for every batch size, but stops: "
            f"{first_line(error)} Take sizes from the input (x.shape[0]) and decisions out of forward"
        ) from error


def switch_training(exported: fx.GraphModule, training: bool, *, statistics: bool = True) -> None:
    """Set the mode of every operator that has one, and nothing else of it.

    Args:
        exported: changed in place.
        training: the mode.
        statistics: False leaves BatchNorm in eval mode.
    """
    for node in exported.graph.nodes:
        position = _switch_position(node)
        if position is not None and not _has_no_statistics(node):
            is_fixed = node.target is _ATEN.batch_norm.default and not statistics
            node.update_arg(position, training and not is_fixed)
    exported.recompile()


def _has_no_statistics(node: fx.Node) -> bool:
    """Whether ``node`` is a BatchNorm that takes those of each batch in every mode."""
    return node.target is _ATEN.batch_norm.default and node.args[3] is None


def _keep_frozen(exported: fx.GraphModule) -> None:
    """Leave every BatchNorm in eval mode whose weights are not to be trained."""
    for node in _batchnorms(exported):
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and not _parameter(exported, weight).requires_grad:
            node.update_arg(_switch_position(node), False)
    exported.recompile()


def _switch_position(node: fx.Node) -> int | None:
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    names = [argument.name for argument in node.target._schema.arguments]
    return next((names.index(name) for name in _SWITCHES if name in names and names.index(name) < len(node.args)), None)


def restore_batchnorm(exported: fx.GraphModule, network: nn.Module) -> None:
    """Give every BatchNorm its own eps and momentum, which torchao's fusion for training replaces by torch's defaults.

    Args:
        exported: changed in place.
        network: the float network, whose module names the graph's buffers have.
    """
    modules = dict(network.named_modules())
    for node in _batchnorms(exported):
        variance = node.args[4]
        if variance is None:
            continue
        module = modules.get(str(variance.target).rpartition(".")[0])
        if module is None:
            continue
        node.update_arg(6, 0.1 if module.momentum is None else module.momentum)
        node.update_arg(7, module.eps)
        for user in list(variance.users):
            if user.target is _ATEN.add.Tensor:  # of the root by which the convolution's weight is scaled
                user.update_arg(1, module.eps)
    exported.recompile()


def norms_behind_convolutions(exported: fx.GraphModule) -> bool:
    """Whether a BatchNorm reads what a convolution gives."""
    return any("conv" in str(getattr(node.args[0], "target", "")) for node in _batchnorms(exported))


def fold_batchnorm(exported: fx.GraphModule) -> int:
    """Fold every BatchNorm behind a convolution that was prepared for training into it; returns how many.

    torchao would do it while it converts, at half a minute a network, by matching traced patterns.
    """
    num_folded = 0
    for node in _batchnorms(exported):
        num_folded += _fold(exported, node)
    exported.graph.eliminate_dead_code()
    exported.recompile()
    return num_folded


def _batchnorms(exported: fx.GraphModule) -> list[Any]:
    return [node for node in exported.graph.nodes if node.target is _ATEN.batch_norm.default]


def _fold(exported: fx.GraphModule, norm: Any) -> bool:
    """BatchNorm of ``conv(x, fake(weight * scale)) / scale + bias`` with ``scale = gamma / sqrt(variance + eps)``."""
    before = norm.args[0]
    bias = None
    if before.target is _ATEN.add.Tensor and isinstance(before.args[1], fx.Node):
        bias, before = before.args[1].args[0], before.args[0]
    if before.target is not _ATEN.div.Tensor:
        return False
    conv = before.args[0]
    if conv.target not in LAYERS:
        return False
    fake = conv.args[1]
    scaled = fake.args[0] if fake.op == "call_module" else fake
    if scaled.target is not _ATEN.mul.Tensor or not is_constant(scaled.args[0]):
        return False
    gamma, beta, mean, variance = (_value(exported, node) for node in norm.args[1:5])
    scale = gamma / torch.sqrt(variance + norm.args[7])
    shift = (-mean if bias is None else _value(exported, bias) - mean) * scale + beta
    weight = _value(exported, scaled.args[0]) * scale.reshape(scaled.args[1].args[1])
    scaled.replace_all_uses_with(_constant(exported, scaled, f"{conv.name}_folded_weight", weight))
    conv.args = (*conv.args[:2], _constant(exported, conv, f"{conv.name}_folded_bias", shift), *conv.args[3:])
    norm.replace_all_uses_with(conv)
    return True


def _value(exported: fx.GraphModule, node: Any) -> Tensor:
    return _parameter(exported, node).detach()


def _parameter(exported: fx.GraphModule, node: Any) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(exported.get_submodule(owner), name)
    return value


def _constant(exported: fx.GraphModule, before: fx.Node, name: str, value: Tensor) -> fx.Node:
    exported.register_parameter(name, nn.Parameter(value, requires_grad=False))
    with exported.graph.inserting_before(before):
        return exported.graph.get_attr(name)


def drop_unused(exported: fx.GraphModule) -> None:
    """Delete tensors that the graph does not read, such as the float weights that integers have replaced."""
    used = {str(node.target) for node in exported.graph.nodes if node.op == "get_attr"}
    tensors = [*exported.named_parameters(remove_duplicate=False), *exported.named_buffers(remove_duplicate=False)]
    for name, _ in tensors:
        if name not in used:
            owner, _, attribute = name.rpartition(".")
            delattr(exported.get_submodule(owner), attribute)


def save(exported: fx.GraphModule, example: tuple[Any, ...], sizes: Sizes, path: Path) -> None:
    """Write a graph as a compressed archive that ``torch.export.load`` reads, with the conditions on its sizes."""
    plain = io.BytesIO()
    with silenced():
        program = _program(exported, example)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # lines and folders of this machine
        program.example_inputs = None
        program._guards_code = [*dict.fromkeys((*program._guards_code, *sizes.conditions))]
        torch.export.save(program, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as write:
        for entry in read.infolist():
            write.writestr(entry.filename, read.read(entry))


def load(path: Path) -> tuple[fx.GraphModule, Sizes]:
    """Read what `save` has written.

    Raises:
        WorkflowError: there is no such file, or it holds something else, such as a pickle, which is not read.
    """
    if not path.is_file():
        raise WorkflowError(f"there must be a file written by a result's save(), got {str(path)!r}, which is not there")
    try:
        program = torch.export.load(read_archive(path))
        exported = program.module(check_guards=False)
        return exported, Sizes.of(exported, program._guards_code)
    except WorkflowError:
        raise
    except Exception as error:
        # What a torn or foreign archive raises depends on where reading stops.
        raise WorkflowError(
            f"{str(path)!r} must be a file written by a result's save(), but holds none: {first_line(error)}"
        ) from error
