"""Folds over groups, the publishers' test part, the options that ask for it, the leakage audit, and the file."""


import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdoct_utils.data.splits import (
    ROLES,
    SPLIT_COLUMNS,
    UNUSED,
    SplitError,
    audit_leakage,
    load_splits,
    make_splits,
    official_splits,
    save_splits,
    scan_level_splits,
)
from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.runs import RunError, open_run


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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(groups=counts, seed=st.integers(0, 2**32), folds=st.integers(2, 6), order=st.integers(0, 1000))
def test_the_rules_of_every_split(groups, seed, folds, order):
    table = cohort(groups, slices=2)
    split = make_splits(table, seed, folds)
    made = split.attrs["folds"]
    assert list(split.columns) == SPLIT_COLUMNS and made == min(folds, *groups.values())
    # Every scan has one role in every fold, and is tested in exactly one.
    assert len(split) == len(table) * made and not split.duplicated(["scan_id", "fold"]).any()
    assert (split[split["role"] == "test"].groupby("scan_id").size().reindex(table["scan_id"]) == 1).all()
    # No group in two roles; nothing for the audit.
    assert (split.groupby(["fold", "group"])["role"].nunique() == 1).all()
    assert all(audit_leakage(table, split, fold).empty for fold in range(made))
    # Each class has train and test groups in every fold; test shares differ by one group at most.
    per_class = split.assign(label=split["scan_id"].str.split("/").str[0]).groupby(["fold", "role", "label"])["group"]
    sizes = per_class.nunique().unstack(fill_value=0)
    for name, count in groups.items():
        tested = sizes.xs("test", level="role")[name]
        assert tested.min() >= 1 and tested.max() - tested.min() <= 1 and tested.sum() == count
        assert (sizes.xs("train", level="role")[name] >= 1).all()
    total = sizes.xs("test", level="role").sum(axis=1)
    assert total.max() - total.min() <= 1
    shuffled = table.sample(frac=1, random_state=order)  # the order of rows changes nothing
    pd.testing.assert_frame_equal(make_splits(shuffled, seed, folds), split)
    pd.testing.assert_frame_equal(scan_level_splits(shuffled, seed), scan_level_splits(table, seed))


def test_the_shares_are_the_papers_and_the_seed_says_who_is_where():
    table = cohort({"normal": 100, "drusen": 50, "cnv": 75})
    split = make_splits(table, seed=3)
    shares = split.groupby(["fold", "role"])["group"].nunique().unstack() / 225
    for role, share in (("train", 0.64), ("validation", 0.16), ("test", 0.20)):
        np.testing.assert_allclose(shares[role], share, atol=0.005)
    assert split.attrs["warnings"] == []
    assert (split["role"] != make_splits(table, 4)["role"]).mean() > 0.2


