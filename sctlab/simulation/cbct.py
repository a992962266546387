"""CT → CBCT: projections in a linac's geometry with RTK, what goes wrong with them, FDK reconstruction.

RTK: Rit et al., J Phys Conf Ser 489 (2014) 012079. FDK: Feldkamp, Davis, Kress, JOSA A 1 (1984) 612. The gantry
turns about the patient's z; RTK turns about y, so arrays are passed as [y, z, x].
Water and bone attenuation: NIST XCOM; scatter kernel after Ohnesorge et al., Eur Radiol 9 (1999) 563.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab.simulation.short_arc import short_arc_weights
from sctlab_model.cases import Region
from sctlab_model.volume import AIR_HU, Geometry, triple

SOURCE_AXIS_MM = 1000.0
PANEL_MM = 397.0  # width of a linac's flat panel
# 125 kV spectrum behind a bowtie, in four bins (40, 60, 80, 100 keV): share of photons, and linear attenuation
# of water and of compact bone (1.92 g/cm3) in 1/mm
SPECTRUM = np.array([0.10, 0.38, 0.33, 0.19])
WATER = np.array([0.02683, 0.02059, 0.01837, 0.01707])
BONE = np.array([0.1278, 0.0604, 0.0428, 0.0356])
BONE_HU = 1000 * (BONE[1] / WATER[1] - 1)  # compact bone on the 60 keV scale
WATER_MU = float(SPECTRUM @ WATER)


# Scatter-to-primary ratio after the grid: it grows with the object (Siewerdsen and Jaffray, Med Phys 28 (2001) 220)
SCATTER = {Region.HN: (0.08, 0.35), Region.TH: (0.12, 0.55), Region.AB: (0.2, 0.8)}
GAS_HU = -700.0
_SOFT_WATER = 1.04  # what takes the place of gas that moved on, relative to water


@dataclass(frozen=True)
class Scan:
    """One CBCT protocol.

    Args:
        half_fan: Detector shifted sideways (body); else centred (head).
        arc_degrees: 360, or 200 for a short scan with a centred detector; less leaves rays out.
        source_detector_mm: Distance to the detector.
        views: Number of projections.
        pixel_mm: Detector pixel (binned).
        photons: Photons a pixel without an object.
        scatter: Scatter-to-primary ratio behind a thick object, left after the grid.
        scatter_left: Share of it that the scanner's correction misses; negative where it takes too much.
        lag: Share of a frame that the detector shows again in the next.
        breath_mm: Motion of the diaphragm during the turn.
        gain, offset_hu: Calibration error: HU → gain (HU + 1000) − 1000 + offset.
        hann: Cut-off of the reconstruction filter (1 is sharp).
        gas_mm: How far pockets of bowel gas move during the turn; 0 for none.
        ring: Standard deviation of the detector pixels' uncorrected gain: rings.
        centre_mm: Isocentre relative to the grid's centre (x, y): the patient is centred, not the grid.
    """

    half_fan: bool
    arc_degrees: float
    source_detector_mm: float
    views: int
    pixel_mm: float
    photons: float
    scatter: float
    scatter_left: float
    lag: float
    breath_mm: float
    gain: float
    offset_hu: float
    hann: float
    gas_mm: float = 0.0
    ring: float = 0.0
    centre_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def shift_mm(self) -> float:
        """Sideways shift of the panel."""
        return 148.0 if self.half_fan else 0.0

    @classmethod
    def sample(cls, region: Region, rng: np.random.Generator) -> Scan:
        """Draw a clinical protocol: half fan and a full turn for the trunk, mostly full fan for the head."""
        half = region != Region.HN or rng.random() < 0.35
        breathing = region == Region.TH or (region == Region.AB and rng.random() < 0.5)
        return cls(
            half_fan=half,
            arc_degrees=360.0 if half or rng.random() < 0.4 else _short_arc(rng),
            source_detector_mm=float(rng.choice([1500.0, 1536.0])),
            views=int(rng.integers(260, 340) if half else rng.integers(180, 240)),
            pixel_mm=float(rng.uniform(2.2, 2.6)),
            photons=float(np.exp(rng.uniform(np.log(4e4), np.log(4e5)))),
            scatter=float(rng.uniform(*SCATTER[region])),
            scatter_left=float(rng.uniform(-0.06, 0.30)),
            lag=float(rng.uniform(0, 0.04)),
            breath_mm=float(rng.uniform(3, 14) if region == Region.TH else rng.uniform(1, 8)) if breathing else 0.0,
            gain=float(rng.normal(1.0, 0.025)),
            offset_hu=float(rng.normal(0, 25)),
            hann=float(rng.uniform(0.55, 1.0)),
            gas_mm=float(rng.uniform(2, 12)) if region != Region.HN and rng.random() < 0.7 else 0.0,
            ring=float(rng.uniform(0.0005, 0.004)) if rng.random() < 0.5 else 0.0,
            centre_mm=(float(rng.normal(0, 4.0)), float(rng.normal(0, 4.0))),
        )

    @classmethod
    def ideal(cls, half_fan: bool = False, views: int = 240, pixel_mm: float = 2.0) -> Scan:
        """No noise, no scatter, no motion, exact calibration."""
        return cls(half_fan, 360.0, 1500.0, views, pixel_mm, np.inf, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0)


def _short_arc(rng: np.random.Generator) -> float:
    """Half a turn and the fan, now and then less: rays are missing and edges smear along the missing directions."""
    return 200.0 if rng.random() < 0.8 else float(rng.uniform(165, 195))


def simulate_cbct(
    hu: np.ndarray,
    geometry: Geometry,
    grid: Geometry,
    scan: Scan,
    rng: np.random.Generator,
    *,
    monochrome: bool = False,
) -> np.ndarray:
    """Scan a patient and reconstruct.

    Args:
        hu: The patient in the source's pose [z, y, x]; reaches beyond `grid` where the beam does.
        geometry: Grid of `hu`.
        grid: Where to reconstruct (axes LPS); its centre is the isocentre but for `scan.centre_mm`.
        monochrome: One energy, so no beam hardening.

    Returns:
        HU, float32, on `grid`; −1024 outside the field of view.
    """
    rtk = _Rtk(geometry, grid, scan)
    bone = np.clip((hu - 100) / (BONE_HU - 100), 0, None)
    water = np.clip(1 + hu / 1000 - bone * (1 + BONE_HU / 1000), 0, None)
    states, weights = _breathing(hu.shape, geometry, scan)
    start = float(rng.uniform(0, 360))
    angles = start + np.arange(scan.views) * scan.arc_degrees / scan.views
    phase = _phases(scan, len(weights), rng)
    gas = _GasMotion(hu, geometry, scan, rng)
    paths = [np.empty((scan.views, rtk.rows, rtk.columns), np.float32) for _ in range(2)]
    has_bone = not monochrome and bool((bone > 0.02).any())
    if monochrome:
        water = np.clip(1 + hu / 1000, 0, None)
    for place in np.unique(gas.place):
        shifted = gas.moved(water, place)
        for state in np.unique(phase[gas.place == place]):
            chosen = np.nonzero((phase == state) & (gas.place == place))[0]
            for k, part in enumerate((shifted, bone)):
                if k == 1 and not has_bone:
                    paths[1][chosen] = 0
                    continue
                moved = part if weights[state] == 0 else _move(part, states * weights[state], geometry)
                paths[k][chosen] = rtk.project(moved, angles[chosen])
    line = paths[0] * WATER_MU if monochrome else _detect(paths[0], paths[1], rtk, scan, rng)
    mu = rtk.reconstruct(line, angles)
    result = 1000 * (mu / WATER_MU - 1)
    result = scan.gain * (result + 1000) - 1000 + scan.offset_hu
    result[~field_of_view(grid, scan)] = AIR_HU
    return result.astype(np.float32)


class _GasMotion:
    """Bowel gas that moves on during the turn: for a part of the projections pockets lie elsewhere, which streaks.

    Place 0, most of the turn, is where the truth has them.
    """

    def __init__(self, hu: np.ndarray, geometry: Geometry, scan: Scan, rng: np.random.Generator) -> None:
        self.place = np.zeros(scan.views, int)
        self.pockets = np.zeros(hu.shape, bool)
        self.offsets: list[tuple[int, int, int]] = [(0, 0, 0)]
        if scan.gas_mm == 0:
            return
        solid = hu > GAS_HU
        inside = np.stack([ndimage.binary_fill_holes(s) for s in solid])
        parts, count = ndimage.label(inside & ~solid)
        volume = np.bincount(parts.ravel(), minlength=count + 1) * geometry.voxel_volume_mm3
        bowel = (volume > 300) & (volume < 2e5)  # larger ones are lungs, smaller ones cells
        bowel[0] = False
        self.pockets = ndimage.binary_dilation(bowel[parts], iterations=1) & inside
        if not self.pockets.any():
            return
        spacing = np.array(geometry.spacing_xyz[::-1])
        for place in (1, 2):
            direction = rng.standard_normal(3)
            step = scan.gas_mm * direction / (np.linalg.norm(direction) + 1e-9)
            self.offsets.append(triple(int(v) for v in np.rint(step / spacing)))
            begin = int(rng.uniform(0, 0.85) * scan.views)
            self.place[begin : begin + int(rng.uniform(0.08, 0.22) * scan.views)] = place

    def moved(self, water: np.ndarray, place: int) -> np.ndarray:
        """Water fractions with the pockets at a place."""
        if place == 0 or not any(self.offsets[place]):
            return water
        result = np.where(self.pockets, np.maximum(water, _SOFT_WATER), water)
        there = np.roll(self.pockets, self.offsets[place], (0, 1, 2))
        content = np.roll(water, self.offsets[place], (0, 1, 2))
        return np.where(there & (result > 0.3), np.minimum(result, content), result)


def _detect(water: np.ndarray, bone: np.ndarray, rtk: _Rtk, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """Path lengths (mm of water, of bone) → line integrals after the detector and the scanner's corrections."""
    intensity = sum(s * np.exp(-(w * water + b * bone)) for s, w, b in zip(SPECTRUM, WATER, BONE, strict=True))
    intensity = intensity.astype(np.float32)
    if scan.scatter > 0:
        # forward-scatter potential p e^-p, spread over the detector by several cm
        potential = np.clip(-np.log(intensity), 0, None) * intensity
        sigma = 55.0 / scan.pixel_mm
        field = ndimage.gaussian_filter(potential, (1, sigma, sigma), mode="nearest")
        reference = np.percentile(intensity, 5) + 1e-6
        field *= scan.scatter * reference / (np.percentile(field, 95) + 1e-9) * 2.0
        intensity = intensity + field * scan.scatter_left
    if scan.ring > 0:  # what flat-field calibration left: the same in every view
        intensity = intensity * (1 + scan.ring * rng.standard_normal(intensity.shape[1:], dtype=np.float32))
    if scan.lag > 0:
        for k in range(1, len(intensity)):
            intensity[k] = (1 - scan.lag) * intensity[k] + scan.lag * intensity[k - 1]
    if np.isfinite(scan.photons):
        bowtie = np.exp(-0.5 * (rtk.column_mm() / 190.0) ** 2 * 1.6)[None, None, :]
        expected = np.clip(intensity, 1e-7, None) * scan.photons * bowtie
        counts = rng.poisson(expected).astype(np.float32) + rng.normal(0, 4.0, expected.shape).astype(np.float32)
        intensity = np.maximum(counts, 1.0) / (scan.photons * bowtie)
    line = -np.log(np.clip(intensity, 1e-7, None))
    return _water_correction(line).astype(np.float32)


