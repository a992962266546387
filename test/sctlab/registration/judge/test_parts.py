"""A head registered to a trunk is no pair, whatever the measures say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sctlab.registration.judge import parts
from sctlab_model.anatomy.judge import RegionSeen

ABDOMEN, HEAD, UNSURE = (0.4, 0.0, 0.01), (0.01, 0.7, 0.01), (0.03, 0.3, 0.01)  # shares of AB, HN, TH


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
    said = parts.different_parts(SimpleNamespace(fixed="fixed", moving="moving"), network=object())  # type: ignore[arg-type]
    assert bool(said) == told
    if told:
        assert "a head" in said
        assert "70%" in said


def test_nothing_is_said_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "is_here", lambda: False)
    assert parts.different_parts(SimpleNamespace(fixed=None, moving=None)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fixed", "moving", "told"),
    [(True, False, True), (False, True, True), (True, True, False), (False, False, False), (None, True, False)],
)
def test_livers_on_different_sides_are_told(
    monkeypatch: pytest.MonkeyPatch, fixed: bool | None, moving: bool | None, told: bool
) -> None:
    sides = {"fixed": fixed, "moving": moving}
    monkeypatch.setattr(parts, "look_at", lambda image, network: (RegionSeen(ABDOMEN), sides[image]))
    said = parts.different_parts(SimpleNamespace(fixed="fixed", moving="moving"), network=object())  # type: ignore[arg-type]
    assert ("mirrored" in said) == told
