"""What is said to be true of a phantom scan is what was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from kdoct_utils.phantom.anatomy import VISIBLE_DRUSE_UM, VISIBLE_EDEMA_UM, VISIBLE_NEOVASCULAR_UM, draw_patient
from kdoct_utils.phantom.render import phantom_cohort, render_band
from kdoct_utils.phantom.truth import (
    cohort_heights,
    redraw_patient,
    without_lesions,
)
from kdoct_utils.profiles import CLASS_NAMES

PATIENTS, SLICES, SIZE, SEED = 6, 7, 40, 3
THRESHOLD = {"drusen": VISIBLE_DRUSE_UM, "cnv": VISIBLE_NEOVASCULAR_UM, "dme": VISIBLE_EDEMA_UM}


@pytest.fixture(scope="module")
def cohort():
    return phantom_cohort(PATIENTS, SLICES, SIZE, SEED, CLASS_NAMES)


def test_a_patient_is_redrawn_to_the_pixel(cohort):
    images, table = cohort
    for row in range(0, len(table), 11):
        scan = table.iloc[row]
        patient = redraw_patient(scan["patient"], scan["patient_class"], PATIENTS, SEED)
        np.testing.assert_array_equal(render_band(patient, SLICES, SIZE).images[scan["slice"]], images[row])


def test_heights_decide_the_labels(cohort):
    _, table = cohort
    heights = cohort_heights(table, PATIENTS, SLICES, SIZE, SEED)
    assert heights.shape == (len(table),)
    for kind, threshold in THRESHOLD.items():
        part = table["patient_class"] == kind
        shows = (table["label"] == kind)[part].to_numpy()
        assert shows.any()
        np.testing.assert_array_equal(heights[part] >= threshold, shows)
    assert (heights[table["patient_class"] == "normal"] == 0).all()


def test_heights_of_a_part_are_those_of_the_whole(cohort):
    _, table = cohort
    whole = cohort_heights(table, PATIENTS, SLICES, SIZE, SEED)
    np.testing.assert_array_equal(cohort_heights(table[::5], PATIENTS, SLICES, SIZE, SEED), whole[::5])


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_an_eye_without_its_lesions_is_normal_and_otherwise_the_same(kind):
    patient = draw_patient(kind, [SEED, 5])
    ill, healthy = (render_band(eye, SLICES, SIZE) for eye in (patient, without_lesions(patient)))
    assert set(healthy.labels) == {"normal"} and not healthy.lesions.any()
    if kind == "normal":
        np.testing.assert_array_equal(ill.images, healthy.images)
    else:
        assert ill.lesions.any()
        above = np.s_[:, :4]  # the vitreous: nothing of it is touched, not even its noise
        np.testing.assert_array_equal(ill.images[above], healthy.images[above])
