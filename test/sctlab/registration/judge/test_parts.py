"""A head registered to a trunk is no pair, whatever the measures say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sctlab.registration.judge import parts
from sctlab.simulation.anatomy.build import build_phantom, default_grid
from sctlab.transforms.data import AffineTransform, DisplacementField, EulerTransform
from sctlab.transforms.field import grid_points
from sctlab_model.anatomy.judge import RegionSeen
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry, Volume

ABDOMEN, HEAD, UNSURE = (0.4, 0.0, 0.01), (0.01, 0.7, 0.01), (0.03, 0.3, 0.01)  # shares of AB, HN, TH
ASYMMETRY = np.array([[0.2, -0.1, 0.0], [0.0, 0.1, -0.05]])


@pytest.mark.parametrize(
    ("fixed", "moving", "told"),
    [
        (ABDOMEN, HEAD, True),
        (HEAD, ABDOMEN, True),
        (HEAD, HEAD, False),
        (ABDOMEN, ABDOMEN, False),
        (ABDOMEN, UNSURE, False),
        (HEAD, UNSURE, False),
    ],
)
def test_only_sure_sights_of_different_parts_are_told(
    monkeypatch: pytest.MonkeyPatch, fixed: tuple[float, ...], moving: tuple[float, ...], told: bool
) -> None:
    seen = {"fixed": RegionSeen(fixed), "moving": RegionSeen(moving)}
    monkeypatch.setattr(parts, "look_at", lambda image, network: (seen[image], None))
    monkeypatch.setattr(parts, "asymmetry_of", lambda image, network: ASYMMETRY)
    monkeypatch.setattr(parts, "as_registered", lambda pair, transform: ("fixed", "moving"))
    said = parts.different_parts(None, None, network=object())  # type: ignore[arg-type]
    assert bool(said) == told
    if told:
        assert "a head" in said
        assert "70%" in said


def test_nothing_is_said_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "is_here", lambda: False)
    assert parts.different_parts(None, None) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fixed", "moving", "told"),
    [(True, False, True), (False, True, True), (True, True, False), (False, False, False), (None, True, False)],
)
def test_livers_on_different_sides_are_told(
    monkeypatch: pytest.MonkeyPatch, fixed: bool | None, moving: bool | None, told: bool
) -> None:
    sides = {"fixed": fixed, "moving": moving}
    monkeypatch.setattr(parts, "look_at", lambda image, network: (RegionSeen(ABDOMEN), sides[image]))
    monkeypatch.setattr(parts, "asymmetry_of", lambda image, network: ASYMMETRY)
    monkeypatch.setattr(parts, "as_registered", lambda pair, transform: ("fixed", "moving"))
    said = parts.different_parts(None, None, network=object())  # type: ignore[arg-type]
    assert ("mirrored" in said) == told


@pytest.mark.parametrize(
    ("moving", "told"),
    [
        (-0.5 * ASYMMETRY, True),
        (ASYMMETRY, False),
        (-0.1 * ASYMMETRY, False),
        (ASYMMETRY[::-1], False),
        (-ASYMMETRY[:1], False),
    ],
    ids=["opposite", "alike", "hardly any", "unlike", "other slabs"],
)
def test_opposite_asymmetries_are_told(monkeypatch: pytest.MonkeyPatch, moving: np.ndarray, told: bool) -> None:
    seen = {"fixed": ASYMMETRY, "moving": moving}
    monkeypatch.setattr(parts, "look_at", lambda image, network: (RegionSeen(UNSURE), None))
    monkeypatch.setattr(parts, "asymmetry_of", lambda image, network: seen[image])
    monkeypatch.setattr(parts, "as_registered", lambda pair, transform: ("fixed", "moving"))
    said = parts.different_parts(None, None, network=object())  # type: ignore[arg-type]
    assert ("mirrored anatomy: what lies more to one side" in said) == told


@pytest.mark.skipif(not parts.is_here(), reason="this release has no weights of the anatomy network")
def test_a_mirrored_chest_is_told_though_its_liver_is_hardly_seen() -> None:
    rng = np.random.default_rng(3)
    phantom = build_phantom(Region.TH, default_grid(Region.TH, rng, (3.0, 3.0, 3.0), None), rng)
    grid = Geometry(phantom.hu.shape[::-1], (3.0, 3.0, 3.0))
    body = Volume(phantom.hu.astype(np.float32), grid)
    noisy = body.with_array(body.array + rng.normal(0, 30, body.array.shape).astype(np.float32))
    mirrored = noisy.with_array(np.ascontiguousarray(noisy.array[:, :, ::-1]))
    still = EulerTransform((0.0, 0.0, 0.0))
    assert parts.different_parts(SimpleNamespace(fixed=body, moving=noisy), still) == ""  # type: ignore[arg-type]
    assert "mirrored" in parts.different_parts(SimpleNamespace(fixed=body, moving=mirrored), still)  # type: ignore[arg-type]


@pytest.mark.skipif(not parts.is_here(), reason="this release has no weights of the anatomy network")
def test_a_patient_that_was_turned_back_is_no_mirror_image() -> None:
    """180 degrees about the long axis under a sound header: the liver lies left until the registration turns it back."""
    rng = np.random.default_rng(7)
    phantom = build_phantom(Region.AB, default_grid(Region.AB, rng, (3.0, 3.0, 3.0), None), rng)
    grid = Geometry(phantom.hu.shape[::-1], (3.0, 3.0, 3.0))
    body = Volume(phantom.hu.astype(np.float32), grid)
    turned = body.with_array(np.ascontiguousarray(body.array[:, ::-1, ::-1]))
    mirrored = body.with_array(np.ascontiguousarray(body.array[:, :, ::-1]))
    back = EulerTransform((0.0, 0.0, np.pi), (0.0, 0.0, 0.0), tuple(grid.centre_xyz))
    still = EulerTransform((0.0, 0.0, 0.0))

    def told(moving: Volume, transform: EulerTransform) -> str:
        return parts.different_parts(SimpleNamespace(fixed=body, moving=moving), transform)  # type: ignore[arg-type]

    assert told(turned, back) == ""
    assert "mirrored" in told(mirrored, still)


def test_a_bent_moving_image_is_looked_at_unbent() -> None:
    """A field that squeezes it sideways, after a shift: only the shift is done."""
    grid = Geometry((24, 20, 16), (6.0, 6.0, 6.0))
    image = Volume(np.random.default_rng(5).normal(size=grid.shape_zyx).astype(np.float32), grid)
    x = grid_points(grid)[..., 0] - grid.centre_xyz[0]
    vectors = np.stack([6.0 + 0.3 * x, np.zeros_like(x), np.zeros_like(x)])
    pair = SimpleNamespace(fixed=image, moving=image)
    _, unbent = parts.as_registered(pair, DisplacementField(grid, vectors))  # type: ignore[arg-type]
    _, shifted = parts.as_registered(pair, AffineTransform(np.eye(3), (6.0, 0.0, 0.0)))  # type: ignore[arg-type]
    assert np.abs(unbent.array - shifted.array)[:, :, 2:-8].max() < 1e-2
