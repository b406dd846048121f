"""Networks as places: the plane in which a walk of the weights lies best, and a drawing of the walk over the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from kdoct_utils.show.style import SEQUENTIAL
from kdoct_utils.show.svg import framed_svg, png_uri

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plane:
    """A plane among all possible weights. Lengths in it are lengths between networks.

    points: (n, 2), where the n weights that span it are seen. share: of their scatter, what the plane shows, 0 to 1.
    """

    origin: Weights
    across: Weights
    up: Weights
    points: np.ndarray
    share: float

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """The weights at a place. What is no floating-point number is the first weights' own."""
        return {
            name: value + float(x) * self.across[name] + float(y) * self.up[name] if name in self.across else value
            for name, value in self.origin.items()
        }

    def around(self, side: int, margin: float = 0.35) -> tuple[np.ndarray, np.ndarray]:
        """x and y (side,) of a square of places around all points, with that margin of the longer extent."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        reach = (0.5 + margin) * max(high - low)
        return tuple(np.linspace(middle - reach, middle + reach, side) for middle in (low + high) / 2)


def plane_through(weights: Sequence[Weights]) -> Plane:
    """The plane through the mean of these weights that lies nearest to them all (their first two principal axes).

    Raises ValueError for fewer than three, which have no plane, and for weights that are all the same.
    """
    if len(weights) < 3:
        raise ValueError(f"a plane needs at least three sets of weights, not {len(weights)}")
    names = [name for name, value in weights[0].items() if value.is_floating_point()]
    if all(torch.equal(each[name], weights[0][name]) for each in weights for name in names):
        raise ValueError("these weights are all the same")
    mean = {name: torch.stack([each[name] for each in weights]).mean(dim=0) for name in names}
    products = np.zeros((len(weights), len(weights)))  # of the offsets: a large network is taken layer by layer
    for name in names:
        offsets = torch.stack([(each[name] - mean[name]).flatten() for each in weights]).cpu().double()
        products += (offsets @ offsets.T).numpy()
    squares, turns = np.linalg.eigh(products)
    lengths = np.sqrt(np.maximum(squares[[-1, -2]], 0.0))
    turns = turns[:, [-1, -2]]  # (n, 2): the two principal axes, the longer first
    turns = turns * np.where(turns[-1] < turns[0], -1.0, 1.0)  # a walk leads to the right and up
    shares = turns / np.maximum(lengths, 1e-9 * lengths[0])
    across, up = (
        {name: sum(float(part) * (each[name] - mean[name]) for part, each in zip(axis, weights, strict=True))
         for name in names}
        for axis in shares.T
    )  # fmt: skip
    return Plane({**weights[0], **mean}, across, up, turns * lengths, float(lengths @ lengths / products.trace()))


def walk_svg(
    x: Sequence[float], y: Sequence[float], losses: np.ndarray, path: np.ndarray, mean: Sequence[float], seen: int,
    *, title: str, description: str, side: int = 300,
) -> str:
    """A walk over the loss as an SVG string: snapshots numbered from 1, the first ``seen`` filled, their mean a star.

    x, y (k,): places where the loss was measured, losses (k, k) with y down the rows; dark is low.
    path (n, 2), mean (2,): in the units of x and y.
    """
    step = (x[1] - x[0], y[1] - y[0])
    low = np.array([x[0] - step[0] / 2, y[0] - step[1] / 2])  # the outer edge of the first cell

    def place(point: Sequence[float]) -> tuple[float, float]:
        across, up = (np.asarray(point) - low) / (np.array([x[-1], y[-1]]) - low + np.array(step) / 2)
        return side * across, 30 + side * (1 - up)

    dots = [place(point) for point in path]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in dots)
    parts = [f'<polyline points="{line}" fill="none" stroke="white" stroke-width="4"/>'
             f'<polyline points="{line}" fill="none" stroke="black" stroke-width="1.5"/>']  # fmt: skip
    for number, (a, b) in enumerate(dots, start=1):
        ground, ink = ("black", "white") if number <= seen else ("white", "black")
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="9" fill="{ground}" stroke="{ink}"/>'
                     f'<text x="{a:.1f}" y="{b + 4:.1f}" font-size="12" text-anchor="middle" fill="{ink}">{number}'
                     "</text>")  # fmt: skip
    a, b = place(mean)
    corners = [(a + r * np.sin(k * np.pi / 5), b - r * np.cos(k * np.pi / 5)) for k, r in enumerate([13, 5.5] * 5)]
    star = " ".join(f"{p:.1f},{q:.1f}" for p, q in corners)
    parts.append(f'<polygon points="{star}" fill="#FFE27A" stroke="black" stroke-width="1.5"/>')
    ground = (f'<image x="0" y="30" width="{side}" height="{side}" preserveAspectRatio="none" '
              f'style="image-rendering: pixelated" href="{_shades(losses)}"/>')  # fmt: skip
    return framed_svg(title, description, side, side + 30, [ground, *parts])


def _shades(losses: np.ndarray) -> str:
    """A pixel a place, dark where the loss is low, as a data URL."""
    losses = np.asarray(losses, dtype=float)[::-1]  # a picture's first row is its top
    spread = losses.max() - losses.min()
    levels = (losses - losses.min()) / (spread or 1.0)
    return png_uri((255 * colormaps[SEQUENTIAL](levels)[..., :3]).round().astype(np.uint8))
