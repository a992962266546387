"""The metrics by name: title, unit, which way is better, how many digits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """How to read a number.

    Args:
        key: Name in `metrics.csv` and `details.json`; Grand Challenge's own spelling for its five.
        title: For people.
        unit: Empty for numbers without one.
        better: `higher`, `lower`, or `zero` for signed differences. Ranking scripts have taken Dice for lower-is-better:
            nothing here guesses the direction from a name.
        digits: Decimals shown.
        group: Heading in the report.
    """

    key: str
    title: str
    unit: str = ""
    better: str = "lower"
    digits: int = 2
    group: str = "Beyond the leaderboard"

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


CHALLENGE_IMAGE = ("mae", "psnr", "ms_ssim")
CHALLENGE_ORGANS = ("DICE", "HD95")
CHALLENGE = CHALLENGE_IMAGE + CHALLENGE_ORGANS

LPIPS = "lpips_equal"
CHALLENGE_DOSE = ("dose_mae_photon", "dvh_photon", "gamma_photon", "dose_mae_proton", "dvh_proton", "gamma_proton")

_LEADERBOARD, _REFERENCE_FREE, _BIAS = "The challenge's metrics", "Without a registered reference", "Registration bias"
_ALL = (
    Metric("mae", "MAE", "HU", "lower", 2, _LEADERBOARD),
    Metric("psnr", "PSNR", "dB", "higher", 2, _LEADERBOARD),
    Metric("ms_ssim", "MS-SSIM", "", "higher", 4, _LEADERBOARD),
    Metric("DICE", "Dice", "", "higher", 4, _LEADERBOARD),
    Metric("HD95", "HD95", "mm", "lower", 2, _LEADERBOARD),
    Metric("dose_mae_photon", "Dose MAE, photons", "of prescription", "lower", 4, _LEADERBOARD),
    Metric("dvh_photon", "DVH, photons", "", "lower", 4, _LEADERBOARD),
    Metric("gamma_photon", "Gamma 2 %/2 mm, photons", "%", "higher", 2, _LEADERBOARD),
    Metric("dose_mae_proton", "Dose MAE, protons", "of prescription", "lower", 4, _LEADERBOARD),
    Metric("dvh_proton", "DVH, protons", "", "lower", 4, _LEADERBOARD),
    Metric("gamma_proton", "Gamma 2 %/2 mm, protons", "%", "higher", 2, _LEADERBOARD),
    Metric("coverage_photon", "V95 of the target, photons, sCT − CT", "%", "zero", 2),
    Metric("coverage_proton", "V95 of the target, protons, sCT − CT", "%", "zero", 2),
    Metric("dice_shared", "Dice over labels that both have", "", "higher", 4),
    Metric("ssim", "SSIM, as published", "", "higher", 4),
    Metric(LPIPS, "LPIPS with equal weights (VGG16)", "", "lower", 4),
    Metric("ms_ssim_textbook", "MS-SSIM, textbook", "", "higher", 4),
    Metric("mean_error", "Mean error", "HU", "zero", 2),
    Metric("rmse", "RMSE", "HU", "lower", 2),
    Metric("red_mae", "Electron density error", "% of water", "lower", 2),
    Metric("wepl_mean", "Path length difference, mean", "mm water", "lower", 2),
    Metric("wepl_p95", "Path length difference, 95th percentile", "mm water", "lower", 2),
    Metric("banding", "Offset between slices along z", "HU", "lower", 2),
    Metric("nmi_input", "NMI with the input", "", "higher", 4, _REFERENCE_FREE),
    Metric("edge_agreement_input", "Edge agreement with the input", "", "higher", 4, _REFERENCE_FREE),
    Metric("dice_input", "Dice against labels on the input", "", "higher", 4, _REFERENCE_FREE),
    Metric("mae_truth", "MAE against the aligned truth", "HU", "lower", 2, _BIAS),
    Metric("psnr_truth", "PSNR against the aligned truth", "dB", "higher", 2, _BIAS),
    Metric("ms_ssim_truth", "MS-SSIM against the aligned truth", "", "higher", 4, _BIAS),
    Metric("bias", "Bias: MAE registered minus MAE aligned", "HU", "zero", 2, _BIAS),
    Metric("reference_error", "Error of the registered reference itself", "HU", "lower", 2, _BIAS),
    Metric("round_trip", "Round trip of one registration", "HU", "lower", 2, _BIAS),
    Metric("control", "Control of two registrations", "HU", "lower", 2, _BIAS),
    Metric("spread_calibration", "Calibration error of the spread", "", "lower", 3),
    Metric("spread_rank", "Rank correlation of spread and error", "", "higher", 3),
)
FEATURE_PREFIX = "d_"  # distances in the features of an extractor: `d_` and its name


class _Metrics(dict[str, Metric]):
    """The metrics by key. Distances in features (`d_<extractor>`) are as many as there are extractors."""

    def __missing__(self, key: str) -> Metric:
        if not key.startswith(FEATURE_PREFIX):
            raise KeyError(key)
        return Metric(key, f"Distance in features of {key.removeprefix(FEATURE_PREFIX)}", "", "lower", 4)


METRICS: dict[str, Metric] = _Metrics({m.key: m for m in _ALL})


def feature_key(extractor: str) -> str:
    """Key of the distance in an extractor's features, by its name or its file; `lpips` has one of its own."""
    name = Path(extractor).stem if extractor.endswith((".pt", ".safetensors")) else extractor
    return LPIPS if name == "lpips" else FEATURE_PREFIX + name


def used_metrics(keys: Iterable[str]) -> list[str]:
    """The metrics among some keys, in the order of `METRICS`, distances in features last."""
    found = dict.fromkeys(keys)
    return [k for k in METRICS if k in found] + [k for k in found if k.startswith(FEATURE_PREFIX)]


# what a terminal shows
SUMMARY = (*CHALLENGE, *CHALLENGE_DOSE, "mean_error", "mae_truth", "bias", "round_trip", "control")
