"""Whether a pair can be trained on: its images are opened once, and the answer is remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from sctlab.cohort.pairs import Pair
from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.checks import check_source, fit_mask
from sctlab_model.errors import InputError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.records import Record

MINIMUM_BODY_OVERLAP = 0.5  # Dice of the bodies; rigidly registered pairs of the challenge lie above 0.8
CHECKS_FORMAT = 3  # raise when remembered checks must be made again
TARGET_TOLERANCE_MM = 1e-2  # of the CT's voxels; what the rounding of origins and directions in files leaves


class Check(BaseModel):
    """What was found out about one pair.

    Args:
        stamp: Of its files when they were opened: size and modification time.
        error: Why it can't be used; empty where it can.
        digest: SHA-256 over the files.
        images: SHA-256 of source and target.
    """

    stamp: str
    error: str = ""
    digest: str = ""
    images: tuple[str, ...] = ()


class ChecksRecord(Record):
    """`checks.json` of a run: the checks by case key, so that each pair is opened once while its files stay."""

    current_version: ClassVar[int] = 1
    checks: dict[str, Check] = Field(default_factory=dict, description="Case key → what was found out.")

    @classmethod
    def migrate(cls, value: dict, version: int) -> dict:
        """Files of earlier releases are made again: they knew cases by id alone."""
        return {}

    @classmethod
    def read_if_there(cls, path: Path | None) -> ChecksRecord:
        """The record of a file, or an empty one."""
        return cls.read(path) if path is not None and path.is_file() else cls()


def stamp_of(pair: Pair) -> str:
    """Changes when a file of the pair does."""
    stats = [path.stat() for path in pair.files]
    return json.dumps([CHECKS_FORMAT, str(pair.target), [[s.st_size, s.st_mtime_ns] for s in stats]])


def check_pair(pair: Pair) -> Pair:
    """Open a pair's images and refuse what can't be trained on; the result carries the content's hash.

    Raises:
        InputError: Unreadable or non-finite images, other grids, an empty mask, bodies that don't overlap.
    """
    source, target, mask = read_volume(pair.source), read_volume(pair.target), read_mask(pair.mask)
    tolerances = (TARGET_TOLERANCE_MM, source.geometry.tolerance_mm(mask.geometry))
    for volume, path, tolerance in zip((target, mask), (pair.target, pair.mask), tolerances, strict=True):
        if not volume.geometry.same_grid(source.geometry, tolerance):
            raise InputError(
                path,
                found=f"grid {volume.geometry.size_xyz} at {volume.geometry.spacing_xyz} mm, "
                f"origin {volume.geometry.origin_xyz} mm",
                expected=f"the source's grid {source.geometry.size_xyz} at {source.geometry.spacing_xyz} mm, "
                f"origin {source.geometry.origin_xyz} mm (within {tolerance:g} mm)",
                advice="register the pair first",
            )
    if not mask.array.any():
        raise InputError(pair.mask, found="an empty mask", expected="a mask that covers the body")
    bodies = [body_mask(source, pair.task).array & mask.array, body_mask(target, Task.CBCT).array & mask.array]
    overlap = 2 * np.count_nonzero(bodies[0] & bodies[1]) / max(1, sum(map(np.count_nonzero, bodies)))
    if overlap < MINIMUM_BODY_OVERLAP:
        raise InputError(
            pair.target,
            found=f"its body and the source's overlap with a Dice of {overlap:.2f}",
            expected=f"at least {MINIMUM_BODY_OVERLAP}",
        )
    digests = [file_sha256(path) for path in pair.files]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return replace(pair, digest=digest, images=(*pair.images, *digests[:2]))


def check_images(pair: Pair) -> Pair:
    """Open the images of a case that was not registered yet and refuse what nothing can be done with.

    Raises:
        InputError: Unreadable, non-finite or constant images, values that the task's images don't have, an empty mask or
            one beside the source.
    """
    source, target, mask = read_volume(pair.source), read_volume(pair.target), read_mask(pair.mask)
    for volume, path in ((source, pair.source), (target, pair.target)):
        if volume.array.min() == volume.array.max():
            raise InputError(path, found=f"every voxel is {volume.array.flat[0]}", expected="an image with contrast")
    for finding in check_source(source, pair.task):
        if finding.level == "impossible":
            raise InputError(pair.source, found=finding.text)
    fit_mask(mask, source)
    return pair


def merge_duplicates(pairs: Sequence[Pair]) -> list[Pair]:
    """Give pairs that share an image, also by way of others, one patient: published cohorts hold some under two ids."""
    parents: dict[str, str] = {}  # patients and images; those with one root belong together

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    for pair in pairs:
        for image in pair.images:
            parents[root(image)] = root(pair.patient)
    names: dict[str, str] = {}
    for pair in pairs:
        names.setdefault(root(pair.patient), pair.patient)
    return [replace(p, patient=names[root(p.patient)]) for p in pairs]
