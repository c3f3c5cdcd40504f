"""Whom the pipeline talks to: a terminal, flags, or a Python program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Dialogue(Protocol):
    """Answers questions with yes or no, and is shown what there is to see."""

    def ask(self, question: str, default: bool = True) -> bool:
        """The answer to ``question``, a sentence that ends in a question mark."""

    def show(self, text: str) -> None:
        """Take ``text``, one or more lines without a line break at the end."""


class Transcript:
    """A dialogue for Python: gives prepared answers, then the defaults, and keeps what it is shown.

    Args:
        answers: to the first questions, in their order.

    Attributes:
        questions: what was asked, with the answers given.
        text: everything shown, questions and answers included.
    """

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        self._answers = list(answers)
        self._shown: list[str] = []
        self.questions: list[tuple[str, bool]] = []

    @property
    def text(self) -> str:
        """Everything shown, questions and answers included."""
        return "\n".join(self._shown)

    def ask(self, question: str, default: bool = True) -> bool:
        """The next prepared answer, or ``default``."""
        answer = self._answers.pop(0) if self._answers else default
        self.questions.append((question, answer))
        self._shown.append(f"{question} {word(answer)}")
        return answer

    def show(self, text: str) -> None:
        """Keep ``text``."""
        self._shown.append(text)


class Prefixed:
    """A dialogue in which some answers are known beforehand, such as from flags; the rest goes to another one.

    Args:
        dialogue: whom to ask otherwise, and to show everything.
        everything: the answer to every question, where there is one.
    """

    def __init__(self, dialogue: Dialogue, everything: bool | None = None) -> None:
        self._dialogue = dialogue
        self._everything = everything

    def settle(self, known: bool | None, question: str, flag: str) -> bool:
        """The answer to ``question``: ``known``, the answer to everything, or what the other dialogue says."""
        answer = self._everything if known is None else known
        if answer is None:
            return self._dialogue.ask(question, True)
        said = f"--{flag}" if known else f"--no-{flag}" if known is not None else "--yes"
        self._dialogue.show(f"{question} {word(answer)} ({said})")
        return answer

    def show(self, text: str) -> None:
        """Pass ``text`` on."""
        self._dialogue.show(text)


def word(answer: bool) -> str:
    """``"yes"`` or ``"no"``."""
    return "yes" if answer else "no"
