"""One peer on one pair, in the peer's own environment: `python registration_peer.py METHOD PAIR.npz RESULT.npz`.

The pair holds `fixed`, `moving` (already carried rigidly onto the fixed grid), `fixed_mask`, `moving_mask` (z, y, x)
and `spacing` (mm, isotropic). The result holds `field` [3 (z, y, x), z, y, x] in voxels and what the run cost.
Needs numpy and the peer itself, nothing of this repository.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def convexadam(pair, grid_sp: int = 6, disp_hw: int = 4, lambda_weight: float = 1.25, use_mask: bool = True):
    """convexAdam with MIND; the masks are passed as files, as its interface asks."""
    import nibabel
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        # Its masked extrapolation halves and doubles the image: an even size is needed.
        even = tuple(n - n % 2 for n in pair["fixed"].shape)
        crop = tuple(slice(0, n) for n in even)
        for name in ("fixed_mask", "moving_mask"):
            paths[name] = str(Path(folder) / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(pair[name][crop].astype(np.float32), np.eye(4)), paths[name])
        found = convex_adam_pt(
            pair["fixed"][crop],
            pair["moving"][crop],
            grid_sp=grid_sp,
            disp_hw=disp_hw,
            lambda_weight=lambda_weight,
            use_mask=use_mask,
            path_fixed_mask=paths["fixed_mask"],
            path_moving_mask=paths["moving_mask"],
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
    field = np.moveaxis(found, -1, 0)
    field = np.pad(field, [(0, 0), *[(0, n - e) for n, e in zip(pair["fixed"].shape, even, strict=True)]], mode="edge")
    return field, time.perf_counter() - started


def itk_impact(pair):
    """itk-impact, coarse then fine, on MIND features of a TorchScript model (given as `model`)."""
    import itk
    import torch

    started = time.perf_counter()
    images = {}
    for name in ("fixed", "moving"):
        images[name] = itk.image_from_array(np.ascontiguousarray(pair[name], dtype=np.float32))
        images[name].SetSpacing([float(pair["spacing"])] * 3)
    kind = type(images["fixed"])
    spacing = [float(pair["spacing"])] * 3
    model = str(pair["model"])

    def configuration():
        return itk.ImpactModelConfiguration(model, 3, 1, [0, 0, 0], spacing, [0, 0, 0], [True], False)

    coarse = itk.ImpactCoarseRegistration[kind, kind].New()
    coarse.SetFixedImage(images["fixed"])
    coarse.SetMovingImage(images["moving"])
    coarse.AddModelConfiguration(configuration())
    coarse.SetGridSpacing(6)
    coarse.SetDisplacementHalfWidth(4)
    coarse.SetDevice("cpu")
    coarse.Update()
    fine = itk.ImpactFineRegistration[kind, kind].New()
    fine.SetFixedImage(images["fixed"])
    fine.SetMovingImage(images["moving"])
    fine.SetInitialDisplacementField(coarse.GetDisplacementField())
    fine.AddModelConfiguration(configuration())
    fine.SetDistance(["L2"])
    fine.SetDevice("cpu")
    fine.SetNumberOfIterations(80)
    fine.Update()
    field = itk.array_from_image(fine.GetDisplacementField())  # [z, y, x, 3 (x, y, z)] in mm
    assert torch.__version__
    return np.moveaxis(field, -1, 0)[::-1] / float(pair["spacing"]), time.perf_counter() - started


def ants_syn(pair):
    """ANTs SyN without a rigid part, on mutual information, in four levels as `antsRegistrationSyN.sh` takes them."""
    import ants

    started = time.perf_counter()
    spacing = (float(pair["spacing"]),) * 3
    images = {
        name: ants.from_numpy(np.ascontiguousarray(pair[name].T, dtype=np.float32), spacing=spacing)  # x, y, z
        for name in ("fixed", "moving", "fixed_mask", "moving_mask")
    }
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            images["fixed"],
            images["moving"],
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            outprefix=f"{folder}/",
            mask=images["fixed_mask"],
            moving_mask=images["moving_mask"],
            syn_metric="mattes",
            reg_iterations=(100, 70, 50, 20),
            random_seed=1,
        )
        field = next(path for path in found["fwdtransforms"] if path.endswith(".nii.gz"))
        along_xyz = ants.image_read(field).numpy()  # [x, y, z, 3 (x, y, z)] in mm
    return along_xyz.T[::-1] / spacing[0], time.perf_counter() - started


METHODS = {
    "ants-syn": ants_syn,
    "convexadam": convexadam,
    "convexadam-smooth": lambda pair: convexadam(pair, lambda_weight=3.0),
    "convexadam-fine": lambda pair: convexadam(pair, grid_sp=4, disp_hw=4),
    "convexadam-nomask": lambda pair: convexadam(pair, use_mask=False),
    "itk-impact": itk_impact,
}


def main(method: str, source: str, target: str) -> None:
    """Run one method and save its field with seconds, processor seconds and peak memory."""
    pair = dict(np.load(source))
    processor = time.process_time()
    field, seconds = METHODS[method](pair)
    np.savez(
        target,
        field=np.asarray(field, dtype=np.float32),
        seconds=seconds,
        processor_seconds=time.process_time() - processor,
        memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
