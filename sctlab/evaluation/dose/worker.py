"""Plans and recalculates doses with pyRadPlan, in a process (and, where that is simpler, an environment) of its own.

    python worker.py REQUEST.npz RESULT.npz

pyRadPlan needs older NumPy and pydantic than the rest of the product, so this file imports nothing of it, only NumPy, SimpleITK and
pyRadPlan. REQUEST holds `plan_ct` (HU on which the plan is made), `ct_0`, `ct_1`, … (HU on which it is calculated), `target`,
`body`, all of one shape with axes z, y, x; `spacing_xyz` and `settings`, a JSON text with
`modality` (photons or protons), `gantry_angles`, `prescription_gy`, `fractions`, `bixel_mm`, `hlut` (pairs of HU and relative density
or stopping power). RESULT holds `dose_0`, `dose_1`, … in Gy of the whole course (as the objectives are), `weights` and, for protons,
`energies` (MeV) of the pencil beams that they belong to.
"""

import json
import logging
import sys
from typing import Any

import numpy as np


def calculate(request: dict) -> dict:
    """Make the plan on `plan_ct` and calculate it on every other CT; see the module."""
    import SimpleITK as sitk
    from pyRadPlan import (
        IonPlan,
        PhotonPlan,
        calc_dose_forward,
        calc_dose_influence,
        fluence_optimization,
        generate_stf,
    )
    from pyRadPlan.cst import create_cst, create_voi
    from pyRadPlan.ct import create_ct
    from pyRadPlan.optimization.objectives import SquaredDeviation, SquaredOverdosing

    settings = json.loads(str(request["settings"]))
    spacing = [float(s) for s in request["spacing_xyz"]]

    def image(array: np.ndarray, kind: type) -> sitk.Image:
        result = sitk.GetImageFromArray(np.ascontiguousarray(array.astype(kind)))
        result.SetSpacing(spacing)
        return result

    def ct_of(array: np.ndarray) -> Any:
        return create_ct(cube_hu=image(array, np.float64))

    plan_ct = ct_of(request["plan_ct"])

    def structures(ct: Any) -> Any:
        target, body = request["target"] > 0, request["body"] > 0
        vois = [
            create_voi(
                voi_type="TARGET",
                name="target",
                ct_image=ct,
                mask=image(target, np.uint8),
                objectives=[SquaredDeviation(priority=1000.0, d_ref=settings["prescription_gy"])],
            ),
            create_voi(
                voi_type="EXTERNAL",
                name="body",
                ct_image=ct,
                mask=image(body, np.uint8),
                objectives=[SquaredOverdosing(priority=30.0, d_max=0.4 * settings["prescription_gy"])],
            ),
        ]
        return create_cst(vois=vois, ct=ct)

    common = {
        "num_of_fractions": settings["fractions"],
        "prescribed_dose": settings["prescription_gy"],
        "machine": "Generic",
    }
    plan = PhotonPlan(**common) if settings["modality"] == "photons" else IonPlan(radiation_mode="protons", **common)
    angles = [float(a) for a in settings["gantry_angles"]]
    plan.prop_stf = {"gantry_angles": angles, "couch_angles": [0.0] * len(angles), "bixel_width": settings["bixel_mm"]}
    # without a dose grid pyRadPlan takes one of 5 mm
    resolution = dict(zip("xyz", spacing, strict=True))
    plan.prop_dose_calc = {
        "hlut": np.array(settings["hlut"], dtype=np.float64),
        "dose_grid": {"resolution": resolution},
    }
    plan.prop_opt = {"solver": "scipy"}
    cst = structures(plan_ct)
    steering = generate_stf(plan_ct, cst, plan)
    influence = calc_dose_influence(plan_ct, cst, steering, plan)
    weights = fluence_optimization(plan_ct, cst, steering, influence, plan)
    del influence
    result = {"weights": np.asarray(weights)}
    if settings["modality"] == "protons":
        result["energies"] = np.concatenate([ray.energies for beam in steering.beams for ray in beam.rays])
    for index in range(sum(name.startswith("ct_") for name in request)):
        ct = ct_of(request[f"ct_{index}"])
        found = calc_dose_forward(ct, structures(ct), steering, plan, weights)
        dose = found["physical_dose"]
        array = sitk.GetArrayFromImage(dose) if isinstance(dose, sitk.Image) else np.asarray(dose)
        result[f"dose_{index}"] = array.astype(np.float32)
    return result


def main(arguments: list) -> None:
    """Read the request, write the result."""
    logging.disable(logging.INFO)
    with np.load(arguments[0], allow_pickle=False) as file:
        request = {name: file[name] for name in file.files}
    np.savez(arguments[1], **calculate(request))


if __name__ == "__main__":
    main(sys.argv[1:])
