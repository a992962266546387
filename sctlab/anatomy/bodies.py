"""Bodies to learn anatomy from: procedural patients, and real labelled CTs and head label maps warped into others.

A body is kept as two arrays at 3 mm: HU, and the fraction maps that any MR contrast is drawn from, with the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab.anatomy.settings import LabelledImage
from sctlab.simulation.anatomy.build import build_phantom, default_grid
from sctlab.simulation.fractions import Channel, fractions_from_hu, sample_tissue_fat
from sctlab.simulation.from_ct import phantom_from_ct, read_ct, read_labels
from sctlab.simulation.from_labels import phantom_from_labels, read_label_map
from sctlab.simulation.marrow import marrow_fat, sample_marrow_fat
from sctlab.simulation.phantom import MANDIBLE, Phantom
from sctlab.simulation.tissues import PROPERTIES, Tissue
from sctlab.simulation.variation import vary_body
from sctlab_model.anatomy.classes import IGNORE, INDEX, OF_TOTAL, slice_regions
from sctlab_model.anatomy.network import SPACING_MM
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_folder
from sctlab_model.volume import Geometry

_SPACING = (SPACING_MM,) * 3


@dataclass(frozen=True)
class Body:
    """A body on a grid of 3 mm.

    Args:
        name: For messages.
        hu: int16 [z, y, x].
        maps: uint8 [7, z, y, x]: the channels of `fractions.Channel`, then the class (IGNORE where none is known).
        regions: Of every slice, see `slice_regions`.
    """

    name: str
    hu: np.ndarray
    maps: np.ndarray
    regions: np.ndarray


def make_body(phantom: Phantom, classes: np.ndarray, rng: np.random.Generator, name: str) -> Body:
    """What training draws images from, of a phantom at 3 mm and its classes."""
    hu_of = np.array([PROPERTIES[t].hu for t in Tissue], np.float32)
    fat = marrow_fat(sample_marrow_fat(rng), phantom.label, phantom.tissue)
    fractions = fractions_from_hu(phantom.hu, phantom.tissue, hu_of, sample_tissue_fat(rng), fat)
    fractions[Channel.AIR][np.isin(phantom.tissue, (Tissue.COUCH_SHELL, Tissue.COUCH_FOAM))] = 255
    maps = np.concatenate([fractions, classes[None]])
    return Body(name, np.rint(np.clip(phantom.hu, -1024, 3071)).astype(np.int16), maps, slice_regions(classes))


def procedural_body(region: Region, rng: np.random.Generator, name: str) -> Body:
    """A drawn patient."""
    grid = default_grid(region, rng, _SPACING, None)
    if region != Region.HN and rng.random() < 0.5:  # trunks that show chest and abdomen together
        nx, ny, nz = grid.size_xyz
        grid = grid.cropped((0, 0, -20 if region == Region.TH else 0), (nx, ny, nz + 20))
    phantom = vary_body(build_phantom(region, grid, rng), rng, 0.7)
    return make_body(phantom, phantom_classes(phantom), rng, name)


def real_body(phantom: Phantom, rng: np.random.Generator, name: str, *, only_head: bool = False) -> Body:
    """Another patient made of a real one (see `vary_body`)."""
    phantom = vary_body(phantom, rng, float(rng.uniform(0.4, 1.2)))
    classes = phantom_classes(phantom)
    if only_head:  # the maps call every bone bone: only what lies about the brain is known to be skull
        brain = classes == INDEX["brain"]
        far = ndimage.distance_transform_edt(~brain, sampling=SPACING_MM) > 25
        classes[far & (classes == INDEX["skull"])] = IGNORE
    return make_body(phantom, classes, rng, name)


def phantom_classes(phantom: Phantom) -> np.ndarray:
    """The class of every voxel of a phantom: its labels, then what its tissue says; unlabelled bone is IGNORE."""
    classes = OF_TOTAL[np.where(phantom.label < 200, phantom.label, 0)]
    classes[phantom.label == MANDIBLE] = INDEX["mandible"]
    tissue, free = phantom.tissue, classes == 0
    fat = np.isin(tissue, (Tissue.FAT, Tissue.SKIN))
    outside = np.isin(tissue, (Tissue.AIR, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM))
    outer = fat & ~_inside_muscles(fat, outside)
    classes[free & fat] = INDEX["inner_fat"]
    classes[free & outer] = INDEX["outer_fat"]
    bone = np.isin(tissue, (Tissue.CORTICAL_BONE, Tissue.RED_MARROW, Tissue.YELLOW_MARROW, Tissue.TOOTH))
    soft = ~fat & ~outside & ~bone & ~np.isin(tissue, (Tissue.GAS, Tissue.LUNG))
    classes[free & soft] = INDEX["other_soft_tissue"]
    classes[free & (tissue == Tissue.GAS)] = INDEX["gas"]
    classes[free & (tissue == Tissue.LUNG)] = INDEX["lungs"]
    classes[free & bone] = IGNORE
    classes[free & np.isin(tissue, (Tissue.TOOTH, Tissue.METAL))] = IGNORE
    return classes


def _inside_muscles(fat: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """What the wall of muscle and bone encloses, slice by slice: all that is closed off from the skin's fat."""
    wall = ~fat & ~outside
    closed = ndimage.binary_closing(
        np.pad(wall, ((0, 0), (6, 6), (6, 6))), ndimage.generate_binary_structure(2, 1)[None], 5
    )
    closed = closed[:, 6:-6, 6:-6]
    return np.stack([ndimage.binary_fill_holes(s) for s in closed])


def read_phantom(source: LabelledImage, rng: np.random.Generator) -> tuple[Phantom, bool]:
    """The phantom of a real anatomy at 3 mm, and whether it comes of a head label map.

    Raises:
        InputError: A CT without labels, or files that can't be used.
    """
    head = read_label_map(source.image)
    if head is not None:
        return phantom_from_labels(head, _SPACING, rng), True
    if source.labels is None:
        raise InputError(
            source.image, found="a CT without labels", expected="labels to learn from", advice="set `labels`"
        )
    return phantom_from_ct(read_ct(source.image), read_labels(source.labels), _SPACING), False


def write_body(body: Body, folder: Path) -> None:
    """Two arrays that training maps into memory; the folder appears whole or not at all."""
    with atomic_folder(folder) as part:
        np.save(part / "hu.npy", body.hu)
        np.save(part / "maps.npy", body.maps)
        np.save(part / "regions.npy", body.regions)


def read_bodies(folders: Sequence[Path]) -> list[Body]:
    """Bodies of `write_body`, mapped into memory."""
    return [
        Body(
            folder.name,
            np.load(folder / "hu.npy", mmap_mode="r"),
            np.load(folder / "maps.npy", mmap_mode="r"),
            np.load(folder / "regions.npy"),
        )
        for folder in folders
    ]


def grid_of(body: Body) -> Geometry:
    """The body's grid, at the origin."""
    return Geometry(body.hu.shape[::-1], _SPACING)
