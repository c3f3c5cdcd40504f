"""Networks of the user's own: ``package.module:factory``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore._random import isolated
from qexplore._references import referred
from qexplore.errors import QExploreError, WorkflowError
from qexplore.metrics import top1_accuracy
from qexplore.model import Loader, unpack_batch
from qexplore.pipeline.dialogue import Prefixed
from qexplore.pipeline.images import batches_of, read_images
from qexplore.pipeline.networks import load_weights
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import Subject

_FORMS = "a network, (network, example_input), (network, train_loader, held_out_loader), or a qexplore.pipeline.Subject"
_BATCH = 64
_NUM_CALIBRATION = 8


def factory_subject(name: str, options: Options, dialogue: Prefixed) -> Subject:
    """What the factory ``name`` returns: a function without arguments, found from the working directory too.

    - ``network``: its images are those of ``--data DIR``.
    - ``(network, example_input)``: the inputs of one batch, on which it is calibrated, trained and measured as well.
    - ``(network, train_loader, held_out_loader)``: batches ``(x, y)``; the first eight of the first calibrate.
    - a `Subject`, which says everything.

    Raises:
        WorkflowError: no such module or function, one that fails or returns something else, or options that name data
            or weights where the factory gives its own.
        DataError: a loader without a batch.
    """
    made = _call(_factory(name), name, options.seed)
    if isinstance(made, Subject):
        _refuse_unused(name, "a Subject, which has its own data and weights", options, "data", "text", "weights")
        return made
    parts = made if isinstance(made, (tuple, list)) else (made,)
    if not (1 <= len(parts) <= 3 and isinstance(parts[0], nn.Module)):
        got = f"({', '.join(type(part).__name__ for part in parts)})" if len(parts) > 1 else type(made).__name__
        raise WorkflowError(f"'{name}' must return {_FORMS}, got {got}")
    if len(parts) > 1:
        _refuse_unused(name, "its data along with the network", options, "data", "text")
    network = parts[0].eval()
    load_weights(network, options, dialogue)
    if len(parts) == 2:
        return _with_example(name, network, parts[1], dialogue)
    train, held_out = parts[1:] or _image_loaders(name, options, dialogue)
    return _with_loaders(name, network, train, held_out)


def _refuse_unused(name: str, what: str, options: Options, *unused: str) -> None:
    given = [f"--{option} {getattr(options, option)}" for option in unused if getattr(options, option) is not None]
    if given:
        raise WorkflowError(
            f"'{name}' returns {what}, got {' and '.join(given)}, which would not be used: leave it out"
        )


def _image_loaders(name: str, options: Options, dialogue: Prefixed) -> tuple[Loader, Loader]:
    if options.data is None:
        raise WorkflowError(
            f"'{name}' returns a network alone: name a folder of images with --data DIR, or let it return "
            "(network, example_input) or (network, train_loader, held_out_loader)"
        )
    images = read_images(options.data, options.seed)
    dialogue.show(f"Data: {images}")
    return batches_of(images.train, _BATCH), batches_of(images.test, _BATCH)


def _with_example(name: str, network: nn.Module, example: Any, dialogue: Prefixed) -> Subject:
    if not isinstance(example, (Tensor, tuple, list, Mapping)):
        raise WorkflowError(
            f"the example_input that '{name}' returns must be a tensor, a tuple of positional or a dict of keyword "
            f"arguments, got {type(example).__name__}"
        )
    dialogue.show("Data: the example input alone, on which the network is calibrated, trained and measured")
    batches = [(example, None)]
    return Subject(name, network, calibration=batches, held_out=batches, train=batches)


def _with_loaders(name: str, network: nn.Module, train: Any, held_out: Any) -> Subject:
    for loader in (train, held_out):
        if not hasattr(loader, "__iter__") or isinstance(loader, (Tensor, Iterator)):
            raise WorkflowError(
                f"loaders that '{name}' returns must be DataLoaders or lists of batches, got {type(loader).__name__}"
            )
    calibration = [batch for batch, _ in zip(train, range(_NUM_CALIBRATION), strict=False)]
    has_classes = bool(calibration) and _is_classes(unpack_batch(calibration[0])[1])
    return Subject(
        name,
        network,
        calibration=calibration,
        held_out=held_out,
        train=train,
        metric=top1_accuracy if has_classes else None,
        task_loss=F.cross_entropy if has_classes else None,
    )


def _is_classes(target: Any) -> bool:
    return isinstance(target, Tensor) and target.dim() == 1 and not target.is_floating_point()


def _factory(name: str) -> Callable[[], Any]:
    found = referred(name, WorkflowError)
    if not callable(found):
        module_name, _, attribute = name.partition(":")
        raise WorkflowError(f"'{module_name}' has no function '{attribute}'")
    return found  # type: ignore[no-any-return]


def _call(factory: Callable[[], Any], name: str, seed: int) -> Any:
    try:
        with isolated(torch.device("cpu"), seed):
            return factory()
    except QExploreError:
        raise
    except Exception as error:
        raise WorkflowError(f"the factory '{name}' failed: {type(error).__name__}: {error}") from error
