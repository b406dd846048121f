"""Patients beyond the folds, and what students and teachers learn from: scans, labels, answers."""

from dataclasses import replace

import numpy as np
import pytest
from on_runs import run_and_data

from kdoct_utils.lab import stages
from kdoct_utils.lab.arms import ARMS, TEACHERS_OF, StudentRecipe
from kdoct_utils.lab.material import permuted, rows_of_few, student_scans, teacher_data
from kdoct_utils.profiles import get_profile

PROFILE = replace(get_profile("smoke"), phantom_test_patients=12)

run, data = run_and_data(PROFILE, seed=5)


def test_no_patient_and_no_picture_is_in_two_roles(data):
    roles = data.table.groupby("group")["scan_id"].agg(lambda ids: {data.role[i] for i in ids.index})
    assert roles.map(len).eq(1).all()
    assert set().union(*roles) == {"train", "validation", "fold test", "test", "clinic"}
    pixels = {image.tobytes() for image in data.images}
    assert len(pixels) == len(data.images) == len(data.table)


def test_as_many_patients_test_as_the_profile_says_and_all_show_their_class(data):
    test, clinic = (data.table.iloc[data.rows(role)] for role in ("test", "clinic"))
    assert (test["label"] == test["patient_class"]).all()
    assert (test.groupby("patient_class")["group"].nunique() > 0.8 * 12).all()  # some show no lesion in any scan
    assert clinic.groupby("patient_class")["group"].nunique().eq(round(0.64 * PROFILE.phantom_patients)).all()
    assert 0.05 < (clinic["label"] != clinic["patient_class"]).mean() < 0.4


def test_other_seeds_have_other_patients_and_the_folds_do_not_change(run, data, tmp_path):
    other = stages.course_data(replace(run, path=tmp_path, seed=6), progress=False)
    assert not {image.tobytes() for image in data.images} & {image.tobytes() for image in other.images}
    folds = stages.course_data(run, progress=False, beyond=False)
    assert folds.scans_hash == data.scans_hash and set(folds.role) == {"train", "validation", "test"}
    np.testing.assert_array_equal(folds.rows("test"), data.rows("fold test"))
    np.testing.assert_array_equal(folds.images, data.images[: len(folds.images)])


def test_a_run_without_a_second_clinic_refuses_its_arms(run):
    folds = stages.course_data(run, progress=False, beyond=False)
    with pytest.raises(ValueError, match="no scans of 'clinic': a second clinic is drawn for phantoms only"):
        student_scans(folds, ARMS["clinic_kd"].recipe, 0)


def test_labels_of_the_second_clinic_are_the_patients(data):
    scans = student_scans(data, ARMS["clinic_kd"].recipe, 0)
    expected = data.table["patient_class"].iloc[data.rows("clinic")].map(data.class_names.index)
    np.testing.assert_array_equal(scans.target, expected)


def test_no_label_of_the_pool_is_read(data):
    poisoned = replace(data, table=data.table.assign(target=-1, label="poison", patient_class="poison"))
    for one in (data, poisoned):
        scans = student_scans(one, ARMS["pool_kd"].recipe, 0)
        assert scans.target.eq(0).all()
        np.testing.assert_array_equal(scans.rows, data.rows("clinic"))
    assert ARMS["pool_kd"].recipe.alpha == 1


def test_few_patients_are_as_many_of_each_class_seen_as_often_as_all(data):
    rows = data.rows("clinic")
    few = rows_of_few(data, rows, 2, seed=1)
    assert data.table.iloc[few].groupby("patient_class")["group"].nunique().eq(2).all()
    assert not np.array_equal(few, rows_of_few(data, rows, 2, seed=2))
    scans = student_scans(data, StudentRecipe(objective="labels", scans="clinic", patients=2), 1)
    assert set(scans.rows) == set(few) and abs(len(scans) / len(rows) - 1) < 0.2
    assert len(set(scans.indices.tolist())) == len(scans)  # each repeat is augmented by itself
    np.testing.assert_array_equal(scans.target, data.target[scans.rows])


def test_a_rare_class_keeps_its_share_of_patients_and_the_others_all(data):
    recipe = replace(ARMS["rare_alone"].recipe, rare=0.5)
    scans, rows = student_scans(data, recipe, 0), data.rows("train")
    patients = {
        k: [len(set(data.groups[part][data.target[part] == k])) for part in (rows, scans.rows)] for k in range(3)
    }
    assert patients[0][0] == patients[0][1] and patients[2][0] == patients[2][1]
    assert patients[1][1] == max(1, round(0.5 * patients[1][0])) < patients[1][0]


def test_permuted_answers_keep_what_is_said_of_a_class_and_lose_the_scan():
    random = np.random.default_rng(0)
    answers, target = random.normal(size=(2, 60, 3)), np.repeat([0, 1, 2], 20)
    moved = permuted(answers, target, seed=0)
    assert not np.array_equal(moved, answers)
    for label in range(3):
        of_label = target == label
        np.testing.assert_allclose(np.sort(moved[:, of_label], axis=1), np.sort(answers[:, of_label], axis=1))
    np.testing.assert_array_equal(permuted(answers, np.arange(60), seed=0), answers)  # alone in its class


def test_a_blind_teacher_never_sees_the_class_and_a_weak_one_sees_few(data):
    blind, weak = (teacher_data(data, TEACHERS_OF[name].recipe, 0) for name in ("blind", "weak"))
    drusen = data.class_names.index("drusen")
    assert drusen not in blind.target[blind.rows("train")] and drusen in data.target[data.rows("train")]
    assert len(weak.rows("train")) < len(data.rows("train")) + 1
    for one in (blind, weak):
        np.testing.assert_array_equal(one.rows("test"), data.rows("test"))
        np.testing.assert_array_equal(one.rows("validation"), data.rows("validation"))
    with pytest.raises(ValueError, match="unknown class 'glaucoma'; classes: normal, drusen, cnv"):
        teacher_data(data, replace(TEACHERS_OF["blind"].recipe, unseen="glaucoma"), 0)
