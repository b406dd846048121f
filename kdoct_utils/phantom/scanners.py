"""How a scanner shows an eye, apart from the eye: averaging, noise floor, blur, shadows and display curve.

Two styles. That of the dataset ``phantom`` follows numbers measured on a Spectralis. That of ``phantom_b`` stands for
another spectral-domain scanner, which averages no frames. It imitates no product: its numbers are invented, only
their direction is plausible. The eyes are drawn alike for both, and never the same eye for both datasets.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from kdoct_utils.phantom.anatomy import Patient


@dataclass(frozen=True)
class ScannerStyle:
    """What a scanner makes of an eye; the defaults are the first scanner's and change nothing.

    name: of the dataset whose eyes it scans. seed_stream: goes behind a cohort's seeds, so that each dataset has
    eyes of its own.
    """

    name: str
    averaging: float = 1.0  # times the frames that are averaged: the gamma shape of the speckle
    noise_floor: float = 1.0  # times the detector's floor, in raw intensity
    axial_blur_um: float = 0.0  # sigma of the blur along the depth, beyond that of the first scanner
    shadow: float = 1.0  # power of what the vessels let through: above 1 their shadows are darker
    display_decades: float | None = None  # None: fourth root of the raw intensity; else its logarithm, so many decades
    seed_stream: tuple[int, ...] = ()

    def seen(self, patient: Patient) -> Patient:
        """The eye as far as this scanner decides it: speckle, noise floor and shadows. Anatomy and lesions stay."""
        vessels = patient.vessels.copy()
        vessels[:, 3] **= self.shadow
        return replace(
            patient,
            frames_averaged=patient.frames_averaged * self.averaging,
            noise_level=patient.noise_level * self.noise_floor**0.25,  # a display level, the fourth root of the floor
            vessels=vessels,
        )

    def blurred(self, raw: np.ndarray, row_um: float) -> np.ndarray:
        """Raw intensity (slices, height, width) after the blur along the depth; row_um: height of a pixel."""
        return gaussian_filter1d(raw, self.axial_blur_um / row_um, axis=1) if self.axial_blur_um else raw

    def display(self, raw: np.ndarray) -> np.ndarray:
        """Display level, 0 to 255 and above, of raw intensity; 1 is the brightest that is shown."""
        raw = np.maximum(raw, 0)
        if self.display_decades is None:
            return np.sqrt(np.sqrt(raw)) * np.float32(255)
        span = np.float32(10**self.display_decades)
        return np.log1p(span * raw) * (np.float32(255) / np.log1p(span))


FIRST_SCANNER = ScannerStyle("phantom")
# No frames averaged, so the speckle is coarse (shape 1.2 to 2.6) and the floor high; a display nearer to a logarithm
# lifts the dark and levels the bright, so the layers differ less. Invented numbers, see above.
SECOND_SCANNER = ScannerStyle(
    "phantom_b", averaging=0.15, noise_floor=30.0, axial_blur_um=6.0, shadow=1.5, display_decades=3.5,
    seed_stream=(20,),
)  # fmt: skip
SCANNERS = {style.name: style for style in (FIRST_SCANNER, SECOND_SCANNER)}
