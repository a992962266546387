"""`predictions.json` as it was before version 2: bundles by task, and a list of cases with bare ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.predictions import BundleUse, FoldUse

_SYNTHRAD_ID = re.compile(r"([12])(AB|HN|TH)[A-Z]\d{3}")


def from_version_1(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of version 2; see `PredictionRecord.migrate`."""
    old_bundles, old_cases = value.get("bundles", {}), value.get("cases", [])
    if not isinstance(old_bundles, dict) or not isinstance(old_cases, list):
        return {"bundles": old_bundles, "cases": old_cases}  # refused by the types, with the key's name
    bundles = {task: _old_bundle(task, entry) for task, entry in old_bundles.items()}
    cases = {}
    for entry in old_cases:
        if not isinstance(entry, dict) or "case" not in entry:
            return {"bundles": {}, "cases": old_cases}
        key = _old_key(str(entry["case"]), str(entry.get("output", "")), list(bundles))
        if key is not None:
            cases[str(key)] = {
                **{k: v for k, v in entry.items() if k != "case"},
                "state": "failed" if entry.get("error") else "done",
                "bundle": bundles[key.task.value].id,
            }
    return {"bundles": {b.id: b.model_dump(mode="json") for b in bundles.values()}, "cases": cases}


def _old_bundle(task: str, entry: Any) -> BundleUse:
    entry = entry if isinstance(entry, dict) else {}
    hashes = list(entry.get("weights_sha256") or [])
    folds = []
    for position, (name, ids) in enumerate((entry.get("training_cases") or {}).items()):
        regions, _, index = str(name).rpartition("/")
        folds.append(
            FoldUse(
                regions=tuple(Region(r) for r in regions.split("+") if r),
                index=int(index),
                weights_sha256=hashes[position] if position < len(hashes) else "",
                training_cases=tuple(map(str, ids)),
            )
        )
    return BundleUse(
        name=str(entry.get("name", "")),
        task=Task(task),
        demonstration=bool(entry.get("demonstration", False)),
        intended_use=str(entry.get("intended_use", "")),
        registration={k: str(v) for k, v in (entry.get("registration") or {}).items()},
        folds=tuple(folds),
    )


def _old_key(case_id: str, output: str, tasks: list[str]) -> CaseKey | None:
    match = _SYNTHRAD_ID.fullmatch(case_id)
    if len(tasks) == 1:
        task = Task(tasks[0])
    elif match and (Task.MRI if match[1] == "1" else Task.CBCT).value in tasks:
        task = Task.MRI if match[1] == "1" else Task.CBCT
    else:
        return None
    folder = Path(output).parent.name
    region = folder if folder in set(Region) else match[2] if match else None
    return CaseKey(task, Region(region) if region else None, case_id)
