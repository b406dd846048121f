"""Synthetic retinal B-scans with known layers and lesions: phantoms, not patients.

``anatomy`` draws a patient; this module plays the scanner: it rasterizes the layers, adds
vessel shadows, decay below Bruch's membrane and speckle, and takes the display's fourth root
(display level = 255 * raw ** 0.25), or does as another style of ``scanners`` says. Whole frames
are 496 x 768; training renders the retina band directly at its small size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from kdoct_utils.phantom.anatomy import (
    AXIAL_UM,
    BAND_COLUMNS,
    BAND_ROWS,
    FRAME_COLUMNS,
    FRAME_ROWS,
    LATERAL_UM,
    LAYER_LEVELS,
    LAYER_NAMES,
    LESION_NAMES,
    SLICE_SPACING_UM,
    Patient,
    bruch_rows,
    draw_patient,
    layer_heights,
    lesion_profiles,
    visible_classes,
)
from kdoct_utils.phantom.scanners import FIRST_SCANNER, ScannerStyle
from kdoct_utils.phantom.texture import View, coarseness, deep_levels, speckle, tile_index, tiles_of_noise
from kdoct_utils.profiles import CLASS_NAMES

if TYPE_CHECKING:
    import pandas as pd

SUBRETINAL, SUB_RPE = LAYER_NAMES.index("subretinal space"), LAYER_NAMES.index("sub-RPE space")
CHOROID = LAYER_NAMES.index("choroid")


@dataclass(frozen=True)
class Rendered:
    """B-scans of one patient with their truth.

    images, layers, lesions: uint8 (slices, height, width); layers index LAYER_NAMES,
    lesions index LESION_NAMES. labels: one class name a slice, by what can be seen in it.
    positions_um: (slices,) across the fovea.
    """

    images: np.ndarray
    layers: np.ndarray
    lesions: np.ndarray
    labels: tuple[str, ...]
    positions_um: np.ndarray


AXIAL_PSF_UM = 4.0  # sigma of the scanner's blur along the depth; a pixel of a small band is larger


def _paint_blobs(
    image: np.ndarray, mask: np.ndarray, blobs: np.ndarray, level: float, code: int,
    rows: np.ndarray, view: View, y_um: np.ndarray,
) -> None:  # fmt: skip
    """Draw ellipsoids (cysts, foci) where a slice cuts them; rows: (15, slices, columns) boundaries, pixels."""
    x_um = view.x_um
    pixel_um = np.array([AXIAL_UM * view.rows_per_pixel, LATERAL_UM * view.columns_per_pixel])
    for x, y, depth, rx, ry, rz in blobs[:, :6]:
        column = int(np.clip(np.searchsorted(x_um, x), 0, view.width - 1))
        for i in np.flatnonzero(np.abs(y_um - y) < ry):
            shrink = np.sqrt(1 - ((y_um[i] - y) / ry) ** 2)
            top, bottom = rows[0, i, column], rows[6, i, column]
            center = top + depth * (bottom - top)
            half_rows, half_columns = np.maximum(shrink * np.array([rz, rx]) / pixel_um, 0.35)
            half_rows = min(half_rows, max(0.35, 0.45 * (bottom - top)))
            r0, r1 = max(0, int(center - half_rows - 1)), min(view.height, int(center + half_rows + 3))
            c0, c1 = max(0, int(column - half_columns - 1)), min(view.width, int(column + half_columns + 3))
            if r0 >= r1 or c0 >= c1:
                continue
            dr = (np.arange(r0, r1)[:, None] + 0.5 - center) / half_rows
            dc = (np.arange(c0, c1)[None] + 0.5 - column - 0.5) / half_columns
            cover = np.clip((1.15 - np.hypot(dr, dc)) * 4, 0, 1)
            patch = image[i, r0:r1, c0:c1]
            patch += cover * (level - patch)
            mask[i, r0:r1, c0:c1][cover > 0.5] = code


def _column_levels(
    patient: Patient, profile: dict[str, np.ndarray], shadow: np.ndarray
) -> list[np.ndarray | np.float32]:
    """Display level of each layer, a number or (slices, columns) where lesions or vessels change it."""
    levels: list[np.ndarray | np.float32] = list(LAYER_LEVELS * patient.layer_gain)
    levels[1] = levels[1] * (1 + 0.8 * (1 - shadow))  # a vessel's wall shines in the nerve fiber layer
    lost = np.clip((profile["detachment"] - 30) / 60 + profile["material"] / 30, 0, 1)
    for name in ("EZ", "outer segments"):  # the ellipsoid zone is lost over neovascular lesions
        k = LAYER_NAMES.index(name)
        levels[k] = levels[k] + lost * (62 - levels[k])
    rpe = LAYER_NAMES.index("RPE")
    levels[rpe] = levels[rpe] * (1 - 0.25 * lost)
    fluid, material = profile["fluid"], profile["material"]
    levels[SUBRETINAL] = (30 * fluid + 145 * material) / np.maximum(fluid + material, 1e-3)
    drusen, detachment = profile["drusen"], profile["detachment"]
    levels[SUB_RPE] = (105 * drusen + 75 * detachment) / np.maximum(drusen + detachment, 1e-3)
    return levels


def _paint_layers(rows: np.ndarray, levels: list, view: View, shadow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free display levels and layer indices, both (slices, height, width), boundaries antialiased."""
    n = rows.shape[1]
    image = np.zeros((n, view.height, view.width), np.float32)
    layers = np.zeros(image.shape, np.uint8)
    cover = np.empty_like(image)
    pixel = np.arange(1, view.height + 1, dtype=np.float32)[None, :, None]  # lower edge of each pixel
    for k in range(len(LAYER_NAMES) - 1):
        np.subtract(pixel, rows[k][:, None, :], out=cover)  # share of the pixel below boundary k
        np.clip(cover, 0, 1, out=cover)
        layers += cover >= 0.5
        step = levels[k + 1] - levels[k]
        cover *= step[:, None, :] if np.ndim(step) else step
        image += cover
    # Vessels in the inner retina dim all that lies below them.
    inner = np.clip(pixel - rows[2][:, None, :], 0, 1)
    image *= 1 - inner * (1 - shadow[:, None, :])
    return image, layers


