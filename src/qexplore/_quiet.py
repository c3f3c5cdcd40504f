"""Keeps from a user's terminal and log what torch, its exporters and onnxruntime say about themselves."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch warns of in its own code: the deprecation of torch.ao, of quantized dtypes, of TorchScript.

    A user asked for the stack by name, and what a newer torch lacks is said when it is missed. Warnings of a user's
    own code pass.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        # These name the caller's line, which is in this package.
        warnings.filterwarnings("ignore", message=r"torch\.ao\.quantization is deprecated")
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+. is deprecated")
        warnings.filterwarnings("ignore", message=r".*TorchScript type system doesn't support", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor, .* quantized tensor creation functions")
        yield


@contextmanager
def silenced() -> Iterator[None]:
    """Silence all of it: warnings, log records and what is printed.

    For exporters, and engines that are fed with what was recorded before: what goes wrong there is raised, and none of
    what they say on the way is about the user's own code.
    """
    before, nowhere = logging.root.manager.disable, io.StringIO()
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
