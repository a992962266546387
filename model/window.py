"""A rectangle of a plane: where the body is, and what has to be computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Window:
    """Rows `top` to `bottom` and columns `left` to `right` of a plane [Y, X], ends excluded, in voxels."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Window:
        """All of a plane; of more axes the last two count."""
        return cls(0, shape[-2], 0, shape[-1])

    @classmethod
    def around(cls, mask: np.ndarray) -> Window:
        """The smallest one that holds every set voxel of a mask [Y, X], of which there is at least one.

        Example:
            >>> Window.around(np.array([[0, 0, 0], [0, 1, 1]]))
            Window(top=1, bottom=2, left=1, right=3)
        """
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        return cls(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)

    @classmethod
    def over(cls, windows: Sequence[Window]) -> Window:
        """The smallest one that holds all of several, of which there is at least one."""
        return cls(
            min(w.top for w in windows),
            max(w.bottom for w in windows),
            min(w.left for w in windows),
            max(w.right for w in windows),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def part(self) -> Any:
        """An index: `array[window.part]` is the rectangle of the last two axes."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, limit: Window, multiple: int = 1) -> Window:
        """With a margin on every side and outwards to multiples, but not beyond `limit`, which starts at 0.

        Example:
            >>> Window(5, 9, 40, 60).grown(2, Window(0, 64, 0, 64), 4)
            Window(top=0, bottom=12, left=36, right=64)
        """
        return Window(
            max(limit.top, (self.top - margin) // multiple * multiple),
            min(limit.bottom, -(-(self.bottom + margin) // multiple) * multiple),
            max(limit.left, (self.left - margin) // multiple * multiple),
            min(limit.right, -(-(self.right + margin) // multiple) * multiple),
        )

    def lengthened(self, multiple: int, limit: Window) -> Window:
        """Rows and columns up to a multiple, from multiples of its half on, so that windows that differ by little have one
        shape; not beyond `limit`, which starts at 0 and whose sides are multiples of that half.

        Example:
            >>> Window(5, 26, 40, 62).lengthened(16, Window(0, 64, 0, 64))
            Window(top=0, bottom=32, left=32, right=64)
        """
        rows = _lengthened(self.top, self.bottom, limit.bottom, multiple)
        return Window(*rows, *_lengthened(self.left, self.right, limit.right, multiple))

    def halved(self) -> Window:
        """On a grid of half the resolution; all four numbers are even."""
        return Window(self.top // 2, self.bottom // 2, self.left // 2, self.right // 2)

    def moved(self, rows: int, columns: int) -> Window:
        """Shifted down and to the right."""
        return Window(self.top + rows, self.bottom + rows, self.left + columns, self.right + columns)

    def within(self, other: Window) -> Window:
        """In the coordinates of a window around it."""
        return self.moved(-other.top, -other.left)

    def overlap(self, other: Window) -> Window | None:
        """What both have in common; None where that is nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Window(top, bottom, left, right) if top < bottom and left < right else None


def _lengthened(first: int, end: int, limit: int, multiple: int) -> tuple[int, int]:
    begin = first // (multiple // 2) * (multiple // 2)
    length = min(-(-(end - begin) // multiple) * multiple, limit)
    begin = min(begin, limit - length)
    return begin, begin + length
