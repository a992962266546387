"""The seams that docs/architecture.md promises: who may import whom, and nobody another one's private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for folder in ("model", "sctlab") for p in (ROOT / folder).rglob("*.py"))
LONGEST = 420  # lines of a module
ENGINE_MAY_USE = (
    "sctlab.features",
    "sctlab.measures",
    "sctlab.registration.engine",
    "sctlab.transforms.cubic",
    "sctlab.transforms.data",
    "sctlab.transforms.field",
    "sctlab_model.device",
    "sctlab_model.errors",
    "sctlab_model.resampling",
    "sctlab_model.settings",
    "sctlab_model.volume",
)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs (module, name) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def own(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_model_imports_nothing_of_the_laboratory() -> None:
    wrong = [(str(p), m) for p in (ROOT / "model").rglob("*.py") for m, _ in imports(p) if own(m, "sctlab")]
    assert not wrong


def test_the_engine_knows_no_file_and_no_cohort() -> None:
    folder = ROOT / "sctlab" / "registration" / "engine"
    used = {m for p in folder.rglob("*.py") for m, _ in imports(p) if own(m, "sctlab") or own(m, "sctlab_model")}
    assert used, "the engine's files were read"
    assert not {m for m in used if not any(own(m, allowed) for allowed in ENGINE_MAY_USE)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_and_uses_public_names(path: Path) -> None:
    private = [(m, n) for m, n in imports(path) if n.startswith("_") and (own(m, "sctlab") or own(m, "sctlab_model"))]
    assert not private
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_what_another_process_says_is_read_as_utf8_whatever_the_locale_is() -> None:
    # A library may set the locale of a running process to "C": what is then read without an encoding must be ASCII.
    files = [p for folder in ("model", "sctlab", "test", "benchmarks", "docs") for p in (ROOT / folder).rglob("*.py")]
    calls = [
        (p, n) for p in files for n in ast.walk(ast.parse(p.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
    ]
    assert calls
    assert not [f"{p}:{n.lineno}" for p, n in calls if any(decodes_by_locale(k) for k in n.keywords)]


def decodes_by_locale(keyword: ast.keyword) -> bool:
    on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
    return on and keyword.arg in ("text", "universal_newlines")
