"""glibc's allocator kept from giving large blocks back to the system between layers of a network.

By default glibc maps every block above a threshold anew and returns it when it is freed. A network on a CPU allocates
hundreds of megabytes for every layer, so each of them is paid for in page faults: half of a run's time on large planes.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1
SWITCH = "SCTLAB_MALLOC"  # `system` leaves the allocator as it is


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, for the next layer; call it once, before large arrays are made.

    Does nothing where the C library isn't glibc (musl, macOS, Windows), where another allocator was preloaded, or where
    the environment says `SCTLAB_MALLOC=system`.

    Returns:
        Whether both settings were accepted.
    """
    if not sys.platform.startswith("linux") or os.environ.get(SWITCH) == "system" or os.environ.get("LD_PRELOAD"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version.restype = ctypes.c_char_p
        library.gnu_get_libc_version()
        mallopt = library.mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
