"""Another scanner's phantoms, and a run's networks on another dataset."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from on_runs import run_and_data
from PIL import Image
from scipy.special import softmax

from kdoct_utils.data.images import ScanError
from kdoct_utils.data.scans import read_scans
from kdoct_utils.datasets import PHANTOMS
from kdoct_utils.judge.metrics import evaluate, paired_difference, unpaired_difference
from kdoct_utils.lab import reading, stages, transfer
from kdoct_utils.phantom import render as phantom
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.scanners import SCANNERS, SECOND_SCANNER
from kdoct_utils.profiles import CLASS_NAMES, get_profile
from kdoct_utils.runs import RunError, open_run

TINY = replace(get_profile("smoke"), image_size=24, phantom_patients=8, phantom_slices=2)
# Of the phantoms that judge/regimes_quick.csv was measured on: whoever changes them must measure again.
AS_MEASURED = {"cohort": "fc2de5d65f8c5a37", "band": "53ad09ccb94c1bba", "frame": "a8b4c56dde611e81"}
ARITHMETIC = "5647aba288e0faa2"  # how that machine rounded exp, sin and the like


def digest(*arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def arithmetic():
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    draws = np.random.default_rng(0).standard_normal(1000, np.float32)
    return digest(np.exp(x), np.sin(x), np.cos(x), np.sqrt(np.abs(x)), np.hypot(x, x[::-1]), draws)


# --- the scanners ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(arithmetic() != ARITHMETIC, reason="this machine rounds exp or sin in another way")
def test_the_phantoms_are_those_that_the_packaged_results_were_measured_on():
    images, _ = phantom.phantom_cohort(2, 3, 32, seed=1, classes=CLASS_NAMES)
    band = phantom.render_band(draw_patient("dme", [3, 1]), 2, 104)
    frame = phantom.render_frames(draw_patient("cnv", [3, 1]), 1)
    found = {
        "cohort": digest(images),
        "band": digest(band.images, band.layers, band.lesions),
        "frame": digest(frame.images, frame.layers),
    }
    assert found == AS_MEASURED


def test_the_second_scanner_has_a_higher_floor_and_layers_with_less_contrast():
    mean = {}
    for name, style in SCANNERS.items():
        frames = [phantom.render_frames(draw_patient("normal", [12, k]), 1, style=style) for k in range(4)]
        for layer in ("vitreous", "RPE", "INL"):
            number = phantom.LAYER_NAMES.index(layer)
            mean[name, layer] = np.mean([one.images[0][one.layers[0] == number].mean() for one in frames])
    assert mean["phantom_b", "vitreous"] > 1.5 * mean["phantom", "vitreous"]
    ratio, ratio_b = (mean[name, "RPE"] / mean[name, "INL"] for name in ("phantom", "phantom_b"))
    assert ratio_b < 0.9 * ratio


def test_the_style_changes_shadows_edges_and_display_but_no_anatomy_and_no_label():
    patient = draw_patient("cnv", [2, 5])
    first, second = (phantom.render_band(patient, 3, 64, style=style) for style in SCANNERS.values())
    np.testing.assert_array_equal(first.layers, second.layers)
    np.testing.assert_array_equal(first.lesions, second.lesions)
    assert first.labels == second.labels and not np.array_equal(first.images, second.images)
    raw = np.linspace(-0.1, 1, 200, dtype=np.float32)[None, :, None]
    for style in SCANNERS.values():
        shown = style.display(raw)[0, :, 0]
        assert (np.diff(shown) >= 0).all() and shown[0] == 0 and shown[-1] == pytest.approx(255, abs=0.01)
    patient = draw_patient("normal", [12, 1])
    assert (SECOND_SCANNER.seen(patient).vessels[:, 3] < patient.vessels[:, 3]).all()
    assert (SECOND_SCANNER.seen(patient).vessels[:, :3] == patient.vessels[:, :3]).all()


def test_no_eye_of_one_dataset_is_in_the_other():
    assert set(SCANNERS) == set(PHANTOMS)
    cohorts = {
        name: read_scans(name, "", profile=replace(TINY, phantom_patients=12), seed=4, progress=False)
        for name in PHANTOMS
    }
    first, second = (set(cohort.table["patient"]) for cohort in cohorts.values())
    assert first and second and not first & second
    assert all(name.startswith("phantom_b/") for name in second)
    assert cohorts["phantom_b"].class_names == cohorts["phantom"].class_names
    pits = [{draw_patient("normal", [seed, k, *style.seed_stream]).pit_um for seed in range(9) for k in range(9)}
            for style in SCANNERS.values()]  # fmt: skip
    assert len(pits[0] | pits[1]) == 2 * 81  # the eyes differ too, of any seeds that differ by a little


# --- another dataset -------------------------------------------------------------------------------------------------


def write_csv(folder, classes, patients=3, seed=0):
    """A small dataset of one's own: two noise pictures a patient, patients in each class."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in classes:
        for number in range(patients):
            for k in range(2):
                image = random.integers(20, 60, (120, 160))
                image[60:80] += 120  # a band to crop to
                Image.fromarray(image.astype(np.uint8)).save(folder / f"{name}{number}_{k}.png")
                rows.append((f"{name}{number}_{k}.png", name, f"{name}{number}"))
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(folder / "scans.csv", index=False)
    return folder

