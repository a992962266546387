"""Several runs, also at the same time, keep one `predictions.json`: results are merged into it under a lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from sctlab_model.predictions import PREDICTIONS_FILE, BundleUse, CaseResult, PredictionRecord, read_predictions

LOCK_FILE = ".predictions.lock"


def merge_predictions(
    folder: str | Path,
    cases: Mapping[str, CaseResult],
    bundles: Mapping[str, BundleUse] | None = None,
    *,
    remove: Collection[str] = (),
) -> PredictionRecord:
    """Add results to a folder's record, under a lock, so that processes that share the folder keep each other's part.

    A failed case does not take the place of an older result whose file is still there.

    Args:
        folder: The folder of predictions.
        cases: Case key to result.
        bundles: Bundle id to bundle.
        remove: Keys to take out.

    Returns:
        The record as it was written.

    Raises:
        InputError: The file is there and is no such record.
        ResourceError: The disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with record_lock(folder):
        record = read_predictions(folder) or PredictionRecord()
        kept = {
            key: result
            for key, result in cases.items()
            if result.state == "done" or not _is_done(record.cases.get(key), folder)
        }
        results = {key: r for key, r in {**record.cases, **kept}.items() if key not in remove}
        merged = PredictionRecord(bundles={**record.bundles, **(bundles or {})}, cases=dict(sorted(results.items())))
        merged.write(folder / PREDICTIONS_FILE)
    return merged


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's record for one process at a time.

    The lock is a hidden file beside the record that is removed on release; one that a killed process left is taken over.
    (The folder itself can't be locked: whoever writes a file into it holds a shared lock on it.) File systems without
    locks are used without one: there, don't let two processes write into one folder.
    """
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # its holder removed it between the two: again
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _is_done(result: CaseResult | None, folder: Path) -> bool:
    return result is not None and result.state == "done" and (folder / result.output).is_file()
