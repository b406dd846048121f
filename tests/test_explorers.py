"""The drawings behind notebook 01's sliders: they count right, say it in words, and follow the phantom's anatomy."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from kdoct_utils.phantom.anatomy import VISIBLE_DRUSE_UM, draw_patient
from kdoct_utils.show.explorers import plan_of, plan_svg, scaled_lesions, seen_of_tested, split_svg

TABLE = pd.DataFrame({"group": ["a", "a", "b", "b", "c", "c"], "label": ["normal"] * 2 + ["cnv"] * 4})


def drawn(svg):
    return BeautifulSoup(svg, "html.parser").svg


def test_a_split_is_counted_and_marked():
    svg = drawn(split_svg(TABLE, ["train", "test", "test", "test", "train", "validation"], title="t"))
    texts = [text.get_text() for text in svg.find_all("text")]
    assert texts.count("T") == 3 and texts.count("V") == 1 and texts.count("x") == 1
    assert "1 of 2 test patients were seen in training." in texts
    assert "3 scans test" in svg["aria-label"] and "1 of 2" in svg["aria-label"]


def test_validation_alone_is_not_training():
    assert seen_of_tested(TABLE, ["validation", "test", "train", "train", "train", "train"]) == (0, 1)


def test_a_role_for_each_scan():
    with pytest.raises(ValueError, match="6 scans and 5 roles"):
        split_svg(TABLE, ["train"] * 5, title="t")


def test_lesions_grow_and_the_eye_stays():
    eye = draw_patient("drusen", 10)
    before = eye.lesions.drusen.copy()
    low, high = (plan_of(scaled_lesions(eye, times), 0.0) for times in (0.5, 2.0))
    assert high["lift"] == pytest.approx(4 * low["lift"], rel=1e-3)
    np.testing.assert_array_equal(eye.lesions.drusen, before)
    assert plan_of(scaled_lesions(eye, 1.0), 0.0)["lift"] == plan_of(eye, 0.0)["lift"]


@pytest.mark.parametrize(("patient_class", "seed"), [("drusen", 10), ("cnv", 3), ("dme", 7)])
def test_without_lesions_every_eye_looks_normal(patient_class, seed):
    plan = plan_of(scaled_lesions(draw_patient(patient_class, seed), 0.0), 0.0)
    assert plan["label"] == "normal" and plan["lift"] == plan["subretinal"] == plan["swelling"] == 0


def test_the_label_follows_what_can_be_seen():
    eye = draw_patient("drusen", 10)
    for times in (0.25, 0.5, 1.0, 1.5, 2.0):
        plan = plan_of(scaled_lesions(eye, times), 0.0)
        assert plan["label"] == ("drusen" if plan["lift"] >= VISIBLE_DRUSE_UM else "normal")


def test_a_plan_says_what_it_draws():
    svg = plan_svg(draw_patient("cnv", 3), 0.0, title="a plan")
    tree = drawn(svg)
    assert "Label CNV" in tree["aria-label"] and "lifted by" in tree["aria-label"]
    assert {"url(#above)", "url(#below)"} <= {path.get("fill") for path in tree.find_all("path")}
    names = [text.get_text() for text in tree.find_all("text")]
    assert {"RNFL", "RPE", "choroid"} <= set(names)
    assert not re.search("nan|inf", svg)
    quiet = plan_svg(draw_patient("normal", 4), 0.0, title="a plan")
    assert "url(#below)" not in quiet


def test_layer_names_do_not_touch():
    tree = drawn(plan_svg(draw_patient("normal", 4), 0.0, title="a plan"))
    places = [float(text["y"]) for text in tree.find_all("text") if text.get("font-size") == "12"]
    assert (np.diff(places) >= 12).all()
