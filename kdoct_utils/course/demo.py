"""The demo page of a run: its student alone and its student with a teacher read the same scan, in a browser."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from kdoct_utils.datasets import PHANTOMS
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.edge.demo import offered_phantoms, runtime_file, write_demo
from kdoct_utils.lab.stages import CourseData, course_data
from kdoct_utils.learn.models import build_model, load_weights
from kdoct_utils.runs import RunError, RunFolder
from kdoct_utils.show.output import say, show_page
from kdoct_utils.show.style import CLASS_LOOKS

STUDENTS = {"student_alone": "Student alone", "student_kd": "Taught student"}  # training seed 0 of each


def run_demo(run: RunFolder, folder: str | Path | None = None) -> Path:
    """Write the page of a run's two students, and give its path: index.html in `folder`, or in the run's ``demo``.

    Raises RunError where the students are not trained yet, EdgeError where ONNX Runtime Web is not to be had.
    """
    files = {title: run.network_file(f"{arm}_seed0") for arm, title in STUDENTS.items()}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise RunError(
            f"{run.path} has no {' and no '.join(missing)}: notebook 05 trains the students, "
            f"`kdoct run --profile {run.profile.name} --run-dir {run.path} --only 05`"
        )
    data = course_data(run, progress=False)
    students = {title: shipped_student(run, data, arm) for arm, title in STUDENTS.items()}
    looks = {name: asdict(CLASS_LOOKS[name]) for name in data.class_names}
    trained_on = "synthetic scans only" if run.dataset in PHANTOMS else data.provenance["title"]
    folder = run.path / "demo" if folder is None else Path(folder)
    return write_demo(folder / "index.html", students, offered_phantoms(data.class_names), looks, trained_on)


def shipped_student(run: RunFolder, data: CourseData, arm: str) -> Path:
    """The ONNX file of a student, with the rule it decides by: notebook 06's, or exported now; FP32."""
    from kdoct_utils.edge.decide import fit_decision, set_decision
    from kdoct_utils.edge.export import export_onnx, weights_hash

    profile = run.profile
    model = build_model(profile.student, len(data.class_names), profile.channels)
    load_weights(model, run.network_file(f"{arm}_seed0"))
    file = run.onnx_file if arm == "student_kd" else run.path / f"{arm}.onnx"
    try:
        about = OnnxClassifier(file).about
    except EdgeError:  # none there, or one from before
        about = {}
    if about.get("decision") and about["weights_sha256"] == weights_hash(model):
        return file
    provenance = {name: data.provenance.get(name) for name in ("dataset", "title", "license", "citation", "url")}
    export_onnx(
        model, file, image_size=profile.image_size, stored_size=profile.resize_size, channels=profile.channels,
        class_names=data.class_names, training_images=data.images[data.rows("train")],
        crop_to_band=profile.crop_to_band, provenance=provenance | {"profile": profile.name, "seed": run.seed},
    )  # fmt: skip
    judges = data.rows("validation")
    set_decision(file, fit_decision(OnnxClassifier(file), data.images[judges], data.target[judges]))
    return file


def show_demo(run: RunFolder) -> None:
    """The page in a notebook. Nothing is downloaded here: without ONNX Runtime Web it says which command does."""
    if not runtime_file().is_file():
        say("The page needs ONNX Runtime Web once: `kdoct demo` with `--run-dir` downloads it (33 MB) and "
            "writes the page. Then run this cell again.")  # fmt: skip
        return
    show_page(run_demo(run), "Two students read a B-scan")
