"""The course seen from its door, for notebook 00: its steps, its profiles and its datasets."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kdoct_utils.datasets import DATASETS
from kdoct_utils.profiles import PROFILES
from kdoct_utils.show.style import message

# What is made, by which notebooks, and the file that holds it.
STEPS = (
    ("B-scans", "01", "splits.csv"),
    ("teacher", "02, 03", "teacher.safetensors"),
    ("soft labels", "04", "teacher_logits.safetensors"),
    ("student", "05", "student_kd_seed0.safetensors"),
    ("edge model", "06", "student_int8.onnx"),
)


def course_map() -> Figure:
    """The steps of the course as boxes joined by arrows, each with its notebooks above and its file below."""
    figure, axis = plt.subplots(figsize=(6.8, 1.7))
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#E8F1F8", "edgecolor": "#0072B2"}
    for x, (name, notebooks, file) in enumerate(STEPS):
        axis.text(x, 0.5, name, ha="center", va="center", fontweight="bold", bbox=box)
        axis.text(x, 0.95, f"notebook {notebooks}", ha="center", va="center", fontsize=8)
        axis.text(x, 0.05, file.replace(".", "\n."), ha="center", va="center", fontsize=8, family="monospace")
        if x:
            axis.annotate("", (x - 0.41, 0.5), (x - 0.59, 0.5), arrowprops={"arrowstyle": "->", "linewidth": 1.6})
    axis.set(xlim=(-0.55, len(STEPS) - 0.45), ylim=(-0.1, 1.1))
    axis.set_axis_off()
    message(axis, "Each step leaves a file that the next one takes")
    return figure


def profile_table() -> pd.DataFrame:
    """One row a profile: what it is for and what it trains, in words."""
    rows = {
        name: {
            "for": profile.purpose,
            "input": f"{profile.image_size} px",
            "teacher": profile.teacher.architecture + (", cut down" if "dims" in profile.teacher.options else ""),
            "student": profile.student.architecture,
            "start weights": profile.start_weights,
            "epochs, at most": f"{profile.teacher_training.epochs} / {profile.student_training.epochs}",
            "memory": f"{profile.memory_gb:g} GB",
        }
        for name, profile in PROFILES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")


def dataset_table() -> pd.DataFrame:
    """One row a dataset of the registry: title, license and classes."""
    rows = {
        name: {
            "what": info.title,
            "license": info.license,
            "classes": ", ".join(info.classes),
        }
        for name, info in DATASETS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dataset")
