"""Doses of one case: the plan is made on the reference CT and calculated on both images, by pyRadPlan in a process of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.evaluation.dose.plan import Plan
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path

PYTHON_VARIABLE = "SCTLAB_DOSE_PYTHON"
WORKER = Path(__file__).with_name("worker.py")
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Anatomy:
    """What a plan aims at and avoids, on the dose grid (axes z, y, x along the patient's).

    Args:
        target, body: Boolean.
        spacing_xyz: Voxel pitch in mm.
    """

    target: np.ndarray
    body: np.ndarray
    spacing_xyz: tuple[float, float, float]


def dose_python() -> str:
    """The interpreter whose environment has pyRadPlan: this one, or that of the variable SCTLAB_DOSE_PYTHON.

    Raises:
        InputError: Neither has it.
    """
    other = os.environ.get(PYTHON_VARIABLE, "")
    if other:
        if not Path(other).is_file():
            raise InputError(PYTHON_VARIABLE, found=f"no file '{other}'", expected="the python of an environment")
        return other
    if importlib.util.find_spec("pyRadPlan") is None:
        raise InputError(
            "--dose",
            found="pyRadPlan isn't installed",
            expected="an environment with requirements-dose.txt",
            advice="python -m venv DIR && DIR/bin/pip install --require-hashes -r locks/dose.txt, and set "
            f" {PYTHON_VARIABLE}=DIR/bin/python",
        )
    return sys.executable


def calculate_doses(
    plan_ct: np.ndarray, images: Sequence[np.ndarray], anatomy: Anatomy, plan: Plan, cache: Path | None = None
) -> list[np.ndarray]:
    """Optimise the plan on `plan_ct` and calculate it on every image.

    Args:
        plan_ct: HU, axes z, y, x.
        images: HU, same shape.
        cache: Folder that keeps doses by the content of the request.

    Returns:
        A dose of the whole course in Gy for each image.

    Raises:
        InputError: pyRadPlan is missing or failed; with its last line.
    """
    request: dict[str, np.ndarray] = {
        "plan_ct": plan_ct.astype(np.float32),
        "target": anatomy.target.astype(np.uint8),
        "body": anatomy.body.astype(np.uint8),
        "spacing_xyz": np.asarray(anatomy.spacing_xyz, np.float64),
        "settings": np.asarray(plan.model_dump_json()),
    }
    request |= {f"ct_{i}": image.astype(np.float32) for i, image in enumerate(images)}
    stored = cache / f"{_digest(request)}.npz" if cache is not None else None
    if stored is not None and stored.is_file():
        return _read(stored, len(images))
    python = dose_python()
    with tempfile.TemporaryDirectory(prefix="sctlab-dose-") as folder:
        asked, answer = Path(folder) / "request.npz", Path(folder) / "result.npz"
        np.savez(asked, **request)  # type: ignore[arg-type]
        try:
            ended = subprocess.run(
                [python, str(WORKER), str(asked), str(answer)],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError("dose", found=f"no dose after {TIMEOUT_S} s", expected="a plan in minutes") from error
        if ended.returncode or not answer.is_file():
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            raise InputError("dose", found=f"pyRadPlan failed ({last[:200]})", expected="a dose")
        if stored is not None:
            with np.load(answer, allow_pickle=False) as file, atomic_path(stored) as temporary:
                np.savez_compressed(temporary, **{name: file[name] for name in file.files})
        return _read(answer, len(images))


def _read(path: Path, count: int) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return [file[f"dose_{i}"] for i in range(count)]


def _digest(request: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(WORKER.read_bytes())
    for name in sorted(request):
        array = np.ascontiguousarray(request[name])
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
