"""The texture of a phantom scan: a grid of pixels, noise fields that follow the layers, the choroid, and speckle."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kdoct_utils.phantom.anatomy import FRAME_COLUMNS, LATERAL_UM, Patient


@dataclass(frozen=True)
class View:
    """Pixel grid of a rendering: frame rows and columns of every output pixel's center."""

    height: int
    width: int
    top: float  # frame row of the upper edge
    left: float
    rows_per_pixel: float
    columns_per_pixel: float

    @property
    def x_um(self) -> np.ndarray:
        columns = self.left + (np.arange(self.width, dtype=np.float32) + 0.5) * self.columns_per_pixel
        return (columns - FRAME_COLUMNS / 2) * LATERAL_UM  # (width,)


TILE_UM = 7.0  # a sample of the textures, in both directions
# Below Bruch's membrane the display level falls: a part of it quickly, the rest over a third of a millimeter.
QUICK_SHARE, QUICK_UM, SLOW_UM = 0.16, 60.0, 345.0


@lru_cache(maxsize=1)
def tiles_of_noise() -> np.ndarray:
    """Periodic noise fields of mean 0 and deviation 1, (5, 512, 1024), sampled every TILE_UM.

    Two of small choroidal vessels, two of large ones, one of tissue grain that is longer along the layers.
    """
    random = np.random.default_rng(20211)
    fy, fx = np.fft.fftfreq(512, TILE_UM)[:, None], np.fft.fftfreq(1024, TILE_UM)[None]  # cycles per um
    frequency = np.hypot(fy, fx)
    small, large = (np.exp(-((np.log(frequency.clip(1e-6) * length) / 0.55) ** 2)) for length in (90.0, 260.0))
    grain = np.exp(-((fy * 11) ** 2) - (fx * 45) ** 2)
    bands = np.stack([small, small, large, large, grain])
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((5, 512, 1024))) * bands).real
    return (noise / noise.std((1, 2), keepdims=True)).astype(np.float32)


def tile_index(patient: Patient, depth_um: np.ndarray, view: View) -> np.ndarray:
    """Where each pixel lies in a flattened tile; depth_um: (slices, height, width) below Bruch's membrane."""
    z = (depth_um * (1 / TILE_UM) + patient.choroid_offset[0]).astype(np.int32) & 511
    x = (view.x_um * (1 / TILE_UM) + patient.choroid_offset[1]).astype(np.int32) & 1023
    return z * 1024 + x


def coarseness(view: View) -> float:
    """How much of a texture finer than a pixel is left after averaging over it: 1 for native pixels."""
    return float(max(1.0, view.rows_per_pixel * view.columns_per_pixel) ** -0.35)


def deep_levels(
    patient: Patient, depth_um: np.ndarray, index: np.ndarray, view: View, y_um: np.ndarray
) -> np.ndarray:
    """Display level below Bruch's membrane, (slices, height, width): decay, the choroid's vessels, light that streaks.

    Vessels are small under Bruch's membrane (Sattler's layer) and large deeper (Haller's); at the sclera they end.
    """
    tiles = tiles_of_noise().reshape(5, -1)
    turn = (y_um / 300.0)[:, None, None].astype(np.float32)  # neighboring slices share most of a vessel
    near, far = np.cos(turn), np.sin(turn)
    share = np.clip(depth_um * (1.6 / patient.choroid_um), 0, 1)  # of the large vessels
    small = near * tiles[0].take(index) + far * tiles[1].take(index)
    large = near * tiles[2].take(index) + far * tiles[3].take(index)
    vessels = (1 - share) * small + share * large
    inside = np.clip((patient.choroid_um - depth_um) / 60, 0, 1)  # the border with the sclera is soft
    contrast = (0.08 + 0.16 * share) * coarseness(view) ** 0.5 * inside
    columns = (view.x_um / TILE_UM + patient.choroid_offset[0]).astype(np.int32) & 1023
    streaks = tiles_of_noise()[4, (y_um.astype(np.int32) // 240)[:, None] & 511, columns[None]]  # (slices, width)
    below = np.minimum(-depth_um, 0)
    level = QUICK_SHARE * np.exp(below * (1 / QUICK_UM)) + (1 - QUICK_SHARE) * np.exp(below * (1 / SLOW_UM))
    level *= 1 + contrast * vessels
    level *= 1 + (0.05 * coarseness(view)) * streaks[:, None, :]
    return level


def speckle(patient: Patient, shape: tuple[int, ...], view: View, random: np.random.Generator) -> np.ndarray:
    """Gamma-distributed speckle of mean 1, correlated .6 at one native pixel and < .2 at two.

    Wilson and Hilferty (1931): the cube root of a gamma variable is nearly normal, so a
    correlated normal field gives correlated gamma speckle. A pixel that covers several native
    ones averages them: its gamma shape grows by the square root of the number of grains in it, not
    by the number, since real tissue also varies over more than a grain.
    """
    normal = random.standard_normal(shape, np.float32)
    gamma_shape = patient.frames_averaged
    if max(view.rows_per_pixel, view.columns_per_pixel) < 1.5:
        a = 0.392  # kernel (a, 1, a): correlation .6 at lag 1, .12 at lag 2
        for axis in (1, 2):
            normal = normal + a * (np.roll(normal, 1, axis) + np.roll(normal, -1, axis))
            normal /= np.sqrt(1 + 2 * a * a)
    else:
        grain = (1 + 2 * (0.6**2 + 0.12**2)) ** 2  # native pixels a grain, from the two correlations squared
        gamma_shape *= max(1.0, view.rows_per_pixel * view.columns_per_pixel / grain) ** 0.5
    root = 1 - 1 / (9 * gamma_shape) + normal * (1 / (3 * np.sqrt(gamma_shape)))
    return np.maximum(root, 0) ** 3
