"""The judge's calibrated model: linear in its signals, its coefficients in a JSON file that says how it was made."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from sctlab.registration.records import Judgement, Verdict
from sctlab_model.errors import InputError
from sctlab_model.records import Record

SHIPPED = Path(__file__).with_name("calibration.json")
CLIP = 4.0  # standard deviations: a signal beyond what was calibrated on counts as the most extreme one there
LOGARITHMIC = " mm"  # signals of this ending are lengths: their logarithm counts
OFFSET_MM = 0.5  # of the error's logarithm
MOST_MM = 200.0


class Linear(BaseModel):
    """intercept + Σ weight · (signal − mean) / scale."""

    weights: dict[str, float]
    intercept: float


class Calibration(BaseModel):
    """The models for one set of silent witnesses.

    Args:
        mean, scale: Of every signal in the calibration cohorts.
        sound: Standardised mean of every signal in sound registrations: what a signal counts as that there isn't. An image that
            can't tell something is no evidence against a registration.
        gross: Log odds that the images aren't aligned at all.
        local: Log odds of an error worth a look, somewhere.
        error: Logarithm of the mean error in mm plus 0.5.
        gross_threshold, local_threshold: Probabilities from which the verdict is `failed` and `doubtful`.
        spread: Predicted logarithms, rising, and how much is missed there on average; linear between them.
        missed: 5th and 95th percentile of what was missed, as multiples of the spread (normalised conformal prediction).
    """

    mean: dict[str, float]
    scale: dict[str, float]
    sound: dict[str, float]
    gross: Linear
    local: Linear
    error: Linear
    gross_threshold: float
    local_threshold: float
    spread: list[tuple[float, float]]
    missed: tuple[float, float]

    def interval(self, log_error: float) -> tuple[float, float]:
        """Ends of the 90 % interval around a predicted logarithm."""
        at, size = np.array(self.spread).T
        spread = float(np.interp(log_error, at, size))
        return log_error + self.missed[0] * spread, log_error + self.missed[1] * spread

    def local_probability(self, signals: dict[str, float]) -> float:
        """That an error worth a look is somewhere, 0 to 1."""
        return _sigmoid(_value(self.local, self.sound | self.standard(signals)))

    def standard(self, signals: dict[str, float]) -> dict[str, float]:
        """Signals in standard deviations; without those that are missing."""
        return {
            name: float(np.clip((transformed(name, signals[name]) - self.mean[name]) / self.scale[name], -CLIP, CLIP))
            for name in self.mean
            if name in signals and math.isfinite(signals[name])
        }


class JudgeModel(Record):
    """Calibrations by the witnesses that stay silent, joined by `+`."""

    current_version: ClassVar[int] = 3

    command: str = Field(default="", description="What made this file.")
    cases: int = 0
    registrations: int = 0
    calibrations: dict[str, Calibration]

    @classmethod
    def shipped(cls) -> JudgeModel:
        """The model that belongs to this release."""
        return _shipped(cls)

    def sets(self) -> list[tuple[str, ...]]:
        """The sets of silent witnesses that there is a calibration for."""
        return [tuple(name for name in key.split("+") if name) for key in self.calibrations]

    def judge(self, signals: dict[str, float], silent: frozenset[str] = frozenset()) -> Judgement:
        """The verdict of the signals alone.

        Args:
            signals: See `signals.Evidence`; those of silent witnesses are ignored.
            silent: Names of witnesses. Where there is no calibration for exactly these, that of the fewest more is taken.

        Raises:
            InputError: There is none.
        """
        possible = sorted((s for s in map(frozenset, self.sets()) if s >= silent), key=len)
        if not possible:
            raise InputError(
                "judge", found=f"no calibration without {', '.join(sorted(silent))}", expected="one in its file"
            )
        silent = possible[0]
        calibration = self.calibrations["+".join(sorted(silent))]
        standard = calibration.standard(signals)
        known = calibration.sound | standard
        gross, local = _sigmoid(_value(calibration.gross, known)), calibration.local_probability(signals)
        log_error = _value(calibration.error, known)
        low, high = calibration.interval(log_error)
        verdict, reasons = Verdict.TRUSTED, []
        if gross >= calibration.gross_threshold:
            verdict, reasons = Verdict.FAILED, _reasons(calibration.gross, standard, signals)
        elif local >= calibration.local_threshold:
            verdict, reasons = Verdict.DOUBTFUL, _reasons(calibration.local, standard, signals)
        return Judgement(
            verdict=verdict,
            reasons=reasons,
            error_mm=_length(log_error),
            interval_mm=(_length(low), _length(high)),
            failure_probability=round(gross, 4),
            signals={name: round(value, 4) for name, value in signals.items()},
            left_out=sorted(silent),
        )


@lru_cache
def _shipped(cls: type[JudgeModel]) -> JudgeModel:
    return cls.read(SHIPPED)


def transformed(name: str, value: float) -> float:
    """A signal as the model takes it: lengths by their logarithm."""
    return math.log(max(value, 0.0) + OFFSET_MM) if name.endswith(LOGARITHMIC) else value


def _value(model: Linear, standard: dict[str, float]) -> float:
    return model.intercept + sum(weight * standard[name] for name, weight in model.weights.items())


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-min(50.0, max(-50.0, x))))


def _length(log_error: float) -> float:
    return round(min(MOST_MM, max(0.0, math.exp(min(log_error, 10.0)) - OFFSET_MM)), 2)


_PHRASES = {
    "shift": "the solution shifted by 20 mm agrees {:.0%} as well by {}",
    "worst shift": "one shift of 20 mm agrees {:.0%} as well by {}",
    "turn": "the solution turned by 10° agrees {:.0%} as well by {}",
    "mirror": "the mirrored image agrees {:.0%} as well by {}",
    "blunt shift": "shifted by 20 mm it loses too little for this image ({:.2f}; 0: sharp, 1: no optimum; {})",
    "blunt turn": "turned by 10° it loses too little for this image ({:.2f}; 0: sharp, 1: no optimum; {})",
    "blunt mirror": "mirrored it agrees too well for this image ({:.2f}; 0: sharp, above 1: better; {})",
    "lost": "{:.0%} of the possible agreement by {} is missing",
}


def _reasons(model: Linear, standard: dict[str, float], signals: dict[str, float], count: int = 3) -> list[str]:
    """The signals that speak most against the solution, in words."""
    pull = sorted(((model.weights[n] * v, n) for n, v in standard.items() if n in model.weights), reverse=True)
    reasons = []
    for weight, name in pull[:count]:
        if weight <= 0:
            break
        witness, _, what = name.partition(" ")
        if what in _PHRASES:
            reasons.append(_PHRASES[what].format(signals[name], witness))
        elif name == "body gap mm":
            reasons.append(f"the bodies' surfaces lie {signals[name]:.0f} mm apart on average")
        elif name == "place gain":
            reasons.append(f"one place fits better elsewhere, by {signals[name]:.1f} deviations of the agreement")
        elif name == "refit place mm":
            reasons.append(f"registered once more by the judge, one place moves on by {signals[name]:.0f} mm")
        elif name in ("place mm", "elsewhere mean mm", "elsewhere p95 mm"):
            which = {"place": "in one place", "elsewhere mean": "on average"}.get(name.removesuffix(" mm"), "in places")
            reasons.append(f"the images fit better {signals[name]:.0f} mm away, {which}")
        else:
            reasons.append(f"{name} {signals[name]:.2f}")
    return reasons or ["several signals together"]
