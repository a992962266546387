"""ITK's HDF5 transform files (`.h5`): read in a child process, written with h5py.

Layout: `/TransformGroup/<n>/` with `TransformType`, `TransformParameters` and `TransformFixedParameters`; older releases
of ITK spell the latter two without the s of Trans. An HDF5 file can name other files as the place of its data, and
plug-ins as its filters; neither is followed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sctlab.transforms.itk_steps import MAX_STEPS, ItkStep
from sctlab_model.errors import InputError
from sctlab_model.io.child import read_in_child
from sctlab_model.io.streams import MAX_DEFLATE_RATIO
from sctlab_model.limits import check_memory

if TYPE_CHECKING:
    import h5py

_FILTERS = (1, 2, 3)  # deflate, shuffle, checksum: those of HDF5 itself
_MAX_NAME = 200


def read_hdf5_steps(path: Path) -> list[ItkStep]:
    """The steps of a file.

    Raises:
        InputError: Missing, damaged, or not of this layout.
        ResourceError: More numbers than there is memory.
    """
    answer = read_in_child("sctlab.transforms.itk_hdf5:steps_in_child", path)
    return [
        ItkStep(str(name), np.asarray(answer[f"parameters {n}"]), np.asarray(answer[f"fixed {n}"]))
        for n, name in enumerate(answer["names"])
    ]


def steps_in_child(path: str) -> dict[str, Any]:
    """`read_hdf5_steps`, called by name in the child process."""
    import h5py

    answer: dict[str, Any] = {"names": []}
    with h5py.File(os.fsencode(path), "r", locking=False) as file:
        root = _member(file, "TransformGroup", h5py.Group, path)
        if not 1 <= len(root) <= MAX_STEPS + 1:
            raise _refuse(path, f"{len(root)} transforms")
        for n in range(len(root)):
            group = _member(root, str(n), h5py.Group, path)
            answer["names"].append(_type(_member(group, "TransformType", h5py.Dataset, path), path))
            for key, name in (("parameters", "Parameters"), ("fixed", "FixedParameters")):
                spelling = next((s for s in (f"Transform{name}", f"Tranform{name}") if s in group), None)
                values = np.zeros(0)
                if spelling is not None:
                    values = _numbers(_member(group, spelling, h5py.Dataset, path), path)
                answer[f"{key} {n}"] = values
    return answer


def write_hdf5_steps(path: Path, steps: Sequence[ItkStep], *, compress: bool = False) -> None:
    """Write steps, the same ones as the same bytes: no times, no versions of libraries and systems.

    Args:
        path: Where.
        steps: See `to_steps`.
        compress: With deflate, which ITK reads and doesn't write.
    """
    import h5py

    text = h5py.string_dtype("ascii")
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compress else {}
    with h5py.File(os.fsencode(path), "w", locking=False) as file:
        for name in ("HDFVersion", "ITKVersion", "OSName", "OSVersion"):
            file.create_dataset(name, data=[b"any"], dtype=text, track_times=False)
        for n, step in enumerate(steps):
            place = f"TransformGroup/{n}"
            file.create_dataset(f"{place}/TransformType", data=[step.name], dtype=text, track_times=False)
            if n == 0 and len(steps) > 1:
                continue  # the composite itself has no numbers
            for name, values in (("TransformFixedParameters", step.fixed), ("TransformParameters", step.parameters)):
                chosen = options if values.size else {}  # HDF5 has no chunks of nothing
                file.create_dataset(f"{place}/{name}", data=values.astype("<f8"), track_times=False, **chosen)


def _refuse(path: str, found: str) -> InputError:
    return InputError(
        path,
        found=f"{found} in the file",
        expected="an ITK transform (HDF5)",
        advice="the transform file is damaged or of another type",
    )


def _member(parent: h5py.Group, name: str, kind: type, path: str) -> Any:
    """A group or dataset that lies in this file under its own name."""
    import h5py

    if name not in parent or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        raise _refuse(path, f"no {name}")
    member = parent[name]
    if not isinstance(member, kind):
        raise _refuse(path, f"{name} of another kind")
    if isinstance(member, h5py.Dataset):
        filters = member.id.get_create_plist()
        codes = [filters.get_filter(n)[0] for n in range(filters.get_nfilters())]
        if member.external or member.is_virtual or any(code not in _FILTERS for code in codes):
            raise _refuse(path, f"{name} whose data lies in other files or behind other filters")
        stored = member.id.get_storage_size()
        if member.nbytes > max(4096, stored * (MAX_DEFLATE_RATIO if codes else 1)):
            raise _refuse(path, f"{name} that promises {member.nbytes} bytes and holds {stored}")
    return member


def _type(dataset: h5py.Dataset, path: str) -> str:
    import h5py

    if dataset.size != 1 or h5py.check_string_dtype(dataset.dtype) is None:
        raise _refuse(path, "TransformType of another kind")
    value = np.asarray(dataset[()]).ravel()[0]
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.rstrip("\0")[:_MAX_NAME]


def _numbers(dataset: h5py.Dataset, path: str) -> np.ndarray:
    if dataset.dtype.kind != "f" or dataset.ndim != 1:
        raise _refuse(path, "parameters that are no numbers")
    check_memory(path, 3 * 8 * dataset.size, f"a transform of {dataset.size} parameters")
    return np.asarray(dataset[()], dtype=np.float64)


__all__ = ["read_hdf5_steps", "write_hdf5_steps"]