def test_other_scans_and_labels_of_a_patient_do_not_move_it():
    table = cohort({"normal": 9, "cnv": 8}, slices=4)
    split = make_splits(table, 0)
    fewer = table[~table["scan_id"].str.endswith("/3")]
    expected = split[split["scan_id"].isin(fewer["scan_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(make_splits(fewer, 0), expected)
    # Patients with mostly normal-looking slices still count as what they have.
    outer = (table["patient_class"] == "cnv") & table["scan_id"].str.contains("/[013]$")
    pd.testing.assert_frame_equal(make_splits(table.assign(label=table["label"].mask(outer, "normal")), 0), split)


def test_linked_patients_stay_together():
    linked = [("normal/000", "cnv/003"), ("normal/000", "drusen/001"), ("cnv/004", "cnv/005")]
    table = cohort({"normal": 10, "drusen": 10, "cnv": 10}, linked=linked)
    split = make_splits(table, 0).merge(table[["scan_id", "patient"]])
    for patients in ({"normal/000", "cnv/003", "drusen/001"}, {"cnv/004", "cnv/005"}):
        assert (split[split["patient"].isin(patients)].groupby("fold")["role"].nunique() == 1).all()
    # A duplicate image leaves a class of two patients with one group.
    with pytest.raises(SplitError, match="class cnv has 1 group"):
        make_splits(cohort({"normal": 8, "cnv": 2}, linked=[("cnv/000", "cnv/001")]), 0)


def test_few_groups_make_fewer_folds_and_it_is_said():
    for smallest in (2, 3, 4):
        split = make_splits(cohort({"normal": 12, "dme": smallest}), 0)
        assert split.attrs["folds"] == smallest == split["fold"].nunique()
        warnings = split.attrs["warnings"]
        assert warnings[0] == f"{smallest} folds instead of 5: the smallest class has {smallest} groups of patients"
        assert ("class dme has no validation scans in fold 0, 1" in warnings) == (smallest == 2)


def test_a_class_with_one_patient_is_refused_or_kept_in_train():
    table = cohort({"normal": 8, "drusen": 6, "cnv": 1})
    with pytest.raises(SplitError, match="class cnv has 1 group of patients, 2 are needed .*normal 8, drusen 6, cnv 1"):
        make_splits(table, 0)
    split = make_splits(table, 0, allow_tiny=True)
    assert set(split.loc[split["group"] == "cnv/000", "role"]) == {"train"} and split.attrs["folds"] == 5
    assert "class cnv has one group of patients: it stays in train in every fold" in split.attrs["warnings"]
    assert "class cnv has no test scans in fold 0, 1, 2, 3, 4" in split.attrs["warnings"]
    with pytest.raises(SplitError, match="no class has 2 groups of patients"):
        make_splits(cohort({"normal": 1, "cnv": 1}), 0, allow_tiny=True)
    table = cohort({"normal": 8, "cnv": 8})  # a class that one patient shows, though the patient has another
    table.loc[table["scan_id"] == "normal/003/1", "label"] = "drusen"
    with pytest.raises(SplitError, match="class drusen has 1 group"):
        make_splits(table, 0)


def test_faulty_tables_are_refused():
    table = cohort({"normal": 6, "cnv": 6})
    for faulty, options, message in (
        (table, {"class_names": ("normal", "drusen", "cnv")}, "class drusen is empty; .*: normal 6, cnv 6"),
        (table.drop(columns="group"), {}, "lacks group; required: scan_id, group"),
        (pd.concat([table, table.iloc[:2]]), {}, "2 repeated scan_ids, the first is normal/000/0"),
        (table.assign(label="CNV"), {}, "unknown label 'CNV'; valid classes: normal, drusen, cnv, dme"),
        (table.assign(patient=""), {}, "36 of 36 scans have no patient number, so they cannot be split by patient$"),
    ):
        with pytest.raises(SplitError, match=message):
            make_splits(faulty, 0, **options)


# --- the publishers' test part ---


def published(parts, known=True):
    """A scan table from (patient, part) pairs: one scan for each pair, labels by turns."""
    labels = ("normal", "drusen", "cnv")
    rows = []
    for number, (patient, part) in enumerate(parts):
        name = f"p{patient:02d}"
        group = name if known else f"scan{number}"
        rows.append((f"scan{number}", name if known else "", group, labels[patient % 3], labels[patient % 3], part))
    return pd.DataFrame(rows, columns=["scan_id", "patient", "group", "patient_class", "label", "part"])


# Twelve patients in train, six in test, of whom two are in both.
USUAL = published([*((p, "train") for p in range(12)), *((p, "validation") for p in range(3)),
                   *((p, "test") for p in range(10, 16))])  # fmt: skip


def test_the_test_part_is_held_out_of_every_fold_and_shared_patients_are_unused(tmp_path):
    split = official_splits(USUAL, 0, folds=3)
    part = USUAL.set_index("scan_id")["part"]
    for fold, members in split.groupby("fold"):
        role = members.set_index("scan_id")["role"]
        assert set(role[role == "test"].index) == set(part[part == "test"].index)
        assert set(role[role == UNUSED].index) == {"scan10", "scan11"}  # the train scans of patients 10 and 11
        assert audit_leakage(USUAL, split, fold).empty
    # Each other group is for validation exactly once: train and validation are folds over patients.
    validated = split[split["role"] == "validation"].groupby("group")["fold"].nunique()
    assert set(validated.index) == {f"p{p:02d}" for p in range(10)} and (validated == 1).all()
    assert "2 scans share a patient or an image with the test part, and are not used" in split.attrs["warnings"]
    loaded = load_splits(tmp_path / "splits.csv", USUAL, save_splits(split, tmp_path / "splits.csv"))
    pd.testing.assert_frame_equal(loaded, split, check_dtype=False)

    kept = official_splits(USUAL, 0, folds=3, keep_shared=True)  # and then the audit finds them
    assert UNUSED not in set(kept["role"])
    found = audit_leakage(USUAL, kept, 0)
    assert set(found.loc[found["kind"] == "patient", "key"]) == {"p10", "p11"}
    assert any("the test leaks" in text for text in kept.attrs["warnings"])


def test_without_patients_the_published_parts_are_taken_as_they_are():
    table = published([(p, part) for part in ROLES for p in range(6)], known=False)
    table.loc[0, "group"] = table.loc[17, "group"]  # one image lies in train and in test
    table.loc[1, "group"] = table.loc[7, "group"]  # and one in train and in validation
    with pytest.raises(SplitError, match="18 of 18 scans have no patient number.*split='official'.*several of them"):
        make_splits(table, 0)
    split = official_splits(table, 0)
    role = split.set_index("scan_id")["role"]
    assert split.attrs["folds"] == 1 and list(role[["scan0", "scan1"]]) == [UNUSED, UNUSED]
    rest = table[~table["scan_id"].isin(["scan0", "scan1"])].set_index("scan_id")
    assert (role[rest.index] == rest["part"]).all()
    kept = official_splits(table, 0, keep_shared=True).set_index("scan_id")["role"]
    assert (kept[table["scan_id"]].to_numpy() == table["part"].to_numpy()).all()


def test_a_table_without_a_test_part_or_with_nothing_else_is_refused():
    with pytest.raises(SplitError, match="fixed no test part; use split='patient'"):
        official_splits(USUAL.drop(columns="part"), 0)
    with pytest.raises(SplitError, match="nothing to train on"):
        official_splits(published([(0, "train"), (1, "train"), (0, "test"), (1, "test")]), 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    extra=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(ROLES)), min_size=1, max_size=40),
    seed=st.integers(0, 2**32), order=st.integers(0, 1000),
)  # fmt: skip
def test_no_patient_is_ever_in_two_roles_whatever_the_order(extra, seed, order):
    table = published([(p, "train") for p in range(30, 36)] + [(40, "test")] + extra)  # enough to train and test on
    split = official_splits(table, seed)
    used = split[split["role"] != UNUSED]
    assert (used.groupby(["fold", "group"])["role"].nunique() == 1).all()
    again = official_splits(table.sample(frac=1, random_state=order, ignore_index=True), seed)
    pd.testing.assert_frame_equal(again, split)


def test_a_run_keeps_its_options_and_refuses_others(tmp_path):
    def opened(name, **options):
        return open_run(tmp_path / name, profile="smoke", dataset="phantom", options=options or None)

    run = opened("a", split="official")
    assert run.options == DataOptions(split="official")
    assert opened("a").options == run.options  # who asks for nothing takes what is there
    assert opened("a", worst_case=True).options == run.options
    with pytest.raises(RunError, match="holds a run with split = 'official', not 'patient'"):
        opened("a", split="patient")
    assert opened("b").options == DataOptions()
    for options, message in (
        ({"spilt": "official"}, "unknown dataset option 'spilt'; valid options: worst_case, split, keep_shared"),
        ({"split": "offical"}, "unknown split 'offical'; valid splits: patient, official"),
    ):
        with pytest.raises(ValueError, match=message):
            opened("c", **options)
        assert not (tmp_path / "c" / "config.json").exists()


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
@given(st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 30)), min_size=12, max_size=12))
def test_the_audit_names_exactly_what_lies_in_two_roles(drawn):
    roles, images = zip(*drawn, strict=True)
    table = cohort({"normal": 2, "cnv": 2}, linked=[("normal/001", "cnv/000")])
    split = table[["scan_id", "group"]].assign(fold=0, role=roles)[SPLIT_COLUMNS]
    hashes = dict(zip(table["scan_id"], map(str, images), strict=True))
    found = audit_leakage(table, split, 0, hashes)
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


