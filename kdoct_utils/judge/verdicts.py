"""What a difference with its interval allows to say: the one home of gain, loss and open, and of the words for them.

A difference is a mapping (or a row of a table) with estimate, low and high, its 95 % interval, as fractions of 1; and
with holm, the p after Holm's correction, where it is one of several claims. A gain or a loss is shown where the
interval excludes zero and holm, if there, is below LEVEL. All else is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

GAIN, LOSS, OPEN, NOT_TESTED = "gain", "loss", "open", "not tested here"
LEVEL = 0.05
Difference = Mapping[str, float]
Words = Mapping[str, tuple[str, str]]  # of each reading, for one and for several
OF_DIFFERENCES: Words = {GAIN: ("gain shown", "gains shown"), LOSS: ("loss shown", "losses shown"),
                         OPEN: ("open", "open")}  # fmt: skip
OF_CLAIMS: Words = {GAIN: ("shown", "shown"), LOSS: ("opposite shown", "opposites shown"), OPEN: ("open", "open")}


def reading(row: Difference) -> str:
    """GAIN, LOSS or OPEN; NOT_TESTED where the estimate is NaN."""
    if np.isnan(row["estimate"]):
        return NOT_TESTED
    if not excludes_zero(row) or row.get("holm", 0.0) >= LEVEL:
        return OPEN
    return GAIN if row["estimate"] > 0 else LOSS


def excludes_zero(row: Difference) -> bool:
    return row["low"] > 0 or row["high"] < 0


def in_points(row: Difference) -> str:
    """ "+2.4 points [+1.6, +3.1]"."""
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*(100 * row[key] for key in ("estimate", "low", "high")))


def reason(row: Difference) -> str:
    """What the reading rests on: "the interval excludes zero", or what keeps it open."""
    if not excludes_zero(row):
        return "the interval includes zero"
    if reading(row) != OPEN:
        return "the interval excludes zero"
    chance = f"among so many claims chance can do that (p = {row['holm']:.2f} after Holm)"
    return f"the interval excludes zero, but {chance}"


def verdict(row: Difference) -> str:
    """ "a gain is shown: the interval excludes zero", to stand after what was measured."""
    shown = {GAIN: "a gain is shown", LOSS: "a loss is shown", OPEN: "neither gain nor loss is shown"}
    return f"{shown[reading(row)]}: {reason(row)}"


def sentence(row: Difference, who: str, against: str) -> str:
    """The difference as a sentence about the two: "KD gained 2.0 points on labels alone [+1.6, +2.5]; the ..."."""
    found = reading(row)
    if found == OPEN:
        return f"{who} minus {against} is {in_points(row)}. No difference is shown: {reason(row)}."
    size, _, interval = in_points(row).lstrip("+-").partition(" [")
    did = "gained" if found == GAIN else "lost"
    return f"{who} {did} {size} against {against} [{interval}; {reason(row)}."


def told(texts: Sequence[str], readings: Sequence[str], words: Words = OF_DIFFERENCES) -> str:
    """What is shown of which: "Gain shown: a; b. Open: c."."""
    of_each = {one: [text for text, found in zip(texts, readings, strict=True) if found == one] for one in words}
    return " ".join(f"{words[one][0].capitalize()}: {'; '.join(found)}." for one, found in of_each.items() if found)


def counted(readings: Sequence[str], words: Words = OF_DIFFERENCES) -> str:
    """Such as "3 gains shown, 1 loss shown, 2 open"."""
    counts = {word: list(readings).count(word) for word in words}
    return ", ".join(f"{count} {words[word][count > 1]}" for word, count in counts.items() if count)
