"""The reference framework's own training on a CPU: its trainer, its loader and its port of the network (PyPI `konfai`).

    OMP_NUM_THREADS=1 python benchmarks/train_konfai.py

One epoch of batches of 4 of 5x96x96 with L1, from random images, in the setting of `benchmarks/train.py --small`.
It prints where the framework itself says that the epoch's wall time went; divide by the iterations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

CONFIG = """
Trainer:
  Model:
    classpath: segmentation.unetplusplus.UNetPlusPlus
    UNetPlusPlus:
      outputs_criterions:
        SegmentationHead:
          targets_criterions:
            CT:
              criterions_loader:
                torch:nn:L1Loss:
                  reduction: mean
                  schedulers:
                    Constant: {nb_step: 0, value: 1}
                  is_loss: true
                  group: 0
                  start: 0
                  stop: None
                  accumulation: false
      optimizer: {name: AdamW, lr: 0.001, weight_decay: 0.001}
      schedulers:
        ConstantLR: {factor: 1.0, total_iters: 1, nb_step: 0}
      dim: 2
      in_channels: 5
      classes: 1
      encoder_name: resnet34
      decoder_channels: [256, 128, 64, 32, 16]
  Dataset:
    groups_src:
      MR:
        groups_dest:
          MR: {transforms: None, patch_transforms: None, is_input: true}
      CT:
        groups_dest:
          CT: {transforms: None, patch_transforms: None, is_input: false}
    augmentations: None
    Patch: {patch_size: [1, 96, 96], overlap: None, mask: None, pad_value: -1, extend_slice: 4}
    subset: None
    shuffle: true
    filter: None
    dataset_filenames: ["./Dataset/:a:mha"]
    inline_augmentations: false
    use_cache: true
    batch_size: 4
    validation: None
  train_name: speed
  manual_seed: 0
  epochs: 1
  it_validation: None
  autocast: false
  gradient_checkpoints: None
  gpu_checkpoints: None
  ema_decay: 0
  data_log: None
  save_checkpoint_mode: BEST
  EarlyStopping: None
"""


def main() -> None:
    """Train one epoch in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=12)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for case in range(options.iterations // 3):  # twelve slices are three batches
            for name in ("MR", "CT"):
                path = Path(folder) / "Dataset" / f"case_{case}" / f"{name}.mha"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = random.random((12, 96, 96), dtype=np.float32) * 2 - 1
                sitk.WriteImage(sitk.GetImageFromArray(image), path)
        (Path(folder) / "Config.yml").write_text(CONFIG)
        command = [Path(sys.executable).parent / "konfai", "TRAIN", "-y", "--cpu", "1", "-c", "Config.yml"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        lines = (ended.stdout + ended.stderr).splitlines()
        print("\n".join([line for line in lines if "epoch" in line] or lines[-30:]))
        print(f"{options.iterations} iterations")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
