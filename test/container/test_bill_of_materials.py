"""The software bill of materials is valid CycloneDX, and lists what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SCRIPT = Path(__file__).parents[2] / ".ci" / "sbom.py"


def test_the_bill_is_valid_and_true() -> None:
    text = subprocess.run(
        [sys.executable, "-", "0.1.0"], stdin=SCRIPT.open(), capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    versions = {c["name"]: c["version"] for c in json.loads(text)["components"] if c["purl"].startswith("pkg:pypi")}
    assert {name: versions[name] for name in ("torch", "simpleitk", "segmentation-models-pytorch")} == {
        name: version(name) for name in ("torch", "simpleitk", "segmentation-models-pytorch")
    }
