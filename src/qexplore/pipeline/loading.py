"""From a name to a subject."""

from __future__ import annotations

import torch

from qexplore._random import isolated
from qexplore.errors import WorkflowError
from qexplore.pipeline.dialogue import Dialogue, Prefixed
from qexplore.pipeline.factories import factory_subject
from qexplore.pipeline.image_subject import image_subject
from qexplore.pipeline.language_subject import language_subject
from qexplore.pipeline.networks import IMAGE_NETWORKS
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import Subject

NAMES = (*IMAGE_NETWORKS, "gpt2")


def load_subject(name: str, dialogue: Dialogue, options: Options | None = None) -> Subject:
    """The network ``name`` with its data: one of `NAMES`, or ``package.module:factory``.

    Args:
        name: see `qexplore.pipeline.factories.factory_subject` for what a factory returns.
        dialogue: told what data there is, and asked before something is downloaded.
        options: where data, text and weights are.

    Raises:
        WorkflowError: no such network or factory, or a factory that fails.
        DataError: data or text that is not there, or too little.
        MissingPackageError: an optional package is needed.
    """
    options = options or Options()
    with isolated(torch.device("cpu"), options.seed):  # loaders that shuffle, and whatever a factory draws
        return _subject(name, Prefixed(dialogue, options.everything), options)


def _subject(name: str, talk: Prefixed, options: Options) -> Subject:
    if name in IMAGE_NETWORKS:
        return image_subject(name, options, talk)
    if name == "gpt2":
        return language_subject(options, talk)
    if ":" in name:
        return factory_subject(name, options, talk)
    raise WorkflowError(
        f"there is no network '{name}': choose one of {', '.join(NAMES)}, or name a function of yours that returns one "
        "as package.module:factory"
    )
