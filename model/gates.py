"""The output gate: what a synthetic CT must look like before it gets its final name. The table is in docs/gates.md.

Nothing here knows the truth. The gate catches results that no patient has: a network that overflowed, an input in other
units, noise, another body part. Absolute limits hold for every bundle; a bundle that carries statistics of its own
validation is held to those as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from sctlab_model.cases import Region

GAS_BELOW_HU = -300.0
SOFT_TISSUE_HU = (-200.0, 200.0)
PEAK_SEARCH_HU = (-250.0, 250.0)
FAT_HU = (-150.0, -40.0)
BONE_ABOVE_HU = 250.0
CONSTANT_HU = 1.0  # a body whose values deviate less than this shows nothing
MINIMUM_VOXELS = 2000  # of body: shares of fewer voxels say nothing
MINIMUM_CASES = 3  # of validation: the range of fewer says nothing

# (warn, refuse) beyond these shares of the body, %, whatever the bundle. Masks are often drawn with a margin of air.
SOFT_TISSUE_AT_LEAST = (25.0, 10.0)
GAS_AT_MOST = {"AB": (40.0, 70.0), "HN": (45.0, 75.0), "TH": (75.0, 90.0)}
BONE_AT_MOST = (40.0, 60.0)
SATURATED_AT_MOST = (2.0, 10.0)
FAT_AT_LEAST = 0.5
BONE_AT_LEAST = 0.3  # public abdominal CTs have 2.2 to 3.3, heads more
LUNG_AT_LEAST = 2.0
PEAK_WITHIN_HU = (-130.0, 110.0)

# Beyond the range of validation by `margin` (the larger of this and half the range): a warning; by three: refused.
MARGINS = {
    "gas_share": 5.0,
    "soft_tissue_share": 10.0,
    "soft_tissue_peak_hu": 30.0,
    "fat_share": 10.0,
    "bone_share": 5.0,
    "spread_hu": 10.0,
}
NAMES = {
    "gas_share": "gas in {:.1f} % of the body",
    "soft_tissue_share": "soft tissue in {:.1f} % of the body",
    "soft_tissue_peak_hu": "the commonest soft-tissue value is {:.0f} HU",
    "fat_share": "fat in {:.1f} % of the body",
    "bone_share": "bone in {:.1f} % of the body",
    "spread_hu": "the folds differ by {:.0f} HU on average (standard deviation)",
}
NEVER_REFUSED = ("spread_hu", "fat_share")  # doubts, not proof


class ResultStatistics(BaseModel):
    """What the gate measures inside the body mask, on the network's canvas. Shares are in % of the body's voxels."""

    model_config = ConfigDict(extra="ignore")

    voxels: int
    non_finite: int = 0
    deviation_hu: float = Field(default=0.0, description="Standard deviation of the values.")
    constant_slices: int = Field(default=0, description="Slices with body whose values are all the same.")
    slices: int = 0
    soft_tissue_share: float = 0.0
    soft_tissue_peak_hu: float = Field(default=0.0, description="Commonest value between -250 and 250 HU.")
    fat_share: float = 0.0
    gas_share: float = 0.0
    bone_share: float = 0.0
    saturated_share: float = Field(default=0.0, description="At the upper end of the network's range.")
    spread_hu: float | None = Field(default=None, description="Mean standard deviation over folds and views.")


class ValueRange(BaseModel):
    """Smallest and largest value over the validation cases."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> ValueRange:
        if self.low > self.high:  # everything would be refused
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class ValidationStatistics(BaseModel):
    """What a bundle's own validation saw, kept in its manifest: ranges of `ResultStatistics` over the cases.

    Args:
        cases: How many validation cases there were.
        ranges: Statistic to range, over all regions.
        by_region: The same per region, where at least three cases had it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cases: int
    ranges: dict[str, ValueRange] = {}
    by_region: dict[str, dict[str, ValueRange]] = {}

    @classmethod
    def of(cls, results: Sequence[tuple[Region | None, ResultStatistics]]) -> ValidationStatistics:
        """Ranges over the results of the validation cases, each predicted by a fold that did not see it."""
        regions = {region for region, _ in results if region is not None}
        by_region = {
            str(region): _ranges([s for r, s in results if r == region])
            for region in sorted(regions)
            if sum(r == region for r, _ in results) >= MINIMUM_CASES
        }
        return cls(cases=len(results), ranges=_ranges([s for _, s in results]), by_region=by_region)

    def ranges_for(self, region: Region | None) -> dict[str, ValueRange]:
        """The region's own ranges, else those over all; empty where too few cases were seen."""
        if self.cases < MINIMUM_CASES:
            return {}
        return self.by_region.get(str(region), self.ranges) if region is not None else self.ranges


