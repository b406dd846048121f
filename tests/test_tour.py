"""The door of the course names notebooks and files that are there."""

from __future__ import annotations

from pathlib import Path

from kdoct_utils.course.notebooks import NOTEBOOKS, notebook_number
from kdoct_utils.datasets import DATASETS
from kdoct_utils.profiles import PROFILES, get_profile
from kdoct_utils.runs import RunFolder
from kdoct_utils.show.tour import STEPS, course_map, dataset_table, profile_table


def test_every_notebook_but_the_door_is_a_step():
    numbers = [number for _, notebooks, _ in STEPS for number in notebooks.split(", ")]
    assert numbers == [notebook_number(name) for name in NOTEBOOKS[1:]]


def test_files_of_the_steps_are_the_run_folders():
    run = RunFolder(Path("run"), get_profile("smoke"), "phantom", None, 0)
    student = run.network_file("student_kd_seed0")
    files = (run.splits_file, run.teacher_file, run.teacher_logits_file, student, run.int8_file)
    assert [file for *_, file in STEPS] == [path.name for path in files]


def test_the_map_shows_every_step():
    shown = {text.get_text() for text in course_map().axes[0].texts}
    assert {name for name, *_ in STEPS} <= shown


def test_tables_cover_profiles_and_datasets():
    assert list(profile_table().index) == list(PROFILES)
    assert profile_table().loc["paper", "epochs, at most"] == "150 / 100"
    assert list(dataset_table().index) == list(DATASETS)
