"""Tissues in one table: Hounsfield units for CT; proton density, T1, T2, fat, magnetisation transfer and uptake of a
contrast agent for MR. Every number's source is given by a letter in the table's `sources` and spelt out in `SOURCES`.

Relaxation times are those of the *water* of a tissue: its fat is a compartment of its own (row FAT), so marrow, which is
both, has the relaxation of haematopoietic marrow's water and a fat fraction by bone, age and patient (`marrow.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """What a voxel is mostly made of. The codes are internal: files hold TotalSegmentator ids."""

    AIR = 0
    GAS = 1
    LUNG = 2
    FAT = 3
    SKIN = 4
    MUSCLE = 5
    LIVER = 6
    SPLEEN = 7
    KIDNEY = 8
    MEDULLA = 9
    PANCREAS = 10
    BLOOD = 11
    HEART = 12
    GREY_MATTER = 13
    WHITE_MATTER = 14
    CSF = 15
    CORD = 16
    CORTICAL_BONE = 17
    RED_MARROW = 18
    YELLOW_MARROW = 19
    CARTILAGE = 20
    DISC = 21
    BOWEL_WALL = 22
    STOOL = 23
    FLUID = 24
    GLAND = 25
    THYROID = 26
    PROSTATE = 27
    TOOTH = 28
    METAL = 29
    VITREOUS = 30
    URINE = 31
    MUCOSA = 32
    COUCH_SHELL = 33
    COUCH_FOAM = 34
    BILE = 35


SOURCES = {
    "S": "ICRU 44 compositions as measured in Schneider, Bortfeld, Schlegel, Phys Med Biol 45 (2000) 459 (HU)",
    "C": "organ values of clinical CT at 120 kV, partly with venous contrast (HU)",
    "Z": "Stanisz et al., Magn Reson Med 54 (2005) 507 (T1, T2 and magnetisation transfer at 1.5 and 3 T)",
    "B": "de Bazelaire et al., Radiology 230 (2004) 652 (T1, T2 of abdominal organs, marrow and fat at 1.5 and 3 T)",
    "G": "Gold et al., AJR 183 (2004) 343 (T1, T2 of muscle and fat at 1.5 and 3 T)",
    "R": "Rooney et al., Magn Reson Med 57 (2007) 308 (T1 of white and grey matter)",
    "L": "Bottomley et al., Med Phys 11 (1984) 425: T1 = A ν^B, here for 0.35 T; T2 hardly depends on the field",
    "M": "water of marrow: Le Ster et al., J Magn Reson Imaging 44 (2016) 549; Schick et al., MRM 26 (1992) 207",
    "F": "fat fractions by chemical-shift MR: Hu et al., MRM 66 (2011) 1556 (liver, pancreas, muscle); 1 to 2 % in spleen, kidney",
    "A": "uptake: tissue to blood ratio of gadolinium's extracellular distribution, 1 to 5 minutes after injection",
}


@dataclass(frozen=True)
class Properties:
    """One tissue's numbers.

    Args:
        hu: Mean HU at 120 kV.
        hu_spread: Standard deviation of that mean between patients, HU.
        texture: Standard deviation of the texture inside the tissue, HU.
        pd: Proton density of its water relative to pure water.
        t1_ms: T1 of its water at 0.35, 1.5 and 3 T.
        t2_ms: T2 of its water at 1.5 T.
        t2_prime_ms: Static dephasing at 1.5 T (1/T2* = 1/T2 + 1/T2').
        fat: Share of fat inside the tissue (mean, standard deviation between patients).
        transfer: Share of the signal that magnetisation transfer takes in a multi-slice turbo spin echo.
        uptake: Concentration of a contrast agent relative to blood.
        sources: Letters of `SOURCES`.
    """

    hu: float
    hu_spread: float
    texture: float
    pd: float
    t1_ms: tuple[float, float, float]
    t2_ms: float
    t2_prime_ms: float = 60.0
    fat: tuple[float, float] = (0.0, 0.0)
    transfer: float = 0.0
    uptake: float = 0.0
    sources: str = "SC"


_P, _T = Properties, Tissue
PROPERTIES: dict[Tissue, Properties] = {
    _T.AIR: _P(-1000, 0, 0, 0.0, (1, 1, 1), 1),
    _T.GAS: _P(-985, 5, 4, 0.0, (1, 1, 1), 1),
    _T.LUNG: _P(-815, 35, 18, 0.22, (900, 1200, 1350), 40, 1.6, (0, 0), 0.1, 0.5, "SZLA"),
    # fat: mean of B (343, 382) and G (288, 371); muscle: mean of Z (1008, 1412), B (856, 898) and G (1130, 1420)
    _T.FAT: _P(-104, 6, 11, 0.90, (240, 316, 377), 75, 50, (0.0, 0.0), 0, 0.02, "SBGL"),
    _T.SKIN: _P(20, 12, 12, 0.60, (480, 750, 950), 30, 30, (0.05, 0.03), 0.2, 0.3, "SZLA"),
    _T.MUSCLE: _P(50, 8, 10, 0.79, (510, 998, 1243), 47, 50, (0.015, 0.01), 0.3, 0.15, "SZBGLFA"),
    _T.LIVER: _P(62, 18, 6, 0.75, (340, 586, 809), 46, 28, (0.05, 0.05), 0.25, 0.45, "CBLFA"),
    _T.SPLEEN: _P(62, 18, 5, 0.80, (680, 1057, 1328), 79, 60, (0.012, 0.006), 0.18, 0.7, "CBLFA"),
    _T.KIDNEY: _P(70, 35, 7, 0.82, (600, 966, 1142), 87, 60, (0.015, 0.01), 0.15, 1.0, "CBLFA"),
    _T.MEDULLA: _P(52, 22, 6, 0.85, (880, 1412, 1545), 85, 60, (0, 0), 0.1, 1.1, "CBLA"),
    _T.PANCREAS: _P(48, 15, 11, 0.80, (390, 584, 725), 46, 50, (0.12, 0.08), 0.2, 0.6, "CBLFA"),
    _T.BLOOD: _P(65, 38, 3, 0.90, (950, 1441, 1932), 230, 60, (0, 0), 0.05, 1.0, "CZLA"),
    _T.HEART: _P(62, 18, 6, 0.80, (640, 1030, 1471), 42, 35, (0.02, 0.01), 0.25, 0.6, "CZLA"),
    _T.GREY_MATTER: _P(38, 2, 3, 0.82, (740, 1188, 1450), 95, 70, (0, 0), 0.15, 0.02, "SRLA"),
    _T.WHITE_MATTER: _P(29, 2, 2, 0.70, (420, 656, 850), 72, 65, (0, 0), 0.25, 0.01, "SRLA"),
    _T.CSF: _P(8, 3, 2, 1.00, (3600, 4000, 4300), 1600, 200, (0, 0), 0, 0, "SZ"),
    _T.CORD: _P(38, 4, 3, 0.75, (450, 745, 993), 74, 60, (0, 0), 0.22, 0.02, "SZLA"),
    _T.CORTICAL_BONE: _P(1060, 120, 60, 0.08, (180, 220, 250), 0.5, 1, (0, 0), 0, 0.02, "S"),
    _T.RED_MARROW: _P(165, 45, 38, 0.80, (620, 1050, 1300), 45, 80, (0, 0), 0.2, 0.35, "SMLA"),
    _T.YELLOW_MARROW: _P(40, 45, 38, 0.80, (620, 1050, 1300), 45, 80, (0, 0), 0.2, 0.1, "SMLA"),
    _T.CARTILAGE: _P(115, 20, 12, 0.65, (650, 1024, 1168), 30, 40, (0, 0), 0.3, 0.05, "SZLA"),
    _T.DISC: _P(85, 10, 8, 0.75, (640, 1000, 1250), 85, 50, (0, 0), 0.2, 0.03, "SZLA"),
    _T.BOWEL_WALL: _P(46, 14, 8, 0.80, (560, 950, 1250), 55, 45, (0.03, 0.02), 0.2, 0.8, "CBLA"),
    _T.STOOL: _P(25, 25, 45, 0.60, (420, 650, 850), 60, 12, (0.05, 0.04), 0.1, 0, "C"),
    _T.FLUID: _P(18, 8, 5, 0.97, (2100, 2500, 2800), 350, 150),
    _T.GLAND: _P(18, 18, 14, 0.85, (400, 650, 850), 75, 55, (0.25, 0.12), 0.15, 0.7, "CZLFA"),
    _T.THYROID: _P(105, 25, 9, 0.82, (620, 980, 1300), 75, 60, (0, 0), 0.15, 1.0, "CLA"),
    _T.PROSTATE: _P(42, 6, 5, 0.85, (820, 1317, 1597), 88, 70, (0, 0), 0.15, 0.6, "CBLA"),
    _T.TOOTH: _P(2300, 200, 60, 0.02, (200, 250, 300), 0.4, 1),
    _T.METAL: _P(3071, 0, 0, 0.0, (1, 1, 1), 1, 1),
    _T.VITREOUS: _P(9, 3, 2, 1.0, (3500, 4000, 4300), 1200, 200),
    _T.URINE: _P(6, 5, 2, 1.0, (3000, 3500, 3900), 1000, 200),
    _T.MUCOSA: _P(40, 8, 8, 0.85, (600, 1000, 1350), 90, 50, (0, 0), 0.12, 0.9, "CLA"),
    _T.COUCH_SHELL: _P(-180, 80, 4, 0.0, (1, 1, 1), 1),
    _T.COUCH_FOAM: _P(-930, 15, 4, 0.0, (1, 1, 1), 1),
    _T.BILE: _P(8, 5, 3, 0.97, (1700, 2400, 2700), 500, 150),
}  # fmt: skip

FIELDS_TESLA = (0.35, 1.5, 3.0)


def sample_hu(rng: np.random.Generator) -> np.ndarray:
    """HU of every tissue in one patient, indexed by `Tissue` (float32). Tissues vary together only by chance."""
    z = np.clip(rng.standard_normal(len(Tissue)), -2, 2)
    return np.array([PROPERTIES[t].hu + PROPERTIES[t].hu_spread * z[t] for t in Tissue], dtype=np.float32)


def texture_hu() -> np.ndarray:
    """Standard deviation of the texture of every tissue, HU, indexed by `Tissue`."""
    return np.array([PROPERTIES[t].texture for t in Tissue], dtype=np.float32)