Level = Literal["warn", "refuse", "worthless", "impossible"]


@dataclass(frozen=True)
class Finding:
    """Something that the gate, or a check of the input, found.

    Args:
        text: One line.
        level: What follows from it; see `Policy`.
    """

    text: str
    level: Level = "warn"


@dataclass(frozen=True)
class Policy:
    """What becomes of findings.

    | level | by default | in a challenge (`lenient`) | with `accept` |
    |---|---|---|---|
    | `warn` | warning | warning | warning |
    | `refuse` | refused | warning | warning, and in the record |
    | `worthless` | refused | refused | warning, and in the record |
    | `impossible` | refused | refused | refused: there is no value to write |

    Args:
        lenient: A refused case scores worst in a challenge, so that a doubtful result is better than none.
        accept: The user wants to see it (`--accept-implausible`).
        correct_offset: Subtract this from a CBCT; `auto`: the offset that is recognised; None: nothing is changed.
    """

    lenient: bool = False
    accept: bool = False
    correct_offset: float | Literal["auto"] | None = None

    def refuses(self, finding: Finding) -> bool:
        """Whether a finding ends the case."""
        if finding.level in ("warn", "impossible"):
            return finding.level == "impossible"
        return not self.accept and not (finding.level == "refuse" and self.lenient)


def measure_result(
    hu: np.ndarray, mask: np.ndarray, spread: np.ndarray | None = None, *, upper_hu: float = 3071.0
) -> ResultStatistics:
    """Measure a predicted volume.

    Args:
        hu: Prediction before it is rounded, float, axes z, y, x.
        mask: Body, bool, same shape.
        spread: Ensemble spread in HU, same shape.
        upper_hu: Upper end of the network's range.
    """
    body = hu[mask]
    finite = np.isfinite(body)
    non_finite = int(body.size - np.count_nonzero(finite))
    if spread is not None:
        non_finite += int(np.count_nonzero(~np.isfinite(spread[mask])))
    if non_finite or not body.size:
        return ResultStatistics(voxels=body.size, non_finite=non_finite)
    constant, slices = _constant_slices(hu, mask)
    counts, edges = np.histogram(body, bins=np.arange(PEAK_SEARCH_HU[0], PEAK_SEARCH_HU[1] + 1, 10.0))
    smooth = np.convolve(counts, np.ones(3), mode="same")
    peak = float(edges[int(np.argmax(smooth))] + 5.0)

    def share(chosen: np.ndarray) -> float:
        return round(100.0 * np.count_nonzero(chosen) / body.size, 3)

    return ResultStatistics(
        voxels=body.size,
        deviation_hu=round(float(body.std(dtype=np.float64)), 3),
        constant_slices=constant,
        slices=slices,
        soft_tissue_share=share((body >= SOFT_TISSUE_HU[0]) & (body <= SOFT_TISSUE_HU[1])),
        soft_tissue_peak_hu=peak,
        fat_share=share((body >= FAT_HU[0]) & (body <= FAT_HU[1])),
        gas_share=share(body < GAS_BELOW_HU),
        bone_share=share(body > BONE_ABOVE_HU),
        saturated_share=share(body >= upper_hu - 1),
        spread_hu=None if spread is None else round(float(spread[mask].mean(dtype=np.float64)), 3),
    )


def check_result(
    measured: ResultStatistics, region: Region | None, validation: ValidationStatistics | None = None
) -> list[Finding]:
    """What is wrong, or strange, about a result. See docs/gates.md for the table.

    Args:
        measured: From `measure_result`.
        region: Of the case; unknown regions get the thorax's limits, the widest.
        validation: From the bundle's manifest; without it only absolute limits hold.
    """
    if measured.non_finite:
        return [
            Finding(
                f"{measured.non_finite} of {measured.voxels} values in the body are not finite numbers: the network "
                "overflowed, or its weights are damaged",
                "impossible",
            )
        ]
    if measured.voxels > 1 and measured.deviation_hu < CONSTANT_HU:
        return [Finding(f"the whole body has one value (deviation {measured.deviation_hu:.2f} HU)", "worthless")]
    findings = []
    if measured.constant_slices:
        level: Level = "refuse" if 2 * measured.constant_slices > measured.slices else "warn"
        findings.append(
            Finding(f"{measured.constant_slices} of {measured.slices} slices with body have one value", level)
        )
    if measured.voxels < MINIMUM_VOXELS:
        return findings
    findings += _absolute(measured, region)
    ranges = validation.ranges_for(region) if validation is not None else {}
    return findings + [f for name, seen in ranges.items() if (f := _against(name, seen, measured)) is not None]


