"""The elastix baseline with the SynthRAD organisers' settings: rigid, then a B-spline, per task and region."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.registration.elastix.parameters import (
    TUNED,
    TUNED_HU,
    TUNED_MARGIN_MM,
    BaselineSettings,
    Sampling,
    baseline_settings,
    bspline_parameters,
    rigid_parameters,
)
from sctlab.registration.scratch import remove_stale, scratch_folder
from sctlab.transforms.data import Transform
from sctlab.transforms.elastix_reading import read_elastix
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import AIR_HU, Volume

BONE_HU = 200.0  # cancellous and cortical bone, contrast-filled vessels aside
MIN_BONE_VOXELS = 100
# Folders in the system's temporary one. Older versions, which may still run, called theirs sctlab-elastix- and didn't
# lock them.
SCRATCH = "sctlab-registration-"
LEAST_VOXELS = 8  # along every axis of the fixed image: fewer hold no B-spline of these settings


@dataclass(frozen=True)
class ElastixResult:
    """What elastix found.

    Args:
        transform: From fixed to moving points.
        notes: What was left out or decided, for the record.
    """

    transform: Transform
    notes: tuple[str, ...]


def register_elastix(
    fixed: Volume,
    moving: Volume,
    fixed_mask: Volume,
    *,
    task: Task,
    region: Region,
    ct_is_fixed: bool = False,
    bone: Volume | None = None,
    rigid_only: bool = False,
    tuned: bool = False,
    seed: int = 0,
    overrides: Mapping[str, list[str]] | None = None,
) -> ElastixResult:
    """Register with the organisers' settings: rigid, then a B-spline.

    CT and CBCT are given to elastix with air at 0 (HU + 1024, padding below air included): mutual information doesn't
    change, but the centre of gravity that starts the rigid stage is that of the body, not a quotient of HU of both signs.

    Args:
        fixed, moving: Scalar images.
        fixed_mask: Where the metric is evaluated, on the fixed grid.
        task, region: They choose the row of the table.
        ct_is_fixed: Convention `source_to_ct`.
        bone: Bones of the CT on the CT's grid for the rigidity penalty; thresholded from the CT when left out.
        rigid_only: Stop after the rigid stage.
        tuned: Not the organisers' settings: HU clipped to soft tissue, the mask grown beyond the skin, random samples,
            fewer bins, more bending energy and no rigidity penalty; a fair peer in benchmarks.
        seed: Of the random sampling.
        overrides: elastix parameters of the B-spline stage to set otherwise (for tuning studies).

    Raises:
        InputError: Too few voxels for a B-spline of these settings.
        RegistrationError: elastix gave up; the message carries its reason.
    """
    if min(fixed.geometry.size_xyz) < LEAST_VOXELS:
        raise InputError(
            fixed.name or "fixed image",
            found="x".join(map(str, fixed.geometry.size_xyz)) + " voxels",
            expected=f"at least {LEAST_VOXELS} along each axis for the organisers' settings",
            advice="use --method impact",
        )
    settings = baseline_settings(task, region)
    notes: tuple[str, ...] = ()
    temporary = Path(tempfile.gettempdir())
    remove_stale(temporary, SCRATCH)
    with scratch_folder(temporary, SCRATCH, mode=0o700) as folder:  # it holds a patient
        if tuned:
            fixed_mask = _grown(fixed_mask, TUNED_MARGIN_MM)
            overrides = TUNED | dict(overrides or {})
        sampling = Sampling.of(fixed_mask)
        stages = [rigid_parameters(seed, sampling)]
        if not rigid_only:
            rigidity_image = None
            if tuned:
                notes = ("tuned settings, not the organisers': without a rigidity penalty",)
            else:
                rigidity_image, notes = _rigidity_image(settings, fixed if ct_is_fixed else moving, bone, folder)
            spline = bspline_parameters(settings, seed, sampling, rigidity_image, ct_is_fixed)
            stages.append(spline | dict(overrides or {}))
        hounsfield = (ct_is_fixed or task is Task.CBCT, not ct_is_fixed or task is Task.CBCT)
        low, high = TUNED_HU if tuned else (AIR_HU, np.inf)
        fixed, moving = (_above(v, low, high) if hu else v for v, hu in zip((fixed, moving), hounsfield, strict=True))
        _run(fixed, moving, fixed_mask, stages, folder)
        last = folder / f"TransformParameters.{len(stages) - 1}.txt"
        return ElastixResult(read_elastix(last).transform, notes)


def _rigidity_image(
    settings: BaselineSettings, ct: Volume, bone: Volume | None, folder: Path
) -> tuple[Path | None, tuple[str, ...]]:
    """Write the image of the rigidity penalty; None and the reason where there is no penalty."""
    if settings.rigidity == 0:
        return None, ("no rigidity penalty: the organisers use none for this task and region",)
    bone = bone if bone is not None else ct.with_array(ct.array > BONE_HU)
    if int((bone.array > 0).sum()) < MIN_BONE_VOXELS:
        return None, (f"rigidity penalty left out: fewer than {MIN_BONE_VOXELS} bone voxels in the CT",)
    path = folder / "rigidity.mha"
    write_volume(bone.with_array((bone.array > 0).astype(np.float32)), path)
    return path, ()


def _run(fixed: Volume, moving: Volume, mask: Volume, stages: list[dict[str, list[str]]], folder: Path) -> None:
    """Run elastix in a process of its own; its TransformParameters files appear in `folder`.

    elastix can crash (a segmentation fault was seen on small images); that must end one case, not the cohort.
    """
    for name, volume in (("fixed", fixed), ("moving", moving)):
        write_volume(volume.with_array(volume.array.astype(np.float32)), folder / f"{name}.mha", compress=False)
    write_volume(mask.with_array(mask.array > 0), folder / "mask.mha")
    write_json(folder / "stages.json", stages)
    ended = subprocess.run(
        [sys.executable, "-m", "sctlab.registration.elastix.worker", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if ended.returncode < 0:
        raise RegistrationError(
            moving.name or "elastix",
            found=f"elastix crashed (signal {-ended.returncode})",
            expected="a registration",
            advice="try --method impact, or another --seed",
        )
    if ended.returncode > 0:
        reason = _reason(folder / "elastix.log") or ended.stderr.decode(errors="replace").strip().splitlines()[-1][:160]
        raise RegistrationError(
            moving.name or "elastix",
            found=f"elastix gave up ({reason})",
            expected="images that overlap and share contrast inside the mask",
        )


def _reason(log: Path) -> str:
    """elastix's own error in its log, on one line without addresses in memory; empty without one."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    found = re.search(r"Description:\s*((?:.+\n?)+)", text) or re.search(r"ERROR:?\s*(.+)", text)
    if not found:
        return ""
    words = re.sub(r"\(0x[0-9a-f]+\)|\b(?:itk::|ITK )?ERROR:", "", found[1])
    return " ".join(words.split())[:200]


def _above(volume: Volume, low: float, high: float) -> Volume:
    """HU above `low`, which becomes 0, and at most `high`.

    Scanners pad a round field of view with values such as -3024: below air, they would be mass of the other sign.
    """
    return volume.with_array(np.clip(volume.array.astype(np.float32), low, high) - np.float32(low))


def _grown(mask: Volume, margin_mm: float) -> Volume:
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(mask.array == 0, sampling=mask.geometry.spacing_xyz[::-1])
    return mask.with_array(distance <= margin_mm)
