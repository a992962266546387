"""`sctlab train` and the launchers that may have started it."""

from __future__ import annotations

import pytest
import torch

from sctlab.training.devices import launch, processes
from sctlab.training.plan import load_plan
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


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_cudnn_tunes_from_the_first_step_on_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation's backend switched it on, in the middle of a training."""

    class Started:
        def __init__(self, **settings: object) -> None:
            assert settings["accelerator"] == device

        def launch(self) -> None:
            assert torch.backends.cudnn.benchmark == (device == "cuda")

    monkeypatch.setattr("lightning_fabric.Fabric", Started)
    monkeypatch.setattr("sctlab_model.device.choose_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", device != "cuda")
    assert isinstance(launch(load_plan("mri")), Started)
