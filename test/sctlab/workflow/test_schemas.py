"""The schemas in docs/ are those of the types, and real files satisfy them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from sctlab.workflow.schemas import schemas, write_schemas
from sctlab_model.bundle import SHIPPED_WEIGHTS, read_bundle

DOCS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return schemas()


def test_the_schemas_in_the_documentation_are_current(current: dict[str, str]) -> None:
    advice = "run: sctlab schemas docs/schemas"
    assert {p.name for p in DOCS.iterdir()} == set(current), advice
    assert not [name for name, text in current.items() if (DOCS / name).read_text(encoding="utf-8") != text], advice


def test_schemas_are_valid_and_the_shipped_bundle_satisfies_its_own(current: dict[str, str]) -> None:
    for name, text in current.items():
        if name.endswith(".json"):
            Draft202012Validator.check_schema(json.loads(text))
    manifest = read_bundle(SHIPPED_WEIGHTS / "demo-mri").model_dump(mode="json")
    validator = Draft202012Validator(json.loads(current["Bundle.json"]))
    assert not list(validator.iter_errors(manifest))
    assert list(validator.iter_errors(manifest | {"groups": "none"}))


def test_schemas_of_types_that_are_gone_are_removed(tmp_path: Path, current: dict[str, str]) -> None:
    (tmp_path / "Gone.json").write_text("{}")
    assert {p.name for p in write_schemas(tmp_path)} == set(current)
    assert not (tmp_path / "Gone.json").exists()