run, data = run_and_data(TINY)


@pytest.fixture(scope="module")
def other(run, data):
    return transfer.other_data(run, data, "phantom_b", progress=False)


@pytest.fixture(scope="module")
def model(run, data):
    return stages.new_student(run, data, seed=0).eval()


def test_the_other_phantoms_are_pictures_of_the_runs_size_and_not_too_many(run, data, other, tmp_path):
    whole = read_scans("phantom_b", "", profile=TINY, seed=3, progress=False)
    assert other.class_names == data.class_names == ("normal", "drusen", "cnv")
    np.testing.assert_array_equal(other.images, whole.images(TINY.resize_size, True))
    np.testing.assert_array_equal(other.rows, np.arange(len(whole)))
    np.testing.assert_array_equal(other.target, whole.table["target"])
    assert list(other.groups) == list(whole.table["group"])
    assert other.left_out == {} and other.provenance["dataset"] == "phantom_b"
    many = replace(run, path=tmp_path, profile=replace(TINY, phantom_patients=70, phantom_slices=1))
    found = transfer.other_data(many, data, "phantom_b", progress=False)
    assert found.provenance["found"]["patients"] <= 3 * transfer.PHANTOM_PATIENTS
    assert len(set(found.groups[found.target == 0])) == transfer.PHANTOM_PATIENTS


def test_phantoms_are_kept_and_drawn_again_for_another_recipe(run, data, other, monkeypatch):
    monkeypatch.setattr(reading, "read_scans", lambda *_, **__: 1 / 0)
    again = transfer.other_data(run, data, "phantom_b", progress=False)
    np.testing.assert_array_equal(again.images, other.images)
    assert list(again.groups) == list(other.groups) and again.provenance == other.provenance
    with pytest.raises(ZeroDivisionError):
        every = replace(run, options=replace(run.options, worst_case=False))
        transfer.other_data(every, data, "phantom_b", progress=False)


def test_only_shared_classes_are_kept_and_the_rest_is_counted(run, data, tmp_path):
    folder = write_csv(tmp_path / "own", ("cnv", "dme", "normal"))  # no drusen, and a class that the run has not
    found = transfer.other_data(run, data, "csv", folder, progress=False)
    assert found.class_names == ("normal", "cnv")
    assert found.columns.tolist() == [0, 2]
    assert found.left_out == {"of class dme": 6}
    table = read_scans("csv", folder, profile=TINY, seed=0, progress=False).table
    labels = table["label"].to_numpy()[found.rows]
    assert sorted(labels) == ["cnv"] * 6 + ["normal"] * 6
    np.testing.assert_array_equal(found.target, [0 if label == "normal" else 1 for label in labels])
    assert len(set(found.groups)) == 6


def test_the_own_test_scans_of_the_shared_classes_by_hand(data, other):
    two = replace(other, class_names=("normal", "cnv"), columns=np.array([0, 2]))
    own = transfer.own_test(data, two)
    by_hand = [row for row in data.rows("test") if data.target[row] in (0, 2)]
    assert own.rows.tolist() == by_hand
    assert own.target.tolist() == [{0: 0, 2: 1}[data.target[row]] for row in by_hand]
    assert list(own.groups) == [data.groups[row] for row in by_hand]