# --- the file ---


def test_a_split_survives_its_file(tmp_path):
    table = cohort({"normal": 6, "cnv": 2})
    split = make_splits(table, 0)
    digest = save_splits(split, tmp_path / "run" / "splits.csv")
    loaded = load_splits(tmp_path / "run" / "splits.csv", table.sample(frac=1, random_state=0), digest)
    pd.testing.assert_frame_equal(loaded, split, check_dtype=False)
    assert loaded.attrs["hash"] == digest and loaded.attrs["folds"] == 2
    assert "class cnv has no validation scans in fold 0, 1" in loaded.attrs["warnings"]
    assert save_splits(loaded, tmp_path / "again.csv") == digest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["again.csv"]


def test_another_split_and_a_damaged_file_are_refused(tmp_path):
    table, path = cohort({"normal": 6, "cnv": 6}), tmp_path / "splits.csv"
    digest = save_splits(make_splits(table, 0), path)
    save_splits(make_splits(table, 1), path)
    for of, expected, message in (
        (table, digest, "not the expected split: SHA-256"),
        (table[table["patient"] != "normal/005"], None, "other scans or groups: 3 differ, such as normal/005/0"),
        (cohort({"normal": 6, "cnv": 7}), None, "3 differ, such as cnv/006/0"),
        (cohort({"normal": 6, "cnv": 6}, linked=[("cnv/000", "cnv/001")]), None, "3 differ, such as cnv/001/0"),
    ):
        with pytest.raises(SplitError, match=message):
            load_splits(path, of, expected)
    text = path.read_text()
    for damaged, message in (
        (text.replace("validation", "valid"), "not every scan has exactly one role"),
        (text[: len(text) * 9 // 10].rsplit("\n", 1)[0] + "\n", "not every scan has exactly one role"),
        ("", "cannot be read as a split file"),
    ):
        path.write_text(damaged)
        with pytest.raises(SplitError, match=message):
            load_splits(path, table)
    with pytest.raises(SplitError, match="no such split file"):
        load_splits(tmp_path / "lost.csv", table)
