"""How the cost of training grows with scans and with pixels: `make bench` fits it and draws docs/growth.png."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from growth import PIXELS, SCANS
from measuring import run_script

from kdoct_utils.runs import atomic_path
from kdoct_utils.show.output import figure_png
from kdoct_utils.show.style import headline, use_style

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "growth.png"


def test_how_cost_grows(measured):
    by_scans = {scans: run_script("growth.py", scans, 64) for scans in SCANS}
    by_pixels = {pixels: run_script("growth.py", 320, pixels) for pixels in PIXELS}
    seconds = [by_scans[scans]["seconds"] for scans in SCANS]
    per_thousand, fixed = np.polyfit(np.array(SCANS) / 1000, seconds, 1)
    rates = [1000 * by_pixels[pixels]["seconds"] / 320 for pixels in PIXELS]  # ms a scan
    power = np.polyfit(np.log(PIXELS[1:]), np.log(rates[1:]), 1)[0]
    memory = [by_scans[scans]["peak_bytes"] / 1e6 for scans in SCANS]
    measured("an epoch of the quick student with a live teacher",
             f"{per_thousand:.1f} s for each 1,000 scans, and {fixed:.1f} s", "grows in proportion")  # fmt: skip
    measured("ms a scan against pixels of a side, from 96 px", f"grows as side to the power {power:.2f}", "about 2")
    measured(f"peak memory, {SCANS[0]:,} and {SCANS[-1]:,} scans", f"{memory[0]:.0f} and {memory[-1]:.0f} MB", "flat")
    if os.environ.get("KDOCT_BENCH_WRITE"):
        draw(seconds, (per_thousand, fixed), rates, power)
    assert memory[-1] < 1.3 * memory[0] and per_thousand > 0


def draw(seconds, line, rates, power):
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    thousands = np.array(SCANS) / 1000
    left.plot(thousands, seconds, "o", label="measured")
    left.plot(thousands, np.polyval(line, thousands), "--", label=f"{line[0]:.1f} s a thousand + {line[1]:.1f} s")
    left.set(xlabel="scans (thousands)", ylabel="seconds an epoch", ylim=(0, None))
    right.loglog(PIXELS, rates, "o", label="measured")
    fitted = rates[-1] * (np.array(PIXELS[1:]) / PIXELS[-1]) ** power
    right.loglog(PIXELS[1:], fitted, "--", label=f"side$^{{{power:.1f}}}$")
    right.set(xlabel="side of the picture (pixels)", ylabel="ms a scan")
    right.set_xticks(PIXELS, [str(pixels) for pixels in PIXELS])
    right.minorticks_off()
    for axis in (left, right):
        axis.legend(fontsize=8)
    headline(figure, f"Cost grows with the scans, and with the side to the power {power:.1f}")
    with atomic_path(PICTURE) as temporary:
        temporary.write_bytes(figure_png(figure, 40, "Two plots of the cost of training, each with its fit."))
