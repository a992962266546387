"""The locks hold a hashed pin for every requirement, within its range, and no index address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FROM_THE_BASE = {"torch", "torchvision"}
LOCKS = {
    "run": ("requirements.txt",),
    "test": ("requirements.txt", "requirements-dev.txt", "requirements-clinical.txt"),
    "image": ("requirements.txt",),
    "image-cuda13": ("requirements.txt",),
    "cpu": ("requirements.txt",),
    "dose": ("requirements-dose.txt",),
}


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pins(lock: str) -> dict[str, list[tuple[str, int]]]:
    """Package → its pinned versions (one for each kind of machine) and the number of hashes of each."""
    found: dict[str, list[tuple[str, int]]] = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "locks" / f"{lock}.txt").read_text()):
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", block)
        assert match, f"no pin: {block[:80]}"
        found.setdefault(canonicalize_name(match[1]), []).append((match[2], block.count("--hash=sha256:")))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_within_its_range_and_hashed(lock: str) -> None:
    pinned = pins(lock)
    assert all(hashes for versions in pinned.values() for _, hashes in versions)
    replaced = {"onnxruntime-gpu": "onnxruntime"} if lock == "cpu" else {}
    for name in LOCKS[lock]:
        for requirement in requirements(name):
            package = canonicalize_name(replaced.get(requirement.name, requirement.name))
            if package in FROM_THE_BASE and lock not in ("run", "test"):
                assert package not in pinned
                continue
            assert package in pinned, f"locks/{lock}.txt lacks {package}: run .ci/lock.sh"
            for version, _ in pinned[package]:
                assert requirement.specifier.contains(version), f"{package} {version}: run .ci/lock.sh"


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_an_index_or_brings_cuda_to_a_base(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text
    if lock not in ("run", "test"):
        assert not re.search(r"^(nvidia-|cuda-|triton==|torch==)", text, re.MULTILINE)


def test_the_environments_of_use_and_of_tests_agree() -> None:
    run, test = pins("run"), pins("test")
    assert {name: test.get(name) for name in run} == run
