"""What this machine or container allows: memory before it is taken, and what a case will need of it.

Linux kills a process that takes more memory than its control group may have, without a word. So what an image needs is
worked out from its header and compared with the limits of the system (`/proc/meminfo`), of the control groups (version 1
and 2, on every level above the process) and of the process itself (`ulimit -v`).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sctlab_model.errors import ResourceError

CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes about 2^63 for no limit


def check_memory(where: object, needed_bytes: int, what: str) -> None:
    """Refuse what does not fit into the memory that is free.

    Args:
        where: File or case, for the message.
        needed_bytes: What it will take at its peak.
        what: What takes it, for the message.

    Raises:
        ResourceError: With both figures.
    """
    if needed_bytes < 1 << 26:  # below 64 MiB it isn't worth asking the system
        return
    free = available_memory()
    if free is not None and needed_bytes > free:
        raise ResourceError(
            where,
            found=f"{what} needs about {_gigabytes(needed_bytes)} GB of memory",
            expected=f"at most {_gigabytes(free)} GB, which are free here",
            advice="use a machine or container with more memory, or crop or resample the image",
        )


def available_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not tell."""
    candidates = [*_system(), *_control_groups(), *_own_limit()]
    return max(0, min(candidates)) if candidates else None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e8 else f"{count / 1e9:.3f}"


def _system() -> Iterator[int]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
            return
    with suppress(ValueError, OSError, AttributeError):  # no Linux
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups() -> Iterator[int]:
    """What is left of the memory of every control group above this process."""
    for folder, version in control_groups("memory"):
        limit_name, usage_name, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit = _number(folder / limit_name)
        if limit is None or limit >= _UNLIMITED:
            continue
        # The page cache counts as used, and is given up when memory is needed.
        given_up = next(
            (int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[:1] == [cache]), 0
        )
        yield limit - max(0, (_number(folder / usage_name) or 0) - given_up)


def control_groups(
    controller: str, root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")
) -> list[tuple[Path, int]]:
    """Folders of this process' control groups with a controller, innermost first, each with its version (1 or 2).

    Within a container the path that the kernel states often lies outside of what is mounted; its own group is then the
    root of the mount.
    """
    found: list[tuple[Path, int]] = []
    for line in _lines(own):
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        names = parts[1].split(",")
        if parts[0] == "0":
            mount, version = root if (root / "cgroup.controllers").exists() else root / "unified", 2
        elif controller in names:
            mount = next((m for m in (root / parts[1], root / controller) if m.is_dir()), root / controller)
            version = 1
        else:
            continue
        path = Path(parts[2].strip("/"))
        folders = [mount / p for p in (path, *path.parents)] if ".." not in path.parts else [mount]
        found += [(folder, version) for folder in dict.fromkeys(folders) if folder.is_dir()]
    return found


def _own_limit() -> Iterator[int]:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return
    with suppress(ValueError, IndexError, OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        yield soft - pages * resource.getpagesize()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """A number in a kernel file; None where there is no file, or no limit (`max`)."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
