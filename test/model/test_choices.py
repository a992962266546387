"""Names that a person types: capitals, hyphens and usual other words don't matter, another word is refused."""

from __future__ import annotations

import pytest

from sctlab_model.cases import Region, Task
from sctlab_model.choices import chosen
from sctlab_model.errors import InputError


@pytest.mark.parametrize("text", ["mri", "MRI", "MR", "mr", " Mr ", "mrt", "Task1", "task-1"])
def test_an_mr_by_any_name(text: str) -> None:
    assert Task.parse(text, "--task") is Task.MRI


@pytest.mark.parametrize("text", ["CBCT", "cbct", "Cone-Beam", "TASK2"])
def test_a_cbct_by_any_name(text: str) -> None:
    assert Task.parse(text, "--task") is Task.CBCT


@pytest.mark.parametrize("text", ["hn", "HN", "Head and Neck", "head-and-neck", "HEAD_AND_NECK"])
def test_a_region_by_any_name(text: str) -> None:
    assert Region.parse(text, "--region") is Region.HN


@pytest.mark.parametrize("text", ["CT", "", "mri,cbct", "cbc", "Task3"])
def test_another_word_is_no_task(text: str) -> None:
    with pytest.raises(InputError, match=r"--task: '.*'; expected mri or cbct"):
        Task.parse(text, "--task")


def test_the_closest_name_is_said() -> None:
    with pytest.raises(InputError, match=r"'impct'; expected elastix, impact or mi; is 'impact' meant\?"):
        chosen("impct", ["elastix", "impact", "mi"], "--method")
