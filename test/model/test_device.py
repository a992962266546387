"""One choice of device for every command."""

from __future__ import annotations

import pytest
import torch

from sctlab_model.device import choose_device, describe_device
from sctlab_model.errors import InputError


def test_what_is_here_is_chosen() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device() == torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    assert "thread" in describe_device(torch.device("cpu"))


@pytest.mark.parametrize("name", ["tpu", "meta", "cuda:99", "cpu:x", "", "mps"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="--device"):
        choose_device(name)


def test_names_of_one_device_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` and `cuda:1` on a machine with two GPUs whose current one is the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device("cuda") == choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("auto") == torch.device("cuda", 0)
    with pytest.raises(InputError, match="2 CUDA devices"):
        choose_device("cuda:2")


def test_a_gpu_that_was_named_must_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InputError, match="0 CUDA devices"):
            choose_device(name)
