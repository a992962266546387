"""Shared by the laboratory's tests: extractors with small or random weights; a small anatomy with a known motion."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from sctlab.features.trust import trust_file
from sctlab.transforms.apply import apply_to_image, apply_to_labels
from sctlab.transforms.data import BSplineTransform, Composite, EulerTransform, Transform, compose
from sctlab.transforms.field import grid_points
from sctlab.transforms.itk_files import write_itk
from sctlab_model.cases import Task
from sctlab_model.io.atomic import write_json
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume

TISSUE_HU = np.array([AIR_HU, -100, 50, 30, 60, 700, -800, 5], dtype=np.float32)
TISSUE_MR = np.array([0, 320, 140, 210, 90, 20, 10, 400], dtype=np.float32)


@dataclass(frozen=True)
class Sample:
    """A pair whose truth is known."""

    source: Volume
    ct: Volume
    mask: Volume
    ct_aligned: Volume
    ct_labels: Volume
    source_labels: Volume
    truth: Transform  # source points to CT points
    task: Task


@pytest.fixture(scope="session")
def from_the_left() -> Callable[[Volume], Volume]:
    """The same image, stored from the patient's left to the right."""

    def store(volume: Volume) -> Volume:
        grid = volume.geometry
        far = grid.to_physical(np.array([grid.size_xyz[0] - 1, 0, 0]))
        direction = np.array(grid.axes) @ np.diag([-1, 1, 1])
        turned = replace(grid, origin_xyz=tuple(far), direction=tuple(direction.ravel()))
        return Volume(volume.array[..., ::-1].copy(), turned)

    return store


def anatomy(grid: Geometry, seed: int = 0) -> Volume:
    """Labels of a body with wall, muscle, organs, spine, ribs and a lung (uint8)."""
    rng = np.random.default_rng(seed)
    points = grid_points(grid) - grid.centre_xyz
    half = np.array(grid.size_xyz) * np.array(grid.spacing_xyz) / 2

    def ellipsoid(centre, radii):
        offset = (points @ grid.axes - np.array(centre)) / np.array(radii)
        return (offset**2).sum(-1) < 1

    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    rx, ry = 0.78 * half[0], 0.7 * half[1]
    long = 3 * half[2]
    labels[ellipsoid((0, 0, 0), (rx, ry, long))] = 1
    labels[ellipsoid((0, 0, 0), (rx - 8, ry - 8, long))] = 2
    for label in (3, 4, 7, 3, 4, 7, 3, 4):
        centre = rng.uniform(-0.5, 0.5, 3) * (rx, ry, half[2] * 1.6)
        labels[ellipsoid(centre, rng.uniform(0.15, 0.3, 3) * (rx, ry, 2 * half[2]))] = label
    labels[ellipsoid((-0.4 * rx, 0, 0.9 * half[2]), (0.3 * rx, 0.4 * ry, 0.6 * half[2]))] = 6
    for z in np.arange(-half[2], half[2], 26.0):
        labels[ellipsoid((0, 0.55 * ry, z), (13, 11, 10))] = 5
        labels[ellipsoid((0.7 * rx, 0, z), (5, 14, 5))] = 5
        labels[ellipsoid((-0.7 * rx, 0, z), (5, 14, 5))] = 5
    return Volume(labels, grid)


def smooth_motion(grid: Geometry, amplitude_mm: float, seed: int = 0, knot_mm: float = 45.0) -> BSplineTransform:
    """A random B-spline over a grid and its surroundings."""
    rng = np.random.default_rng(seed)
    extent = np.array(grid.size_xyz) * np.array(grid.spacing_xyz)
    size = np.ceil(extent / knot_mm).astype(int) + 4
    start = grid.centre_xyz - grid.axes @ ((size - 1) * knot_mm / 2)
    knots = Geometry(tuple(size), (knot_mm,) * 3, tuple(start), grid.direction)
    coefficients = rng.normal(size=(3, *knots.shape_zyx))
    return BSplineTransform(knots, coefficients * amplitude_mm / np.abs(coefficients).max())


