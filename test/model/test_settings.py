"""Settings: refusals name the file, the key and the closest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from sctlab_model.errors import InputError
from sctlab_model.settings import Settings, load_yaml


class Level(Settings):
    iterations: int = 10


class Slow(Settings):
    kind: Literal["slow"] = "slow"
    iterations: int = 10
    weight: float = 1.0


class Fast(Settings):
    kind: Literal["fast"] = "fast"
    await_all: bool = True


class Plan(Settings):
    name: str
    levels: tuple[Level, ...] = ()
    first: Annotated[Slow | Fast, Field(discriminator="kind")] = Fast()
    weight: float = 1.0

    @model_validator(mode="after")
    def _not_both(self) -> Plan:
        if self.weight < 0 and self.levels:
            raise ValueError(f"weight {self.weight} goes with no levels")
        return self


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nlevls: []", "unknown key 'levls'; expected 'levels'"),
        ("name: a\nlevels: [{iteratoins: 3}]", "unknown key 'levels.0.iteratoins'; expected 'iterations'"),
        ("name: a\nzzz: 1", "unknown key 'zzz'; expected one of first, levels, name, weight"),
        ("levels: []", "name: is missing"),
        (
            "name: a\nlevels: [{iterations: many}]",
            "line 2: levels.0.iterations: 'many': input should be a valid integer",
        ),
        ("- 1", "a list; expected a mapping"),
        ("a: [", "not YAML"),
        ("name: a\nname: b", "line 2: 'name' again; expected each key once"),
        ("name: a\nlevels:\n  - {iterations: 1, iterations: 2}", "line 3: 'iterations' again"),
        ("name: a\nlevels:\n  - iterations: 1\n  - iterations: few", "line 4: levels.1.iterations"),
        ("name: a\nfirst: {kind: slow, iterations: 2, weit: 1}", "line 2: unknown key 'first.weit'; expected 'weight'"),
        ("name: a\nfirst: {kind: fast, wait: 1}", "'first.wait'; expected 'await_all'"),
        ("name: a\nlevels: [{iterations: 3}]\nweight: .inf", "line 3: weight: inf: input should be a finite number"),
        ("name: a\nlevels: " + "[" * 5000, "not YAML"),
        ("name: 2020-99-99", "not YAML"),
        (
            "k0: &k0 [x, x, x, x]\n"
            + "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 4)}]\n" for n in range(1, 40)),
            "values, with aliases written out",
        ),
        (
            "k0: &k0 {a: 1, b: 2}\n"
            + "".join(f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 4)}]}}\n" for n in range(1, 40)),
            "values, with aliases written out",
        ),
        ("name: a\nlevels: &all [*all]", "line 2: a value that contains itself"),
        ("", "nothing; expected a mapping"),
        ("name: a\nlevels: [{iterations: 3}]\nweight: -1", "line 3: settings: weight -1.0 goes with no levels"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"plan\.yaml") as caught:
        load_yaml(Plan, path)
    assert message in str(caught.value)


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\nlevels: [{iterations: 3}]")  # Windows' byte order mark
    assert load_yaml(Plan, path) == Plan(name="a", levels=(Level(iterations=3),))
