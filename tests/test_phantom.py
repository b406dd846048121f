"""The phantom: its anatomy, its brightness, its speckle, and what makes it a fair test of splits."""

import numpy as np
import pytest

from kdoct_utils.phantom import anatomy, texture
from kdoct_utils.phantom import render as phantom
from kdoct_utils.phantom.truth import lesion_heights, redraw_patient, without_lesions
from kdoct_utils.profiles import CLASS_NAMES


@pytest.fixture(scope="module")
def cohort():
    return phantom.phantom_cohort(24, 10, 64, seed=5)


def test_same_seed_same_patient_and_images():
    first, second = (phantom.render_band(phantom.draw_patient("cnv", [4, 2]), 3, 48) for _ in range(2))
    assert np.array_equal(first.images, second.images)
    other = phantom.render_band(phantom.draw_patient("cnv", [4, 3]), 3, 48)
    assert not np.array_equal(first.images, other.images)


def test_a_patient_does_not_depend_on_how_many_others_are_drawn():
    few, _ = phantom.phantom_cohort(2, 3, 32, seed=1, classes=("normal",))
    many, _ = phantom.phantom_cohort(5, 3, 32, seed=1, classes=("normal",))
    assert np.array_equal(few, many[: len(few)])


def test_unknown_class_is_named():
    with pytest.raises(ValueError, match="'glaucoma'.*normal, drusen, cnv, dme"):
        phantom.draw_patient("glaucoma", 1)
    with pytest.raises(ValueError, match="at least one slice"):
        phantom.slice_positions(0)


