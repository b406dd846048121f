"""What is said to be true of a phantom scan is what was drawn."""

import numpy as np

from kdoct_utils.phantom.anatomy import VISIBLE_DRUSE_UM, VISIBLE_EDEMA_UM, VISIBLE_NEOVASCULAR_UM, draw_patient
from kdoct_utils.phantom.render import phantom_cohort, render_band
from kdoct_utils.phantom.truth import lesion_heights, redraw_patient, without_lesions
from kdoct_utils.profiles import CLASS_NAMES

PATIENTS, SLICES, SIZE, SEED = 6, 7, 40, 3
THRESHOLD = {"drusen": VISIBLE_DRUSE_UM, "cnv": VISIBLE_NEOVASCULAR_UM, "dme": VISIBLE_EDEMA_UM}


def test_a_patient_is_redrawn_to_the_pixel_and_heights_decide_the_labels():
    images, table = phantom_cohort(PATIENTS, SLICES, SIZE, SEED, CLASS_NAMES)
    for (name, kind), scans in table.groupby(["patient", "patient_class"]):
        patient = redraw_patient(name, kind, PATIENTS, SEED)
        np.testing.assert_array_equal(render_band(patient, SLICES, SIZE).images, images[scans.index])
        heights = lesion_heights(patient, SLICES, SIZE)
        assert kind in THRESHOLD or (heights == 0).all()
        np.testing.assert_array_equal(heights >= THRESHOLD.get(kind, 0), scans["label"] == kind)
    assert (table["label"] == table["patient_class"]).groupby(table["patient_class"]).sum().gt(0).all()


def test_an_eye_without_its_lesions_is_normal_and_otherwise_the_same():
    for kind in CLASS_NAMES:
        patient = draw_patient(kind, [SEED, 5])
        ill, healthy = (render_band(eye, SLICES, SIZE) for eye in (patient, without_lesions(patient)))
        assert set(healthy.labels) == {"normal"} and not healthy.lesions.any()
        assert ill.lesions.any() == (kind != "normal")
        untouched = np.s_[:, :4] if ill.lesions.any() else np.s_[:]  # the vitreous keeps even its noise
        np.testing.assert_array_equal(ill.images[untouched], healthy.images[untouched])
