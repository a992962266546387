"""Settings: refusals name the file, the key and the closest known key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab_model.errors import InputError
from sctlab_model.settings import Settings, load_yaml


class Level(Settings):
    iterations: int = 10


class Plan(Settings):
    name: str
    levels: tuple[Level, ...] = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nlevls: []", "unknown key 'levls'; expected 'levels'"),
        ("name: a\nlevels: [{iteratoins: 3}]", "unknown key 'levels.0.iteratoins'; expected 'iterations'"),
        ("name: a\nzzz: 1", "unknown key 'zzz'; expected one of levels, name"),
        ("levels: []", "name: Field required"),
        ("name: a\nlevels: [{iterations: many}]", "levels.0.iterations: Input should be a valid integer"),
        ("- 1", "a list; expected a mapping"),
        ("a: [", "not YAML"),
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
    path.write_text("name: a\nlevels: [{iterations: 3}]")
    assert load_yaml(Plan, path) == Plan(name="a", levels=(Level(iterations=3),))
