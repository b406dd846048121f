"""Is this a B-scan at all? How far a picture is from the scans of the training: part of the file that ships."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kdoct_utils.data.band import overlaps

ROWS = 12  # bands, from the top of the picture to its bottom
RIDGE = 1.0  # added to the variance along every direction, the features' own being 1: none is thinner than that
LEAST = 0.03  # added before a logarithm; squared differences of pixels, in squared deviations of the picture
CHUNK = 512  # pictures at a time


class DistanceToTraining(nn.Module):
    """The Mahalanobis distance of a picture's features to those of the training scans: how many standard deviations
    off, with all correlations between features. Lee et al. (NeurIPS 2018) took a network's features; these are plain.

    Features: mean and spread of the brightness by bands of rows; sharpness downward and sideways, fine and coarse;
    brightness and contrast of the whole. A retina is dark, bright and dark from above, and its layers run sideways;
    a photograph, a page or a scan upside down is not so. training_images: uint8 (n, R, R); None: every distance is 0.
    """

    def __init__(self, training_images: np.ndarray | None):
        super().__init__()
        self.known = training_images is not None
        if training_images is None:
            return
        side = training_images.shape[-1]
        for name, length, bands in (("level", side, ROWS), ("fine", side - 1, ROWS // 2), ("fine_x", side, ROWS // 2),
                                    ("coarse", side - 5, ROWS // 2), ("coarse_x", side - 2, ROWS // 2)):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(overlaps(length, bands)).float())  # (bands, length)
        with torch.inference_mode():
            parts = (training_images[i : i + CHUNK, None] for i in range(0, len(training_images), CHUNK))
            known = torch.cat([self.features(torch.from_numpy(np.array(part)).float()) for part in parts]).double()
        scale = known.std(dim=0) + 1e-6
        variances, directions = torch.linalg.eigh(((known - known.mean(dim=0)) / scale).T.cov())
        self.register_buffer("mean", known.mean(dim=0).float())
        self.register_buffer("whiten", (directions / (variances + RIDGE).sqrt() / scale[:, None]).float())

    def features(self, picture: Tensor) -> Tensor:
        """picture: (batch, 1, R, R), 0 to 255. Returns (batch, features)."""
        mean = picture.mean(dim=(2, 3), keepdim=True)
        spread = ((picture - mean) ** 2).mean(dim=(2, 3), keepdim=True).sqrt() + 4  # grey levels; 4: noise alone
        scan = (picture - mean) / spread
        smooth = nn.functional.avg_pool2d(scan, 3, stride=1)  # (batch, 1, R - 2, R - 2)
        found = [self.level @ scan.mean(dim=3, keepdim=True),
                 (self.level @ (scan**2).mean(dim=3, keepdim=True)).sqrt()]  # fmt: skip
        for bands, steps in ((self.fine, scan[:, :, 1:] - scan[:, :, :-1]),
                             (self.fine_x, scan[:, :, :, 1:] - scan[:, :, :, :-1]),
                             (self.coarse, smooth[:, :, 3:] - smooth[:, :, :-3]),
                             (self.coarse_x, smooth[:, :, :, 3:] - smooth[:, :, :, :-3])):  # fmt: skip
            found.append((bands @ (steps**2).mean(dim=3, keepdim=True) + LEAST).log())
        return torch.cat([*found, (mean + 1).log(), spread.log()], dim=2).flatten(1)

    def forward(self, picture: Tensor) -> Tensor:
        """picture: (batch, 1, R, R), 0 to 255. Returns the distance, (batch,)."""
        if not self.known:
            return 0 * picture[:, 0, 0, 0]
        return ((self.features(picture) - self.mean) @ self.whiten).square().sum(dim=1).sqrt()
