"""What runs where a tensor passes a quantization point: quantizes it, counts it, and shows it to who listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qexplore._trees import map_tensors, tensors_of
from qexplore._warnings import warn
from qexplore.errors import SelectionError
from qexplore.model.frames import aside
from qexplore.model.input_points import INPUT, ArgumentNames, bare_name, floating_inputs, unlike, with_input
from qexplore.model.write_back import Arguments
from qexplore.quant import TensorQuantizer

Outputs = Literal["tensor", "all"]
Listener = Callable[[str, list[Tensor]], None]
"""Called with a point's name and the floating tensors of one call that passes there."""


class PointHook:
    """Puts every floating tensor that passes a point through the point's quantizer, and shows them to a listener."""

    def __init__(self, name: str, quantizer: TensorQuantizer) -> None:
        self.name = name
        self.quantizer = quantizer
        self.listener: Listener | None = None
        self.quantizes = True
        self.onlooker: Listener | None = None
        self.surveyor: Callable[[str, Any], None] | None = None
        """Told of the very tensors that pass."""
        self.num_calls = 0

    def pass_through(self, tree: Any) -> Any:
        """``tree`` with its tensors quantized, unless the listener wants full precision."""
        with aside():
            return self._heard(map_tensors(self._quantize, tree) if self.quantizes else tree)

    def _heard(self, tree: Any) -> Any:
        self.num_calls += 1
        if self.surveyor is not None:
            self.surveyor(self.name, tree)
        for told in (self.listener, self.onlooker):
            if told is not None:
                told(self.name, floating_tensors(tree))
        return tree

    def _quantize(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return _map_nested(self.quantizer, tensor) if tensor.is_nested else self.quantizer(tensor)


class InputHook(PointHook):
    """Forward pre-hook of the network: one of its floating inputs, or every one where the point is named "input"."""

    def __init__(self, name: str, quantizer: TensorQuantizer, names: ArgumentNames) -> None:
        super().__init__(name, quantizer)
        self.argument = bare_name(name).removeprefix(INPUT).removeprefix(".")
        self._names = names
        self._has_compared = False

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls before the network's forward."""
        with aside():
            return self._passed(args, kwargs)

    def _passed(self, args: Any, kwargs: dict[str, Any]) -> Any:
        self._compare(args, kwargs)
        if not self.argument:
            return self.pass_through((args, kwargs))
        passed: list[Tensor] = []

        def change(tensor: Tensor) -> Tensor:
            passed.append(self._quantize(tensor) if self.quantizes else tensor)
            return passed[-1]

        changed = with_input(self._names, self.argument, args, kwargs, change)
        if passed:
            self._heard(passed)
        return changed

    def _compare(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Warn once where one range serves several inputs of different magnitudes."""
        is_calibrated = getattr(self.quantizer, "is_calibrated", False)  # an export puts a function in its place
        is_watched = self.listener is not None  # what an observed forward computes is taken for the network's own
        if self._has_compared or is_watched or torch.compiler.is_compiling() or not is_calibrated:
            return
        self._has_compared = True
        inputs = floating_inputs(self._names, args, kwargs)
        why = unlike({name: inputs[name] for name in inputs if self.argument in ("", name)})
        if why:
            warn(f"the point '{self.name}' has one range for {why}")


class OutputHook(PointHook):
    """Forward hook of a selected module: its output tensor, or all floating tensors in it.

    What a module wrote into its argument is quantized there, as others may read it there.
    """

    def __init__(self, name: str, quantizer: TensorQuantizer, outputs: Outputs) -> None:
        super().__init__(name, quantizer)
        self.outputs = outputs
        self.arguments = Arguments(name)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What torch calls after the module's forward."""
        if not (isinstance(output, Tensor) or self.outputs == "all") or not floating_tensors(output):
            raise SelectionError(self._refusal(output))
        with aside():
            return self._passed(module, output)

    def _passed(self, module: nn.Module, output: Any) -> Any:
        written = self.arguments.written(module)
        if not written:
            return self.pass_through(output)

        def quantize(tensor: Tensor) -> Tensor:
            quantized = self._quantize(tensor) if self.quantizes else tensor
            return self.arguments.write_back(tensor, quantized, written)

        return self._heard(map_tensors(quantize, output))

    def _refusal(self, output: Any) -> str:
        wanted = "be one floating tensor" if self.outputs == "tensor" else "hold a floating tensor"
        offer = 'wrap with outputs="all" to quantize every floating tensor in it with one quantizer, or '
        return (
            f"the output of '{self.name}' must {wanted}, got {_describe(output)}: "
            f"{offer if floating_tensors(output) else ''}leave this module out of the predicate"
        )


def floating_tensors(tree: Any) -> list[Tensor]:
    """The floating tensors in ``tree``, cut off from autograd; of a nested one those that it is made of."""
    found = [tensor.detach() for tensor in tensors_of(tree) if tensor.is_floating_point()]
    return [one for tensor in found for one in (_samples(tensor) if tensor.is_nested else [tensor])]


def _samples(nested: Tensor) -> list[Tensor]:
    """The tensors in a nested one, each as a batch of one sample."""
    return [sample[None] for sample in nested.unbind()]


def _map_nested(function: Callable[[Tensor], Tensor], nested: Any) -> Tensor:
    """``function`` of what is in a nested tensor, nested as it was."""
    if nested.layout == torch.strided:
        return torch.nested.as_nested_tensor([function(sample)[0] for sample in _samples(nested)])
    # Made of the very offsets, or torch would not add the two.
    changed: Tensor = torch.nested.nested_tensor_from_jagged(
        function(nested.values()), nested.offsets(), nested.lengths(), jagged_dim=nested._ragged_idx
    )
    return changed


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(type(item).__name__ for item in output) or 'nothing'}"
    return f"a {type(output).__name__}"