def _vessel_shadow(patient: Patient, view: View, y_um: np.ndarray) -> np.ndarray:
    """Brightness left under the vessels, (slices, columns); a shadow fades in over a third of its width."""
    shadow = np.ones((len(y_um), view.width), np.float32)
    for x, drift, width, dimming in patient.vessels:
        offset = np.abs(view.x_um[None] - x - drift * y_um[:, None]) / LATERAL_UM  # columns
        edge = max(width / 3, view.columns_per_pixel)
        overlap = np.clip((width / 2 - offset) / edge + 0.5, 0, min(1, width / view.columns_per_pixel))
        shadow *= 1 - overlap * (1 - dimming)
    return shadow


def _lesion_mask(layers: np.ndarray, profile: dict[str, np.ndarray]) -> np.ndarray:
    druse_or_detachment = np.where(profile["detachment"] > profile["drusen"], 2, 1).astype(np.uint8)
    druse_or_detachment[profile["drusen"] + profile["detachment"] < 8] = 0
    fluid_or_material = np.where(profile["material"] > profile["fluid"], 4, 3).astype(np.uint8)
    mask = np.where(layers == SUB_RPE, druse_or_detachment[:, None, :], 0)
    return np.where(layers == SUBRETINAL, fluid_or_material[:, None, :], mask).astype(np.uint8)


def _render(patient: Patient, y_um: np.ndarray, view: View, noise: bool, style: ScannerStyle) -> Rendered:
    patient = style.seen(patient)
    y_um = np.asarray(y_um, np.float32)
    x_um = view.x_um
    profile = lesion_profiles(patient, x_um, y_um)
    bruch = (bruch_rows(patient, x_um, y_um) - view.top) / view.rows_per_pixel  # (slices, columns), pixels
    heights = layer_heights(patient, x_um, y_um, profile)
    rows = bruch[None] - heights / (AXIAL_UM * view.rows_per_pixel)
    shadow = _vessel_shadow(patient, view, y_um)
    image, layers = _paint_layers(rows, _column_levels(patient, profile, shadow), view, shadow)
    depth = (np.arange(view.height, dtype=np.float32)[None, :, None] + 0.5 - bruch[:, None, :]) * np.float32(
        AXIAL_UM * view.rows_per_pixel
    )
    index = tile_index(patient, depth, view)
    lift = profile["drusen"] + profile["detachment"]
    below = shadow * (1 - 0.35 * np.clip(lift / 250, 0, 1)) * (LAYER_LEVELS[CHOROID] * patient.layer_gain[CHOROID])
    deep = deep_levels(patient, depth, index, view, y_um)
    deep *= below[:, None, :]
    image = np.where(layers >= CHOROID, deep, image)
    # It follows the layers, whose heights are counted from Bruch's membrane too.
    grain = tiles_of_noise()[4].ravel().take(index)
    image *= 1 + np.float32(0.105 * coarseness(view)) * grain
    lesions = _lesion_mask(layers, profile)
    _paint_blobs(image, lesions, patient.lesions.cysts, 28, LESION_NAMES.index("cyst"), rows, view, y_um)
    _paint_blobs(image, lesions, patient.lesions.foci, 190, LESION_NAMES.index("bright focus"), rows, view, y_um)
    amplitude, frequency, phase = patient.texture
    along = 1 + sum(a * np.sin(f * x_um + p) for a, f, p in zip(amplitude, frequency, phase, strict=True))
    image *= along[None, None, :].astype(np.float32)
    if noise or style != FIRST_SCANNER:  # the levels are the first scanner's: without noise they stay as they are
        image = _scanned(patient, image, view, style, noise)
    images = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return Rendered(images, layers, lesions, visible_classes(patient, profile), y_um)