@pytest.mark.parametrize("patient_class", CLASS_NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_layers_never_cross(patient_class, seed):
    patient = phantom.draw_patient(patient_class, seed)
    x = np.linspace(-4500, 4500, 300, dtype=np.float32)
    heights = anatomy.layer_heights(patient, x, phantom.slice_positions(9))
    assert (np.diff(heights, axis=0) <= 1e-3).all()


def test_fovea_and_rim_have_the_published_thickness():
    patients = [phantom.draw_patient("normal", seed) for seed in range(60)]
    pit, rim = [], []
    for patient in patients:
        x0, y0 = patient.fovea_um
        heights = anatomy.layer_heights(patient, np.array([x0, x0 + 1000], np.float32), np.array([y0], np.float32))
        pit.append(heights[0, 0, 0] / patient.thickness_scale)
        rim.append(heights[0, 0, 1] / patient.thickness_scale)
    assert np.mean(pit) == pytest.approx(217, abs=12)  # ILM to Bruch, um
    assert np.mean(rim) == pytest.approx(368, abs=15)


def test_layer_brightness_follows_the_published_order():
    levels = {name: [] for name in anatomy.LAYER_NAMES}
    for seed in range(6):
        patient = phantom.draw_patient("normal", [8, seed])
        frame = phantom.render_frames(patient, 1)
        for k, name in enumerate(anatomy.LAYER_NAMES):
            inside = frame.images[0][(frame.layers[0] == k) & (frame.images[0] < 255)]
            if len(inside) > 500:
                levels[name].append(inside.mean())
    mean = {name: np.mean(values) for name, values in levels.items() if values}
    bright_to_dark = ["RPE", "EZ", "outer segments", "RNFL", "IPL", "INL", "ONL", "vitreous"]  # as in the real scans
    assert sorted(bright_to_dark, key=mean.get, reverse=True) == bright_to_dark
    assert mean["choroid"] > mean["deeper tissue"] and 12 <= mean["vitreous"] <= 22


def test_speckle_correlates_as_in_real_frames():
    patient = phantom.draw_patient("normal", [1])
    frame = phantom.render_frames(patient, 1)
    vitreous = frame.images[0, 20:110, 100:600].astype(float)
    vitreous = vitreous[:, (vitreous < 255).all(0)]
    assert 0.10 < (vitreous == 0).mean() < 0.22  # the clipped floor
    view = texture.View(200, 200, 0, 0, 1, 1)
    speckle = texture.speckle(patient, (1, 200, 200), view, np.random.default_rng(0))[0]
    centered = speckle - speckle.mean()
    correlation = [np.mean(centered[:, lag:] * centered[:, : 200 - lag]) / centered.var() for lag in (1, 2)]
    assert correlation[0] == pytest.approx(0.6, abs=0.06)
    assert correlation[1] < 0.2
    assert speckle.mean() == pytest.approx(1, abs=0.02)
    assert 1 / speckle.var() == pytest.approx(patient.frames_averaged, rel=0.1)  # a gamma's shape


def test_signal_decays_below_bruch():
    drop = []
    for seed in range(8):
        patient = phantom.draw_patient("normal", [3, seed])
        frame = phantom.render_frames(patient, 1, noise=False)
        x = texture.View(496, 768, 0, 0, 1, 1).x_um
        bruch = anatomy.bruch_rows(patient, x, phantom.slice_positions(1))[0].astype(int)
        columns = np.arange(768)
        near, far = (frame.images[0, bruch + rows, columns].astype(float).mean() for rows in (6, 32))
        drop.append(40 * np.log10(near / far))  # display level is the fourth root of the signal
    assert 5.5 < np.mean(drop) < 8.5  # dB over 26 rows = 100 um


def test_neighboring_slices_correlate_as_real_ones_do():
    correlation = []
    for seed in range(9):
        patient = phantom.draw_patient(CLASS_NAMES[seed % 3], [77, seed])
        images = phantom.render_frames(patient, 4).images.astype(float)
        if not patient.registered:
            correlation += [np.corrcoef(images[k].ravel(), images[k + 1].ravel())[0, 1] for k in range(3)]
    assert 0.76 <= np.median(correlation) <= 0.92


def test_outer_slices_of_diseased_eyes_look_normal(cohort):
    _, table = cohort
    diseased = table[table.patient_class != "normal"]
    abnormal = diseased.label.ne("normal").groupby(diseased["slice"]).mean()
    assert abnormal[[4, 5]].mean() > abnormal[[0, 9]].mean() + 0.2
    assert (table[table.patient_class == "normal"].label == "normal").all()
    assert set(table[table.patient_class == "cnv"].label) == {"normal", "drusen", "cnv"}


def test_lesion_mask_agrees_with_the_label():
    seen = 0
    for seed in range(6):
        rendered = phantom.render_band(phantom.draw_patient("drusen", [2, seed]), 8, 128)
        for label, lesions in zip(rendered.labels, rendered.lesions, strict=True):
            if label == "drusen":
                assert (lesions == anatomy.LESION_NAMES.index("druse")).any()
                seen += 1
    assert seen > 10
    normal = phantom.render_band(phantom.draw_patient("normal", 3), 8, 96)
    assert not normal.lesions.any()


def test_nearest_neighbor_loses_when_the_patient_is_taken_out(cohort):
    images, table = cohort
    keep = (table.patient_class == table.label).to_numpy()
    vectors = images[keep].reshape(keep.sum(), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    label, patient = (table[keep][name].to_numpy(dtype=object) for name in ("label", "patient"))
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    with_patient = (label[similarity.argmax(1)] == label).mean()
    similarity[patient[:, None] == patient[None]] = -np.inf
    without_patient = (label[similarity.argmax(1)] == label).mean()
    assert with_patient - without_patient >= 0.20


# --- what is said to be true of a scan is what was drawn --------------------------------------------------------------

PATIENTS, SLICES, SIZE, SEED = 6, 7, 40, 3
THRESHOLD = {"drusen": anatomy.VISIBLE_DRUSE_UM, "cnv": anatomy.VISIBLE_NEOVASCULAR_UM, "dme": anatomy.VISIBLE_EDEMA_UM}


def test_a_patient_is_redrawn_to_the_pixel_and_heights_decide_the_labels():
    images, table = phantom.phantom_cohort(PATIENTS, SLICES, SIZE, SEED, CLASS_NAMES)
    for (name, kind), scans in table.groupby(["patient", "patient_class"]):
        patient = redraw_patient(name, kind, PATIENTS, SEED)
        np.testing.assert_array_equal(phantom.render_band(patient, SLICES, SIZE).images, images[scans.index])
        heights = lesion_heights(patient, SLICES, SIZE)
        assert kind in THRESHOLD or (heights == 0).all()
        np.testing.assert_array_equal(heights >= THRESHOLD.get(kind, 0), scans["label"] == kind)
    assert (table["label"] == table["patient_class"]).groupby(table["patient_class"]).sum().gt(0).all()


def test_an_eye_without_its_lesions_is_normal_and_otherwise_the_same():
    for kind in CLASS_NAMES:
        patient = phantom.draw_patient(kind, [SEED, 5])
        ill, healthy = (phantom.render_band(eye, SLICES, SIZE) for eye in (patient, without_lesions(patient)))
        assert set(healthy.labels) == {"normal"} and not healthy.lesions.any()
        assert ill.lesions.any() == (kind != "normal")
        untouched = np.s_[:, :4] if ill.lesions.any() else np.s_[:]  # the vitreous keeps even its noise
        np.testing.assert_array_equal(ill.images[untouched], healthy.images[untouched])
