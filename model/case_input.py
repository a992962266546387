"""A case's images: read, checked, on one grid; what is strange about them is warned of or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from sctlab_model.cases import Case, ImageSource, Task, files_of
from sctlab_model.checks import check_mask, check_region, check_source, fit_mask
from sctlab_model.errors import ImplausibleError, InputError, ProductError
from sctlab_model.gates import Finding, Policy
from sctlab_model.intensity import KNOWN_OFFSETS, check_clipped, find_offset
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.paths import split_suffix
from sctlab_model.predictions import CaseResult
from sctlab_model.volume import Geometry, Volume

if TYPE_CHECKING:
    from sctlab_model.recipe import Recipe

DETACHED = (".mhd", ".nhdr")
MARGIN_MM = 3.0  # of a computed mask
NETWORK_BYTES = 700_000_000  # PyTorch, one fold's activations on a CPU


def read_case(case: Case, result: CaseResult, recipe: Recipe, policy: Policy) -> tuple[Volume, Volume]:
    """The source and its body mask on one grid; what is strange about them goes into `result.warnings`.

    Raises:
        InputError: Images that can't be used, or values that no CBCT has.
        ResourceError: Less memory than the case will take.
    """
    source = case.read_source(lambda grid: working_bytes(grid, recipe))
    result.input_sha256["source"] = _digest(case.source, source)
    result.warnings += source.notes
    source = _corrected(source, case, result, policy)
    strange = check_source(source, case.task)
    judge(strange, policy, case, result, InputError)
    given_mask = case.read_mask()
    fitted: Volume | None = None
    if given_mask is not None:
        assert case.mask is not None
        result.input_sha256["mask"] = _digest(case.mask, given_mask)
        result.warnings += given_mask.notes
        fitted, notes = fit_mask(given_mask, source)
        result.warnings += notes
    if fitted is None:
        from sctlab_model.body import body_mask

        said = result.warnings if case.has_masks else result.notes
        said.append("no body mask was given: one was computed from the image")
        fitted = with_skin(body_mask(_in_hu(source, case.task), case.task))
        result.warnings += fitted.notes
    elif not strange:  # or the body in the image isn't found, and the mask is blamed for it
        result.warnings += check_mask(fitted, source, case.task)
    sized = check_region(fitted, case.region)
    judge(sized, policy, case, result, InputError)  # before the anatomy of metres of something is looked at
    findings = check_clipped(source, fitted.array) if case.task is Task.MRI else []
    if case.region is not None and not strange and all(f.level == "warn" for f in sized):
        from sctlab_model.anatomy.judge import check_seen_region

        findings += check_seen_region(_in_hu(source, case.task), case.region)
    judge(findings, policy, case, result, InputError)
    return source, fitted


def with_skin(body: Volume) -> Volume:
    """A computed body and the 3 mm around it, as far as voxels reach: the mask of an image that has none.

    The outline of a body lies in the middle of its blurred edge, so that 1 to 3 % of the patient, all of it skin, would be
    air in the sCT. Masks that come with images reach beyond the skin, too: SynthRAD's are dilated, those of our simulator
    by 4 mm. So a network is trained, run and scored over masks of one kind.

    Args:
        body: bool [z, y, x], of `body_mask`.
    """
    spacing = body.geometry.spacing_xyz[::-1]
    reach = [int(MARGIN_MM / s + 1e-6) for s in spacing]
    offsets = np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in zip(reach, spacing, strict=True)), indexing="ij")
    ball = np.sqrt(sum(o**2 for o in offsets)) <= MARGIN_MM + 1e-6
    return body.with_array(ndimage.binary_dilation(body.array, ball))


def working_bytes(grid: Geometry, recipe: Recipe) -> int:
    """Memory that preparing, predicting and restoring take at their peak, for a source on `grid`.

    On the source's grid: mask, checks and the restored values (float32, then int16). On the recipe's grid: the image and
    its normalised copy, the mean and the spread.
    """
    from sctlab_model.preparation import oriented_geometry, upright_grid

    upright = upright_grid(oriented_geometry(grid), recipe)
    voxels = [float(np.prod(g.size_xyz, dtype=np.float64)) for g in (grid, upright)]
    return int(12 * voxels[0] + 20 * voxels[1]) + NETWORK_BYTES


def judge(findings: list[Finding], policy: Policy, case: Case, result: CaseResult, error: type[ProductError]) -> None:
    """Findings become warnings, or the first refused one an error."""
    for finding in findings:
        if policy.refuses(finding):
            raise error(
                case.id,
                found=finding.text,
                advice=""
                if finding.level == "impossible"
                else "--accept-implausible writes it all the same"
                + (" (docs/gates.md)" if error is ImplausibleError else ""),
            )
        if finding.level != "warn" and policy.accept:
            result.implausible.append(finding.text)
        result.warnings.append(finding.text)


def _in_hu(source: Volume, task: Task) -> Volume:
    """A CBCT without the offset that it seems to have, for finding the body in it."""
    offset = find_offset(source).value if task is Task.CBCT else 0.0
    return source.with_array(source.array.astype(np.float32) - np.float32(offset)) if offset else source


def _corrected(source: Volume, case: Case, result: CaseResult, policy: Policy) -> Volume:
    """A CBCT without its offset, where that was asked for."""
    if policy.correct_offset is None or case.task is not Task.CBCT:
        return source
    value = policy.correct_offset
    if value == "auto":
        offset = find_offset(source)
        if offset.value == 0:
            return source
        if offset.value not in KNOWN_OFFSETS:
            raise InputError(
                source.name or case.id,
                found=f"values that look like HU plus about {offset.value:g}",
                expected="an offset that exports are known to add",
                advice="give the number: --correct-offset VALUE",
            )
        value = offset.value
    result.warnings.append(f"{value:g} was subtracted from the image, as --correct-offset asked")
    return source.with_array(source.array.astype(np.float32) - np.float32(value))


def _digest(source: Path | Volume | ImageSource, volume: Volume) -> str:
    """SHA-256 of a source's one file; of its files' hashes; with its voxels where they lie in no file or in another."""
    files = files_of(source)
    if len(files) == 1 and split_suffix(files[0])[1] not in DETACHED:
        return file_sha256(files[0])
    digest = hashlib.sha256()
    for path in files:
        digest.update(file_sha256(path).encode())
    if len(files) < 2:
        digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()