def _water_correction(line: np.ndarray) -> np.ndarray:
    """The scanner's calibration: beam hardening of water is undone by its own curve (bone's stays)."""
    thickness = np.linspace(0, 700, 701)
    curve = -np.log(sum(s * np.exp(-w * thickness) for s, w in zip(SPECTRUM, WATER, strict=True)))
    slope = (curve[-1] - curve[-2]) / (thickness[1] - thickness[0])
    result = np.interp(line, curve, thickness)
    result = np.where(line > curve[-1], thickness[-1] + (line - curve[-1]) / slope, result)
    result = np.where(line < 0, line / WATER_MU, result)
    return result * WATER_MU


def _phases(scan: Scan, states: int, rng: np.random.Generator) -> np.ndarray:
    """Breathing state of every projection: about one breath in 4 s during a turn of 60 s, mostly exhaled."""
    if states == 1:
        return np.zeros(scan.views, int)
    seconds = np.arange(scan.views) / scan.views * 60.0 * scan.arc_degrees / 360.0
    period = rng.uniform(3.2, 5.0)
    inhaled = np.sin(np.pi * seconds / period + rng.uniform(0, np.pi)) ** 4
    return np.minimum((inhaled * states).astype(int), states - 1)


def _breathing(shape: tuple[int, int, int], geometry: Geometry, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Craniocaudal displacement (mm) of full inhalation, and the share of it in every state; state 0 is exhaled."""
    if scan.breath_mm == 0:
        return np.zeros(1, np.float32), np.zeros(1)
    z, y, x = (
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if a == k else 1 for a in range(3)])
        for k, n in enumerate(shape)
    )
    field = scan.breath_mm * np.exp(-((z + 0.1) ** 2) * 2.2) * np.exp(-(x**4) * 6 - np.clip(y, 0, None) ** 2 * 3)
    return field, np.array([0.08, 0.35, 0.65, 0.92]) * 1.0


def _move(array: np.ndarray, down_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Shift content towards the feet by a displacement that varies in space (linear interpolation along z)."""
    step = down_mm / geometry.spacing_xyz[2]
    n = array.shape[0]
    at = np.clip(np.arange(n, dtype=np.float32)[:, None, None] + step, 0, n - 1)
    low = np.minimum(at.astype(np.int32), n - 2)
    t = at - low
    below = np.take_along_axis(array, low, 0)
    return below + t * (np.take_along_axis(array, low + 1, 0) - below)


def fov_radius_mm(scan: Scan) -> float:
    """Radius of the cylinder that every view, or with half fan every view or its opposite, sees."""
    return SOURCE_AXIS_MM * float(np.sin(np.arctan((scan.shift_mm + PANEL_MM / 2) / scan.source_detector_mm)))


def field_of_view(grid: Geometry, scan: Scan) -> np.ndarray:
    """Voxels of a grid inside the scanned cylinder, boolean [z, y, x]."""
    x, y = (
        (np.arange(grid.size_xyz[a]) - (grid.size_xyz[a] - 1) / 2) * grid.spacing_xyz[a] - scan.centre_mm[a]
        for a in (0, 1)
    )
    inside = (x[None, None, :] ** 2 + y[None, :, None] ** 2) < (fov_radius_mm(scan) - 1) ** 2
    return np.broadcast_to(inside, grid.shape_zyx)


class _Rtk:
    """Geometry and the two RTK filters, in the gantry's frame: isocentre 0, rotation about the array's axis 1."""

    def __init__(self, geometry: Geometry, grid: Geometry, scan: Scan) -> None:
        self.scan, self.grid, self.volume = scan, grid, geometry
        self.iso = grid.centre_xyz + np.array([*scan.centre_mm, 0.0])
        magnification = scan.source_detector_mm / SOURCE_AXIS_MM
        size = np.array(grid.size_xyz) * grid.spacing_xyz
        self.radius = float(np.hypot(size[0], size[1]) / 2)
        width = PANEL_MM
        self.shift = scan.shift_mm
        height = size[2] * magnification / (1 - min(self.radius, fov_radius_mm(scan)) / SOURCE_AXIS_MM)
        self.columns = int(np.ceil(width / scan.pixel_mm))
        self.rows = max(8, int(np.ceil(height / scan.pixel_mm)))

    def column_mm(self) -> np.ndarray:
        """Position of the detector's columns at the isocentre, mm."""
        u = (np.arange(self.columns) - (self.columns - 1) / 2) * self.scan.pixel_mm + self.shift
        return u * SOURCE_AXIS_MM / self.scan.source_detector_mm

    def project(self, array: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """Line integrals in mm · unit, [views, rows, columns]."""
        import itk

        image = itk.Image[itk.F, 3]
        joseph = itk.JosephForwardProjectionImageFilter[image, image].New()
        joseph.SetGeometry(self._gantry(angles))
        joseph.SetInput(0, self._stack(np.zeros((len(angles), self.rows, self.columns), np.float32)))
        joseph.SetInput(1, self._image(array, self.volume))
        joseph.Update()
        return itk.array_from_image(joseph.GetOutput())

    def reconstruct(self, line: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """FDK on the grid, in the unit of the attenuation."""
        import itk

        image = itk.Image[itk.F, 3]
        gantry = self._gantry(angles)
        across = (np.arange(self.columns) - (self.columns - 1) / 2) * self.scan.pixel_mm
        fan = np.degrees(np.arctan(across / self.scan.source_detector_mm))
        projections, weight = self._stack(line), None
        if self.scan.half_fan:
            weight = itk.DisplacedDetectorForOffsetFieldOfViewImageFilter[image].New()
        elif self.scan.arc_degrees < 180 + 2 * fan[-1]:
            gaps = np.degrees(np.array(gantry.GetAngularGaps(gantry.GetSourceAngles())))
            projections = self._stack(line * short_arc_weights(self.scan.arc_degrees, fan, gaps)[:, None])
        elif self.scan.arc_degrees < 350:
            weight = itk.ParkerShortScanImageFilter[image].New()
        if weight is not None:
            weight.SetInput(projections)
            weight.SetGeometry(gantry)
            weight.Update()
            projections = weight.GetOutput()
        fdk = itk.FDKConeBeamReconstructionFilter[image].New()
        fdk.SetInput(0, self._image(np.zeros(self.grid.shape_zyx, np.float32), self.grid))
        fdk.SetInput(1, projections)
        fdk.SetGeometry(gantry)
        # extrapolation where the object leaves the panel; without truncation it would only add a bias
        edge = (
            float(np.quantile(line[:, :, [0, -1]], 0.99))
            if not self.scan.half_fan
            else float(np.quantile(line[:, :, -1], 0.99))
        )
        fdk.GetRampFilter().SetTruncationCorrection(0.3 if edge > 0.25 else 0.0)
        fdk.GetRampFilter().SetHannCutFrequency(self.scan.hann)
        fdk.Update()
        return np.ascontiguousarray(itk.array_from_image(fdk.GetOutput()).transpose(1, 0, 2))

    def _gantry(self, angles: np.ndarray) -> Any:
        from itk import RTK as rtk

        gantry = rtk.ThreeDCircularProjectionGeometry.New()
        for angle in angles:
            gantry.AddProjection(SOURCE_AXIS_MM, self.scan.source_detector_mm, float(angle), self.shift, 0.0)
        return gantry

    def _image(self, array: np.ndarray, geometry: Geometry) -> Any:
        import itk

        image = itk.image_from_array(np.ascontiguousarray(array.transpose(1, 0, 2).astype(np.float32)))
        spacing, origin = geometry.spacing_xyz, np.array(geometry.origin_xyz) - self.iso
        image.SetSpacing([spacing[0], spacing[2], spacing[1]])
        image.SetOrigin([origin[0], origin[2], origin[1]])
        return image

    def _stack(self, array: np.ndarray) -> Any:
        import itk

        image = itk.image_from_array(np.ascontiguousarray(array, dtype=np.float32))
        pitch = self.scan.pixel_mm
        image.SetSpacing([pitch, pitch, 1.0])
        image.SetOrigin([-(self.columns - 1) / 2 * pitch, -(self.rows - 1) / 2 * pitch, 0.0])
        return image
