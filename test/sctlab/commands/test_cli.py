"""The command line: every command is listed, and every ending has the product's exit code."""

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


def test_unexpected_errors_become_one_line(capsys):
    assert run(lambda: 1 / 0) == ExitCode.INTERNAL
    assert capsys.readouterr().err.count("\n") == 1


def test_interruption():
    def interrupt():
        raise KeyboardInterrupt

    assert run(interrupt) == 130
