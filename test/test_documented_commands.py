"""Every command in the documentation exists, with every option that it is written with."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sctlab.cli import COMMANDS, EXAMPLES, app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONVERSION = ("./predict.sh", "process.py", "synthetic-ct")
LABORATORY = ("sctlab", ".venv/bin/sctlab")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"--?[a-z][a-z0-9-]*")


def code(text: str) -> Iterator[str]:
    """Lines of code blocks (continued ones joined, comments removed, `$M`-like abbreviations spelt out), inline code."""
    for language, block in BLOCK.findall(text):
        if language not in ("", "sh", "bash"):
            continue
        abbreviations: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = re.split(r"\s#|\s{2,}# ", line)[0].strip()
            if match := re.fullmatch(r'([A-Z])="(.*)"', line):
                abbreviations[f"${match[1]}"] = match[2]
                continue
            first, _, rest = line.partition(" ")
            yield f"{abbreviations.get(first, first)} {rest}"
    yield from re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def documented() -> list[Any]:
    """Parameters (page, words of a command) without duplicates."""
    seen: dict[tuple[str, str], list[str]] = {}
    for page in PAGES:
        for line in code(page.read_text(encoding="utf-8")):
            words = [w for w in re.sub(r"[\[\]]", " ", line).split() if "=" not in w or w.startswith("-")]
            while words and words[0] in ("python", ".venv/bin/python", "docker", "-m"):
                words.pop(0)
            if not words or (
                words[0] not in ("sctlab", ".venv/bin/sctlab", *CONVERSION)
                and not re.fullmatch(r"benchmarks/\w+\.py", words[0])
            ):
                continue
            seen.setdefault((page.name, " ".join(words)), words)
    return [pytest.param(words, id=f"{page}: {line}") for (page, line), words in seen.items()]


def check_click(command: Any, words: list[str]) -> None:
    """Follow subcommands, then look for every option; a group without one (`register OUT --fixed …`) has all of them."""
    commands = [command]
    while group := getattr(commands[0], "commands", None):
        if words and words[0] in group:
            commands = [group[words[0]]]
            words = words[1:]
        else:
            commands = list(group.values())
            break
    known = {"--help", "-h"} | {o for c in commands for p in c.params for o in (*p.opts, *p.secondary_opts)}
    used = {w.split("=")[0] for w in words if OPTION.match(w)}
    assert used <= known, f"{used - known} are no options: {sorted(known)}"


@cache
def help_of(program: str) -> str:
    """What `--help` of a script prints."""
    ended = subprocess.run([sys.executable, program, "--help"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("words", documented())
def test_a_documented_command_exists_with_its_options(words: list[str]) -> None:
    program, *rest = words
    if program.endswith("sctlab"):
        if not rest or OPTION.match(rest[0]) or not rest[0].islower() or rest[0] == "|":
            return
        assert rest[0] in COMMANDS, f"{rest[0]} is none of {list(COMMANDS)}"
        command = app.get_command(None, rest[0])  # type: ignore[arg-type]
        check_click(command, rest[1:])
    elif program in CONVERSION:
        unknown = {w for w in rest if OPTION.fullmatch(w)} - set(re.findall(OPTION, help_of("process.py")))
        assert not unknown, f"process.py has no {unknown}"
    else:
        path = ROOT / program
        assert path.is_file()
        source = path.read_text(encoding="utf-8")
        missing = [w for w in rest if OPTION.fullmatch(w) and not re.search(rf'"{w}"', source)]
        assert not missing, f"{path.name} has no {missing}"


@pytest.mark.parametrize("words", EXAMPLES)
def test_an_example_of_the_help_can_be_run(words: str) -> None:
    program, *rest = shlex.split(EXAMPLES[words])
    assert program == "sctlab"
    assert " ".join(rest).startswith(words)
    command: Any = app.get_command(None, rest[0])  # type: ignore[arg-type]
    check_click(command, rest[1:])
    assert EXAMPLES[words] in (command.commands[words.split()[1]] if " " in words else command).epilog


def test_the_documentation_is_read() -> None:
    lines = [" ".join(p.values[0]) for p in documented()]
    assert len(lines) > 60
    assert any(line.startswith("sctlab simulate demo-mr --spacing 2,2,3") for line in lines), (
        "abbreviations are spelt out"
    )


def test_a_wrong_option_is_noticed() -> None:
    command = app.get_command(None, "train")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="--iteratoins"):
        check_click(command, shlex.split("small-mri --iteratoins 3"))
