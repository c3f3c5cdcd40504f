"""Recurrent layers written out step by step, so that their gates and states are modules that can be points."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qexplore.errors import ModelError

State = tuple[Tensor, ...]
"""Hidden state ``[B, H]`` of one layer and direction; of an LSTM its cell state too."""


def unroll_recurrent(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose LSTM, GRU and RNN layers are written out, with equal outputs but for rounding.

    Each layer and direction is a cell, ``lstm.cells.l0``, ``lstm.cells.l0_reverse``: two linear layers, ``input`` and
    ``hidden`` (an LSTM with ``proj_size`` has a ``projection`` too), and modules through which every gate and state
    passes: ``input_gate``, ``forget_gate``, ``cell_gate``, ``output_gate``, ``cell_state``, ``cell_output`` and
    ``hidden_state`` of an LSTM; ``reset_gate``, ``update_gate``, ``new_gate`` and ``hidden_state`` of a GRU;
    ``hidden_state`` and ``activation`` of a plain RNN. So they can be quantization points as any other modules, one
    for all steps. Several layers, both directions, ``batch_first``, dropout between layers, initial states, single
    sequences without a batch axis and packed sequences are as in torch. The parameters' values, device and dtype are
    kept, their names are not; it runs slower, since every step is a call in Python.

    Cells (``nn.LSTMCell``) stay as they are.

    Args:
        network: a float network, left as it is.

    Raises:
        ModelError: no module, no recurrent layer, or one that cannot be written out: of a class of its own, with
            parametrized weights, or with hooks.
    """
    if not isinstance(network, nn.Module):
        raise ModelError(f"unroll_recurrent takes a network, an nn.Module, got {type(network).__name__}")
    found = {name: module for name, module in network.named_modules() if isinstance(module, nn.RNNBase)}
    if not found:
        raise ModelError(
            f"unroll_recurrent needs a network with recurrent layers, LSTM, GRU or RNN, got {type(network).__name__} "
            "without any: leave it as it is"
        )
    for name, module in found.items():
        _require_plain(name, module)
    copied = copy.deepcopy(network)
    if isinstance(copied, nn.RNNBase):
        return _written_out(copied)
    written = {id(module): _written_out(module) for module in copied.modules() if isinstance(module, nn.RNNBase)}
    for parent in list(copied.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in written:
                setattr(parent, name, written[id(child)])
    return copied


def _require_plain(name: str, module: nn.RNNBase) -> None:
    kind, shown = parametrize.type_before_parametrizations(module), f"'{name or '(the network itself)'}'"
    if parametrize.is_parametrized(module):
        raise ModelError(
            f"unroll_recurrent needs plain weights, got parametrized ones in {shown}: bake them in with "
            "torch.nn.utils.parametrize.remove_parametrizations, or detach the wrapper"
        )
    if kind not in _CELLS:
        raise ModelError(f"unroll_recurrent writes out LSTM, GRU and RNN of torch, got {kind.__name__} in {shown}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ModelError(f"unroll_recurrent needs layers without hooks, which would be lost, got some on {shown}")


def _written_out(module: nn.RNNBase) -> UnrolledRecurrent:
    return UnrolledRecurrent(module).train(module.training)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = weight
    made.bias = bias  # type: ignore[assignment]
    return made


class _Cell(nn.Module):
    """One layer in one direction. Its forward is one step, so that the calls in it are the same for all steps."""

    def __init__(self, module: nn.RNNBase, suffix: str) -> None:
        super().__init__()
        self.input = _linear(getattr(module, f"weight_ih_{suffix}"), getattr(module, f"bias_ih_{suffix}", None))
        self.hidden = _linear(getattr(module, f"weight_hh_{suffix}"), getattr(module, f"bias_hh_{suffix}", None))
        self.hidden_state = nn.Identity()

    def forward(self, products: Tensor, state: State) -> State:
        """The next state, from the ``products`` of the input at this step, ``input(x)``."""
        raise NotImplementedError


class _LSTM(_Cell):
    def __init__(self, module: nn.RNNBase, suffix: str) -> None:
        super().__init__(module, suffix)
        self.input_gate, self.forget_gate, self.output_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()
        self.cell_gate, self.cell_output, self.cell_state = nn.Tanh(), nn.Tanh(), nn.Identity()
        self.projection = _linear(getattr(module, f"weight_hr_{suffix}"), None) if module.proj_size else None

    def forward(self, products: Tensor, state: State) -> State:
        i, f, g, o = (products + self.hidden(state[0])).chunk(4, dim=-1)
        cell = self.cell_state(self.forget_gate(f) * state[1] + self.input_gate(i) * self.cell_gate(g))
        hidden = self.output_gate(o) * self.cell_output(cell)
        return self.hidden_state(hidden if self.projection is None else self.projection(hidden)), cell


class _GRU(_Cell):
    def __init__(self, module: nn.RNNBase, suffix: str) -> None:
        super().__init__(module, suffix)
        self.reset_gate, self.update_gate, self.new_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Tanh()

    def forward(self, products: Tensor, state: State) -> State:
        (old,) = state
        r, z, n = products.chunk(3, dim=-1)
        of_r, of_z, of_n = self.hidden(old).chunk(3, dim=-1)
        update = self.update_gate(z + of_z)
        new = self.new_gate(n + self.reset_gate(r + of_r) * of_n)
        return (self.hidden_state(new + update * (old - new)),)


class _RNN(_Cell):
    def __init__(self, module: nn.RNNBase, suffix: str) -> None:
        super().__init__(module, suffix)
        self.activation = nn.ReLU() if module.mode == "RNN_RELU" else nn.Tanh()

    def forward(self, products: Tensor, state: State) -> State:
        return (self.hidden_state(self.activation(products + self.hidden(state[0]))),)


_CELLS: dict[type[nn.Module], type[_Cell]] = {nn.LSTM: _LSTM, nn.GRU: _GRU, nn.RNN: _RNN}


def _run_through(cell: Any, x: Tensor, state: State, active: Tensor | None, reverse: bool) -> tuple[Tensor, State]:
    """Hidden states of all steps of a cell, ``[T, B, H]``, and the last state.

    Args:
        cell: one of `_CELLS`.
        x: ``[T, B, F]``.
        state: before the first step.
        active: which samples have a step there, ``[T, B, 1]``; None for all.
        reverse: from the last step to the first.
    """
    products, outputs = cell.input(x), [state[0]] * len(x)
    for place in reversed(range(len(x))) if reverse else range(len(x)):
        new = cell(products[place], state)
        if active is not None:
            new = tuple(torch.where(active[place], now, old) for now, old in zip(new, state, strict=True))
        state, outputs[place] = new, new[0]
    return torch.stack(outputs), state


class UnrolledRecurrent(nn.Module):
    """A recurrent layer of torch written out; takes and gives what that does. See `unroll_recurrent`."""

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self.batch_first, self.num_layers = module.batch_first, module.num_layers
        self.directions = ("", "_reverse") if module.bidirectional else ("",)
        self.hidden_size, self.proj_size = module.hidden_size, module.proj_size
        make = _CELLS[type(module)]
        suffixes = [f"l{layer}{way}" for layer in range(module.num_layers) for way in self.directions]
        self.cells = nn.ModuleDict({suffix: make(module, suffix) for suffix in suffixes})
        self.dropout = nn.Dropout(module.dropout) if module.dropout else None
        self.has_cell_state = make is _LSTM

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Outputs and last states, in the forms of torch's layer."""
        if isinstance(input, PackedSequence):
            return self._of_packed(input, hx)
        if input.dim() == 3:
            outputs, states = self._run(input.transpose(0, 1) if self.batch_first else input, self._states(hx), None)
            return outputs.transpose(0, 1) if self.batch_first else outputs, self._given(states)
        outputs, states = self._run(input.unsqueeze(1), self._states(hx, batched=False), None)
        return outputs.squeeze(1), self._given([one.squeeze(1) for one in states])

    def _of_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, lengths = pad_packed_sequence(packed)
        steps = torch.arange(len(x), device=x.device)
        active = (steps[:, None] < lengths.to(x.device)).unsqueeze(-1)
        outputs, states = self._run(x, self._states(hx), active)
        if packed.sorted_indices is not None:
            outputs, lengths = outputs[:, packed.sorted_indices], lengths[packed.sorted_indices.cpu()]
        data = pack_padded_sequence(outputs, lengths).data
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), self._given(
            states
        )

    def _states(self, hx: Any, *, batched: bool = True) -> list[Tensor] | None:
        """Initial states ``[layers, B, H]``; None for zeros."""
        if hx is None:
            return None
        states = list(hx) if self.has_cell_state else [hx]
        return states if batched else [one.unsqueeze(1) for one in states]

    def _zeros(self, x: Tensor) -> list[Tensor]:
        sizes = [self.proj_size or self.hidden_size, *([self.hidden_size] if self.has_cell_state else [])]
        return [x.new_zeros(len(self.cells), x.shape[1], size) for size in sizes]

    def _run(self, x: Tensor, states: list[Tensor] | None, active: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        states = self._zeros(x) if states is None else states
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for way in self.directions:
                before = tuple(one[len(last)] for one in states)
                output, after = _run_through(self.cells[f"l{layer}{way}"], x, before, active, way != "")
                outputs.append(output)
                last.append(after)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            if self.dropout is not None and layer < self.num_layers - 1:
                x = self.dropout(x)
        return x, [torch.stack(column) for column in zip(*last, strict=True)]

    def _given(self, states: list[Tensor]) -> Any:
        return tuple(states) if self.has_cell_state else states[0]