def _absolute(measured: ResultStatistics, region: Region | None) -> list[Finding]:
    """Limits that hold whatever the bundle has seen."""
    findings = []

    def limit(value: float, limits: tuple[float, float], text: str, *, above: bool) -> None:
        warn, refuse = (value > x if above else value < x for x in limits)
        if warn or refuse:
            findings.append(Finding(text, "refuse" if refuse else "warn"))

    soft = measured.soft_tissue_share
    limit(
        soft,
        SOFT_TISSUE_AT_LEAST,
        f"only {soft:.1f} % of the body is soft tissue ({SOFT_TISSUE_HU[0]:.0f} to {SOFT_TISSUE_HU[1]:.0f} HU)",
        above=False,
    )
    gas = measured.gas_share
    limit(
        gas,
        GAS_AT_MOST[str(region or "TH")],
        f"{gas:.1f} % of the body is gas (below {GAS_BELOW_HU:.0f} HU)",
        above=True,
    )
    bone = measured.bone_share
    limit(bone, BONE_AT_MOST, f"{bone:.1f} % of the body is bone (above {BONE_ABOVE_HU:.0f} HU)", above=True)
    if bone < BONE_AT_LEAST:
        findings.append(
            Finding(
                f"only {bone:.2f} % of the body has the values of bone (above {BONE_ABOVE_HU:.0f} HU), where CTs have 2 % "
                "or more: bone is missing"
            )
        )
    full = measured.saturated_share
    limit(full, SATURATED_AT_MOST, f"{full:.1f} % of the body is at the upper end of the network's range", above=True)
    if not PEAK_WITHIN_HU[0] <= measured.soft_tissue_peak_hu <= PEAK_WITHIN_HU[1]:
        findings.append(
            Finding(
                f"the commonest soft-tissue value is {measured.soft_tissue_peak_hu:.0f} HU, where a CT has fat (about "
                "-100) or muscle (about 50)"
            )
        )
    if measured.fat_share < FAT_AT_LEAST:
        findings.append(Finding(f"only {measured.fat_share:.2f} % of the body has the values of fat"))
    if region is not None and str(region) == "TH" and measured.gas_share < LUNG_AT_LEAST:
        findings.append(Finding(f"a thorax with {measured.gas_share:.1f} % of gas: no lungs?"))
    return findings


def _against(name: str, seen: ValueRange, measured: ResultStatistics) -> Finding | None:
    """A statistic against what validation saw."""
    value = getattr(measured, name, None)
    if value is None or name not in MARGINS:
        return None
    margin = max(MARGINS[name], (seen.high - seen.low) / 2)
    excess = max(seen.low - value, value - seen.high)
    if excess <= margin:
        return None
    level: Level = "refuse" if excess > 3 * margin and name not in NEVER_REFUSED else "warn"
    return Finding(
        f"{NAMES[name].format(value)}; in the validation of these weights it was {seen.low:.1f} to {seen.high:.1f}",
        level,
    )


def _ranges(results: Sequence[ResultStatistics]) -> dict[str, ValueRange]:
    ranges = {}
    for name in MARGINS:
        values = [v for s in results if (v := getattr(s, name)) is not None and math.isfinite(v)]
        if len(values) >= MINIMUM_CASES:
            ranges[name] = ValueRange(low=min(values), high=max(values))
    return ranges


def _constant_slices(hu: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Slices with (at least 100 voxels of) body whose values are all the same, and slices with body."""
    constant = slices = 0
    for values, body in zip(hu, mask, strict=True):
        inside = values[body]
        if inside.size >= 100:
            slices += 1
            constant += bool(np.ptp(inside) < CONSTANT_HU)
    return constant, slices
