"""A network that cannot be taken apart, run as it is written: candidates share the modules of a stack."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qexplore._trees import cloned, num_bytes, tensors_of
from qexplore.errors import ModelError
from qexplore.evaluation.agreement import equal
from qexplore.evaluation.graph import Function, Step, Steps
from qexplore.evaluation.network import MostlyOpaque, Network, example_of, hooked, two_candidates
from qexplore.evaluation.samples import Batch, Samples
from qexplore.evaluation.trace import CaptureError
from qexplore.model import (
    BlockRuns,
    Candidates,
    Noted,
    QuantizedModel,
    WeightStore,
    bake_weights,
    call,
    content_version,
    kept_weights,
    measuring,
    weight_quantizations,
)
from qexplore.quant import TensorQuantizer

_EXAMPLE_SIZE = 2
_MOST_MIXTURES = 3
"""So many boundaries between blocks are tried."""


class StackNetwork(Network):
    """The engine's own copy of a wrapped network, as one step, of which blocks can be skipped.

    Blocks are modules in an ``nn.ModuleList`` or ``nn.Sequential``. The copy has the network's own parameters. It is
    accepted when it equals the hooked network bit for bit at two width vectors, and at mixtures of them, each begun
    with what the blocks gave for the one before it.

    Args:
        model: calibrated; left as it is.
        samples: asked for an example; told to keep the loader's batches.
        weights: holds quantized weights.

    Raises:
        CaptureError: says why blocks cannot be skipped.
    """

    is_stack = True

    def _capture(self, model: QuantizedModel, samples: Samples, whole: bool) -> None:
        try:
            self._copy = copy.deepcopy(model, {id(one): one for one in model.parameters()}).eval()
            bake_weights(self._copy.model)
        except Exception as error:
            raise CaptureError(f"the network cannot be copied: {type(error).__name__}: {error}") from error
        for *_, quantization in weight_quantizations(self._copy.model):
            quantization.keep(self.weights)
        example = example_of(samples, _EXAMPLE_SIZE)
        self.example_size = len(example)
        try:
            with measuring(self.device):
                self._find_blocks(example)
                self._accept(model, example)
        except ModelError as error:
            raise CaptureError(str(error)) from error
        samples.keep_batches()

    @property
    def has_state(self) -> bool:
        """It is run in one thread alone."""
        return False

    @property
    def runs_own_code(self) -> bool:
        """Always."""
        return True

    @property
    def opaque(self) -> dict[str, str]:
        """None is named: nothing is looked into."""
        return {}

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """None is known."""
        return ()

    def arguments(self, inputs: Any) -> list[Any]:
        """The batch itself."""
        return [inputs]

    def noted(
        self, inputs: Any, candidate: Sequence[int], before: Noted | None, kept_bytes: float = math.inf
    ) -> tuple[Any, Noted]:
        """As `BlockRuns.output`, the quantizers told of ``candidate``."""
        self._settle(candidate)
        return self._runs.output(inputs, tuple(candidate), before, kept_bytes)

    def _settle(self, candidate: Sequence[int]) -> None:
        for quantizer, chosen in zip(self._own.values(), self.quantizers(candidate), strict=True):
            quantizer.switched_off, quantizer.settled = chosen is None, chosen

    def _find_blocks(self, example: Batch) -> None:
        self._own = dict(enumerate(self._copy.fake_quantizers.values()))
        off = [0] * self.num_points
        self._settle(off)
        before = content_version(self._copy)
        with torch.no_grad():
            self._runs = BlockRuns(self._copy, example.inputs)
        output, noted = self.noted(example.inputs, off, None)
        if content_version(self._copy) != before:
            raise CaptureError("the network changes its own buffers")
        self._passed = noted.passed
        self.notes = (_said(self._runs.names),)
        order = _in_order(self._passed, self._copy.call_order)
        self.steps = Steps((_step(()), _step(order, self._own, self._called, tensors_of(output))), 1, 1, order)

    def _called(self, values: Sequence[Any]) -> Any:
        return call(self._copy, cloned(values[0]))

    def _accept(self, model: QuantizedModel, example: Batch) -> None:
        first, last = two_candidates(model).tolist()
        chosen = self._passed[:: -(-len(self._passed) // _MOST_MIXTURES)]
        mixed = [[last[p] if p in passed else first[p] for p in range(len(first))] for passed in chosen]
        before: Noted | None = None
        with kept_weights(model.model, WeightStore(self.weights.budget)):
            for candidate in (first, *mixed, last):
                expected = hooked(model, candidate, example, seed=0)
                if candidate is first and not equal(expected, hooked(model, candidate, example, seed=1)):
                    raise CaptureError("the network draws random numbers")
                output, before = self.noted(example.inputs, candidate, before)
                if not equal(expected, output):
                    raise CaptureError("skipping blocks changes the network's output")


def _in_order(passed: Sequence[frozenset[int]], among: Sequence[int]) -> tuple[int, ...]:
    """Points in the order in which blocks pass them; as they stand in ``among`` within a block."""
    found = [point for block in passed for point in among if point in block]
    return tuple(dict.fromkeys([*found, *among]))


def _said(names: Sequence[str]) -> str:
    return f"{len(names)} blocks ('{names[0]}' to '{names[-1]}'), skipped up to the first point that differs"


def _step(
    upstream: tuple[int, ...],
    hidden: dict[int, TensorQuantizer] | None = None,
    function: Function | None = None,
    gives: Sequence[Tensor] = (),
) -> Step:
    """The batch, or with a ``function`` the network."""
    return Step(
        name="inputs" if function is None else "network",
        inputs=() if function is None else (0,),
        function=_no_function if function is None else function,
        point=None,
        clamp=None,
        adds=False,
        hidden=hidden or {},
        upstream=upstream,
        shapes=tuple(tuple(tensor.shape) for tensor in gives),
        nbytes=num_bytes(list(gives)),
        is_fresh=False,
        is_rowwise=False,
    )


def _no_function(values: Sequence[Any]) -> Any:
    raise AssertionError("an argument is given, not computed")


class StackReplays:
    """Runs whole candidates through a batch, each from the first block on that it does not share with one before.

    Of each batch the last candidate's run is noted, from call to call where there is room for all of them.

    Args:
        network: with blocks.
        budget_bytes: most memory for values; half of it is for what is noted.
    """

    description = ""

    def __init__(self, network: StackNetwork, budget_bytes: int) -> None:
        self._network = network
        self._budget = budget_bytes // 2
        self._noted: dict[int, tuple[Sequence[Any], Noted]] = {}

    def outputs(self, place: int, arguments: Sequence[Any], candidates: Candidates) -> Iterator[Any]:
        """As `qexplore.evaluation.engine.Replays.outputs`."""
        for candidate in candidates.tolist():
            # Out of the table: after an error nobody knows what has become of it.
            owner, before = self._noted.pop(place, (None, None))
            output, noted = self._network.noted(
                arguments[0], candidate, before if owner is arguments else None, self._budget
            )
            self._noted[place] = arguments, noted
            yield output
        self._make_room(place)

    def _make_room(self, place: int) -> None:
        """Forget other batches, where they take too much together."""
        if sum(noted.nbytes for _, noted in self._noted.values()) > self._budget:
            self._noted = {place: self._noted[place]}

    def close(self) -> None:
        """Forget all runs."""
        self._noted.clear()


def taken_apart(model: QuantizedModel, samples: Samples, weights: WeightStore) -> Network:
    """``model`` in steps; as a stack of blocks where `torch.fx` cannot take it, or most of it, apart.

    Raises:
        CaptureError: says why neither can be had.
    """
    try:
        return Network(model, samples, weights, whole=False)
    except CaptureError as error:
        reason = error
    try:
        stack = StackNetwork(model, samples, weights)
    except CaptureError as error:
        if isinstance(reason, MostlyOpaque):
            return Network(model, samples, weights)
        raise CaptureError(f"{reason}; nor can blocks be skipped: {error}") from error
    stack.notes += (f"no steps: {reason}",)
    return stack
