"""Folds over groups: their shares, what they depend on, what they refuse; and the leakage audit."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdoct_utils.data.scans import read_scans
from kdoct_utils.data.splits import (
    ROLES,
    SPLIT_COLUMNS,
    SplitError,
    audit_leakage,
    load_splits,
    make_splits,
    save_splits,
    scan_level_splits,
)
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
real_scans = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real B-scans at ../shared/oct_samples/ucsd")


def cohort(groups_per_class, slices=3, linked=()):
    """A scan table. groups_per_class: class -> patients; linked: pairs of patients that share a group."""
    rows = []
    for name, count in groups_per_class.items():
        for number in range(count):
            patient = f"{name}/{number:03d}"
            rows += [(f"{patient}/{k}", patient, patient, name, name) for k in range(slices)]
    table = pd.DataFrame(rows, columns=["scan_id", "patient", "group", "patient_class", "label"])
    for first, second in linked:
        table.loc[table["patient"] == second, "group"] = first
    return table


counts = st.dictionaries(st.sampled_from(CLASS_NAMES), st.integers(2, 17), min_size=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups=counts, seed=st.integers(0, 2**32), folds=st.integers(2, 6))
def test_the_rules_of_every_split(groups, seed, folds):
    table = cohort(groups, slices=2)
    frame = make_splits(table, seed, folds)
    made = frame.attrs["folds"]
    assert list(frame.columns) == SPLIT_COLUMNS and made == min(folds, *groups.values())
    # Every scan has one role in every fold, and is tested in exactly one.
    assert len(frame) == len(table) * made and not frame.duplicated(["scan_id", "fold"]).any()
    assert (frame[frame["role"] == "test"].groupby("scan_id").size().reindex(table["scan_id"]) == 1).all()
    # No group in two roles; nothing for the audit.
    assert (frame.groupby(["fold", "group"])["role"].nunique() == 1).all()
    for fold in range(made):
        assert audit_leakage(table, frame, fold).empty
    # Each class has train and test groups in every fold; test shares differ by one group at most.
    per_class = frame.assign(label=frame["scan_id"].str.split("/").str[0]).groupby(["fold", "role", "label"])["group"]
    sizes = per_class.nunique().unstack(fill_value=0)
    for name, count in groups.items():
        tested = sizes.xs("test", level="role")[name]
        assert tested.min() >= 1 and tested.max() - tested.min() <= 1 and tested.sum() == count
        assert (sizes.xs("train", level="role")[name] >= 1).all()
    total = sizes.xs("test", level="role").sum(axis=1)
    assert total.max() - total.min() <= 1


@settings(max_examples=30, deadline=None, derandomize=True)
@given(groups=counts, seed=st.integers(0, 2**32), order=st.integers(0, 1000))
def test_the_order_of_rows_changes_nothing(groups, seed, order):
    table = cohort(groups)
    shuffled = table.sample(frac=1, random_state=order)
    pd.testing.assert_frame_equal(make_splits(shuffled, seed), make_splits(table, seed))
    pd.testing.assert_frame_equal(scan_level_splits(shuffled, seed), scan_level_splits(table, seed))


def test_the_shares_are_the_papers():
    frame = make_splits(cohort({"normal": 100, "drusen": 50, "cnv": 75}), seed=3)
    shares = frame.groupby(["fold", "role"])["group"].nunique().unstack() / 225
    for role, share in (("train", 0.64), ("validation", 0.16), ("test", 0.20)):
        np.testing.assert_allclose(shares[role], share, atol=0.005)
    assert frame.attrs["warnings"] == []


def test_the_seed_and_the_fold_change_who_is_where():
    table = cohort({"normal": 20, "cnv": 20})
    first, second = make_splits(table, 0), make_splits(table, 1)
    assert (first["role"] != second["role"]).mean() > 0.2
    validation = [set(part.loc[part["role"] == "validation", "group"]) for _, part in first.groupby("fold")]
    assert len({frozenset(groups) for groups in validation}) == 5
    # Nothing but the arguments counts: neither the global generators nor what ran before.
    np.random.seed(5)
    random.seed(5)
    pd.testing.assert_frame_equal(make_splits(table, 0), first)


def test_other_scans_of_a_patient_do_not_move_it():
    table = cohort({"normal": 9, "cnv": 8}, slices=4)
    fewer = table[~table["scan_id"].str.endswith("/3")]
    roles = make_splits(table, 0)
    expected = roles[roles["scan_id"].isin(fewer["scan_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(make_splits(fewer, 0), expected)


def test_linked_patients_stay_together():
    linked = [("normal/000", "cnv/003"), ("normal/000", "drusen/001"), ("cnv/004", "cnv/005")]
    table = cohort({"normal": 10, "drusen": 10, "cnv": 10}, linked=linked)
    frame = make_splits(table, 0).merge(table[["scan_id", "patient"]])
    for patients in ({"normal/000", "cnv/003", "drusen/001"}, {"cnv/004", "cnv/005"}):
        roles = frame[frame["patient"].isin(patients)].groupby("fold")["role"].nunique()
        assert (roles == 1).all()


def test_a_group_is_stratified_by_the_class_of_most_of_its_scans():
    """Patients with mostly normal-looking slices still count as what they have."""
    table = cohort({"normal": 10, "cnv": 10}, slices=5)
    outer = (table["patient_class"] == "cnv") & table["scan_id"].str.contains("/[0134]$")
    table.loc[outer, "label"] = "normal"
    frame = make_splits(table, 0)
    pd.testing.assert_frame_equal(frame, make_splits(cohort({"normal": 10, "cnv": 10}, slices=5), 0))


@pytest.mark.parametrize("smallest", [2, 3, 4])
def test_few_groups_make_fewer_folds_and_it_is_said(smallest):
    frame = make_splits(cohort({"normal": 12, "dme": smallest}), 0)
    assert frame.attrs["folds"] == smallest == frame["fold"].nunique()
    warnings = frame.attrs["warnings"]
    assert warnings[0] == f"{smallest} folds instead of 5: the smallest class has {smallest} groups of patients"
    assert ("class dme has no validation scans in fold 0, 1" in warnings) == (smallest == 2)


def test_a_class_with_one_patient_is_refused_or_kept_in_train():
    table = cohort({"normal": 8, "drusen": 6, "cnv": 1})
    with pytest.raises(SplitError, match="class cnv has 1 group of patients, 2 are needed .*normal 8, drusen 6, cnv 1"):
        make_splits(table, 0)
    frame = make_splits(table, 0, allow_tiny=True)
    assert set(frame.loc[frame["group"] == "cnv/000", "role"]) == {"train"}
    assert frame.attrs["folds"] == 5
    assert "class cnv has one group of patients: it stays in train in every fold" in frame.attrs["warnings"]
    assert "class cnv has no test scans in fold 0, 1, 2, 3, 4" in frame.attrs["warnings"]
    with pytest.raises(SplitError, match="no class has 2 groups of patients"):
        make_splits(cohort({"normal": 1, "cnv": 1}), 0, allow_tiny=True)


def test_a_class_that_only_one_patient_shows_is_refused_though_the_patient_has_another():
    table = cohort({"normal": 8, "cnv": 8})
    table.loc[table["scan_id"] == "normal/003/1", "label"] = "drusen"
    with pytest.raises(SplitError, match="class drusen has 1 group"):
        make_splits(table, 0)


def test_two_patients_that_are_one_are_one():
    """A duplicate image leaves a class of two patients with one group."""
    table = cohort({"normal": 8, "cnv": 2}, linked=[("cnv/000", "cnv/001")])
    with pytest.raises(SplitError, match="class cnv has 1 group"):
        make_splits(table, 0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t, {"class_names": ("normal", "drusen", "cnv")}, "class drusen is empty; .*: normal 6, cnv 6"),
        (lambda t: t.iloc[:0], {}, "the scan table is empty"),
        (lambda t: t.drop(columns="group"), {}, "lacks group; required: scan_id, group"),
        (lambda t: pd.concat([t, t.iloc[:2]]), {}, "2 repeated scan_ids, the first is normal/000/0"),
        (lambda t: t.assign(label="CNV"), {}, "unknown label 'CNV'; valid classes: normal, drusen, cnv, dme"),
        (lambda t: t.assign(group=None), {}, "scan normal/000/0 has no group"),
        (lambda t: t, {"folds": 1}, "folds must be at least 2, not 1"),
    ],
)
def test_faulty_tables_are_refused(change, options, message):
    with pytest.raises(SplitError, match=message):
        make_splits(change(cohort({"normal": 6, "cnv": 6})), 0, **options)


@real_scans
def test_the_seventeen_real_scans_split_and_say_what_is_missing():
    scans = read_scans("ucsd", SAMPLES, profile=PROFILES["smoke"], seed=0, progress=False)
    frame = make_splits(scans.table, 0, class_names=scans.class_names)
    assert frame.attrs["folds"] == 2
    assert "class dme has no validation scans in fold 0, 1" in frame.attrs["warnings"]
    labels = frame["scan_id"].map(scans.table.set_index("scan_id")["label"])
    for fold in range(2):
        assert audit_leakage(scans.table, frame, fold, scans.hashes).empty
        for role in ("train", "test"):
            assert set(labels[(frame["fold"] == fold) & (frame["role"] == role)]) == set(CLASS_NAMES)


# --- the wrong way, and the audit that finds it ---


def test_scan_level_splits_have_the_same_shares_and_leak():
    table = cohort({"normal": 10, "cnv": 10}, slices=10)
    wrong = scan_level_splits(table, 0)
    assert list(wrong.columns) == SPLIT_COLUMNS
    assert wrong.groupby(["fold", "role"]).size().unstack().loc[0].tolist() == [40, 128, 32]  # test, train, validation
    found = audit_leakage(table, wrong, 0)
    assert set(found["kind"]) == {"patient", "group"} and (found["kind"] == "patient").sum() >= 18
    assert wrong.set_index("scan_id")["group"].drop_duplicates().isin(table["group"]).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(roles=st.lists(st.sampled_from(ROLES), min_size=12, max_size=12), images=st.lists(
    st.integers(0, 30), min_size=12, max_size=12))
def test_the_audit_names_exactly_what_lies_in_two_roles(roles, images):
    table = cohort({"normal": 2, "cnv": 2}, linked=[("normal/001", "cnv/000")])
    assume(len(table) == 12)
    frame = table[["scan_id", "group"]].assign(fold=0, role=roles)[SPLIT_COLUMNS]
    hashes = dict(zip(table["scan_id"], map(str, images), strict=True))
    found = audit_leakage(table, frame, 0, hashes)
    expected = set()
    for kind, keys in (("patient", table["patient"]), ("group", table["group"]), ("identical image", map(str, images))):
        roles_of = {}
        for key, role in zip(keys, roles, strict=True):
            roles_of.setdefault(key, set()).add(role)
        leaking = {key: held for key, held in roles_of.items() if len(held) > 1}
        expected |= {(kind, key, tuple(role for role in ROLES if role in held)) for key, held in leaking.items()}
    assert set(found[["kind", "key", "roles"]].itertuples(index=False, name=None)) == expected
    for row in found.itertuples():
        assert {roles[table["scan_id"].tolist().index(scan_id)] for scan_id in row.scan_ids} == set(row.roles)


def test_the_audit_finds_an_identical_image_that_the_groups_do_not_know():
    table = cohort({"normal": 5, "cnv": 5})
    frame = make_splits(table, 0)
    role = frame[frame["fold"] == 0].set_index("scan_id")["role"]
    tested, trained = role.index[role == "test"][0], role.index[role == "train"][0]
    hashes = {scan_id: scan_id for scan_id in table["scan_id"]} | {tested: "same", trained: "same"}
    found = audit_leakage(table, frame, 0, hashes)
    assert found.to_dict("records") == [
        {"kind": "identical image", "key": "same", "roles": ("train", "test"),
         "scan_ids": tuple(sorted([tested, trained]))}
    ]  # fmt: skip


def test_the_audit_refuses_what_it_cannot_judge():
    table = cohort({"normal": 5, "cnv": 5})
    frame = make_splits(table, 0)
    with pytest.raises(SplitError, match="no fold 7; folds: 0, 1, 2, 3, 4"):
        audit_leakage(table, frame, 7)
    with pytest.raises(SplitError, match="3 scans without role or patient, such as normal/000/0"):
        audit_leakage(table, frame[frame["group"] != "normal/000"], 0)
    with pytest.raises(SplitError, match="30 scans without role or identical image"):
        audit_leakage(table, frame, 0, {})


# --- the file ---


def test_a_split_survives_its_file(tmp_path):
    table = cohort({"normal": 6, "cnv": 2})
    frame = make_splits(table, 0)
    digest = save_splits(frame, tmp_path / "run" / "splits.csv")
    loaded = load_splits(tmp_path / "run" / "splits.csv", table.sample(frac=1, random_state=0), digest)
    pd.testing.assert_frame_equal(loaded, frame, check_dtype=False)
    assert loaded.attrs["hash"] == digest and loaded.attrs["folds"] == 2
    assert "class cnv has no validation scans in fold 0, 1" in loaded.attrs["warnings"]
    assert save_splits(loaded, tmp_path / "again.csv") == digest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["again.csv"]


def test_another_split_is_refused(tmp_path):
    table = cohort({"normal": 6, "cnv": 6})
    path = tmp_path / "splits.csv"
    digest = save_splits(make_splits(table, 0), path)
    save_splits(make_splits(table, 1), path)
    with pytest.raises(SplitError, match="not the expected split: SHA-256"):
        load_splits(path, table, digest)
    with pytest.raises(SplitError, match="other scans: the scan table lacks 3 of them, such as normal/005/0"):
        load_splits(path, table[table["patient"] != "normal/005"])
    with pytest.raises(SplitError, match="other scans: the file lacks 3 of them, such as cnv/006/0"):
        load_splits(path, cohort({"normal": 6, "cnv": 7}))
    with pytest.raises(SplitError, match="3 scans have another group .* such as cnv/001/0"):
        load_splits(path, cohort({"normal": 6, "cnv": 6}, linked=[("cnv/000", "cnv/001")]))
    with pytest.raises(SplitError, match="no such split file"):
        load_splits(tmp_path / "lost.csv", table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("validation", "valid"), "unknown role 'valid'; valid roles: train, validation"),
        (lambda text: text.replace("role", "part"), "columns scan_id, group, fold, part; expected"),
        (lambda text: text[: len(text) * 9 // 10].rsplit("\n", 1)[0] + "\n", "not every scan has exactly one role"),
        (lambda text: text + text.splitlines()[1] + "\n", "not every scan has exactly one role"),
        (lambda text: text.replace(",4,", ",9,"), "folds are 0, 1, 2, 3, 9; expected 0 to 4"),
        (lambda text: text.replace(",4,", ",four,"), "cannot be read as a split file"),
        (lambda text: "", "cannot be read as a split file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    table = cohort({"normal": 6, "cnv": 6})
    path = tmp_path / "splits.csv"
    save_splits(make_splits(table, 0), path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(SplitError, match=message):
        load_splits(path, table)