def test_logits_and_scores_of_the_shared_classes(run, data, other, model):
    two = replace(other, class_names=("normal", "cnv"), columns=np.array([0, 2]))
    keep = np.isin(other.target, [0, 2])
    two = replace(two, rows=other.rows[keep], target=other.target[keep] // 2, groups=other.groups[keep])
    logits = transfer.other_logits(run, two, model)
    pictures = np.array(other.images)[keep]
    full = stages.predict_logits(model, pictures, TINY.image_size, TINY.channels)
    np.testing.assert_allclose(logits, full[:, [0, 2]], rtol=1e-5, atol=1e-6)
    # Softmax over the shared logits = the softmax over all, shared out again among the shared.
    everything = softmax(full.astype(float), axis=1)[:, [0, 2]]
    again = everything / everything.sum(axis=1, keepdims=True)
    expected = evaluate(again, two.target, two.groups, two.class_names)
    found = transfer.score_shared(two, [logits])
    assert found["confusion"] == expected["confusion"] and found["interval"] == expected["interval"]
    assert found["ece"] == pytest.approx(expected["ece"], abs=1e-6)
    own = transfer.own_test(data, other)  # with all classes shared the own side is the course's score
    logits = transfer.other_logits(run, own, model)
    np.testing.assert_allclose(logits, stages.test_logits(run, data, model), rtol=1e-5, atol=1e-6)
    assert transfer.score_shared(own, [logits])["sensitivity"] == stages.score(data, logits)["sensitivity"]


def test_scores_of_seeds_are_means_and_the_drop_is_their_difference(data, other):
    own = transfer.own_test(data, other)
    random = np.random.default_rng(0)
    on_own, on_other = ([random.normal(size=(len(scans.rows), 3)) for _ in range(2)] for scans in (own, other))
    home, away = transfer.score_shared(own, on_own), transfer.score_shared(other, on_other)
    for name in ("accuracy", "sensitivity"):
        assert away[name] == pytest.approx(np.mean([transfer.score_shared(other, [one])[name] for one in on_other]))
    assert away["interval"][0] <= away["accuracy"] <= away["interval"][1]
    assert away["sensitivity_interval"][0] <= away["sensitivity"] <= away["sensitivity_interval"][1]
    found = transfer.drop(own, on_own, other, on_other)
    assert set(own.target) == {0, 1, 2}
    assert found["estimate"] == pytest.approx(home["sensitivity"] - away["sensitivity"])
    assert found["low"] < found["estimate"] < found["high"] and found["seeds"] == 2
    some = own.target != 1  # a class that the own test lacks is left out
    own = replace(own, rows=own.rows[some], target=own.target[some], groups=own.groups[some])
    perfect, wrong = np.eye(3)[own.target], np.eye(3)[np.where(other.target == 1, 2, other.target)]
    assert transfer.drop(own, [perfect], other, [wrong])["estimate"] == 0


def test_patients_with_an_image_that_the_run_has_are_left_out(tmp_path):
    mine = write_csv(tmp_path / "mine", ("normal", "cnv"), patients=6)
    theirs = write_csv(tmp_path / "theirs", ("normal", "cnv"), patients=3, seed=1)
    (theirs / "cnv1_0.png").write_bytes((mine / "normal0_1.png").read_bytes())
    run = open_run(tmp_path / "run", profile=TINY, dataset="csv", data_root=mine)
    data = stages.course_data(run, progress=False)
    found = transfer.other_data(run, data, "csv", theirs, progress=False)
    assert found.left_out == {"of patients with an image that the run has too": 2}  # both scans of that patient
    assert len(found.rows) == 10 and len(set(found.groups)) == 5


# --- refusals --------------------------------------------------------------------------------------------------------


def test_auto_is_the_other_phantom_and_a_wrong_request_is_refused_before_any_work(run, data, tmp_path):
    here, theirs = tmp_path.resolve(), tmp_path / "theirs"
    theirs.mkdir()
    for own, dataset, root, found in (
        ("phantom", "auto", "", "phantom_b"), ("phantom_b", "auto", "", "phantom"), ("ucsd", "auto", "", ""),
        ("phantom", "", "", ""), ("ucsd", "phantom_b", "", "phantom_b"), ("csv", "csv", theirs, "csv"),
    ):  # fmt: skip
        assert transfer.choose_other(replace(run, dataset=own, data_root=here), dataset, root) == found
    for own, dataset, root, message in (
        ("phantom", "phantom", "", "the run's own, phantom"),
        ("csv", "csv", tmp_path, "the run's own, csv"),
        ("octmnist", "ucsd", ".", "scans of the same patients"),
        ("phantom", "nhe", "", "unknown other dataset 'nhe'; valid: auto, phantom, neh"),
        ("phantom", "ucsd", "", "other_data_root is needed; expected there: .*CLASS-patient-index"),
        ("phantom", "ucsd", "not_there", "there is no not_there"),
        ("phantom", "phantom_b", ".", "other_data_root must be empty"),
        ("phantom", "auto", ".", "other_dataset is 'auto'; say which"),
    ):
        with pytest.raises(RunError, match=message):
            transfer.choose_other(replace(run, dataset=own, data_root=here), dataset, root)
    folder = write_csv(tmp_path / "own", ("dme", "normal"))
    with pytest.raises(ScanError, match="share 1 classes, two are needed; the run: normal, drusen, cnv; csv: .*dme"):
        transfer.other_data(run, data, "csv", folder, progress=False)
    with pytest.raises(RunError, match="no other dataset is named"):
        transfer.other_data(run, data, "", progress=False)
    said = {transfer.caveat(own, other) for own in ("phantom", "neh") for other in ("phantom_b", "ucsd")}
    assert len(said) == 4 and "no evidence" in transfer.caveat("neh", "phantom_b")


# --- the interval ----------------------------------------------------------------------------------------------------


def test_unpaired_interval_is_that_of_two_independent_means():
    random = np.random.default_rng(1)
    n_a, n_b = 400, 300  # one scan a patient, one class: the interval is the textbook's
    a, b = (random.random(n) < p for n, p in ((n_a, 0.9), (n_b, 0.7)))
    found = unpaired_difference((a, np.arange(n_a), np.zeros(n_a)), (b, np.arange(n_b), np.zeros(n_b)))
    half = 1.96 * np.sqrt(a.var() / n_a + b.var() / n_b)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.08)
    constant = unpaired_difference((a, np.arange(n_a), np.zeros(n_a)), (np.zeros(5), np.arange(5), np.zeros(5)))
    alone = paired_difference(a, np.zeros(n_a), np.arange(n_a))
    assert [constant["low"], constant["high"]] == pytest.approx([alone["low"], alone["high"]], abs=0.006)


