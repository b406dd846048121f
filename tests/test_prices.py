"""What files cost beside one another, which one is shipped, and the carried measurement of the large networks."""

import numpy as np
import pandas as pd
import pytest

from kdoct_utils.edge.classifier import EdgeError
from kdoct_utils.edge.export import export_onnx, quantize_int8
from kdoct_utils.edge.measure import cold_start, time_in_turns
from kdoct_utils.edge.prices import choose_file, kept_costs, price_files, shipping_sentence
from kdoct_utils.learn.models import build_model, count_parameters
from kdoct_utils.profiles import PROFILES, ModelConfig
from kdoct_utils.show import edge_figures

CLASSES = ("normal", "drusen", "cnv")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 35, 35), np.uint8)
TARGET, PATIENTS = np.arange(30) % 3, np.repeat(np.arange(10), 3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name in ("small", "lite"):
        model = build_model(ModelConfig(f"efficientnet_course_{name}", dropout=0.0), 3, 1, seed=0)
        file = export_onnx(
            model, folder / f"{name}.onnx", image_size=32, stored_size=35, channels=1, class_names=CLASSES
        )
        found |= {(name, "FP32"): file, (name, "INT8"): quantize_int8(file, folder / f"{name}_int8.onnx", IMAGES[:8])}
    return found


def test_calls_take_turns_and_warm_up():
    order = []
    times = time_in_turns({name: lambda name=name: order.append(name) for name in "ab"}, turns=2, runs=3, warmup=1)
    assert "".join(order) == "aaaabbbbaaaabbbb"
    assert all(0 <= one["median_ms"] <= one["p95_ms"] and len(one["by_turn"]) == 2 for one in times.values())


def test_a_start_without_torch_is_timed_and_weighed(paths):
    found = cold_start(paths["small", "FP32"], starts=1)
    assert found["cold_start_s"] > 0.02  # Python alone takes as long
    assert found["peak_mb"] is None or 20 < found["peak_mb"] < 200  # a process with torch in it takes more


def test_files_are_priced_beside_one_another(paths):
    prices = price_files(paths, IMAGES, TARGET, PATIENTS, (IMAGES, TARGET), turns=2, runs=3, starts=0)
    assert list(prices.index) == list(paths) and not prices.isna().any().any()
    assert (prices["judged"] == prices["accuracy"]).all()  # the same scans judged and tested here
    assert (prices.xs("FP32", level=1)[["lost", "lost_low", "lost_high"]] == 0).all().all()
    for key, row in prices.iterrows():
        assert row["bytes"] == paths[key].stat().st_size and row["low"] <= row["accuracy"] <= row["high"]
        assert row["lost"] == pytest.approx(row["accuracy"] - prices.loc[(key[0], "FP32"), "accuracy"])


def test_files_of_other_classes_are_not_compared(paths, tmp_path):
    model = build_model(ModelConfig("efficientnet_course_tiny", dropout=0.0), 2, 1, seed=0)
    two = export_onnx(model, tmp_path / "t.onnx", image_size=32, stored_size=35, channels=1, class_names=CLASSES[:2])
    with pytest.raises(EdgeError, match="two, FP32: normal, drusen, not normal, drusen, cnv"):
        price_files({**paths, ("two", "FP32"): two}, IMAGES, TARGET, PATIENTS, (IMAGES, TARGET))


def table(*rows):
    """name, format, judged, ms, kB."""
    frame = pd.DataFrame(rows, columns=["student", "format", "judged", "median_ms", "bytes"])
    frame["bytes"] *= 1000
    same = {"lost": -0.004, "lost_low": -0.01, "lost_high": 0.002, "accuracy": 0.9, "low": 0.88, "high": 0.92}
    return frame.assign(**same).set_index(["student", "format"])


def test_the_quickest_of_those_that_are_good_enough_is_shipped():
    good = ("a", "FP32", 0.90, 1.0, 400)
    for other, chosen in (
        (("b", "INT8", 0.895, 0.5, 100), "b"),  # half a point worse, and quicker
        (("b", "INT8", 0.88, 0.5, 100), "a"),  # quicker, but two points worse
        (("b", "INT8", 0.90, 1.05, 100), "b"),  # as quick, and smaller
        (("b", "INT8", 0.90, 1.3, 100), "a"),  # smaller, but slower
    ):
        assert choose_file(table(good, other))[0] == chosen, other
    text = shipping_sentence(table(good, ("a", "INT8", 0.895, 0.5, 100)), ("a", "INT8"))
    for words in ("Ship **a, INT8**", "2 are within 1 point", "0.50 ms, 100 kB", "FP32 file takes 1.00 ms and 400 kB",
                  "-0.4 points [-1.0, +0.2]", "90.0% [88.0%, 92.0%]"):  # fmt: skip
        assert words in text, words


def test_the_front_goes_through_what_nothing_else_beats():
    prices = table(("a", "FP32", 0.9, 1.0, 400), ("a", "INT8", 0.9, 0.5, 100), ("b", "FP32", 0.9, 2.0, 300))
    prices["accuracy"] = [0.9, 0.8, 0.85]
    figure, alt, takeaway = edge_figures.format_front(prices, ("a", "INT8"))
    speed, size = (axis.lines[0] for axis in figure.axes)
    assert [list(line.get_xdata()) for line in (speed, size)] == [[0.5, 1.0], [100, 300, 400]]
    assert "a, INT8: 0.50 ms, 100 kB, 80.0%" in alt and "a, INT8 answers soonest" in takeaway


def test_the_carried_costs_are_of_the_networks_that_the_profiles_name():
    try:
        costs, note = kept_costs()
    except FileNotFoundError:
        pytest.skip("not measured yet: python -m tools.edge_costs measure")
    assert "torch" in note and "onnxruntime" in note
    quick, paper = PROFILES["quick"], PROFILES["paper"]
    for name, config, channels in (
        ("EfficientNet-B2", paper.student, 3), ("quick lite student", quick.lite_student, 1)
    ):  # fmt: skip
        rows = costs[costs["network"] == name]
        assert set(rows["parameters"]) == {count_parameters(build_model(config, 3, channels))}, name
        assert set(rows["threads"]) == {1, 2} and (rows["median_ms"] <= rows["p95_ms"]).all()
    _, alt, takeaway = edge_figures.cost_figure(costs)
    assert "25.5 times fewer parameters than ConvNeXtV2-Large" in takeaway and "INT8" in alt
