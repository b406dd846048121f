"""How the signs of trouble do on measured arms: where each fires, and where it should."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdoct_utils.judge.signs import MEANT, fired_by_arm, hits_and_false_alarms
from kdoct_utils.show.style import headline


def signs_figure(table: pd.DataFrame, labels: Mapping[str, str]) -> tuple[Figure, str, str] | None:
    """Share of data seeds in which each sign fires, an arm a row; framed: it should. None where nothing was measured.

    table: of `judge.regimes.kept_regimes`. labels: arm -> its name for readers.
    """
    fired = fired_by_arm(table)
    if fired.empty:
        return None
    shares = fired.drop(columns=["group", "seeds"])
    groups = fired["group"].str.replace(" is", "")
    rows = [f"{labels[arm]} ({groups[arm]})" for arm in shares.index]
    figure, axis = plt.subplots(figsize=(6.8, 1.5 + 0.32 * len(shares)))
    seaborn.heatmap(shares.astype(float), vmin=0, vmax=1.4, cmap=seaborn.light_palette("#0072B2", as_cmap=True),
                    annot=True, fmt=".0%", cbar=False, yticklabels=rows, linewidths=1,
                    annot_kws={"fontsize": 9, "color": "black"}, ax=axis)  # fmt: skip
    for column, sign in enumerate(shares):
        for row, arm in enumerate(shares.index):
            if arm in MEANT.get(sign, ()):
                axis.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3))
    axis.set_xticklabels(["\n".join(textwrap.wrap(sign, 12)) for sign in shares], rotation=0, fontsize=8)
    axis.tick_params(axis="y", labelsize=8, length=0)
    axis.set_ylabel("")
    axis.set_xlabel("share of data seeds in which the sign fires; framed: it should", loc="right", fontsize=9)
    counts = hits_and_false_alarms(fired)
    hits, alarms = counts[["hits", "should"]].sum(), counts[["alarms", "should_not"]].sum()
    message = (f"Signs fire in {hits['hits']} of {hits['should']} runs where they should, in {alarms['alarms']} of "
               f"{alarms['should_not']} where they should not")  # fmt: skip
    headline(figure, message)
    told = "; ".join(
        f"{sign}: {row['hits']} of {row['should']} where it should, {row['alarms']} of {row['should_not']} elsewhere"
        for sign, row in counts.iterrows()
    )
    return figure, f"Shares of data seeds in which each sign fires, by arm. {told}.", f"{told}."
