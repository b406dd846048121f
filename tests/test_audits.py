"""Audits: planted leaks, copies and shortcuts are found; neighboring slices, chance and constants are not."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import cdist

from kdoct_utils.data import duplicates
from kdoct_utils.data.audits import (
    NO_PATIENTS,
    NO_SIGN,
    PREDICTS,
    TOGETHER,
    TOO_FEW,
    audit,
    same_patient,
    shortcuts,
    values_by_class,
)
from kdoct_utils.data.duplicates import details, identical_images, near_identical, perceptual_hash, similarity
from kdoct_utils.data.frames import clean_frame, make_thumbnail
from kdoct_utils.data.images import read_image
from kdoct_utils.data.scans import read_scans
from kdoct_utils.data.splits import UNUSED, SplitError, make_splits, scan_level_splits
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import phantom_cohort, render_frames
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
real_scans = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real B-scans at ../shared/oct_samples/ucsd")


def scan_table(patients, labels=None, **columns):
    """One scan an entry; each patient a group of its own, blank patients none."""
    names = [f"s{number:05d}" for number in range(len(patients))]
    table = pd.DataFrame({"scan_id": names, "patient": list(patients)})
    table["label"] = list(labels) if labels is not None else "normal"
    table["group"] = table["patient"].where(table["patient"] != "", table["scan_id"])
    table["patient_class"] = table["label"]
    return table.assign(**columns)


def own_hashes(table):
    """No two images are the same."""
    return {scan_id: f"hash of {scan_id}" for scan_id in table["scan_id"]}


def one_fold(table, roles):
    return pd.DataFrame({"scan_id": table["scan_id"], "group": table["group"], "fold": 0, "role": roles})


# --- byte-identical images -------------------------------------------------------------------------------------------


def test_identical_images_tell_what_they_cross():
    table = scan_table(
        ["a", "b", "c", "c", "d", "d", "e", "e", "", ""],
        ["cnv", "cnv", "cnv", "drusen", "dme", "dme", "dme", "dme", "dme", "dme"],
        part=["train", "train", "train", "train", "train", "test", "", "train", "test", "test"],
    )
    hashes = dict(zip(table["scan_id"], ["P", "P", "L", "L", "T", "T", "none", "none", "U", "U"], strict=True))
    roles = ["train", "test", "train", "train", "train", "train", "train", UNUSED, "test", "test"]
    found = identical_images(table, hashes, one_fold(table, roles))
    assert dict(zip(found["key"], found["crosses"], strict=True)) == {
        "P": ("patient", "role"), "L": ("label",), "T": ("part",),
    }  # fmt: skip
    first = found.iloc[0]
    assert (first["n"], first["patients"], first["roles"]) == (2, ("a", "b"), ("test", "train"))
    assert first["scan_ids"] == ("s00000", "s00001") and first["labels"] == ("cnv",)
    assert found.attrs["harmless"] == 2  # e, and the two of unknown patients: nothing is known that differs
    assert identical_images(table, hashes)["crosses"].tolist() == [("patient",), ("label",), ("part",)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from(["cnv", "dme"]), st.sampled_from("xyz")), min_size=1
    )
)
def test_identical_images_are_those_of_the_definition(rows):
    table = scan_table([row[0] for row in rows], [row[1] for row in rows])
    hashes = dict(zip(table["scan_id"], [row[2] for row in rows], strict=True))
    found = identical_images(table, hashes)
    expected = {}
    for key in {row[2] for row in rows}:
        members = [row for row in rows if row[2] == key]
        several = (len({row[0] for row in members} - {""}) > 1, len({row[1] for row in members}) > 1)
        if any(several):
            expected[key] = (len(members), tuple(np.array(["patient", "label"])[np.array(several)]))
    got = zip(found["key"], found["n"], found["crosses"], strict=True)
    assert {key: (n, crosses) for key, n, crosses in got} == expected
    repeated = sum(count > 1 for count in Counter(row[2] for row in rows).values())
    assert found.attrs["harmless"] == repeated - len(expected)


def test_scans_without_hash_or_role_are_named():
    table = scan_table(["a", "b"])
    with pytest.raises(ValueError, match="s00001 has no hash"):
        identical_images(table, {"s00000": "x"})
    split = one_fold(table, "train")
    with pytest.raises(ValueError, match="s00001 has no role"):
        identical_images(table, own_hashes(table), split[:1])
    with pytest.raises(ValueError, match="no fold 3; folds: 0"):
        identical_images(table, own_hashes(table), split, fold=3)


# --- near-identical images -------------------------------------------------------------------------------------------


def recompressed(image, quality=50):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("L"))


def shrunk(image, factor=0.8):
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def brightened(image):
    return np.clip(image * 1.15, 0, 255).astype(np.uint8)


def cropped(image):
    return image[round(0.01 * len(image)) :, round(0.01 * image.shape[1]) :]


def trimmed(image):
    rows, columns = round(0.01 * len(image)), round(0.01 * image.shape[1])
    return image[rows:-rows, columns:-columns]


COPIES = {
    "recompressed": recompressed,
    "shrunk": shrunk,
    "brightened": brightened,
    "cropped at a corner": cropped,
    "cropped all around": trimmed,
    "all of it": lambda image: recompressed(brightened(shrunk(cropped(image)))),
}


def thumbnails_of(images):
    return np.stack([make_thumbnail(clean_frame(image)) for image in images])


@pytest.fixture(scope="module")
def frames():
    """Two whole phantom frames of each of 8 patients, and their patients."""
    patients = [draw_patient(name, [9, number]) for name in CLASS_NAMES for number in range(2)]
    images = [image for patient in patients for image in render_frames(patient, 2).images]
    return images, [f"p{number}" for number in range(len(patients)) for _ in range(2)]


@pytest.fixture(scope="module")
def samples():
    paths = sorted(SAMPLES.rglob("*.jpeg"))
    return [read_image(path) for path in paths], [path.stem.split("-")[1] for path in paths]


def check_copies(images, patients, copy):
    """Copies of all images under other patients and another label: each is found with its original, and no other."""
    n = len(images)
    thumbnails = thumbnails_of([*images, *map(copy, images)])
    table = scan_table([*patients, *(f"copy {number}" for number in range(n))], ["normal"] * n + ["cnv"] * n)
    found = near_identical(table, thumbnails, own_hashes(table))
    joined = {frozenset(scan_ids) for scan_ids in found["scan_ids"]}
    ids = table["scan_id"].tolist()
    missed = [pair for pair in zip(ids[:n], ids[n:], strict=True) if not any(set(pair) <= one for one in joined)]
    assert not missed
    assert all("label" in crosses and "patient" in crosses for crosses in found["crosses"])
    assert found["similarity"].between(duplicates.NEAR, 1).all()
    return found


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_changed_copies_are_found(frames, copy):
    check_copies(*frames, copy)


@real_scans
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_changed_copies_of_real_scans_are_found_and_neighbors_stay_apart(samples, copy):
    found = check_copies(*samples, copy)
    assert (found["n"] == 2).all() and len(found) == 17
    assert found.attrs["harmless"] == 0


@real_scans
def test_real_scans_hold_no_near_identical_ones(samples):
    images, patients = samples
    for owners in (patients, [f"alone {number}" for number in range(len(images))]):  # neighbors as different patients
        table = scan_table(owners)
        found = near_identical(table, thumbnails_of(images), own_hashes(table))
        assert found.empty and found.attrs["harmless"] == 0


@pytest.mark.parametrize("size", [32, 64, 96])
def test_different_phantoms_are_not_near_identical(size):
    images, cohort = phantom_cohort(60, 5, size, 4)
    thumbnails = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.LANCZOS)) for image in images])
    table = scan_table(cohort["patient"], cohort["label"])
    assert near_identical(table, thumbnails, own_hashes(table)).empty


def test_what_is_identical_or_of_one_patient_is_left_out(frames):
    images, _ = frames
    thumbnails = thumbnails_of([images[0], recompressed(images[0]), images[4], images[4]])
    table = scan_table(["a", "a", "b", "c"])
    hashes = own_hashes(table) | {"s00002": "same", "s00003": "same"}
    found = near_identical(table, thumbnails, hashes)
    assert found.empty and found.attrs["harmless"] == 1
    linked = table.assign(patient=["a", "b", "c", "d"], group=["a", "a", "c", "d"])
    assert near_identical(linked, thumbnails, hashes).empty
    # Among unknown patients only another label, part or role tells that a copy matters.
    unknown = table.assign(patient="", group=table["scan_id"])
    assert near_identical(unknown, thumbnails, hashes).empty
    parts = near_identical(unknown.assign(part=["train", "test", "train", "train"]), thumbnails, hashes)
    assert parts["crosses"].tolist() == [("part",)] and parts["key"].tolist() == ["s00000"]


def test_copies_of_copies_make_one_set(frames):
    images, _ = frames
    thumbnails = thumbnails_of([images[0], images[6], recompressed(images[0]), brightened(images[0])])
    table = scan_table(["a", "b", "c", "d"])
    found = near_identical(table, thumbnails, own_hashes(table))
    assert found["scan_ids"].tolist() == [("s00000", "s00002", "s00003")]
    assert found["patients"].tolist() == [("a", "c", "d")]


def test_blocks_and_order_change_nothing(frames, monkeypatch):
    images, patients = frames
    thumbnails = thumbnails_of([*images, *map(recompressed, images)])
    table = scan_table([*patients, *(f"copy of {name}" for name in patients)])
    whole = near_identical(table, thumbnails, own_hashes(table))
    monkeypatch.setattr(duplicates, "BLOCK", 5)
    blocks = near_identical(table, thumbnails, own_hashes(table))
    pd.testing.assert_frame_equal(whole, blocks)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = near_identical(table.iloc[order].reset_index(drop=True), thumbnails[order], own_hashes(table))
    assert set(shuffled["scan_ids"]) == set(whole["scan_ids"]) and shuffled.attrs == whole.attrs


def test_candidates_are_all_pairs_of_near_hashes(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 16)
    random = np.random.default_rng(0)
    bits = random.random((6, 255)) < 0.5
    bits = np.concatenate([bits ^ (random.random((6, 255)) < rate) for rate in (0, 0.1, 0.15, 0.2, 0.3)])
    candidates = duplicates.candidate_pairs(bits)
    got = {pair for first, second in candidates for pair in zip(first.tolist(), second.tolist(), strict=True)}
    distance = np.rint(cdist(bits, bits, "hamming") * 255)
    expected = set(zip(*map(np.ndarray.tolist, np.nonzero(np.triu(distance <= 40, 1))), strict=True))
    assert got == expected and 0 < len(expected) < 30 * 29 / 2


def test_hash_and_similarity_do_not_depend_on_gain_and_offset():
    thumbnails = np.random.default_rng(1).integers(20, 100, (5, 32, 32)).astype(np.uint8)
    brighter = 2 * thumbnails + 11
    np.testing.assert_array_equal(perceptual_hash(thumbnails), perceptual_hash(brighter))
    np.testing.assert_allclose(similarity(details(thumbnails), details(brighter)), 1, atol=1e-4)
    assert similarity(details(thumbnails[:4]), details(thumbnails[1:])).max() < 0.2
    flat = np.full((1, 32, 32), 90, np.uint8)
    assert similarity(details(flat), details(thumbnails[:1])).item() == 0


def test_similarity_forgives_a_shift_by_a_fraction_of_a_pixel_only():
    rows, columns = np.mgrid[:32, :32]

    def waves(shift):
        return (100 + 40 * np.sin(0.9 * (columns - shift)) * np.cos(0.7 * rows)).astype(np.float32)[None]

    alike = [similarity(details(waves(0)), details(waves(shift))).item() for shift in (0.3, 1.5)]
    plain = np.corrcoef(details(waves(0)).ravel().astype(float), details(waves(0.3)).ravel().astype(float))[0, 1]
    assert plain < duplicates.NEAR < alike[0]
    # Across two pixels a wave of this length can still be told from its gradients; noise cannot.
    noise = np.random.default_rng(0).normal(100, 30, (1, 32, 34)).astype(np.float32)
    assert similarity(details(noise[:, :, 2:]), details(noise[:, :, :-2])).item() < 0.5


def test_thumbnails_must_fit_the_table():
    table = scan_table(["a", "b"])
    with pytest.raises(ValueError, match="expected 2 thumbnails"):
        near_identical(table, np.zeros((3, 32, 32), np.uint8), own_hashes(table))


# --- patients --------------------------------------------------------------------------------------------------------


def test_patients_in_two_parts_or_roles_are_named():
    table = scan_table(
        ["a", "a", "b", "c", "d", "", ""], part=["train", "test", "train", "train", "test", "train", "test"]
    )
    table["group"] = ["a", "a", "b", "c", "c", "s00005", "s00005"]
    found = same_patient(table)
    assert found[["kind", "where", "key", "lies_in", "n"]].values.tolist() == [
        ["patient", "part", "a", ("train", "test"), 2],
        ["group", "part", "c", ("train", "test"), 2],
    ]
    roles = ["train", "train", "train", "train", "validation", "train", "test"]
    found = same_patient(table.drop(columns="part"), one_fold(table, roles))
    assert found[["kind", "where", "key", "lies_in"]].values.tolist() == [
        ["group", "role", "c", ("train", "validation")]
    ]
    assert same_patient(table.drop(columns="part")).empty


def test_a_split_over_patients_is_clean_and_one_over_scans_is_not():
    table = scan_table([f"p{number // 4}" for number in range(80)], [CLASS_NAMES[number // 40] for number in range(80)])
    assert same_patient(table, make_splits(table, 0)).empty
    leaking = same_patient(table, scan_level_splits(table, 0))
    assert set(leaking["kind"]) == {"patient"} and len(leaking) > 10
    with pytest.raises(SplitError, match="no fold 9"):
        same_patient(table, make_splits(table, 0), fold=9)


# --- shortcuts -------------------------------------------------------------------------------------------------------


def cohort(patients, slices, classes=3):
    """Patients take the classes in turn."""
    owner = np.repeat(np.arange(patients), slices)
    return scan_table([f"p{number:04d}" for number in owner], [CLASS_NAMES[number % classes] for number in owner])


def measures(table, **columns):
    """ScanSet.measured of scans that are all alike but for the columns given."""
    alike = {"format": "jpeg", "color": False, "width": 768, "height": 496, "border": 0.0, "scale_bar": False,
             "canvas": False, "brightness": 60.0}  # fmt: skip
    return pd.DataFrame({**alike, **columns}, index=pd.Index(table["scan_id"]))


def verdicts(scores):
    return dict(zip(scores["property"], scores["verdict"], strict=True))


def score_of(scores, name):
    return scores.set_index("property").loc[name]


def test_a_property_that_decides_the_class_scores_one():
    table = cohort(30, 4)
    formats = table["label"].map({"normal": "jpeg", "drusen": "tiff", "cnv": "png"}).to_numpy()
    scores = shortcuts(table, measures(table, format=formats))
    for name in ("file format", TOGETHER):
        row = score_of(scores, name)
        assert (row["balanced_accuracy"], row["low"], row["high"], row["verdict"]) == (1, 1, 1, PREDICTS)
    assert set(scores.loc[~scores["property"].isin(["file format", TOGETHER]), "verdict"]) == {NO_SIGN}


@pytest.mark.parametrize(
    "name, column, values",
    [
        ("picture size", "width", (512, 768, 1536)),
        ("white border", "border", (0.0, 0.1, 0.3)),
        ("mean brightness", "brightness", (40.0, 60.0, 80.0)),
    ],
)
def test_numbers_predict_as_well_as_names(name, column, values):
    table = cohort(30, 3)
    given_values = table["label"].map(dict(zip(CLASS_NAMES[:3], values, strict=True))).to_numpy()
    assert score_of(shortcuts(table, measures(table, **{column: given_values})), name)["balanced_accuracy"] == 1


def test_half_a_shortcut_scores_what_it_must():
    """A scale bar in all scans of one class of three: that class is always right, the others guess in equal parts."""
    table = cohort(60, 2)
    row = score_of(shortcuts(table, measures(table, scale_bar=(table["label"] == "cnv").to_numpy())), "scale bar")
    assert row["balanced_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3, abs=0.02)
    assert row["verdict"] == PREDICTS


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_constant_is_exactly_chance(classes):
    table = cohort(6 * classes, 2, classes)
    scores = shortcuts(table, measures(table))
    assert (scores[["balanced_accuracy", "low", "high", "chance"]] == 1 / classes).all(axis=None)
    assert set(scores["verdict"]) == {NO_SIGN}


def test_undecided_between_classes_counts_in_equal_parts():
    """Nearly constant: the one odd scan does not make the others a guess of one class."""
    table = cohort(90, 2)
    odd = np.zeros(len(table), bool)
    odd[0] = True
    row = score_of(shortcuts(table, measures(table, canvas=odd)), "black canvas")
    assert row["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.02) and row["verdict"] == NO_SIGN


def test_chance_is_not_called_predictive():
    table = cohort(120, 3)
    outcomes = []
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(60, 10, len(table))
        outcomes.append(score_of(shortcuts(table, measures(table, brightness=noise)), "mean brightness"))
    covered = [row["low"] <= row["chance"] <= row["high"] for row in outcomes]
    assert sum(covered) >= 10
    assert Counter(row["verdict"] for row in outcomes)[PREDICTS] <= 1


def test_what_only_tells_patients_apart_is_not_called_predictive():
    """Brightness is the same in all scans of a patient, and random between patients. Tried on other scans of the
    same patients it predicts the class, since it names the patient; tried on other patients it does not."""
    table = cohort(60, 8)
    leaky = table.assign(group=table["scan_id"])
    honest = []
    for seed in range(3):
        per_patient = np.random.default_rng(seed).normal(60, 10, 60)
        measured = measures(table, brightness=np.repeat(per_patient, 8))
        honest.append(score_of(shortcuts(table, measured), "mean brightness")["verdict"])
        assert score_of(shortcuts(leaky, measured), "mean brightness")["verdict"] == PREDICTS
    assert honest.count(PREDICTS) == 0


def test_the_interval_resamples_patients():
    """The same scores from the same scans; the interval is wide where few patients hold many of them."""

    def width(patients, slices):
        table = cohort(patients, slices, 2)
        typical = np.arange(patients) // 2 % 5 > 0  # four of five, in both classes
        bright = (table["label"] == "drusen").to_numpy() == np.repeat(typical, slices)
        row = score_of(shortcuts(table, measures(table, brightness=60.0 + bright)), "mean brightness")
        assert row["balanced_accuracy"] == pytest.approx(0.8)
        return row["high"] - row["low"]

    assert width(20, 40) > 2 * width(400, 2)


@pytest.mark.parametrize("patients", [3, 6, 12])
def test_too_few_patients_are_said_to_be_too_few(patients):
    table = cohort(patients, 4)
    formats = table["label"].map({"normal": "jpeg", "drusen": "tiff", "cnv": "png"}).to_numpy()
    scores = shortcuts(table, measures(table, format=formats))
    assert verdicts(scores)["file format"] == TOO_FEW and verdicts(scores)["scale bar"] == NO_SIGN
    assert score_of(scores, "file format")[["balanced_accuracy", "low", "high"]].isna().all()


def test_an_interval_that_reaches_far_beyond_chance_excludes_nothing():
    table = cohort(18, 1)
    noise = np.random.default_rng(0).normal(60, 10, len(table))
    row = score_of(shortcuts(table, measures(table, brightness=noise)), "mean brightness")
    assert row["high"] > row["chance"] + 0.1 and row["verdict"] == TOO_FEW


def test_without_patient_numbers_only_a_constant_is_told():
    table = cohort(60, 1).assign(patient="")
    formats = table["label"].map({"normal": "jpeg", "drusen": "tiff", "cnv": "png"}).to_numpy()
    scores = shortcuts(table, measures(table, format=formats))
    assert verdicts(scores)["file format"] == NO_PATIENTS and verdicts(scores)["scale bar"] == NO_SIGN


def test_shortcuts_do_not_depend_on_the_order_of_rows():
    table = cohort(45, 3)
    noise = pd.Series(np.random.default_rng(2).normal(60, 10, len(table)), index=table["scan_id"])
    measured = measures(table, brightness=noise.to_numpy(), scale_bar=(noise > 65).to_numpy())
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        shortcuts(table, measured), shortcuts(shuffled, measured.sample(frac=1, random_state=1))
    )


def test_shortcuts_need_measures_and_two_classes():
    table = cohort(10, 1)
    with pytest.raises(ValueError, match="1 scans were not measured, such as s00003"):
        shortcuts(table, measures(table).drop("s00003"))
    with pytest.raises(ValueError, match="two classes are needed, found normal"):
        shortcuts(table.assign(label="normal"), measures(table))


def test_values_by_class_are_short_and_right():
    table = cohort(10, 2, 2)
    normal = (table["label"] == "normal").to_numpy()
    formats = np.where(normal, "jpeg", "tiff")
    formats[0] = "tiff"
    border = np.where(normal, 0.0, 0.2)
    values = values_by_class(table, measures(table, format=formats, scale_bar=~normal, border=border))
    assert values.loc["file format"].tolist() == ["90% jpeg, 10% tiff", "tiff"]
    assert values.loc["scale bar"].tolist() == ["0%", "100%"]
    assert values.loc["white border"].tolist() == ["0% of scans, 0.0% of the area", "100% of scans, 20.0% of the area"]
    assert values.loc["picture size"].tolist() == ["768 x 496"] * 2
    assert values.loc["mean brightness"].tolist() == ["60 (60 to 60)"] * 2


# --- all together ----------------------------------------------------------------------------------------------------


def scan_set(table, hashes, measured, thumbnails):
    """What audit takes of a ScanSet."""
    return SimpleNamespace(
        table=table, hashes=hashes, measured=lambda progress: measured, thumbnails=lambda progress: thumbnails
    )


def test_findings_count_what_was_planted(frames):
    images, _ = frames
    table = cohort(15, 2)
    table["part"] = "train"
    table.loc[[0, 3, 29], "part"] = "test"  # patients 0, 1 and 14 lie in both
    thumbnails = np.random.default_rng(0).integers(0, 255, (30, 32, 32)).astype(np.uint8)
    thumbnails[[4, 9]] = thumbnails_of([images[0], recompressed(images[0])])
    hashes = own_hashes(table) | {"s00010": "same", "s00013": "same"}
    measured = measures(table, scale_bar=(table["label"] == "cnv").to_numpy())
    report = audit(scan_set(table, hashes, measured, thumbnails), make_splits(table, 0), progress=False)
    text = "\n".join(report.findings)
    assert "3 patients lie in several of the publishers' parts (train and test: 3), with 6 scans; such as p0000" in text
    assert "no patient lies in two of train, validation and test (fold 0)" in text
    assert "1 set of byte-identical images (2 scans) lies in different patients: 1, different labels: 1" in text
    assert "1 set of near-identical images (2 scans) lies in different patients: 1" in text
    assert "s00004 and s00009" in text
    assert "scale bar alone predicts the class of unseen patients: balanced accuracy 0.67" in text
    assert "normal: 0%; drusen: 0%; cnv: 100%" in text
    assert text in str(report).replace("- ", "") and "scale bar" in str(report)
    record = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert record["findings"] == report.findings
    assert record["identical_images"][0]["scan_ids"] == ["s00010", "s00013"]
    assert record["near_identical"][0]["key"] == "s00004" and len(record["shortcuts"]) == 7
    assert [row["key"] for row in record["same_patient"]] == ["p0000", "p0001", "p0014"]


def test_a_clean_set_is_called_clean():
    table = cohort(45, 2)
    thumbnails = np.random.default_rng(0).integers(0, 255, (90, 32, 32)).astype(np.uint8)
    report = audit(scan_set(table, own_hashes(table), measures(table), thumbnails), progress=False)
    assert report.findings == [
        "no byte-identical images in two patients, labels, official parts or roles",
        "no near-identical images in two patients, labels, official parts or roles",
        "neither file format, size, border, scale bar, canvas nor brightness predicts the class",
    ]


def test_without_patient_numbers_the_audits_say_so():
    table = cohort(45, 2).assign(patient="", part="train")
    thumbnails = np.random.default_rng(0).integers(0, 255, (90, 32, 32)).astype(np.uint8)
    measured = measures(table, brightness=np.arange(90.0))
    findings = audit(scan_set(table, own_hashes(table), measured, thumbnails), progress=False).findings
    assert findings[0] == "whether a patient lies in two parts cannot be told: the dataset has no patient numbers"
    assert "mean brightness, all together predict the class cannot be told: no patient numbers" in findings[-1]


def test_phantoms_can_be_audited():
    scans = read_scans("phantom", None, profile=PROFILES["smoke"], seed=0, progress=False)
    report = audit(scans, make_splits(scans.table, 0), progress=False)
    assert report.patients.empty and report.identical.empty
    assert report.findings[0].startswith("no patient lies in two")
    assert PREDICTS not in set(report.shortcuts.loc[report.shortcuts["property"] == "file format", "verdict"])
    json.dumps(report.as_dict(), allow_nan=False)


@real_scans
def test_real_scans_are_audited_from_their_files():
    scans = read_scans("ucsd", SAMPLES, profile=PROFILES["smoke"], seed=0, progress=False)
    report = audit(scans, progress=False)
    assert report.identical.empty and report.near.empty
    assert "too few patients (12)" in report.findings[-1]
    assert str(SAMPLES.resolve().parent) not in json.dumps(report.as_dict())
