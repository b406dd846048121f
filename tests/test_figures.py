"""Figures: colors told apart by every eye, and the numbers that were given are those that are drawn."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from skimage.color import deltaE_ciede2000, rgb2lab

from kdoct_utils.judge.sample_size import half_width
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.show import arm_figures, claim_figures, data_figures, edge_figures, figures, gain_figures, ship_figures
from kdoct_utils.show.style import ARM_LOOKS, CLASS_LOOKS, look, use_style

# Linear-RGB matrices for full color-vision deficiency: Machado, Oliveira and Fernandes 2009.
SIGHT = {
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
CLASSES = ("normal", "drusen", "cnv")
SCAN = np.random.default_rng(0).integers(0, 200, (32, 48)).astype(np.uint8)


@pytest.fixture(autouse=True)
def style():
    use_style()
    yield
    plt.close("all")


def texts(figure) -> set[str]:
    return {item.get_text() for item in figure.findobj(matplotlib.text.Text)}


# --- style -----------------------------------------------------------------------------------------------------------


def linear(color: str) -> np.ndarray:
    value = np.array(to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def seen(color: str, sight: str) -> np.ndarray:
    """The color in CIE Lab as that sight has it."""
    value = np.clip(np.asarray(SIGHT[sight]) @ linear(color), 0, 1)
    value = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    return rgb2lab(value[None, None])[0, 0]


def test_looks_differ_for_every_sight_and_without_color():
    assert tuple(CLASS_LOOKS) == CLASS_NAMES
    for looks in (CLASS_LOOKS, ARM_LOOKS):
        for sight in SIGHT:
            pairs = combinations([item.color for item in looks.values()], 2)
            assert min(deltaE_ciede2000(seen(a, sight), seen(b, sight)) for a, b in pairs) > 12, sight
        items = looks.values()
        assert len({item.marker for item in items}) == len({item.hatch for item in items}) == len(looks)
        for item in items:
            luminance = linear(item.color) @ [0.2126, 0.7152, 0.0722]
            assert 1.05 / (luminance + 0.05) >= 3, f"{item.label}: WCAG asks 3:1 of graphics on white"
    with pytest.raises(ValueError, match="'amd'.*normal.*student_kd"):
        look("amd")


# --- figures of several notebooks ------------------------------------------------------------------------------------


def test_confusion_matrix_writes_counts_and_row_percentages():
    figure = figures.confusion_matrix([[3, 1], [0, 0]], ["normal", "cnv"], title="A message")
    assert {"3\n75%", "1\n25%", "0\n–", "A message", "CNV", "predicted class"} <= texts(figure)
    assert "share of the true class" in texts(figure)


def test_interval_plot_draws_the_interval_in_the_arm_look_and_a_dot_a_seed():
    estimates = {"student_kd": (0.8, 0.7, 0.85), "mine": (0.1, 0, 0.2)}
    figure = figures.interval_plot(estimates, xlabel="accuracy", title="t", seeds={"student_kd": [0.75, 0.85]})
    line, bars = figure.axes[0].containers[0][0], figure.axes[0].containers[0][2][0]
    assert line.get_color() == ARM_LOOKS["student_kd"].color and line.get_marker() == "P"
    np.testing.assert_allclose(bars.get_segments()[0], [[0.7, 0], [0.85, 0]])
    (dots,) = [item.get_offsets() for item in figure.axes[0].collections if len(item.get_offsets()) == 2]
    assert sorted(dots[:, 0]) == [0.75, 0.85]
    assert {"student, KD", "mine", "accuracy (95% interval; small dots: seeds)"} <= texts(figure)
    assert "0.800  [0.700, 0.850]" in texts(figure)
    with pytest.raises(ValueError, match="mine.*does not hold"):
        figures.interval_plot({"mine": (0.9, 0.1, 0.2)}, xlabel="x", title="t")


def test_a_layer_overlay_names_what_is_there():
    mask = np.zeros_like(SCAN, dtype=int)
    mask[5:10], mask[15:20, :20] = 1, 2
    layered = figures.layer_overlay(SCAN, mask, ["none", "RNFL", "RPE"])
    assert {"RNFL", "RPE"} <= texts(layered)
    assert len(layered.axes[1].collections) == 2 and not layered.axes[0].collections  # an outline a layer, tinted side


def test_grid_curves_and_class_bars():
    figure = figures.scan_grid([SCAN] * 5, list("abcde"), title="A long title that says something about scans " * 3)
    assert len(figure.axes) == 8 and set("abcde") <= texts(figure)
    history = pd.DataFrame({"epoch": [1, 2, 2], "train_loss": [1.0, 0.5, 0.5], "validation_loss": [1.1, 0.8, 0.7],
                            "validation_accuracy": [0.5, 0.6, 0.7], "weights": ["best", "best", "swa"]})  # fmt: skip
    lines = {line.get_label(): line for line in figures.learning_curves(history, title="t").axes[0].get_lines()}
    assert list(lines["training"].get_ydata()) == [1.0, 0.5] and list(lines["validation, SWA"].get_ydata()) == [0.7]
    values = [[0.85, 0.15], [0.6, 0.4]]
    figure = figures.class_bars(values, ["drusen", "cnv"], ["T = 1", "T = 4"], title="t")
    drusen, cnv = figure.axes[0].containers
    assert [bar.get_height() for bar in drusen] == [0.85, 0.6] and [bar.get_height() for bar in cnv] == [0.15, 0.4]
    known = CLASS_LOOKS["cnv"]
    assert cnv[0].get_facecolor() == to_rgba(known.color) and cnv[0].get_hatch() == known.hatch
    assert {"T = 1", "T = 4", "0.85", "0.40", "CNV"} <= texts(figure)


# --- scans and splits ------------------------------------------------------------------------------------------------


def test_figures_of_scans_and_splits_say_what_they_show():
    lesion = np.zeros_like(SCAN, dtype=int)
    lesion[8:12, 10:14] = 1
    images, none = [SCAN] * 2, np.zeros_like(lesion)
    answer = {"drusen": 0.85, "cnv": 0.10, "normal": 0.05}
    labels = ["normal", "normal", "drusen", "drusen"]
    table = pd.DataFrame({"group": list("aabb"), "label": labels, "slice": [0, 1] * 2})
    volumes = pd.DataFrame([(who, "OD", k, "normal" if k in (0, 4) else kind, kind) for who, kind in
                            (("a", "drusen"), ("b", "drusen"), ("c", "cnv"), ("d", "cnv")) for k in range(5)],
                           columns=["patient", "eye", "slice", "label", "patient_class"])  # fmt: skip
    split = pd.DataFrame({"fold": [0, 0, 1, 1], "group": list("abab"), "role": ["train", "test", "test", "train"]})
    roles = {"by scan": ["train", "test", "train", "train"], "by patient": ["test", "test", "train", "train"]}
    told = {
        "drusen 0.85": data_figures.distillation_figure(SCAN, "drusen", answer),
        "lettered A, B": data_figures.guess_figure(images, "AB"),
        "A normal, B drusen": data_figures.answer_figure(images, [none, lesion], images, ["normal", "drusen"], "AB"),
        "drusen 1.0%": data_figures.lesions_figure({"normal": (SCAN, none), "drusen": (SCAN, lesion)}, 16),
        "drusen 100% in the middle, 0% at the edge": data_figures.place_figure(volumes, "phantoms"),
        "same patient, next slice": data_figures.nearest_figure([SCAN] * 4, table, np.array([1, 0, 3, 2]),
                                                                np.array([2, 3, 0, 1])),
        "2 folds by 2 patients": data_figures.folds_figure(split, pd.Series({"a": "normal", "b": "drusen"})),
        "blocks of 2": data_figures.rules_figure(table, roles, {"by scan": 1.0, "by patient": 0.0}),
        "1 frames": data_figures.band_figure({"a": SCAN}, {"a": (4, 20, 4, 20)}, {"a": (SCAN, SCAN)}),
        "scale bar": data_figures.cleaned_figure({"scale bar": SCAN, "b": SCAN}, {"scale bar": SCAN, "b": SCAN},
                                                 (20, 24, 2, 8)),
    }  # fmt: skip
    for words, (figure, alt, takeaway) in told.items():
        assert words in alt and takeaway.strip() and figure.get_suptitle(), words
        plt.close(figure)


# --- arms ------------------------------------------------------------------------------------------------------------


def history(accuracies: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"epoch": range(len(accuracies)), "validation_accuracy": accuracies})


def test_seed_curves_average_the_epochs_that_all_reached():
    histories = {
        "student_alone": [history([0.2, 0.4, 0.9]), history([0.4, 0.6])],
        "student_kd": [history([0.5, 0.5, 0.5]), history([0.5, 0.7, 0.9])],
    }
    figure, last = arm_figures.seed_curves(histories, title="learning")
    assert last == pytest.approx({"student_alone": 0.5, "student_kd": 0.6})
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    assert np.allclose(drawn[0].get_ydata(), [0.3, 0.5]) and np.allclose(drawn[0].get_xdata(), [1, 2])
    low, high = figure.axes[0].collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == pytest.approx((0.2, 0.6))  # the band from the lowest seed to the highest
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["student alone", "student, KD"]


def test_bars_have_the_lengths_of_pushes():
    pushes = {"teacher": np.array([0.2, -0.1, -0.1]), "label": np.array([-0.4, 0.6, -0.2])}
    pushes["sum"] = pushes["teacher"] + pushes["label"]
    figure, alt, takeaway = arm_figures.pushes_figure({0.0: pushes, 1.0: pushes}, CLASSES)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [*pushes["teacher"], *pushes["label"], *pushes["sum"]]
    assert "disagree on normal, drusen" in takeaway and "α = 1: normal -0.20, drusen +0.50, CNV -0.30" in alt


def test_a_gain_elsewhere_is_drawn_in_pairs():
    picture = np.zeros((4, 4))
    gain = {"estimate": 0.02, "low": 0.01, "high": 0.03, "by_seed": [0.01, 0.03]}
    gains = {"here": gain, "there": gain | {"low": -0.01}}
    scores = {"here": {"student_alone": [0.8, 0.7], "student_kd": [0.82, 0.72]},
              "there": {"student_alone": [0.6, 0.5], "student_kd": [0.62, 0.55]}}  # fmt: skip
    figure, alt, takeaway = arm_figures.transfer_figure({"here": picture, "there": picture}, scores, gains)
    *_, slopes, paired = figure.axes
    assert [line.get_ydata().tolist() for line in slopes.lines][2:] == [[0.82, 0.62], [0.72, 0.55]]
    assert [drawn.lines[0].get_xdata()[0] for drawn in paired.containers] == [2.0, 2.0]
    assert "Gain shown: here. Open: there" in figure.get_suptitle().replace("\n", " ")
    assert "student alone 0.750 and 0.550" in alt and "there +2.0 points" in takeaway


def test_what_an_interval_tells_is_marker_and_word():
    rows = pd.DataFrame({"question": ["one?", "one?", "two?"], "text": ["a - b", "c - b", "d - b"],
                         "estimate": [0.02, -0.02, 0.01], "low": [0.01, -0.03, 0.0], "high": [0.03, -0.01, 0.02],
                         "holm": [0.01, 0.02, 0.05],
                         "by_seed": [[0.01, 0.03], [-0.02, -0.02], [0.0, 0.02]]})  # fmt: skip
    figure, alt, takeaway = gain_figures.forest(rows, "Gains")
    axis = figure.axes[0]
    assert [drawn.lines[0].get_marker() for drawn in axis.containers] == ["^", "v", "o"]
    assert [drawn.lines[0].get_xdata()[0] for drawn in axis.containers] == [2.0, -2.0, 1.0]
    spans = [drawn.lines[2][0].get_segments()[0][:, 0].tolist() for drawn in axis.containers]
    assert np.allclose(spans, [[1.0, 3.0], [-3.0, -1.0], [0.0, 2.0]])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["gain shown", "loss shown", "open"]
    dots = [offset for points in axis.collections if len(points.get_offsets()) for offset in points.get_offsets()[:, 0]]
    assert set(np.round(dots, 6)) == {1.0, 3.0, -2.0, 0.0, 2.0}
    assert "c - b -2.0 points [-3.0, -1.0]" in alt and takeaway == "Gain shown: a - b. Loss shown: c - b. Open: d - b."
    plain, *_ = gain_figures.forest(rows.drop(columns="by_seed"), "Gains")
    assert "dot" not in plain.axes[0].get_xlabel()


def test_data_seeds_are_drawn_where_the_half_width_says():
    spread = {"data": 0.01, "training": 0.02, "total": 0.02, "students": 2}
    figure, alt, takeaway = claim_figures.data_seeds_figure(spread, 12)
    line = figure.axes[0].lines[0]
    assert dict(zip(*line.get_data(), strict=True))[12] == pytest.approx(100 * half_width(0.01, 0.02, 12))
    assert "12 data seeds" in takeaway and "Five repeats" in takeaway and "3 of each arm" in alt
    assert "; 3 of" not in claim_figures.data_seeds_figure(spread | {"training": np.nan}, 12)[1]


# --- edge ------------------------------------------------------------------------------------------------------------


def test_edge_figures_hold_the_numbers_that_they_were_given():
    formats = {"fp32": {"bytes": 4000, "latency_ms": 0.5, "accuracy": 0.8, "interval": [0.7, 0.9]},
               "int8": {"bytes": 2000, "latency_ms": 0.6, "accuracy": 0.7, "interval": [0.6, 0.8]}}  # fmt: skip
    size, speed, accuracy = edge_figures.format_panels(formats, title="t").axes
    heights = [[bar.get_height() for bar in axis.patches] for axis in (size, speed)]
    assert heights == [[4, 2], [0.5, 0.6]] and list(accuracy.lines[2].get_ydata()) == [0.6, 0.8]
    axis = edge_figures.time_bars({"fp32": {"a": 1, "b": 2}, "int8": {"a": 3, "b": 4}}, title="t").axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches] == [(0, 1), (0, 3), (1, 2), (3, 4)]
    full = np.arange(6.0).reshape(2, 3)
    axis = edge_figures.logit_scatter(full, full + 1, CLASSES, title="t").axes[0]
    assert [line.get_label() for line in axis.lines] == ["equal", "normal", "drusen", "CNV"]
    assert list(axis.lines[2].get_ydata()) == [2, 5]


def test_figures_of_what_ships_say_their_numbers():
    frames = {"eye": np.zeros((9, 9), np.uint8), "page": np.zeros((9, 9, 3), np.uint8)}
    answers = [SimpleNamespace(decision="cnv", probabilities={"cnv": 0.9}),
               SimpleNamespace(decision="refused", probabilities={})]  # fmt: skip
    _, alt, takeaway = ship_figures.answers_figure(frames, answers)
    assert "eye: cnv, p = 0.90; page: refused" in alt and "1 of 2" in takeaway
    assert "40% stay" in ship_figures.mistakes_figure({"a": 0.1, "b": 0.4}, 9)[2]
    assert "50.0% of them lie in the" in ship_figures.rounding_figure(*2 * [np.linspace(0, 1, 50)], 0.01)[2]
    share = {"low": 0.7, "high": 0.9}
    found = [{"sensitivity": {"estimate": e, **share}, "specificity": {"estimate": 0.8, **share}} for e in (0.9, 0.75)]
    assert "sensitivity 75.0% [70.0%, 90.0%]" in ship_figures.threshold_figure(np.array([0, 1.0]), found, 0.9)[2]
    figure, _, takeaway = ship_figures.risk_figure(np.array([0.5, 1.0]), np.array([0.0, 0.2]), 0.75)
    assert "errs on 10.0% of the rest in place of 20.0% of all" in takeaway and figure.axes[0].lines
    far = {"test scans": np.array([1.0, 2, 3, 9]), "text": np.array([np.inf, 20.0])}
    assert "25.0% of the test scans and 100.0% of the others" in ship_figures.distance_figure(far, 5.0)[2]