def test_unpaired_difference_by_hand_with_the_same_seeds_for_both_and_its_refusals():
    first = ([1, 1, 0, 1], list("aabb"), [0, 0, 0, 1])  # class means 2/3 and 1
    found = unpaired_difference(first, ([0, 1, 1], list("cdd"), [0, 1, 0]))  # 1/2 and 1
    assert found["estimate"] == pytest.approx((2 / 3 + 1) / 2 - (1 / 2 + 1) / 2)
    assert found["low"] <= found["estimate"] <= found["high"] and found["seeds"] == 1
    # Networks that are good or bad everywhere: seeds drawn for each set by itself would widen the interval.
    scans = (np.repeat([[1], [0], [1]], 60, axis=1), np.repeat(np.arange(30), 2), np.zeros(60))
    found = unpaired_difference(scans, scans)
    assert found["low"] == found["high"] == found["estimate"] == 0
    for second, message in (
        (([1, 0], ["c", "d"], [0, 2]), "same seeds and classes"),
        (([[1, 0], [1, 1]], ["c", "d"], [0, 1]), "same seeds and classes"),
        (([1, 0, 1], ["c", "d"], [0, 1]), "expected correct"),
        (([], [], []), "expected correct"),
    ):
        with pytest.raises(ValueError, match=message):
            unpaired_difference(([1, 0], ["a", "b"], [0, 1]), second)
