"""Stages: what is kept is used only by the run that made it, and is made again otherwise."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdoct_utils.data.archives import cache_root
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.splits import SplitError, audit_leakage
from kdoct_utils.lab import stages
from kdoct_utils.learn.models import weights_metadata
from kdoct_utils.learn.pretraining import LayerSegmenter, pretrain_teacher, segmentation_batches, tissue_weights
from kdoct_utils.phantom.miniature import write_neh_folder, write_ucsd_folder
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import open_run

TINY = dataclasses.replace(get_profile("smoke"), phantom_patients=5, phantom_slices=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(tmp_path_factory.mktemp("run"), profile=TINY, dataset="phantom", seed=3)


@pytest.fixture(scope="module")
def data(run):
    return stages.course_data(run, progress=False)


@pytest.fixture(scope="module")
def teacher(run, data):
    return stages.teacher(run, data, progress=False)


def weights_of(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def test_data_is_made_once_and_read_the_same(run, data):
    before = run.images_file.stat().st_mtime_ns
    again = stages.course_data(run, progress=False)
    assert run.images_file.stat().st_mtime_ns == before
    assert again.table.equals(data.table) and np.array_equal(again.images, data.images)
    assert set(data.role) == {"train", "validation", "test"}
    assert audit_leakage(data.table, data.split, data.fold, data.hashes).empty


def test_an_edited_split_is_refused(run, data):
    text = run.splits_file.read_text()
    try:
        run.splits_file.write_text(text.replace(",train", ",test", 1))
        with pytest.raises(SplitError, match="not the expected split"):
            stages.course_data(run, progress=False)
    finally:
        run.splits_file.write_text(text)


def test_unknown_fold_is_refused(run):
    with pytest.raises(ValueError, match="no fold 9"):
        stages.course_data(run, fold=9, progress=False)


def test_a_teacher_is_taken_from_the_run_folder(run, data, teacher):
    written = run.teacher_file.stat().st_mtime_ns
    again = stages.teacher(run, data, progress=False)
    assert run.teacher_file.stat().st_mtime_ns == written
    assert torch.equal(weights_of(again), weights_of(teacher))
    assert not again.training
    assert not list(run.path.glob("*_checkpoint.safetensors"))


def test_another_gamma_is_another_teacher(run, data, teacher):
    other = stages.teacher(run, data, gamma=0.0, progress=False)
    assert not torch.equal(weights_of(other), weights_of(teacher))
    restored = stages.teacher(run, data, progress=False)  # made again, to the same numbers
    assert torch.equal(weights_of(restored), weights_of(teacher))


def test_logits_of_another_teacher_are_never_used(run, data, teacher):
    first = stages.teacher_logits(run, data, teacher, progress=False)
    assert first.shape == (len(data.table), len(data.class_names))
    other = stages.teacher(run, data, gamma=0.0, progress=False)
    second = stages.teacher_logits(run, data, other, progress=False)
    assert not np.allclose(first, second)
    stages.teacher(run, data, progress=False)


@pytest.mark.parametrize("kind", stages.STUDENT_KINDS)
def test_students_are_kept_with_their_recipe(run, data, teacher, kind):
    model = stages.student(run, data, kind, 0, teacher, progress=False)
    path = run.student_file(kind, 0)
    recipe = json.loads(weights_metadata(path)["recipe"])
    assert recipe["kind"] == kind and recipe["split"] == data.split_hash
    written = path.stat().st_mtime_ns
    again = stages.student(run, data, kind, 0, teacher, progress=False)
    assert path.stat().st_mtime_ns == written and torch.equal(weights_of(again), weights_of(model))
    hotter = stages.student(run, data, kind, 0, teacher, temperature=2.0, progress=False)
    assert torch.equal(weights_of(hotter), weights_of(model)) == (kind == "alone")


def test_unknown_student_and_missing_teacher_are_named(run, data):
    with pytest.raises(ValueError, match="unknown kind of student 'slow'; valid kinds: alone, kd, cached"):
        stages.student_objective(run, data, "slow", None, 4.0, 0.7)
    with pytest.raises(ValueError, match="needs a teacher"):
        stages.student_objective(run, data, "kd", None, 4.0, 0.7)


def test_runs_of_a_sweep_share_what_they_have_in_common(tmp_path, monkeypatch):
    trained = []
    fit = stages.Trainer.fit
    monkeypatch.setattr(stages.Trainer, "fit", lambda trainer: trained.append(trainer) or fit(trainer))

    def one(name, **options):
        run = open_run(
            tmp_path / name, profile=TINY, dataset="phantom", seed=3, options=options, shared=tmp_path / "together"
        )
        data = stages.course_data(run, progress=False)
        return run, data, stages.teacher(run, data, progress=False)

    first, data, model = one("a")
    second, _, again = one("b")
    assert len(trained) == 1 and torch.equal(weights_of(model), weights_of(again))
    assert second.splits_file.samefile(first.splits_file) and second.images_file.samefile(first.images_file)
    assert second.teacher_file.read_bytes() == first.teacher_file.read_bytes()
    assert second.history_file("teacher").read_text() == first.history_file("teacher").read_text()
    third, other_data, _ = one("c", fold=1)  # another fold: the same split, another teacher
    assert len(trained) == 2 and other_data.split_hash == data.split_hash
    tested, others = (set(part.groups[part.rows("test")]) for part in (data, other_data))
    assert tested.isdisjoint(others)
    # Alone, without the folder that they share, a run gives the same numbers.
    alone = open_run(tmp_path / "alone", profile=TINY, dataset="phantom", seed=3)
    own = stages.teacher(alone, stages.course_data(alone, progress=False), progress=False)
    assert torch.equal(weights_of(own), weights_of(model))
    # A run that is opened again knows what it shares; what it holds needs the shared folder no more.
    opened = open_run(tmp_path / "b", profile=TINY, dataset="phantom", seed=3)
    assert opened.shared == tmp_path / "together"
    shutil.rmtree(tmp_path / "together")
    stages.teacher(opened, stages.course_data(opened, progress=False), progress=False)
    assert len(trained) == 3


def test_predictions_are_kept_by_network_seed_and_fold(run, data):
    random = np.random.default_rng(0)
    n, classes = len(data.rows("test")), len(data.class_names)
    first, second, third = random.normal(size=(3, n, classes))
    stages.keep_predictions(run, data, "student_kd", 0, first)
    stages.keep_predictions(run, data, "student_kd", 1, second)
    stages.keep_predictions(run, data, "student_kd", 0, third)  # takes the place of the first
    kept = pd.read_csv(run.predictions_file)
    assert list(kept.columns) == [*stages.PREDICTION_COLUMNS, *(f"p_{name}" for name in data.class_names)]
    assert len(kept) == 2 * n and set(kept["seed"]) == {0, 1} and set(kept["fold"]) == {0}
    expected = torch.softmax(torch.from_numpy(third), dim=1).numpy()
    rows = kept[kept["seed"] == 0]
    np.testing.assert_allclose(rows.filter(like="p_").to_numpy(), expected, rtol=1e-6)
    assert list(rows["scan_id"]) == list(data.table["scan_id"][data.rows("test")])


def test_score_counts_patients(run, data, teacher):
    score = stages.score(data, stages.test_logits(run, data, teacher))
    assert score["n_scans"] == len(data.rows("test"))
    assert score["n_patients"] == len(set(data.groups[data.rows("test")]))
    assert score["interval"][0] <= score["accuracy"] <= score["interval"][1]


def test_pretraining_writes_a_backbone_that_fits_and_sees_no_course_phantom(tmp_path, run, data):
    output = tmp_path / "weights.safetensors"
    accuracy = pretrain_teacher(output, patients=4, epochs=1)
    assert 0 < accuracy < 1 and output.stat().st_size < 2_000_000
    profile = get_profile("quick")
    model = stages.build_model(profile.teacher, 3, profile.channels, "none")
    before = weights_of(model)
    from kdoct_utils.learn.models import load_backbone

    load_backbone(model, output)
    assert not torch.equal(before, weights_of(model))
    images, layers = next(iter(segmentation_batches(4, 0, 32, 1, 0)))
    assert LayerSegmenter(model)(images).shape[2:] == layers.shape[1:]
    assert tissue_weights(32, 0).mean() == pytest.approx(1)


def test_shipped_weights_fit_the_quick_teacher_and_the_size_limit():
    from importlib.resources import files

    profile = get_profile("quick")
    shipped = files("kdoct_utils.learn") / "weights" / "phantom_teacher.safetensors"
    assert len(shipped.read_bytes()) <= 2_000_000
    fresh = stages.build_model(profile.teacher, 3, profile.channels, "none")
    loaded = stages.build_model(profile.teacher, 3, profile.channels, "phantom")
    assert not torch.equal(weights_of(fresh), weights_of(loaded))


def test_pictures_of_files_come_from_the_cache_and_never_from_other_files(tmp_path, monkeypatch):
    write_neh_folder(tmp_path / "neh", 3, 2, 0)
    run = open_run(tmp_path / "run", profile=TINY, dataset="neh", data_root=tmp_path / "neh")
    first = stages.course_data(run, progress=False)
    assert isinstance(first.images, np.memmap) and not run.images_file.exists()
    with monkeypatch.context() as patch:  # a later notebook reads no image file
        patch.setattr(stages, "read_scans", None)
        again = stages.course_data(run, progress=False)
    np.testing.assert_array_equal(again.images, first.images)
    pictures = np.array(first.images)
    shutil.rmtree(cache_root())
    np.testing.assert_array_equal(stages.course_data(run, progress=False).images, pictures)
    shutil.rmtree(cache_root())
    frame = next((tmp_path / "neh").rglob("*.jpg"))
    Image.open(frame).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(frame)
    with pytest.raises(ScanError, match="no longer those of this run"):
        stages.course_data(run, progress=False)


def test_a_run_on_the_official_test_part(tmp_path):
    planted = write_ucsd_folder(tmp_path / "ucsd", 0)
    run = open_run(
        tmp_path / "run", profile=TINY, dataset="ucsd", data_root=tmp_path / "ucsd", options={"split": "official"}
    )
    data = stages.course_data(run, progress=False)
    part = data.table["part"].to_numpy()
    assert set(data.rows("test")) == set(np.flatnonzero(part == "test"))
    assert len(data.rows("unused")) > 0 and planted
    assert audit_leakage(data.table, data.split, 0, data.hashes).empty
