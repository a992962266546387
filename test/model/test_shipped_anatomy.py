"""The anatomy networks as they ship: their files, and what they must see at the least on bodies that no training saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab.simulation.anatomy.build import build_phantom, default_grid
from sctlab.simulation.phantom import Phantom
from sctlab_model.anatomy import shipped
from sctlab_model.anatomy.classes import INDEX, to_classes
from sctlab_model.anatomy.judge import check_seen_region, look_at
from sctlab_model.anatomy.segmenter import see_anatomy
from sctlab_model.cases import Region
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume

NAMES = [name for name in (shipped.NETWORK, shipped.JUDGE) if shipped.is_here(name)]
SEED = 2_200_001
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def bodies() -> dict[Region, Phantom]:
    found = {}
    for region in Region:
        rng = np.random.default_rng((SEED, list(Region).index(region)))
        found[region] = build_phantom(region, default_grid(region, rng, (3.0, 3.0, 3.0), None), rng)
    return found


def _images(phantom: Phantom) -> Iterator[Volume]:
    """The body in HU with noise, and the same turned into what is no CT: dark bone, bright fat, air at zero."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, phantom.hu.shape), 0.7)
    grid = Geometry(phantom.hu.shape[::-1], (3.0, 3.0, 3.0))
    yield Volume((phantom.hu + 25 * noise).astype(np.float32), grid, "ct")
    hu = phantom.hu
    signal = np.interp(hu, [-900, -300, -110, 0, 60, 250, 800], [0, 20, 420, 200, 230, 160, 20])
    yield Volume(np.abs(signal + 20 * noise).astype(np.float32), grid, "mr")


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_and_what_the_manifest_says(name: str) -> None:
    path = shipped.network_path(name)
    assert path.stat().st_size <= 5_000_000
    assert sum(p.numel() for p in shipped.load_network(name).parameters()) <= 3_000_000


@pytest.mark.skipif(shipped.NETWORK not in NAMES, reason="this release has no weights of the anatomy network")
class TestShippedNetwork:
    def test_regions_of_drawn_bodies(self, bodies: dict[Region, Phantom]) -> None:
        for region, phantom in bodies.items():
            for image in _images(phantom):
                seen, _ = look_at(image)
                assert seen.region is region, (region, image.name, seen)
                assert seen.is_trunk == (region is not Region.HN)

    def test_a_head_given_as_an_abdomen_is_refused_and_as_a_head_is_not(self, bodies: dict[Region, Phantom]) -> None:
        head = next(_images(bodies[Region.HN]))
        assert [f.level for f in check_seen_region(head, Region.AB)] == ["refuse"]
        assert check_seen_region(head, Region.HN) == []
        abdomen = next(_images(bodies[Region.AB]))
        assert [f.level for f in check_seen_region(abdomen, Region.HN)] == ["refuse"]
        assert check_seen_region(abdomen, Region.AB) == []

    def test_a_mirrored_abdomen_has_its_liver_on_the_left(self, bodies: dict[Region, Phantom]) -> None:
        for image in _images(bodies[Region.AB]):
            assert look_at(image)[1] is False, image.name
            assert look_at(image.with_array(np.ascontiguousarray(image.array[:, :, ::-1])))[1] is True, image.name
        head = next(_images(bodies[Region.HN]))
        assert look_at(head)[1] is None

    @pytest.mark.parametrize("name", ["abdomen_ct_crlm_1004/ct.nii.gz", "abdomen_mr/mr.nii.gz"])
    def test_real_abdomens_and_their_mirror_images(self, name: str) -> None:
        path = SHARED / name
        if not path.is_file():
            pytest.skip("the real images are not here")
        image = read_volume(path)
        along = int(np.argmax(np.abs(image.geometry.axes[0])))  # the image axis along the patient's left
        mirrored = image.with_array(np.ascontiguousarray(np.flip(image.array, 2 - along)))
        assert [look_at(v)[1] for v in (image, mirrored)] == [False, True]
        assert [f.level for f in check_seen_region(image, Region.HN)] == ["refuse"]
        assert check_seen_region(image, Region.AB) == []

    @pytest.mark.parametrize(
        ("region", "organs"),
        [(Region.AB, ("liver", "spine", "outer_fat")), (Region.HN, ("brain", "outer_fat")), (Region.TH, ("lungs",))],
    )
    def test_large_organs_of_a_drawn_ct(
        self, bodies: dict[Region, Phantom], region: Region, organs: tuple[str, ...]
    ) -> None:
        from sctlab.anatomy.bodies import phantom_classes

        truth = phantom_classes(bodies[region])
        found = to_classes(see_anatomy(next(_images(bodies[region]))).labels.array)
        for organ in organs:
            a, b = found == INDEX[organ], truth == INDEX[organ]
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.6, organ