def make_sample(
    task: Task = Task.CBCT,
    *,
    spacing: float = 4.0,
    amplitude_mm: float = 9.0,
    shift_mm: float = 5.0,
    seed: int = 0,
    size_xyz: tuple[int, int, int] = (56, 44, 34),
) -> Sample:
    """A CT, the source image of the moved patient, and the truth."""
    grid = Geometry(size_xyz, (spacing,) * 3, (-100.0, -80.0, -60.0))
    labels = anatomy(grid, seed)
    rng = np.random.default_rng(seed + 1)
    texture = ndimage.gaussian_filter(rng.normal(size=grid.shape_zyx), 1.2).astype(np.float32)
    texture *= 12 / texture.std()
    ct = Volume((TISSUE_HU[labels.array] + np.where(labels.array > 0, texture, 0)).astype(np.float32), grid)
    rigid = EulerTransform((0.02, -0.03, 0.03), (shift_mm, -0.8 * shift_mm, 0.6 * shift_mm), tuple(grid.centre_xyz))
    truth: Composite = compose(smooth_motion(grid, amplitude_mm, seed + 2), rigid)
    inner = grid.cropped((3, 2, 3), tuple(n - m for n, m in zip(size_xyz, (6, 4, 6), strict=True)))
    aligned = apply_to_image(ct, truth, inner, interpolation="linear", outside=AIR_HU)
    moved = apply_to_labels(labels, truth, inner)
    if task is Task.CBCT:
        _, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in inner.shape_zyx], indexing="ij")
        values = aligned.array + 70 * (x**2 + y**2) + rng.normal(0, 25, inner.shape_zyx)
        source = Volume(np.clip(values, AIR_HU, 3000).astype(np.int16), inner)
    else:
        # Warped as the CT is: borders share voxels. Labels warped by nearest neighbour put them half a voxel off.
        signal = apply_to_image(labels.with_array(TISSUE_MR[labels.array]), truth, inner, interpolation="linear")
        values = signal.array + rng.normal(0, 8, inner.shape_zyx)
        source = Volume(np.clip(values, 0, None).astype(np.int16), inner)
    mask = Volume(ndimage.binary_fill_holes(moved.array > 0), inner)
    ct = ct.with_array(np.rint(ct.array).astype(np.int16))
    return Sample(source, ct, mask, aligned, labels, moved, truth, task)


def write_sample(sample: Sample, folder: Path) -> Path:
    """Write a sample as a cohort's case folder, truth included."""
    write_volume(sample.source, folder / f"{sample.task.source_name}.mha")
    write_volume(sample.ct, folder / "ct.mha")
    write_volume(sample.mask, folder / "mask.mha")
    write_volume(sample.ct_labels, folder / "labels.mha")
    write_volume(sample.ct_aligned, folder / "truth" / "ct_aligned.mha")
    write_volume(sample.source_labels, folder / "truth" / "labels_source.mha")
    write_itk(sample.truth, folder / "truth" / "deformation.h5")
    write_json(folder / "truth" / "truth.json", {"patient": "P7"})
    return folder


@pytest.fixture(scope="session")
def cbct_sample() -> Sample:
    return make_sample(Task.CBCT)


@pytest.fixture(scope="session")
def mr_sample() -> Sample:
    return make_sample(Task.MRI, seed=3)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory, cbct_sample: Sample, mr_sample: Sample) -> Path:
    """Two sound cases and one without contrast. Read only."""
    root = tmp_path_factory.mktemp("cohort")
    write_sample(cbct_sample, root / "Task2/TH/2THA001")
    write_sample(mr_sample, root / "Task1/AB/1ABA001")
    broken = root / "Task2/TH/2THA002"
    write_sample(cbct_sample, broken)
    write_volume(cbct_sample.ct.with_array(np.zeros_like(cbct_sample.ct.array)), broken / "ct.mha")
    return root


@pytest.fixture(scope="session")
def samples():
    """The module's makers, for tests that need their own pairs."""
    return make_sample, write_sample, smooth_motion


class TwoLayers(nn.Module):
    """A small model with the public TorchScript interface."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        x = (x - stats[2]) / stats[3] if stats.numel() == 4 else (x - x.mean()) / x.std()
        found = [torch.relu(self.first(x))]
        if int(nb_layers[0]) > 1:
            found.append(torch.relu(self.second(found[0])))
        return found


@pytest.fixture(scope="session", autouse=True)
def features_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder of downloaded weights and of trust, instead of the user's own."""
    folder = tmp_path_factory.mktemp("features-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCTLAB_FEATURES", str(folder))
        yield folder


@pytest.fixture(scope="session")
def torchscript_file(tmp_path_factory: pytest.TempPathFactory, features_folder: Path) -> Path:
    """A TorchScript extractor with two layers, strides 1 and 2."""
    path = tmp_path_factory.mktemp("features") / "two_layers.pt"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(TwoLayers()).save(str(path))
    trust_file(path)
    return path
