"""Stages: what is kept is used only by the run that made it, and is made again otherwise."""

import dataclasses
import json
import shutil
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
from on_disk import write_neh_folder
from on_runs import run_and_data
from PIL import Image

from kdoct_utils.data.files import cache_root
from kdoct_utils.data.images import ScanError
from kdoct_utils.data.splits import SplitError, audit_leakage
from kdoct_utils.lab import reading, stages
from kdoct_utils.learn.models import load_backbone, save_weights
from kdoct_utils.learn.pretraining import LayerSegmenter, segmentation_batches, tissue_weights
from kdoct_utils.profiles import CLASS_NAMES, get_profile
from kdoct_utils.runs import open_run
from tools.pretrain import pretrain_teacher

TINY = dataclasses.replace(get_profile("smoke"), phantom_patients=5, phantom_slices=3)

run, data = run_and_data(TINY)


@pytest.fixture(scope="module")
def teacher(run, data):
    return stages.teacher(run, data, progress=False)


def weights_of(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def test_data_is_made_once_and_read_the_same_and_an_edited_split_is_refused(run, data):
    before = run.images_file.stat().st_mtime_ns
    again = stages.course_data(run, progress=False)
    assert run.images_file.stat().st_mtime_ns == before
    assert again.table.equals(data.table) and np.array_equal(again.images, data.images)
    assert set(data.role) == {"train", "validation", "fold test", "test", "clinic"}
    in_folds = data.table[data.table["scan_id"].isin(data.split["scan_id"])]
    assert audit_leakage(in_folds, data.split, data.fold, data.hashes).empty
    with pytest.raises(ValueError, match="no fold 9"):
        stages.course_data(run, fold=9, progress=False)
    text = run.splits_file.read_text()
    try:
        run.splits_file.write_text(text.replace(",train", ",test", 1))
        with pytest.raises(SplitError, match="not the expected split"):
            stages.course_data(run, progress=False)
    finally:
        run.splits_file.write_text(text)


def test_another_gamma_is_another_teacher_with_answers_of_its_own(run, data, teacher, capsys):
    written = run.teacher_file.stat().st_mtime_ns
    again = stages.teacher(run, data, progress=False)  # from the run folder
    assert run.teacher_file.stat().st_mtime_ns == written and not again.training
    assert torch.equal(weights_of(again), weights_of(teacher))
    first = stages.teacher_logits(run, data, teacher, progress=False)
    assert first.shape == (len(data.table), len(data.class_names))
    varied = dataclasses.replace(run, profile=dataclasses.replace(TINY, gamma=0.0))
    other = stages.teacher(varied, data, progress=False)
    assert not torch.equal(weights_of(other), weights_of(teacher))
    assert not np.allclose(first, stages.teacher_logits(varied, data, other, progress=False))
    restored = stages.teacher(run, data, progress=False)  # made again, to the same numbers
    assert torch.equal(weights_of(restored), weights_of(teacher))
    np.testing.assert_array_equal(stages.teacher_logits(run, data, restored, progress=False), first)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "teacher.safetensors is made again: gamma 2.0 -> 0.0", "teacher_logits.safetensors is made again: teacher",
        "teacher.safetensors is made again: gamma 0.0 -> 2.0", "teacher_logits.safetensors is made again: teacher",
    ]  # fmt: skip