def _scanned(patient: Patient, image: np.ndarray, view: View, style: ScannerStyle, noise: bool) -> np.ndarray:
    """Blur, speckle and the detector's floor, in raw intensity; then the display. image: the first scanner's levels."""
    raw = (image * (1 / 255.0)) ** 2
    raw *= raw
    if view.rows_per_pixel < 2:
        raw = gaussian_filter1d(raw, AXIAL_PSF_UM / (AXIAL_UM * view.rows_per_pixel), axis=1)
    raw = style.blurred(raw, AXIAL_UM * view.rows_per_pixel)
    if noise:
        random = np.random.default_rng([*patient.seed, 11, *image.shape])
        raw *= speckle(patient, image.shape, view, random)
        # The floor is subtracted and clipped at zero: about one native pixel in six of the vitreous is black.
        spread = np.float32(1 / np.sqrt(patient.frames_averaged))
        floor = speckle(patient, image.shape, view, random)
        floor -= 1 - spread
        raw += floor * np.float32(1.5 * (patient.noise_level / 255) ** 4 / spread)
    return style.display(raw)


def slice_positions(slices: int) -> np.ndarray:
    """Where the B-scans of a volume lie, um across the middle of the scan: (slices,)."""
    if slices < 1:
        raise ValueError(f"a volume needs at least one slice, not {slices}")
    return ((np.arange(slices) - (slices - 1) / 2) * SLICE_SPACING_UM).astype(np.float32)


def band_view(patient: Patient, size: int) -> View:
    """The square view of the retina band: 300 rows with the whole retina in the middle, the central 512 columns."""
    x_um = (np.arange(0, BAND_COLUMNS, 8) - BAND_COLUMNS / 2) * np.float32(LATERAL_UM)
    y_um = np.array([-2, 0, 2], np.float32) * np.float32(SLICE_SPACING_UM)
    bruch = bruch_rows(patient, x_um, y_um)
    ilm = bruch - layer_heights(patient, x_um, y_um)[0] / AXIAL_UM
    center = float(bruch.max() + ilm.min()) / 2
    top = min(max(center - BAND_ROWS / 2, 0), FRAME_ROWS - BAND_ROWS)
    left = (FRAME_COLUMNS - BAND_COLUMNS) / 2
    return View(size, size, top, left, BAND_ROWS / size, BAND_COLUMNS / size)


def render_band(
    patient: Patient, slices: int, size: int, noise: bool = True, style: ScannerStyle = FIRST_SCANNER
) -> Rendered:
    """A volume of retina bands at size x size pixels, as training sees them.

    The same band that ``scans.crop_to_band`` cuts from a whole frame. noise=False leaves out
    speckle and floor.
    """
    return _render(patient, slice_positions(slices), band_view(patient, size), noise, style)


def render_frames(
    patient: Patient, slices: int, noise: bool = True, style: ScannerStyle = FIRST_SCANNER
) -> Rendered:
    """A volume of whole frames, 496 x 768, with white registration borders in some patients."""
    view = View(FRAME_ROWS, FRAME_COLUMNS, 0.0, 0.0, 1.0, 1.0)
    rendered = _render(patient, slice_positions(slices), view, noise, style)
    if patient.registered and noise:
        random = np.random.default_rng([*patient.seed, 13])
        column = np.linspace(-0.5, 0.5, FRAME_COLUMNS)
        row = np.arange(FRAME_ROWS)[:, None]
        for image in rendered.images:
            slope, shift = random.uniform(-40, 40), random.uniform(-15, 30)
            edge = shift + slope * column[None]  # the straightened frame's upper edge
            image[(row < edge) | (row >= FRAME_ROWS + edge)] = 255
    return rendered


def phantom_cohort(
    patients_per_class: int, slices: int, size: int, seed: int, classes: Sequence[str] = CLASS_NAMES[:3],
    style: ScannerStyle = FIRST_SCANNER,
) -> tuple[np.ndarray, pd.DataFrame]:
    """A whole phantom data set: retina bands and one row per B-scan.

    Returns images, uint8 (patients * slices, size, size), and a table with the columns patient
    (``phantom/0007``, the style's name before the number), patient_class, label, eye and slice. A patient
    depends on its class, its number, the seed and the style's seed_stream, not on how many others are drawn.
    """
    import pandas as pd

    images, rows = [], []
    for position, patient_class in enumerate(classes):
        for number in range(patients_per_class):
            patient = draw_patient(patient_class, [seed, number, *style.seed_stream])
            rendered = render_band(patient, slices, size, style=style)
            images.append(rendered.images)
            name = f"{style.name}/{position * patients_per_class + number + 1:04d}"
            rows += [(name, patient_class, label, patient.eye, k) for k, label in enumerate(rendered.labels)]
    table = pd.DataFrame(rows, columns=["patient", "patient_class", "label", "eye", "slice"])
    return np.concatenate(images), table
