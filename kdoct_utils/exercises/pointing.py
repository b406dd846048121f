"""The check of notebook 05's last exercise: does a map point at the lesion?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdoct_utils.exercises.checking import Check, Mistake, applied_to
from kdoct_utils.learn.attention import pointing_game

__all__ = ["check_points"]


def _hand_made() -> tuple[np.ndarray, np.ndarray]:
    """Largest pixels on the lesion, 1, 2 and 3 pixels off, where row and column are swapped, and off in both ways."""
    maps, masks = np.full((6, 12, 12), 0.1), np.zeros((6, 12, 12), bool)
    masks[:, 3:5, 8:11] = True
    for map_, (row, column) in zip(maps, ((3, 8), (5, 9), (4, 6), (7, 10), (9, 3), (5, 11)), strict=True):
        map_[row, column] = 1.0
    maps[4, 3:5, 8:11] = 0.9  # much of the map lies on the lesion, its largest pixel does not
    return maps, masks


def _largest(one: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(one.argmax(), one.shape)
    return int(row), int(column)


def _distance(one: np.ndarray, mask: np.ndarray, swapped: bool = False, measure: Callable = np.hypot) -> float:
    row, column = _largest(one)[:: -1 if swapped else 1]
    rows, columns = np.nonzero(mask)
    return float(measure(abs(rows - row), abs(columns - column)).min())


def _points(maps: np.ndarray, masks: np.ndarray, tolerance: float) -> np.ndarray:
    return np.array([_distance(one, mask) <= tolerance for one, mask in zip(maps, masks, strict=True)])


def _each(rule: Callable) -> Callable:
    return lambda maps, masks, tolerance: np.array(
        [rule(one, mask, tolerance) for one, mask in zip(maps, masks, strict=True)]
    )


_POINTED = _hand_made()

check_points = Check(
    "check_points",
    right=lambda maps, masks, tolerance: pointing_game(maps, masks, tolerance),
    observe=applied_to(*((*_POINTED, tolerance) for tolerance in (0.0, 1.0, 1.5, 2.0))),
    mistakes=(
        Mistake("no tolerance", _each(lambda one, mask, tolerance: mask[_largest(one)]),
                "Right at tolerance 0. A pixel next to the lesion should count once the tolerance allows it."),
        Mistake("row and column swapped", _each(lambda one, mask, tolerance: _distance(one, mask, True) <= tolerance),
                "A map whose largest pixel mirrors the lesion counts as a hit. Which of the two numbers is the row?"),
        Mistake("strictly less", _each(lambda one, mask, tolerance: _distance(one, mask) < tolerance),
                "At tolerance 0 nothing hits, not even a pixel on the lesion. Does “at most” hold its own limit?"),
        Mistake("distance to the center", _each(lambda one, mask, tolerance: np.hypot(
                    *(np.array(_largest(one)) - np.argwhere(mask).mean(axis=0))) <= tolerance),
                "You measure to the middle of the lesion. A map that points at its edge points at the lesion too."),
        Mistake("Manhattan", _each(lambda one, mask, tolerance: _distance(one, mask, measure=np.add) <= tolerance),
                "You add steps down and steps across. A pixel one down and one across is nearer than 2."),
        Mistake("Chebyshev", _each(lambda one, mask, tolerance: _distance(one, mask, measure=np.maximum) <= tolerance),
                "You take the larger of steps down and steps across. A pixel one down and one across is farther than "
                "1. A mask grown by a square does the same."),
        Mistake("energy", _each(lambda one, mask, tolerance: (one * mask).sum() / one.sum()),
                "That is the energy on the lesion. The pointing game asks for one pixel of the map only."),
        Mistake("one number", lambda maps, masks, tolerance: _points(maps, masks, tolerance).mean(),
                "You give the mean. The bootstrap over patients needs an answer for every map."),
    ),
    passed="Hits, near misses and misses are told apart.",
    otherwise="Got {got}, expected {wanted}. Draw a 12 × 12 grid and measure from the largest pixel to the nearest "
    "pixel of the lesion.",
)  # fmt: skip
