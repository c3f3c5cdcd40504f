"""Questions and answers on the terminal, or in a pipe."""

from __future__ import annotations

import sys

import click

from qexplore.cli.output import shown

_ANSWERS = {"y": True, "yes": True, "n": False, "no": False}

STOPPED = 1
"""Exit code after an end of file at a question."""


class Terminal:
    """A dialogue on stdin and stdout.

    Enter takes the default, which stands in brackets. What is neither yes nor no is asked again. Where stdin is no
    terminal, answers are read line by line, and after its end the defaults are taken; at a terminal the end of file
    (Ctrl-D) stops the program.
    """

    def __init__(self) -> None:
        self._is_over = False

    def show(self, text: str) -> None:
        """Print ``text``; names in it write nothing but themselves."""
        click.echo(shown(text))

    def ask(self, question: str, default: bool = True) -> bool:
        """The answer to ``question``."""
        while True:
            answer = self._answer(f"{question} [{'y' if default else 'n'}] ", default)
            if answer is not None:
                return answer

    def _answer(self, prompt: str, default: bool) -> bool | None:
        """One attempt; None for nonsense."""
        click.echo(prompt, nl=False)
        line = "" if self._is_over else sys.stdin.readline()
        if not line:
            return self._at_end(default)
        given = line.strip().lower()
        if not sys.stdin.isatty():
            click.echo(given)  # a terminal has shown it already
        if not given:
            return default
        if given not in _ANSWERS:
            click.echo(f"Please answer y or n, or press Enter for {'y' if default else 'n'}: got '{given}'.")
        return _ANSWERS.get(given)

    def _at_end(self, default: bool) -> bool:
        if sys.stdin.isatty():
            click.echo("\nStopped at this question: the input has ended, and nothing more is done.")
            raise click.exceptions.Exit(STOPPED)
        said = "y" if default else "n"
        click.echo(said if self._is_over else f"{said} (the input has ended: defaults from here on)")
        self._is_over = True
        return default
