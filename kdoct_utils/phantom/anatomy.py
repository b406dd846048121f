"""The anatomy of a phantom eye: layers, fovea, lesions, and what one patient keeps over all slices.

Thickness, brightness, speckle and lesion sizes follow published and measured numbers for a
Spectralis scanner (3.87 um axial, 11.8 um lateral pixels); ``phantom`` renders them.
Phantoms are not patients.

Lengths are micrometers (um) unless a name says rows, columns or pixels. Heights are above
Bruch's membrane; rows grow downward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from kdoct_utils.profiles import CLASS_NAMES

AXIAL_UM = 3.87
LATERAL_UM = 11.8
FRAME_ROWS, FRAME_COLUMNS = 496, 768
BAND_ROWS, BAND_COLUMNS = 300, 512  # the retina band: central 6 mm, retina in the middle
SLICE_SPACING_UM = 240.0

# From the vitreous down; boundary k lies between layer k and layer k + 1.
LAYER_NAMES = (
    "vitreous", "RNFL", "GCL", "IPL", "INL", "OPL", "ONL", "ELM", "EZ", "outer segments",
    "subretinal space", "RPE", "sub-RPE space", "choriocapillaris", "choroid", "deeper tissue",
)  # fmt: skip
LAYER_LEVELS = np.array([0, 112, 84, 90, 66, 80, 52, 68, 134, 114, 36, 196, 100, 112, 103, 103], np.float32)
INNER_FOVEA = np.array([13, 18, 22, 18, 24], np.float32)  # RNFL to OPL, at the pit
INNER_PARAFOVEA = np.array([22, 50, 42, 40, 32], np.float32)  # and 1 mm away
ONL_FOVEA, ONL_PARAFOVEA = 100.0, 65.0
ELM_UM, EZ_UM, OUTER_SEGMENTS_UM, RPE_UM, CHORIOCAPILLARIS_UM = 9.0, 15.0, 27.0, 21.0, 14.0
NASAL_RNFL = 0.016  # the nerve fiber layer grows toward the optic disc: um a um

LESION_NAMES = (
    "none", "druse", "pigment epithelium detachment", "subretinal fluid",
    "subretinal material", "cyst", "bright focus",
)  # fmt: skip
# A B-scan carries a lesion's label only where the lesion can be seen.
VISIBLE_DRUSE_UM = 40.0
VISIBLE_NEOVASCULAR_UM = 60.0
VISIBLE_EDEMA_UM = 60.0


@dataclass(frozen=True)
class Lesions:
    """What is wrong with an eye: rows of (x, y, ...) in um, the fovea's scan at the origin.

    drusen: x, y, radius, height. detachments: x, y, radius_x, radius_y, height, fluid,
    material, thickening. cysts: x, y, depth (0 ILM to 1 ELM), radius_x, radius_y, radius_z.
    foci: as cysts. edema: x, y, radius, thickening.
    """

    drusen: np.ndarray
    detachments: np.ndarray
    cysts: np.ndarray
    foci: np.ndarray
    edema: np.ndarray


@dataclass(frozen=True)
class Patient:
    """Everything that one phantom patient keeps over all slices."""

    patient_class: str
    eye: str
    seed: tuple[int, ...]
    thickness_scale: float
    pit_um: float  # ILM to Bruch at the pit
    pit_sigma_um: float
    fovea_um: tuple[float, float]  # where the pit lies: x along the scan, y across scans
    bruch_row: float  # of the frame's 496, at the middle
    tilt_rows: float  # over the frame's width
    sag_rows: float
    undulation: np.ndarray  # (3, 3) amplitude rows, frequency 1/um, phase
    choroid_um: float
    choroid_offset: tuple[int, int]
    vessels: np.ndarray  # (n, 4) x um, drift um per um, width columns, dimming
    layer_gain: np.ndarray  # (16,)
    texture: np.ndarray  # (3, 3) amplitude, frequency, phase of the brightness along the scan
    frames_averaged: float  # gamma shape of the speckle
    noise_level: float  # display level of the vitreous
    registered: bool  # white wedges where the scanner's software straightened the frame
    lesions: Lesions


def _uniform_rows(random: np.random.Generator, count: int, *ranges: tuple[float, float]) -> np.ndarray:
    low, high = np.array(ranges).T
    return random.uniform(low, high, (count, len(ranges))).astype(np.float32)


def _draw_drusen(random: np.random.Generator, count: int, spread: float) -> np.ndarray:
    center = random.normal(0, 250, 2)
    position = random.normal(center, spread, (count, 2))
    radius = random.uniform(60, 190, count)  # 120 to 380 um wide
    # Wide drusen are high drusen, up to the 120 um at which they would be called detachments.
    height = np.clip(16 + (radius - 60) * random.uniform(0.15, 0.75, count), 16, 120)
    return np.column_stack([position, radius, height]).astype(np.float32)


def _draw_neovascular(random: np.random.Generator) -> np.ndarray:
    rows = []
    for _ in range(random.integers(1, 3)):
        height = np.exp(random.uniform(np.log(80), np.log(320)))
        radius_x = np.clip(max(random.normal(3.4, 0.9), 2.0) * height, 350, 1600)
        fluid = random.uniform(30, 180) * (random.random() < 0.7)
        material = random.uniform(30, 120) * (random.random() < 0.6)
        position = random.normal(0, (500, 250))
        radius_y = random.uniform(0.8, 1.6) * np.clip(radius_x, 500, 1100)
        rows.append([*position, radius_x, radius_y, height, fluid, material, random.uniform(20, 130)])
    return np.array(rows, np.float32)


def _draw_lesions(patient_class: str, random: np.random.Generator) -> Lesions:
    empty = np.zeros((0, 8), np.float32)
    drusen = detachments = cysts = foci = edema = empty
    if patient_class == "drusen":
        drusen = _draw_drusen(random, int(random.integers(10, 60)), random.uniform(450, 800))
    elif patient_class == "cnv":
        detachments = _draw_neovascular(random)
        drusen = _draw_drusen(random, int(random.integers(5, 30)), 800)
        count = int(random.integers(0, 7))
        cysts = _uniform_rows(random, count, (-300, 300), (-250, 250), (0.35, 0.9), (40, 140), (60, 200), (15, 50))
        cysts[:, :2] += detachments[0, :2]
    elif patient_class == "dme":
        edema = _uniform_rows(random, 1, (-400, 400), (-250, 250), (700, 1500), (110, 330))
        count = int(random.integers(3, 16))
        cysts = _uniform_rows(random, count, (-700, 700), (-500, 500), (0.3, 0.9), (40, 250), (60, 300), (20, 80))
        foci = _uniform_rows(
            random, int(random.integers(3, 14)), (-1000, 1000), (-700, 700), (0.2, 0.9), (10, 20), (100, 200), (10, 20)
        )
        cysts[:, :2] += edema[0, :2]
        foci[:, :2] += edema[0, :2]
    return Lesions(drusen, detachments, cysts, foci, edema)


def _draw_gain(random: np.random.Generator) -> np.ndarray:
    """Brightness of each layer, (layers,): the scanner's gain for this eye times the layer's own."""
    overall = np.clip(random.normal(1, 0.12), 0.75, 1.25)
    return random.normal(overall, 0.06, len(LAYER_NAMES)).astype(np.float32)


def draw_patient(patient_class: str, seed: int | Sequence[int]) -> Patient:
    """Draw what one patient keeps over all slices.

    patient_class: one of CLASS_NAMES; ValueError names the valid ones for any other.
    seed: an integer or a sequence of them; the same seed gives the same patient.
    """
    if patient_class not in CLASS_NAMES:
        raise ValueError(f"unknown class {patient_class!r}; valid classes: {', '.join(CLASS_NAMES)}")
    seed = (int(seed),) if isinstance(seed, (int, np.integer)) else tuple(int(s) for s in seed)
    random = np.random.default_rng([*seed, CLASS_NAMES.index(patient_class)])
    vessels = _uniform_rows(random, int(random.integers(4, 11)), (-4500, 4500), (-0.4, 0.4), (0, 1), (-0.06, 0.06))
    vessels[:, 2] = 3 + 13 * vessels[:, 2] ** 2  # columns: most are thin
    vessels[:, 3] += 0.86 - 0.021 * vessels[:, 2]  # and dim little
    vessels = vessels[np.abs(vessels[:, 0]) > 450]  # the fovea has none
    lengths = random.uniform((4000, 2000, 800), (9000, 4000, 2000))  # um; all layers follow these waves
    waves = (random.normal(0, (4.0, 1.5, 0.5)), 2 * np.pi / lengths, random.uniform(0, 6.28, 3))
    texture = (random.normal(0, 0.08, 3), 2 * np.pi / random.uniform(400, 2500, 3), random.uniform(0, 6.28, 3))
    return Patient(
        patient_class=patient_class,
        eye="OD" if random.random() < 0.5 else "OS",
        seed=seed,
        thickness_scale=float(np.clip(random.normal(1, 0.07), 0.82, 1.18)),
        pit_um=float(random.normal(217, 15)),
        pit_sigma_um=float(random.uniform(750, 850)),
        fovea_um=(float(random.normal(0, 250)), float(random.normal(0, 120))),
        bruch_row=float(random.uniform(0.51, 0.55) * FRAME_ROWS),
        tilt_rows=float(np.clip(random.normal(0, 96), -200, 200)),
        sag_rows=float(random.normal(37, 14)),
        undulation=np.array(waves, np.float32),
        choroid_um=float(np.clip(random.normal(275, 60), 120, 420)),
        choroid_offset=(int(random.integers(0, 256)), int(random.integers(0, 512))),
        vessels=vessels,
        layer_gain=_draw_gain(random),
        texture=np.array(texture, np.float32),
        frames_averaged=float(random.uniform(8, 17)),
        noise_level=float(random.uniform(13, 20)),
        registered=bool(random.random() < 0.35),
        lesions=_draw_lesions(patient_class, random),
    )


def _bell(distance_squared: np.ndarray) -> np.ndarray:
    """A dome of height 1 with a gentle foot, exactly 0 outside radius 1."""
    return np.clip(1 - distance_squared, 0, None) ** 1.5


def _dome(distance_squared: np.ndarray) -> np.ndarray:
    """A rounder dome of height 1 with steep sides, as drusen and detachments have; exactly 0 outside radius 1."""
    return np.clip(1 - distance_squared, 0, None) ** 0.8


# Lumps of a detachment: amplitude, length as a share of its radius, phase.
_RIPPLES = ((0.11, 0.21, 0.0), (0.08, 0.11, 2.0), (0.05, 0.055, 4.0))


def lesion_profiles(patient: Patient, x_um: np.ndarray, y_um: np.ndarray) -> dict[str, np.ndarray]:
    """Heights of the lesions along each B-scan, in um, each (slices, columns).

    x_um: (columns,) along the scan; y_um: (slices,) across. Keys: drusen, detachment, fluid,
    material, thickening.
    """
    lesions = patient.lesions
    x, y = x_um[None, None, :], y_um[:, None, None]  # against (slices, lesions, columns)
    shape = (len(y_um), len(x_um))
    profile = {name: np.zeros(shape, np.float32) for name in ("detachment", "fluid", "material", "thickening")}
    profile["drusen"] = np.zeros(shape, np.float32)
    if len(lesions.drusen):
        dx, dy, radius, height = (lesions.drusen[None, :, i, None] for i in range(4))
        profile["drusen"] = (height * _dome(((x - dx) ** 2 + (y - dy) ** 2) / radius**2)).max(1)
    for px, py, rx, ry, height, fluid, material, thickening in lesions.detachments:
        across = ((y_um[:, None] - py) / ry) ** 2
        dome = _dome(((x_um[None] - px) / rx) ** 2 + across)
        waves = [a * np.sin(x_um[None] / (length * rx) + shift + py) for a, length, shift in _RIPPLES]
        ripple = 0.85 + sum(waves)  # membranes are lumpy
        profile["detachment"] = np.maximum(profile["detachment"], height * dome * ripple)
        # Fluid gathers beside the detachment, material over its crown.
        profile["fluid"] += fluid * _bell(((x_um[None] - px - 0.7 * rx) / (0.9 * rx)) ** 2 + across)
        profile["material"] += material * _bell(((x_um[None] - px + 0.4 * rx) / (0.7 * rx)) ** 2 + across)
        profile["thickening"] += thickening * _bell(((x_um[None] - px) / (1.6 * rx)) ** 2 + across / 2)
    for ex, ey, radius, thickening in lesions.edema:
        distance = ((x_um[None] - ex) ** 2 + (y_um[:, None] - ey) ** 2) / radius**2
        profile["thickening"] += thickening * _bell(distance)
    return profile


def visible_classes(patient: Patient, profile: dict[str, np.ndarray]) -> tuple[str, ...]:
    """The class that each slice shows: the most severe lesion that is high enough to be seen."""
    labels = []
    for i in range(len(profile["drusen"])):
        neovascular = max(profile["detachment"][i].max(), profile["fluid"][i].max())
        if patient.patient_class == "dme":
            labels.append("dme" if profile["thickening"][i].max() >= VISIBLE_EDEMA_UM else "normal")
        elif neovascular >= VISIBLE_NEOVASCULAR_UM:
            labels.append("cnv")
        else:
            labels.append("drusen" if profile["drusen"][i].max() >= VISIBLE_DRUSE_UM else "normal")
    return tuple(labels)


def layer_heights(
    patient: Patient, x_um: np.ndarray, y_um: np.ndarray, profile: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """Height of every boundary above Bruch's membrane, um, (15, slices, columns), from the ILM down.

    The pit follows T(r) = T0 + A r^2 exp(-r^2 / 2 sigma^2); past the parafoveal rim the
    thickness levels off. Lesions lift what lies above them.
    """
    profile = lesion_profiles(patient, x_um, y_um) if profile is None else profile
    fovea_x, fovea_y = patient.fovea_um
    u = ((x_um[None] - fovea_x) ** 2 + (y_um[:, None] - fovea_y) ** 2) / (2 * patient.pit_sigma_um**2)
    rim = u * np.exp(1 - u)  # 0 at the pit, 1 at the parafoveal rim
    rim = np.where(u > 1, 0.4 + 0.6 * rim, rim).astype(np.float32)  # (slices, columns)
    # The outer nuclear layer gives way to drusen; only the broad part of a lift reaches the ILM.
    lift = profile["drusen"] + profile["detachment"]
    column_um = float(x_um[1] - x_um[0]) if len(x_um) > 1 else LATERAL_UM
    broad = uniform_filter1d(lift, max(1, round(450 / column_um)), axis=1, mode="nearest")
    onl = (ONL_FOVEA + (ONL_PARAFOVEA - ONL_FOVEA) * rim) * patient.thickness_scale
    onl = np.maximum(onl + 0.8 * broad - lift, 0.15 * onl) + 0.5 * profile["thickening"]
    outer = RPE_UM + OUTER_SEGMENTS_UM + EZ_UM + ELM_UM
    plain_onl = ONL_FOVEA + (ONL_PARAFOVEA - ONL_FOVEA) * rim
    inner = (patient.pit_um + (368 - 217) * rim - outer - plain_onl) * patient.thickness_scale
    inner = np.maximum(inner, 8) + 0.5 * profile["thickening"]
    nasal = (x_um[None] - fovea_x) * (1 if patient.eye == "OD" else -1)  # (1, columns), toward the optic disc
    fibers = NASAL_RNFL * np.clip(nasal - 300, 0, 3500) * np.minimum(u, 1)
    share = INNER_FOVEA[:, None, None] + (INNER_PARAFOVEA - INNER_FOVEA)[:, None, None] * rim
    share /= share.sum(0)
    outer_segments = OUTER_SEGMENTS_UM * (1 - 0.5 * np.minimum(lift / 120, 1))
    share = share * inner
    share[0] += fibers
    thickness = [*share, onl, np.full_like(onl, ELM_UM), np.full_like(onl, EZ_UM), outer_segments]
    thickness += [profile["fluid"] + profile["material"], np.full_like(onl, RPE_UM), lift]
    heights = np.cumsum(np.stack(thickness)[::-1], 0)[::-1]  # (12, slices, columns), ILM to sub-RPE
    below = [np.zeros_like(onl), np.full_like(onl, -CHORIOCAPILLARIS_UM), np.full_like(onl, -patient.choroid_um)]
    return np.concatenate([heights, np.stack(below)]).astype(np.float32)


def bruch_rows(patient: Patient, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """Frame row of Bruch's membrane, (slices, columns): tilt, bowl, slow waves and eye motion."""
    across = x_um / (FRAME_COLUMNS * LATERAL_UM)  # -0.5 to 0.5 over the frame
    row = patient.bruch_row + patient.tilt_rows * across - patient.sag_rows * (2 * across) ** 2
    amplitude, frequency, phase = patient.undulation
    y = y_um[:, None]
    for a, f, p in zip(amplitude, frequency, phase, strict=True):
        row = row + a * np.sin(f * (x_um[None] + 0.6 * y) + p)
    motion = np.random.default_rng([*patient.seed, 7]).normal(0, 2.0, 512)
    steps = motion[np.round(y_um / SLICE_SPACING_UM * 4).astype(int) % 512]
    return (row + steps[:, None] - patient.sag_rows * (y / 4500) ** 2).astype(np.float32)