def test_a_killed_training_goes_on_from_its_checkpoint(run, data, teacher, tmp_path, monkeypatch):
    copy, trained, train_epoch = dataclasses.replace(run, path=tmp_path), [], stages.Trainer._train_epoch

    def killed(trainer, epoch, bar):
        trained.append(epoch)
        if trained == [0, 1]:
            raise KeyboardInterrupt
        return train_epoch(trainer, epoch, bar)

    monkeypatch.setattr(stages.Trainer, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.teacher(copy, data, progress=False)
    assert list(tmp_path.glob("teacher_*_checkpoint.safetensors")) and not copy.teacher_file.exists()
    again = stages.teacher(copy, data, progress=False)
    assert trained == [0, 1, 1] and torch.equal(weights_of(again), weights_of(teacher))
    assert not list(tmp_path.glob("*_checkpoint.safetensors"))


def test_a_run_from_before_networks_knew_their_code_opens_as_it_was(run, data, teacher, tmp_path, capsys):
    """config, split, metrics and predictions are read; its networks are made again, and it is said why."""
    shutil.copytree(run.path, tmp_path / "old")
    old = open_run(tmp_path / "old", profile=TINY, dataset="phantom", seed=3)
    config = json.loads(old.config_file.read_text())
    for name in ("student_training", "teacher_training"):
        del config["settings"][name]["threads"]  # a field that profiles did not have
    del config["settings"]["teacher_augmentation"]
    old.config_file.write_text(json.dumps(config))
    before = json.dumps({"stage": "teacher", "seed": 3, "split": data.split_hash, "fold": 0, "gamma": 2.0})
    save_weights(teacher, old.teacher_file, {"recipe": before, "chosen": "best"})
    opened = open_run(tmp_path / "old", profile=TINY, dataset="phantom", seed=3)
    assert stages.course_data(opened, progress=False).split_hash == data.split_hash
    again = stages.teacher(opened, data, progress=False)
    assert torch.equal(weights_of(again), weights_of(teacher))
    line = "teacher.safetensors is made again: it does not say by which code it was made"
    assert capsys.readouterr().out.splitlines() == [line]


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
    assert second.splits_file.read_bytes() == first.splits_file.read_bytes()
    assert second.images_file.samefile(first.images_file) and second.table_file.samefile(first.table_file)
    assert second.teacher_file.read_bytes() == first.teacher_file.read_bytes()
    assert second.history_file("teacher").read_text() == first.history_file("teacher").read_text()
    third, other_data, _ = one("c", fold=1)  # another fold: the same split, another teacher
    assert len(trained) == 2 and other_data.split_hash == data.split_hash
    tested, others = (set(part.groups[part.rows("test")]) for part in (data, other_data))
    assert tested == others  # the same patients beyond the folds test them all
    folds = [set(part.groups[part.rows("fold test")]) for part in (data, other_data)]
    assert folds[0].isdisjoint(folds[1])
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
    stages.keep_predictions(run, data, {("student_kd", 0): first})
    stages.keep_predictions(run, data, {("student_kd", 1): second})
    stages.keep_predictions(run, data, {("student_kd", 0): third})  # takes the place of the first
    stages.keep_predictions(run, data, {("student_kd", 0): first}, replace=False)
    kept = pd.read_csv(run.predictions_file)
    assert list(kept.columns) == [*stages.PREDICTION_COLUMNS, *(f"p_{name}" for name in data.class_names)]
    assert len(kept) == 2 * n and set(kept["seed"]) == {0, 1} and set(kept["fold"]) == {0}
    expected = torch.softmax(torch.from_numpy(third), dim=1).numpy()
    rows = kept[kept["seed"] == 0]
    np.testing.assert_allclose(rows.filter(like="p_").to_numpy(), expected, rtol=1e-6)
    assert list(rows["scan_id"]) == list(data.table["scan_id"][data.rows("test")])


def test_pretraining_writes_a_backbone_that_fits_and_sees_no_course_phantom(tmp_path, run, data):
    output = tmp_path / "weights.safetensors"
    accuracy = pretrain_teacher(output, patients=4, epochs=1, seed=0)
    assert 0 < accuracy < 1 and output.stat().st_size < 2_000_000
    profile = get_profile("quick")
    model = stages.build_model(profile.teacher, 3, profile.channels, "none")
    before = weights_of(model)
    load_backbone(model, output)
    assert not torch.equal(before, weights_of(model))
    images, layers = next(iter(segmentation_batches(4, 0, 32, 1, 0)))
    assert LayerSegmenter(model)(images).shape[2:] == layers.shape[1:]
    assert tissue_weights(32, 0).mean() == pytest.approx(1)
    # what is shipped fits too, and the size limit
    shipped = files("kdoct_utils.learn") / "weights" / "phantom_teacher.safetensors"
    assert len(shipped.read_bytes()) <= 2_000_000
    loaded = stages.build_model(profile.teacher, 3, profile.channels, "phantom")
    assert not torch.equal(before, weights_of(loaded))


def test_pictures_of_files_come_from_the_cache_and_never_from_other_files(tmp_path, monkeypatch):
    write_neh_folder(tmp_path / "neh", 3, 2, 0)
    run = open_run(tmp_path / "run", profile=TINY, dataset="neh", data_root=tmp_path / "neh")
    first = stages.course_data(run, progress=False)
    assert isinstance(first.images, np.memmap) and not run.images_file.exists()
    with monkeypatch.context() as patch:  # a later notebook reads no image file
        patch.setattr(reading, "read_scans", None)
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


# --- scores over seeds -----------------------------------------------------------------------------------------------


@pytest.fixture
def twelve() -> stages.CourseData:
    """12 test scans of 6 patients, two of each class, and 3 training scans."""
    target = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 2])
    groups = [f"p{k // 2}" for k in range(12)] + ["t0", "t1", "t2"]
    table = pd.DataFrame({"scan_id": range(15), "target": target, "group": groups})
    role = np.array(["test"] * 12 + ["train"] * 3, dtype=object)
    images = np.zeros((15, 2, 2), np.uint8)
    return stages.CourseData(table, images, role, CLASS_NAMES[:3], {}, {}, pd.DataFrame(), "", 0)


def test_scores_are_the_means_of_the_seeds(twelve):
    """Two seeds: the first errs on one scan, the second on three."""
    perfect = 5.0 * np.eye(3)[twelve.target[:12]]
    logits = [perfect.copy(), perfect.copy()]
    logits[0][0] = [0, 5, 0]
    logits[1][[4, 5, 11]] = [5, 0, 0]
    marked = stages.right(twelve, logits)
    assert [np.flatnonzero(~row).tolist() for row in marked] == [[0], [4, 5, 11]]
    found = stages.score_seeds(twelve, logits)
    each = [stages.score(twelve, one) for one in logits]
    for name in ("accuracy", "sensitivity", "specificity", "auc", "ece"):
        assert found[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
    assert found["accuracy"] == pytest.approx(20 / 24) and found["by_seed"] == pytest.approx([11 / 12, 9 / 12])
    assert found["confusion"] == [[7, 1, 0], [2, 6, 0], [1, 0, 7]]
    assert (found["n_scans"], found["n_patients"], found["seeds"]) == (12, 6, 2)
    low, high = found["interval"]  # knows both patients and seeds
    assert 0 < low < 20 / 24 < high <= 1 and stages.score_seeds(twelve, [perfect])["interval"] == [1.0, 1.0]
    alone = dataclasses.replace(twelve, table=twelve.table.assign(target=0))
    found = stages.score_seeds(alone, [np.zeros((12, 3))] * 2)
    assert found["auc"] is None and found["specificity"] is None and found["accuracy"] == 1.0
