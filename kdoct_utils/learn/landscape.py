"""Networks as places: the plane in which a walk of the weights lies best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
    """The plane through the mean of three or more weights that lies nearest to them all (their principal axes)."""
    names = [name for name, value in weights[0].items() if value.is_floating_point()]
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
