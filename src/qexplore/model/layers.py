"""Convolutions and linear layers: where their channels lie."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Their channels lie on the axis behind that of the inputs, in groups along both: see `grouped`."""

LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def is_layer(module: nn.Module | None) -> bool:
    """Whether ``module`` is one of torch's own `LAYERS`; a class derived from one may have a forward of its own."""
    return module is not None and parametrize.type_before_parametrizations(module) in LAYERS


def num_spatial(layer: nn.Module) -> int:
    """Axes behind the channels of what ``layer`` gives; 0 for a linear layer, whose channels come last."""
    return 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)  # type: ignore[arg-type]


def num_inputs(layer: Any) -> int:
    """Channels that ``layer`` takes."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def num_outputs(layer: Any) -> int:
    """Channels that ``layer`` gives."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def num_groups(layer: Any) -> int:
    """Groups of channels that ``layer`` keeps apart."""
    return 1 if isinstance(layer, nn.Linear) else int(layer.groups)


def grouped(layer: Any, weight: Tensor) -> Tensor:
    """The weight of ``layer`` as ``[groups, outputs of a group, inputs of a group, kernel]``."""
    return taken_apart(weight, num_groups(layer), isinstance(layer, TRANSPOSED))


def taken_apart(weight: Tensor, groups: int, is_transposed: bool) -> Tensor:
    """`grouped` for a layer that is not at hand."""
    apart = weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())
    return apart.transpose(1, 2) if is_transposed else apart


def ungrouped(layer: Any, apart: Tensor, weight: Tensor) -> Tensor:
    """What `grouped` undone gives, in the shape of ``weight``."""
    return put_together(apart, weight, isinstance(layer, TRANSPOSED))


def put_together(apart: Tensor, weight: Tensor, is_transposed: bool) -> Tensor:
    """What `taken_apart` undone gives, in the shape of ``weight``."""
    return (apart.transpose(1, 2) if is_transposed else apart).reshape(weight.shape)


def bare(module: nn.Module, parameters: dict[str, Tensor | None]) -> nn.Module:
    """``module`` without parametrizations, hooks and what stands in its forward's place, with these plain parameters.

    Everything else is shared.
    """
    kind: Any = parametrize.type_before_parametrizations(module)
    plain: nn.Module = kind.__new__(kind)  # copy.copy asks for a pickle, which parametrized modules refuse
    plain.__dict__.update(module.__dict__)
    plain.__dict__.pop("forward", None)  # it would run ``module``
    plain._modules = {name: inner for name, inner in module._modules.items() if name != "parametrizations"}
    plain._parameters = dict(module._parameters)
    for name, value in parameters.items():
        plain._parameters[name] = None if value is None else nn.Parameter(value, requires_grad=False)
    if isinstance(plain, nn.RNNBase):  # what it computes with
        plain.__dict__["_flat_weights"] = [plain._parameters[name] for name in plain._flat_weights_names]
    return plain


def flat_weights(module: Any) -> list[Tensor | None]:
    """The weights of a recurrent layer, in the order in which its forward reads them."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def read_weights_anew(kind: type[nn.Module]) -> None:
    """Let recurrent layers of the class ``kind`` read their weights by name in every forward.

    Torch's keep a list of the parameters themselves, past which a parametrization is never asked.
    """
    kind._flat_weights = property(flat_weights, lambda module, value: None)  # type: ignore[attr-defined]


def reads_weights_anew(kind: type[nn.Module]) -> bool:
    """Whether `read_weights_anew` was called with the class ``kind``."""
    return "_flat_weights" in vars(kind)
