"""Audits: planted leaks, copies and shortcuts are found; neighboring slices, chance and constants are not."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
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
)
from kdoct_utils.data.band import resize
from kdoct_utils.data.duplicates import details, identical_images, near_identical, similarity
from kdoct_utils.data.frames import clean_frame
from kdoct_utils.data.splits import UNUSED, SplitError, make_splits
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import phantom_cohort, render_frames
from kdoct_utils.profiles import CLASS_NAMES


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


# --- near-identical images -------------------------------------------------------------------------------------------


def recompressed(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file).convert("L"))


def shrunk(image):
    return np.asarray(Image.fromarray(image).resize([round(0.8 * side) for side in image.shape[::-1]]))


def brightened(image):
    return np.clip(image * 1.15, 0, 255).astype(np.uint8)


def cropped(image):
    return image[round(0.01 * len(image)) :, round(0.01 * image.shape[1]) :]


COPIES = (recompressed, shrunk, brightened, cropped, lambda image: cropped(cropped(image)[::-1, ::-1])[::-1, ::-1],
          lambda image: recompressed(brightened(shrunk(cropped(image)))))  # fmt: skip


def thumbnails_of(images):
    return np.stack([resize(clean_frame(image)[0], 32, 32) for image in images])


@pytest.fixture(scope="module")
def frames():
    """Two whole phantom frames of each of 8 patients, and their patients."""
    patients = [draw_patient(name, [9, number]) for name in CLASS_NAMES for number in range(2)]
    images = [image for patient in patients for image in render_frames(patient, 2).images]
    return images, [f"p{number}" for number in range(len(patients)) for _ in range(2)]


def test_changed_copies_of_other_patients_are_found(frames):
    """Copies of all images under other patients and another label: each is found with its original."""
    images, patients = frames
    n, originals = len(images), thumbnails_of(images)
    for copy in COPIES:
        thumbnails = np.concatenate([originals, thumbnails_of(map(copy, images))])
        table = scan_table([*patients, *(f"copy {number}" for number in range(n))], ["normal"] * n + ["cnv"] * n)
        found = near_identical(table, thumbnails, own_hashes(table))
        ids = table["scan_id"].tolist()
        for pair in zip(ids[:n], ids[n:], strict=True):
            assert any(set(pair) <= set(scan_ids) for scan_ids in found["scan_ids"])
        assert all({"label", "patient"} <= set(crosses) for crosses in found["crosses"])
        assert found["similarity"].between(duplicates.NEAR, 1).all()


def test_different_phantoms_are_not_near_identical():
    for size in (32, 96):
        images, cohort = phantom_cohort(40, 4, size, 4)
        thumbnails = np.stack([resize(image, 32, 32) for image in images])
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


def test_similarity_forgives_a_shift_by_a_fraction_of_a_pixel_only():
    rows, columns = np.mgrid[:32, :32]

    def waves(shift):
        return details((100 + 40 * np.sin(0.9 * (columns - shift)) * np.cos(0.7 * rows)).astype(np.float32)[None])

    plain = np.corrcoef(waves(0).ravel().astype(float), waves(0.3).ravel().astype(float))[0, 1]
    assert plain < duplicates.NEAR < similarity(waves(0), waves(0.3)).item()
    # Across two pixels a wave of this length can still be told from its gradients; noise cannot.
    noise = np.random.default_rng(0).normal(100, 30, (1, 32, 34)).astype(np.float32)
    assert similarity(details(noise[:, :, 2:]), details(noise[:, :, :-2])).item() < 0.5


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
    with pytest.raises(SplitError, match="no fold 9"):
        same_patient(table, one_fold(table, roles), fold=9)


# --- shortcuts -------------------------------------------------------------------------------------------------------


def cohort(patients, slices, classes=3):
    """Patients take the classes in turn."""
    owner = np.repeat(np.arange(patients), slices)
    return scan_table([f"p{number:04d}" for number in owner], [CLASS_NAMES[number % classes] for number in owner])


def measures(table, **columns):
    """ScanSet.measured of scans that are all alike but for the columns given; a dict gives a value a class."""
    alike = {"format": "jpeg", "color": False, "width": 768, "height": 496, "border": 0.0, "scale_bar": False,
             "canvas": False, "brightness": 60.0}  # fmt: skip
    columns = {
        name: table["label"].map(values).to_numpy() if isinstance(values, dict) else values
        for name, values in columns.items()
    }
    return pd.DataFrame({**alike, **columns}, index=pd.Index(table["scan_id"]))


def score_of(table, name, **columns):
    return shortcuts(table, measures(table, **columns)).set_index("property").loc[name]


FORMATS = {"normal": "jpeg", "drusen": "tiff", "cnv": "png"}


def test_a_property_that_decides_the_class_scores_one():
    table = cohort(30, 4)
    scores = shortcuts(table, measures(table, format=FORMATS)).set_index("property")
    for name in ("file format", TOGETHER):
        assert scores.loc[name, ["balanced_accuracy", "low", "high", "verdict"]].tolist() == [1, 1, 1, PREDICTS]
    assert set(scores["verdict"].drop(["file format", TOGETHER])) == {NO_SIGN}
    for name, column, values in (
        ("picture size", "width", (512, 768, 1536)),
        ("white border", "border", (0.0, 0.1, 0.3)),
        ("mean brightness", "brightness", (40.0, 60.0, 80.0)),
    ):
        of_class = dict(zip(CLASS_NAMES, values, strict=False))
        assert score_of(table, name, **{column: of_class})["balanced_accuracy"] == 1


def test_a_constant_is_exactly_chance_and_one_odd_scan_changes_little():
    for classes in (2, 3, 4):
        table = cohort(6 * classes, 2, classes)
        scores = shortcuts(table, measures(table))
        assert (scores[["balanced_accuracy", "low", "high", "chance"]] == 1 / classes).all(axis=None)
        assert set(scores["verdict"]) == {NO_SIGN}
    found = score_of(cohort(90, 2), "black canvas", canvas=np.arange(180) == 0)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.02) and found["verdict"] == NO_SIGN


def test_chance_is_not_called_predictive():
    table = cohort(120, 3)
    noise = (np.random.default_rng(seed).normal(60, 10, len(table)) for seed in range(12))
    outcomes = [score_of(table, "mean brightness", brightness=values) for values in noise]
    assert sum(found["low"] <= found["chance"] <= found["high"] for found in outcomes) >= 10
    assert sum(found["verdict"] == PREDICTS for found in outcomes) <= 1
    table = cohort(18, 1)  # so few that the interval reaches far beyond chance, and excludes nothing
    found = score_of(table, "mean brightness", brightness=np.random.default_rng(0).normal(60, 10, len(table)))
    assert found["high"] > found["chance"] + 0.1 and found["verdict"] == TOO_FEW


def test_what_only_tells_patients_apart_is_not_called_predictive():
    """Brightness is the same in all scans of a patient, and random between patients. Tried on other scans of the
    same patients it predicts the class, since it names the patient; tried on other patients it does not."""
    table = cohort(60, 8)
    leaky = table.assign(group=table["scan_id"])
    for seed in range(3):
        brightness = np.repeat(np.random.default_rng(seed).normal(60, 10, 60), 8)
        assert score_of(table, "mean brightness", brightness=brightness)["verdict"] != PREDICTS
        assert score_of(leaky, "mean brightness", brightness=brightness)["verdict"] == PREDICTS


def test_what_cannot_be_told_is_said():
    for table, verdict in [(cohort(patients, 4), TOO_FEW) for patients in (3, 6, 12)] + [
        (cohort(60, 1).assign(patient=""), NO_PATIENTS)
    ]:
        scores = shortcuts(table, measures(table, format=FORMATS)).set_index("property")
        assert scores.loc["file format", "verdict"] == verdict and scores.loc["scale bar", "verdict"] == NO_SIGN
        assert scores.loc["file format", ["balanced_accuracy", "low", "high"]].isna().all()


# --- all together ----------------------------------------------------------------------------------------------------


def audited(table, measured=None, thumbnails=None, hashes=None, split=None):
    """An audit of scans that are all different unless said otherwise."""
    random = np.random.default_rng(0).integers(0, 255, (len(table), 32, 32)).astype(np.uint8)
    scans = SimpleNamespace(
        table=table, hashes=own_hashes(table) | (hashes or {}),
        measured=lambda progress: measures(table) if measured is None else measured,
        thumbnails=lambda progress: random if thumbnails is None else thumbnails(random),
    )  # fmt: skip
    return audit(scans, split, progress=False)


def test_findings_count_what_was_planted(frames):
    image = frames[0][0]
    table = cohort(15, 2)
    table["part"] = "train"
    table.loc[[0, 3, 29], "part"] = "test"  # patients 0, 1 and 14 lie in both

    def with_a_copy(thumbnails):
        thumbnails[[4, 9]] = thumbnails_of([image, recompressed(image)])
        return thumbnails

    measured = measures(table, scale_bar=(table["label"] == "cnv").to_numpy())
    report = audited(table, measured, with_a_copy, {"s00010": "same", "s00013": "same"}, make_splits(table, 0))
    text = "\n".join(report.findings)
    for expected in (
        "3 patients in several of the publishers' parts, with 6 scans; such as p0000",
        "no patient lies in two of train, validation and test (fold 0)",
        "sets of byte-identical images: 1, of 2 scans; different patients: 1, different labels: 1",
        "sets of near-identical images: 1, of 2 scans; different patients: 1", "s00004 and s00009",
        "scale bar predicts the class of unseen patients: balanced accuracy 0.67",
    ):  # fmt: skip
        assert expected in text and expected in str(report)
    record = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert record["findings"] == report.findings
    assert record["identical_images"][0]["scan_ids"] == ["s00010", "s00013"]
    assert record["near_identical"][0]["key"] == "s00004" and len(record["shortcuts"]) == 7
    assert [row["key"] for row in record["same_patient"]] == ["p0000", "p0001", "p0014"]


def test_a_clean_set_is_called_clean_and_one_without_patients_cannot_be():
    table = cohort(45, 2)
    assert audited(table).findings == [
        "no byte-identical images in two patients, labels, official parts or roles",
        "no near-identical images in two patients, labels, official parts or roles",
        "neither file format, size, border, scale bar, canvas nor brightness predicts the class",
    ]
    table = table.assign(patient="", part="train")
    findings = audited(table, measures(table, brightness=np.arange(90.0))).findings
    assert findings[0] == "whether a patient lies in two parts cannot be told: the dataset has no patient numbers"
    assert "mean brightness, all together predict the class cannot be told: no patient numbers" in findings[-1]
