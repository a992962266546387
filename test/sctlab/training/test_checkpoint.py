"""Checkpoints: whole or absent, exact, nothing pickled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sctlab.training.checkpoint import (
    load_checkpoint,
    pack_networks,
    pack_optimisers,
    read_values,
    restore_networks,
    restore_optimisers,
    save_checkpoint,
)
from sctlab_model.errors import WeightsError


def untrained(layout: torch.memory_format, fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).to(memory_format=layout)
    return network, torch.optim.AdamW(network.parameters(), lr=0.01, fused=fused or None)


def trained(
    layout: torch.memory_format = torch.contiguous_format, fused: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network, optimiser = untrained(layout, fused)
    for _ in range(3):
        network(torch.randn(2, 2, 8, 8)).square().mean().backward()
        optimiser.step()
    return network, optimiser


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("which", ["generator", "critic"])
def test_network_and_optimiser_come_back_bit_by_bit(
    tmp_path: Path, layout: torch.memory_format, fused: bool, which: str
) -> None:
    """A fused optimiser pairs numbers by where they lie: state and parameter must have one layout."""
    network, optimiser = trained(layout, fused)
    networks, optimisers = {"generator": network, "critic": network}, {"generator": optimiser, "critic": optimiser}
    save_checkpoint(tmp_path, "last", pack_networks(networks) | pack_optimisers(optimisers), {"iteration": 3})
    tensors, values = load_checkpoint(tmp_path, "last")
    assert values["iteration"] == 3
    assert {k.split(".")[0] for k in tensors} == {"model", "networks", "optimiser", "optimisers"}
    other, again = untrained(layout, fused)
    restore_networks({which: other}, tensors, tmp_path)
    restore_optimisers({which: again}, tensors)
    with pytest.raises(WeightsError, match="without this third"):
        restore_networks({"third": other}, tensors, tmp_path)
    for parameter, state in again.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    batch = torch.randn(2, 2, 8, 8)
    for one, opt in ((network, optimiser), (other, again)):
        opt.zero_grad()
        one(batch).square().mean().backward()
        opt.step()
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_one_file_of_tensors_is_kept_and_nothing_is_pickled(tmp_path: Path) -> None:
    for iteration in range(3):
        save_checkpoint(tmp_path, "last", {"model.a": torch.full((3,), float(iteration))}, {"iteration": iteration})
    save_checkpoint(tmp_path, "best", {"model.a": torch.ones(3)}, {})
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]
    assert torch.equal(load_checkpoint(tmp_path, "last")[0]["model.a"], torch.full((3,), 2.0))
    for path in tmp_path.iterdir():
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"PK")


@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, "last", {"model.a": torch.arange(100.0)}, {})
    path = next(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data if damage == "altered" else data[:-40])
    with pytest.raises(WeightsError, match=path.name):
        load_checkpoint(tmp_path, "last")


WRITER = """
import sys, torch
from pathlib import Path
from sctlab.training.checkpoint import save_checkpoint
i = 0
while True:
    save_checkpoint(Path(sys.argv[1]), "last", {"model.a": torch.full((200_000,), float(i))}, {"iteration": i})
    if i == 0: print("ready", flush=True)
    i += 1
"""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"iteration": 3}', None])
def test_a_damaged_or_missing_record_is_named(tmp_path: Path, text: str | None) -> None:
    save_checkpoint(tmp_path, "last", {"model.a": torch.ones(3)}, {})
    if text is None:
        (tmp_path / "last.json").unlink()
    else:
        (tmp_path / "last.json").write_text(text)
    for read in (read_values, load_checkpoint):
        with pytest.raises(WeightsError, match=r"last\.json.*expected a checkpoint of"):
            read(tmp_path, "last")


def test_killed_at_any_moment_it_is_whole(tmp_path: Path) -> None:
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, cwd=Path.cwd())
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.037 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        tensors, values = load_checkpoint(tmp_path, "last")
        assert (tensors["model.a"] == values["iteration"]).all()
        assert json.loads((tmp_path / "last.json").read_text())["iteration"] == values["iteration"]
