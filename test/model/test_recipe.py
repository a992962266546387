"""The recipe is data: it survives JSON, and misspelt or impossible choices are errors."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sctlab_model.network.settings import UNetPlusPlusSettings
from sctlab_model.recipe import (
    PercentileNormalisation,
    RangeNormalisation,
    Recipe,
    ZScoreNormalisation,
)


@pytest.mark.parametrize(
    "normalisation", [PercentileNormalisation(), ZScoreNormalisation(outside=-3), RangeNormalisation(lower=0, upper=9)]
)
def test_json_and_back(normalisation: object) -> None:
    recipe = Recipe(task="cbct", normalisation=normalisation, views=("identity", "flip_xy"))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_defaults_are_the_published_recipe() -> None:
    recipe = Recipe(task="mri")
    assert recipe.spacing_xyz == (1, 1, 3)
    assert (recipe.network.encoder, recipe.network.slices) == ("resnet34", 5)
    assert recipe.views == ("identity", "flip_x", "flip_y")
    assert recipe.target_range_hu == (-1024, 3071)
    assert (recipe.normalisation.kind, recipe.normalisation.upper_percentile) == ("percentile", 99.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "pet"},
        {"spacing_xyz": (1, 1, 0)},
        {"spacing_xyz": (1, 1)},
        {"spacing_zyx": (1, 1, 3)},
        {"views": ()},
        {"views": ("identity", "identity")},
        {"views": ("flip_z",)},
        {"target_range_hu": (100, -100)},
        {"target_range_hu": (-5000, 3071)},
        {"target_range_hu": (-1024, float("nan"))},
        {"normalisation": {"kind": "range", "lower": 5, "upper": 5}},
        {"normalisation": {"kind": "magic"}},
        {"canvas": {"minimum_yx": (0, 320)}},
        {"canvas": {"multiple": 0}},
        {"network": {"slices": 4}},
        {"network": {"decoder_channels": (8, 8)}},
    ],
)
def test_impossible_choices(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Recipe(**{"task": "mri", **wrong})


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError):
        UNetPlusPlusSettings().slices = 3
