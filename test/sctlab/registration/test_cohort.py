"""Which cases of a cohort are registered."""

from __future__ import annotations

from pathlib import Path

from sctlab.registration.cohort import register_cohort
from sctlab.registration.settings import Method, RegistrationSettings
from sctlab_model.errors import ExitCode


def test_what_is_excluded_is_not_tried(tmp_path: Path) -> None:
    """A study leaves cases out before anything else: registering them would cost minutes each, for nothing."""
    for name in ("1ABQ001", "1ABQ002", "1ABQ003"):
        (tmp_path / "cohort/Task1/AB" / name).mkdir(parents=True)
        (tmp_path / "cohort/Task1/AB" / name / "mr.mha").touch()
    settings = RegistrationSettings(method=Method.RIGID, device="cpu")
    result = register_cohort(tmp_path / "cohort", tmp_path / "out", settings, exclude=["1ABQ002"])
    assert [o.name for o in result.outcomes] == [
        "Task1/AB/1ABQ001",
        "Task1/AB/1ABQ003",
    ]  # and tried: nothing is in the files
    assert result.exit_code is not ExitCode.OK
    assert not list((tmp_path / "out").rglob("1ABQ002"))
