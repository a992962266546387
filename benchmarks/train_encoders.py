"""What an optimiser step costs by encoder and precision: how the demonstrations' capacity was chosen.

    OMP_NUM_THREADS=1 python benchmarks/train_encoders.py > benchmarks/train_encoders.md

Network, forward and backward, of four stacks of five 160x192 slices; processor seconds, the least of five. The loader and
the losses come on top.
"""

from __future__ import annotations

import platform
import time

import torch

from sctlab_model.network import build_network
from sctlab_model.network.settings import UNetPlusPlusSettings

SMALL, MIDDLE = (64, 32, 24, 16, 8), (96, 64, 32, 24, 16)
CANDIDATES = (
    ("tu-mobilenetv3_small_100", SMALL),
    ("tu-mobilenetv3_large_100", MIDDLE),
    ("tu-efficientnet_lite0", MIDDLE),
    ("resnet18", MIDDLE),
    ("resnet34", (128, 64, 48, 32, 16)),
)
STACKS, SLICES, SIZE_YX = 4, 5, (160, 192)


def step_seconds(encoder: str, decoder: tuple[int, ...], *, bf16: bool, repeats: int = 5) -> tuple[float, float]:
    """Million parameters, and processor seconds of a step."""
    torch.manual_seed(0)
    network = build_network(UNetPlusPlusSettings(encoder=encoder, slices=SLICES, decoder_channels=decoder))
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    stacks = torch.randn(STACKS, SLICES, *SIZE_YX).contiguous(memory_format=torch.channels_last)
    target = torch.randn(STACKS, 1, *SIZE_YX)
    times = []
    for _ in range(repeats):
        started = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            made = network(stacks)
        loss = (made.float() - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append(time.process_time() - started)
    return sum(p.numel() for p in network.parameters()) / 1e6, min(times)


def main() -> None:
    """Print the table as Markdown."""
    print(f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    print("| encoder | decoder channels | million parameters | fp32, s | bf16, s |")
    print("|---|---|---|---|---|")
    for encoder, decoder in CANDIDATES:
        size, single = step_seconds(encoder, decoder, bf16=False)
        _, half = step_seconds(encoder, decoder, bf16=True)
        print(f"| {encoder} | {', '.join(map(str, decoder))} | {size:.1f} | {single:.2f} | {half:.2f} |", flush=True)


if __name__ == "__main__":
    main()
