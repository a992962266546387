"""What can be wrong with an input or with the weights, as types; and the exit codes that follow."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum
from functools import partial


class ExitCode(IntEnum):
    """How a command ends. The same codes in `process.py` and `sctlab`.

    `SOME_CASES_FAILED`: some cases of several failed or were left out, or a registration failed.
    `IMPLAUSIBLE`: the result did not pass the output gate. `RESOURCES`: memory or disk.
    """

    OK = 0
    SOME_CASES_FAILED = 1
    BAD_INPUT = 2
    BAD_WEIGHTS = 3
    INTERNAL = 4
    IMPLAUSIBLE = 5
    RESOURCES = 6


class ProductError(Exception):
    """A failure that a person can act on: one line that says where, what was found and what was expected.

    Args:
        where: File, case or option that the message is about.
        found: What was found there.
        expected: What would have been right.
        advice: What to do about it.
    """

    exit_code = ExitCode.INTERNAL

    def __init__(self, where: object, *, found: str, expected: str = "", advice: str = "") -> None:
        self.where, self.found, self.expected, self.advice = str(where), found, expected, advice
        parts = [f"{self.where}: {found}"]
        if expected:
            parts.append(f"expected {expected}")
        if advice:
            parts.append(advice)
        super().__init__(" ".join("; ".join(parts).replace("?; ", "? ").split()))

    def __reduce__(self) -> tuple:
        # Worker processes send errors back: rebuild from the four parts, not from the joined message.
        parts = {"found": self.found, "expected": self.expected, "advice": self.advice}
        return partial(type(self), **parts), (self.where,)


def closest(word: object, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one is closest to; None where none is close.

    Example:
        >>> closest("levls", ["levels", "name"])
        'levels'
    """
    close = get_close_matches(str(word), list(known), n=1)
    return close[0] if close else None


def meant(word: object, known: Iterable[str]) -> str:
    """Advice for a mistyped name: the closest of the known ones; empty where none is close.

    Example:
        >>> meant("demo-mir", ["demo-mri", "demo-cbct"])
        "is 'demo-mri' meant?"
    """
    close = closest(word, known)
    return f"is '{close}' meant?" if close else ""


class InputError(ProductError):
    """An image, mask, folder, option or recipe that can't be used."""

    exit_code = ExitCode.BAD_INPUT


class WeightsError(ProductError):
    """A bundle that is missing, altered, or doesn't serve the task."""

    exit_code = ExitCode.BAD_WEIGHTS


class ImplausibleError(ProductError):
    """A result that did not pass the output gate."""

    exit_code = ExitCode.IMPLAUSIBLE


class ResourceError(ProductError):
    """Memory or disk that is not there."""

    exit_code = ExitCode.RESOURCES


class RegistrationError(ProductError):
    """A registration that found no usable transform."""

    exit_code = ExitCode.SOME_CASES_FAILED
