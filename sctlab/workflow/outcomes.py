"""How cases ended: a result or one line of error each, and what a command makes of them."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sctlab_model.errors import ExitCode, InputError, ProductError

# Errors of a machine, not of a file: disk, quota, open files, memory, hardware, network.
SYSTEM_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
)


@dataclass(frozen=True)
class Outcome:
    """How one case ended: its result, or the error's one line.

    Args:
        name: Of the case.
        result: What the function returned.
        error: Why it didn't return.
        trace: Of an error that nobody foresaw.
        broken: The error says nothing about the case: memory or disk failed, a worker died, or there is a bug.
        code: What a command ends with if this is its only case and it failed.
    """

    name: str
    result: Any = None
    error: str = ""
    trace: str = ""
    broken: bool = False
    code: ExitCode = ExitCode.INTERNAL

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return not self.error


def attempt(function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Outcome:
    """Call `function(*arguments)` and keep what comes of it, whatever it is; only interruptions pass."""
    try:
        return Outcome(name, function(*arguments))
    except ProductError as error:
        return Outcome(name, error=str(error), broken=_is_of_the_system(error.__cause__), code=error.exit_code)
    except Exception as error:
        return Outcome(name, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc(), broken=True)


def refuse_broken(outcomes: Sequence[Outcome], title: str) -> None:
    """End the command where cases failed for reasons that aren't theirs: they can't be judged by that.

    Args:
        outcomes: Of `run_cases`.
        title: What was being done, for the message.

    Raises:
        InputError: An outcome is broken.
    """
    broken = [o for o in outcomes if o.broken]
    if broken:
        raise InputError(
            title,
            found=f"{len(broken)} of {len(outcomes)} cases weren't finished ({broken[0].name}: {broken[0].error})",
            expected="every case to be looked at",
            advice="run the command again, with fewer --jobs if memory ran out, or exclude the case",
        )


def exit_code(outcomes: Sequence[Outcome]) -> ExitCode:
    """OK when every case ended well; what the only case ended with; else SOME_CASES_FAILED."""
    if all(o.ok for o in outcomes):
        return ExitCode.OK
    return ExitCode.SOME_CASES_FAILED if len(outcomes) > 1 else outcomes[0].code


def _is_of_the_system(cause: BaseException | None) -> bool:
    """Whether memory or the machine made the error; a file that is damaged or locked away is its case's own fault."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in SYSTEM_ERRORS)
