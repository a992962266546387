"""`sctlab train` and the launchers that may have started it."""

from __future__ import annotations

import pytest

from sctlab.training.devices import processes
from sctlab_model.errors import InputError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM])
def test_processes_are_those_that_the_launcher_started(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this each of them would train alone, all into one folder."""
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes(None, None) == processes(4, None) == processes(4, 2) == (4, 2)
    with pytest.raises(InputError, match="started 4 x 2"):
        processes(2, None)


def test_processes_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    assert processes(None, None) == (1, 1)
    assert processes(2, None) == (2, 1)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert processes(None, None) == (1, 1)
