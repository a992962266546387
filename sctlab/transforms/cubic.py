"""The four weights of a uniform cubic B-spline, for arrays of NumPy and tensors of PyTorch alike."""

from __future__ import annotations

from typing import Any, TypeVar

Values = TypeVar("Values", bound=Any)  # numpy.ndarray, torch.Tensor or float: only arithmetic is used


def cubic_weights(fraction: Values) -> tuple[Values, Values, Values, Values]:
    """Weights of the control points −1, 0, 1 and 2 at a fraction (0 to 1) of the knot interval behind knot 0.

    Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing Magazine 16(6), 1999.

    Example:
        >>> [round(w, 4) for w in cubic_weights(0.0)]
        [0.1667, 0.6667, 0.0, 0.0]
    """
    f: Any = fraction
    return (1 - f) ** 3 / 6, (3 * f**3 - 6 * f**2 + 4) / 6, (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6, f**3 / 6


def cubic_slopes(fraction: Values) -> tuple[Values, Values, Values, Values]:
    """First derivatives of `cubic_weights`, per knot interval."""
    f: Any = fraction
    return -((1 - f) ** 2) / 2, (3 * f**2 - 4 * f) / 2, (-3 * f**2 + 2 * f + 1) / 2, f**2 / 2
