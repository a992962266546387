"""What preparation puts beyond a border that cuts the body, and beyond one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from sctlab_model.network.settings import ResidualUNet3DSettings
from sctlab_model.preparation import prepare, restore
from sctlab_model.recipe import Canvas, RangeNormalisation, Recipe
from sctlab_model.volume import Geometry, Volume

SHALLOW = ResidualUNet3DSettings(features=(4, 4, 4, 4))  # takes a canvas of multiples of 8


def test_a_body_that_the_border_cuts_goes_on_as_its_mirror_image() -> None:
    """Only where body voxels lie at the border, in the margin and in the padding; the mask stays the image's."""
    hu = np.random.default_rng(1).integers(-1010, -990, (2, 20, 24)).astype(np.float32)
    body = np.zeros(hu.shape, bool)
    body[:, 6:20, 5:15] = True  # cut behind, with air on the left, on the right and in front
    hu[body] = np.random.default_rng(0).integers(-200, 1000, int(body.sum()))
    grid = Geometry((24, 20, 2), (2.0, 2.0, 3.0))
    prepared = {}
    for edges in ("air", "mirror"):
        canvas = Canvas(margin=4, multiple=8, minimum_yx=(32, 32), cut_edges=edges)
        recipe = Recipe(
            task="cbct", spacing_xyz=(2, 2, 3), normalisation=RangeNormalisation(), canvas=canvas, network=SHALLOW
        )
        prepared[edges] = prepare(Volume(hu, grid), Volume(body, grid), recipe)
        restored = restore(np.full(prepared[edges].mask.shape, 7, np.float32), prepared[edges], recipe)
        np.testing.assert_array_equal(restored.array == 7, body)
    air, mirrored = prepared["air"], prepared["mirror"]
    assert mirrored.mask.sum() == body.sum()
    last = int(np.flatnonzero(mirrored.mask.any(axis=(0, 2)))[-1])
    beyond = mirrored.source.shape[1] - last - 1
    assert beyond >= 4  # padding
    columns = mirrored.mask[0, last]
    np.testing.assert_array_equal(
        mirrored.source[:, last + 1 :, columns], mirrored.source[:, last - beyond + 1 : last + 1, columns][:, ::-1]
    )
    assert (mirrored.source[:, last + 1 :, ~columns] == -1).all()
    assert (mirrored.source[:, : last + 1][~mirrored.mask[:, : last + 1]] == -1).all()
    np.testing.assert_array_equal(mirrored.source[mirrored.mask], air.source[air.mask])
    assert (air.source[~air.mask] == -1).all()


def test_a_border_that_the_body_only_touches_cuts_nothing() -> None:
    y, x = np.indices((64, 80))
    hu = np.random.default_rng(3).integers(-1000, 900, (2, 64, 80)).astype(np.float32)
    grid = Geometry((80, 64, 2), (2.0, 2.0, 3.0))
    canvas = Canvas(margin=4, multiple=8, minimum_yx=(80, 96), cut_edges="mirror")
    recipe = Recipe(
        task="cbct", spacing_xyz=(2, 2, 3), normalisation=RangeNormalisation(), canvas=canvas, network=SHALLOW
    )
    for centre, cut_there in ((30, False), (20, True)):  # 1 and 11 voxels of a radius of 31 lie beyond the border
        body = np.broadcast_to(np.hypot(y - centre, x - 40) < 31, hu.shape).copy()
        assert body[:, 0].any()
        prepared = prepare(Volume(hu, grid), Volume(body, grid), recipe)
        assert bool((prepared.source[~prepared.mask] != -1).any()) is cut_there


@pytest.mark.parametrize("edges", ["mirror", "blank"])
def test_added_borders_change_nothing_of_what_the_network_sees(edges: str) -> None:
    """Of one value, whatever it is, and on the sides that cut the body as on the others."""
    rng = np.random.default_rng(2)
    hu = rng.integers(-900, 900, (3, 24, 24)).astype(np.float32)
    body = np.zeros(hu.shape, bool)
    body[:, 4:24, 5:20] = True
    grid = Geometry((24, 24, 3), (2.0, 2.0, 3.0))
    canvas = Canvas(margin=4, multiple=8, minimum_yx=(40, 40), cut_edges=edges)
    recipe = Recipe(
        task="cbct", spacing_xyz=(2, 2, 3), normalisation=RangeNormalisation(), canvas=canvas, network=SHALLOW
    )
    plain = prepare(Volume(hu, grid), Volume(body, grid), recipe)
    if edges == "blank":
        last = int(np.flatnonzero(plain.mask.any(axis=(0, 2)))[-1])
        assert plain.source.shape[1] > last + 4
        assert (plain.source[:, last + 1 :] == -1).all()
    wider = grid.cropped((-6, -6, 0), (36, 36, 3))
    around = ((0, 0), (6, 6), (6, 6))
    for fill in (0, -1024, 400):
        padded = prepare(
            Volume(np.pad(hu, around, constant_values=fill), wider), Volume(np.pad(body, around), wider), recipe
        )
        np.testing.assert_array_equal(padded.source, plain.source)
        np.testing.assert_array_equal(padded.mask, plain.mask)


def test_added_borders_do_not_hide_a_cut_edge_and_masked_air_is_none() -> None:
    rng = np.random.default_rng(2)
    hu = rng.integers(-900, 900, (3, 24, 24)).astype(np.float32)
    body = np.zeros(hu.shape, bool)
    body[:, 4:24, 5:20] = True
    grid = Geometry((24, 24, 3), (2.0, 2.0, 3.0))
    canvas = Canvas(margin=4, multiple=8, minimum_yx=(40, 40), cut_edges="mirror")
    recipe = Recipe(
        task="cbct", spacing_xyz=(2, 2, 3), normalisation=RangeNormalisation(), canvas=canvas, network=SHALLOW
    )
    plain = prepare(Volume(hu, grid), Volume(body, grid), recipe)
    wider = grid.cropped((-6, -6, 0), (36, 36, 3))
    around = ((0, 0), (6, 6), (6, 6))
    padded = prepare(Volume(np.pad(hu, around), wider), Volume(np.pad(body, around), wider), recipe)
    np.testing.assert_array_equal(padded.source, plain.source)
    np.testing.assert_array_equal(padded.mask, plain.mask)
    emptied = hu.copy()
    emptied[:, 21:] = 0  # the mask still holds these rows
    short = prepare(Volume(emptied, grid), Volume(body, grid), recipe)
    last = int(np.flatnonzero(plain.mask.any(axis=(0, 2)))[-1])
    np.testing.assert_array_equal(short.source[:, : last - 2], plain.source[:, : last - 2])
    np.testing.assert_array_equal(
        short.source[:, last - 2 : last + 1][short.mask[:, last - 2 : last + 1]],
        plain.source[:, last - 5 : last - 2][:, ::-1][short.mask[:, last - 2 : last + 1]],
    )
    y, x = np.indices((24, 24))
    disc = np.broadcast_to(np.hypot(y - 12, x - 12) < 9, hu.shape)
    masked = Volume(np.where(disc, hu, 0).astype(np.float32), grid)
    for edges in ("air", "blank", "mirror"):
        prepared = prepare(
            masked,
            Volume(disc.copy(), grid),
            recipe.model_copy(update={"canvas": canvas.model_copy(update={"cut_edges": edges})}),
        )
        assert (prepared.source[~prepared.mask] == -1).all()


def test_mirror_images_need_a_canvas_before_the_flip() -> None:
    with pytest.raises(ValidationError, match="cut_edges"):
        Canvas(cut_edges="mirror", flip_before_padding=True, pad_value=-1)
