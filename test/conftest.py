"""Fixtures that every part's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).parents[1] / "../shared"

# Shared machines stall: a slow example says nothing about the code.
settings.register_profile(
    "quiet", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("quiet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images; the test is skipped where there is none."""
    folder = (SHARED / "data").resolve()
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder
