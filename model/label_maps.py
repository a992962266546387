"""Is this a label map or mask rather than an image? Whole numbers in areas of one value; and what such files are called."""

from __future__ import annotations

import re

import numpy as np

MOST_LABELS = 256
EQUAL_AT_LEAST = 0.6  # of neighbours in the foreground: label maps have 0.7 and more, 8-bit images of patients 0.2
EQUAL_ALONG_ANY_AXIS = 0.5  # an image enlarged by repeating voxels is even along two axes at most
SAMPLES = 2_000_000
NAMES = re.compile(
    r"annotations?|aseg|body|contours?|[cgp]tv|dseg|gt|labels?|labelmap|lesions?|masks?|organs?|rois?|seg[sm]?|"
    r"segmentations?|structures?|tumou?rs?"
)


def named_like_labels(stem: str) -> bool:
    """Whether a file's name says that it holds labels or a mask.

    Example:
        >>> [named_like_labels(name) for name in ("mr_seg", "GTV-1", "labels", "mask2", "segovia", "mr")]
        [True, True, True, True, False, False]
    """
    return any(NAMES.fullmatch(word) for word in re.findall(r"[a-z]+", stem.lower()))


def count_labels(array: np.ndarray) -> int | None:
    """How many labels a label map has, background included; None for an image.

    Labels are whole numbers from 0 on, at most 256 different ones, and most voxels have a neighbour's value.
    An 8-bit image has as few values, and neighbours that differ.

    Args:
        array: Voxels, axes z, y, x.
    """
    sample = array.ravel()[:: max(1, array.size // SAMPLES)]
    values, counts = np.unique(sample, return_counts=True)
    if not 2 <= values.size <= MOST_LABELS or values[0] != 0 or (values != np.rint(values)).any():
        return None
    background = values[counts.argmax()]
    equal = []
    for axis, size in enumerate(array.shape):
        if size > 1:
            first, second = (np.take(array, range(k, size - 1 + k), axis) for k in (0, 1))
            inside = first != background
            equal.append(float((first == second)[inside].mean()) if inside.any() else 0.0)
    even = bool(equal) and min(equal) >= EQUAL_ALONG_ANY_AXIS and float(np.mean(equal)) >= EQUAL_AT_LEAST
    return int(values.size) if even else None
