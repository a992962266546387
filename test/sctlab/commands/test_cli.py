"""The command line: every command is listed, and every ending has the product's exit code."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from sctlab.cli import COMMANDS, main, run
from sctlab_model.errors import ExitCode, InputError


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_help_lists_every_command(capsys):
    assert exit_code("--help") == ExitCode.OK
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_help_of_a_command(capsys):
    assert exit_code("train", "--help") == ExitCode.OK
    assert "--pairs" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("nonsense",), ("train", "--nonsense"), ("train",)])
def test_wrong_usage_is_refused(arguments, capsys):
    assert exit_code(*arguments) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert "Error" in message
    assert "internal error" not in message


def test_errors_become_one_line(capsys):
    def refuse():
        raise InputError("a.mha", found="2 dimensions", expected="3")

    assert run(refuse) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err == f"error: {InputError('a.mha', found='2 dimensions', expected='3')}\n"


def test_what_the_system_refuses_is_no_internal_error(capsys):
    """A name that is too long, a folder that one may not look into: the file's fault, wherever it is met."""

    def fail():
        raise OSError(errno.EIO, "Input/output error", b"disk/a.mha")

    assert run(lambda: Path("a" * 5000).stat()) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith(f"error: {'a' * 100}…: can't be opened (File name too long)")
    assert len(message) < 300
    assert run(fail) == ExitCode.RESOURCES
    assert "disk/a.mha: can't be opened" in capsys.readouterr().err


def test_unexpected_errors_become_one_line(capsys):
    assert run(lambda: 1 / 0) == ExitCode.INTERNAL
    assert capsys.readouterr().err.count("\n") == 1


def test_interruption(capsys):
    def interrupt():
        raise KeyboardInterrupt

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    assert run(interrupt) == 130
    assert capsys.readouterr().err == "interrupted by Ctrl-C\n"
    assert run(terminate) == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
