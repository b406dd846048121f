"""The publishers' own test part: held out of every fold, and nothing that it shares is trained on."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdoct_utils.data.splits import (
    UNUSED,
    SplitError,
    audit_leakage,
    load_splits,
    make_splits,
    official_splits,
    save_splits,
)
from kdoct_utils.datasets import DataOptions
from kdoct_utils.runs import RunError, open_run

PARTS = ("train", "validation", "test")


def cohort(parts, known=True):
    """A scan table from (patient, part) pairs: one scan for each pair, labels by turns."""
    labels = ("normal", "drusen", "cnv")
    rows = []
    for number, (patient, part) in enumerate(parts):
        name = f"p{patient:02d}"
        group = name if known else f"scan{number}"
        rows.append((f"scan{number}", name if known else "", group, labels[patient % 3], labels[patient % 3], part))
    return pd.DataFrame(rows, columns=["scan_id", "patient", "group", "patient_class", "label", "part"])


def usual():
    """Twelve patients in train, six in test, of whom two are in both."""
    return cohort([(p, "train") for p in range(12)] + [(p, "validation") for p in range(3)]
                  + [(p, "test") for p in range(10, 16)])


def test_the_test_part_is_held_out_of_every_fold_and_shared_patients_are_unused():
    table = usual()
    frame = official_splits(table, 0, folds=3)
    part = table.set_index("scan_id")["part"]
    for fold, members in frame.groupby("fold"):
        role = members.set_index("scan_id")["role"]
        assert set(role[role == "test"].index) == set(part[part == "test"].index)
        assert set(role[role == UNUSED].index) == {"scan10", "scan11"}  # the train scans of patients 10 and 11
        assert audit_leakage(table, frame, fold).empty
    # Each other group is for validation exactly once: train and validation are folds over patients.
    validated = frame[frame["role"] == "validation"].groupby("group")["fold"].nunique()
    assert set(validated.index) == {f"p{p:02d}" for p in range(10)} and (validated == 1).all()
    assert "2 scans share a patient or an image with the test part, and are not used" in frame.attrs["warnings"]


def test_shared_patients_can_be_kept_and_then_the_audit_finds_them():
    table = usual()
    frame = official_splits(table, 0, folds=3, keep_shared=True)
    assert UNUSED not in set(frame["role"])
    found = audit_leakage(table, frame, 0)
    assert set(found.loc[found["kind"] == "patient", "key"]) == {"p10", "p11"}
    assert any("the test leaks" in text for text in frame.attrs["warnings"])


def test_without_patients_the_published_parts_are_taken_as_they_are():
    table = cohort([(p, part) for part in PARTS for p in range(6)], known=False)
    table.loc[0, "group"] = table.loc[17, "group"]  # one image lies in train and in test
    table.loc[1, "group"] = table.loc[7, "group"]  # and one in train and in validation
    with pytest.raises(SplitError, match="18 of 18 scans have no patient number.*split='official'.*several of them"):
        make_splits(table, 0)
    frame = official_splits(table, 0)
    role = frame.set_index("scan_id")["role"]
    assert frame.attrs["folds"] == 1
    assert list(role[["scan0", "scan1"]]) == [UNUSED, UNUSED]
    rest = table[~table["scan_id"].isin(["scan0", "scan1"])].set_index("scan_id")
    assert (role[rest.index] == rest["part"]).all()
    kept = official_splits(table, 0, keep_shared=True).set_index("scan_id")["role"]
    assert (kept[table["scan_id"]].to_numpy() == table["part"].to_numpy()).all()


def test_a_patient_split_without_parts_offers_none():
    table = cohort([(p, "") for p in range(6)], known=False).drop(columns="part")
    with pytest.raises(SplitError, match="cannot be split by patient$"):
        make_splits(table, 0)
    with pytest.raises(SplitError, match="fixed no test part; use split='patient'"):
        official_splits(table, 0)


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(SplitError, match="nothing to train on"):
        official_splits(cohort([(0, "train"), (1, "train"), (0, "test"), (1, "test")]), 0)


people = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(PARTS)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(extra=people, seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
def test_no_patient_is_ever_in_two_roles_whatever_the_order(extra, seed, order):
    table = cohort([(p, "train") for p in range(30, 36)] + [(40, "test")] + extra)  # enough to train and test on
    frame = official_splits(table, seed)
    used = frame[frame["role"] != UNUSED]
    assert (used.groupby(["fold", "group"])["role"].nunique() == 1).all()
    rows = list(range(len(table)))
    order.shuffle(rows)
    again = official_splits(table.iloc[rows].reset_index(drop=True), seed)
    pd.testing.assert_frame_equal(again, frame)


def test_an_official_split_survives_its_file(tmp_path):
    table = usual()
    frame = official_splits(table, 0, folds=3)
    loaded = load_splits(tmp_path / "splits.csv", table, save_splits(frame, tmp_path / "splits.csv"))
    pd.testing.assert_frame_equal(loaded, frame)


# --- the options of a run ---


def open_small(folder, **changes):
    return open_run(folder, **({"profile": "smoke", "dataset": "phantom"} | changes))


def test_a_run_keeps_its_options_and_refuses_others(tmp_path):
    run = open_small(tmp_path / "a", options={"split": "official"})
    assert run.options == DataOptions(split="official")
    assert open_small(tmp_path / "a").options == run.options  # who asks for nothing takes what is there
    assert open_small(tmp_path / "a", options={"worst_case": True}).options == run.options
    with pytest.raises(RunError, match="holds a run with split = 'official', not 'patient'"):
        open_small(tmp_path / "a", options={"split": "patient"})
    assert open_small(tmp_path / "b").options == DataOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spilt": "official"}, "unknown dataset option 'spilt'; valid options: worst_case, split, keep_shared"),
        ({"worst_case": "no"}, "'worst_case' takes bool, not 'no'"),
        ({"split": "offical"}, "unknown split 'offical'; valid splits: patient, official"),
    ],
)
def test_wrong_options_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_small(tmp_path / "c", options=options)
    assert not (tmp_path / "c" / "config.json").exists()
