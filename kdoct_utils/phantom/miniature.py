"""Phantoms written to disk as published datasets are, small, and with what is odd about those datasets planted.

The readers' tests and notebook 01 read them where no real dataset is at hand. Phantoms are not patients.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kdoct_utils.phantom.anatomy import Patient, draw_patient
from kdoct_utils.phantom.render import Rendered, render_frames
from kdoct_utils.profiles import CLASS_NAMES

NEH_IMAGES = "NEH_UT_2021RetinalOCTDataset"
NEH_TABLE = "data_information.csv"
NEH_COLUMNS = ["Patient ID", "Class", "Eye", "B-scan", "Label", "Directory"]
NEH_SPELLINGS = {"normal": ("Normal", "NOrmal", "normal"), "drusen": ("Drusen", "DRusen", "drusen"), "cnv": ("CNV",)}
NEH_CASES: dict[str, dict] = {  # what differs from two slices of a flat case; labels: that they show, at least
    "NORMAL/1": {"slices": 3},
    "NORMAL/2": {"eyes": ("OD", "OS"), "suffix": "tif"},
    "DRUSEN/1": {"slices": 3, "labels": {"drusen", "normal"}, "suffix": "tif"},
    "DRUSEN/2": {"eyes": ("OD", "OS")},
    "DRUSEN/3": {"slices": 3, "labels": {"drusen", "normal"}},
    "CNV/1": {"slices": 3, "labels": {"cnv"}},
    "CNV/2": {},
    "CNV/3": {"canvas": True, "labels": {"cnv"}},
    "DRUSEN/4": {"canvas": True, "labels": {"drusen"}},
}
NEH_TWINS = [("DRUSEN/3", "NORMAL/3"), ("CNV/2", "CNV/4")]  # a wrong class; one patient counted as two
SCALE_BAR_COLOR = (0, 200, 255)
UCSD_SIZES = ((768, 496), (512, 496), (512, 512))  # width and height, pixels
TRIES = 200  # phantoms drawn until one has the slices that are wanted


def write_quirky_neh(folder: Path, seed: int) -> dict[str, list]:
    """Write a miniature NEH of 11 patients with every oddity of the published set (facts: datasets.DATASETS["neh"]).

    Layout and columns are NEH's (Sotoudeh-Paima et al. 2021): RGB frames with a scale bar; Class is the patient's
    and Label the B-scan's own. Returns what was planted, as lists: "twins", pairs of byte-identical cases;
    "contradictory", those of them that lie in two classes; "duplicate rows", "other row's file" (a row that differs
    from another in letter case only), "other letter case" (a row whose file is spelled otherwise) and "no file", the
    paths in such rows; "tif", "canvas" (small pictures on a black canvas), "two eyes" and "not the class" (label is
    not the patient's class), files or cases. Cases and files are named as in ``data_information.csv``.
    """
    images, rows = Path(folder) / NEH_IMAGES, []
    spellings = {label: cycle(names) for label, names in NEH_SPELLINGS.items()}
    for case, options in NEH_CASES.items():
        _write_case(images, case, seed, rows, spellings, **options)
    for case, copy in NEH_TWINS:
        shutil.copytree(images / case, images / copy)
        patient_class, number = copy.split("/")
        rows += [
            (number, patient_class, *row[2:5], row[5].replace(case, copy, 1)) for row in rows
            if row[5].startswith(f"{case}/")
        ]  # fmt: skip
    files = [row[5] for row in rows]
    off_class = [row[5] for row in rows if row[4] != row[1]]
    # Rows that occur twice, and rows whose path is no file's.
    first, second, third = (k for k, file in enumerate(files) if file.startswith("CNV/1/"))
    respelled, lost = files[third].replace(".jpg", ".JPG"), "CNV/1/090_CNV.jpg"
    rows[third] = (*rows[third][:5], respelled)
    rows += [rows[first], rows[0], (*rows[second][:5], files[second].lower())]
    rows.append(("1", "CNV", rows[first][2], "90", "CNV", lost))
    pd.DataFrame(rows, columns=NEH_COLUMNS).to_csv(Path(folder) / NEH_TABLE, index=False)
    return {
        "twins": list(NEH_TWINS),
        "contradictory": [(case, copy) for case, copy in NEH_TWINS if case.split("/")[0] != copy.split("/")[0]],
        "duplicate rows": [files[first], files[0]],
        "other row's file": [files[second].lower()],
        "other letter case": [respelled],
        "no file": [lost],
        "tif": [file for file in files if file.endswith(".tif")],
        "canvas": [file for file in files if "canvas" in NEH_CASES.get(file.rsplit("/", 1)[0], {})],
        "two eyes": [case for case, options in NEH_CASES.items() if "eyes" in options],
        "not the class": off_class,
    }


def _write_case(
    images: Path, case: str, seed: int, rows: list[tuple], spellings: dict[str, Iterator[str]], slices: int = 2,
    labels: Collection[str] = (), eyes: tuple[str, ...] = ("",), suffix: str = "jpg", canvas: bool = False,
) -> None:  # fmt: skip
    """One patient's files and rows. labels: that its slices must show, at least. eyes: folders, "" for a flat case."""
    patient_class, number = case.split("/")
    for eye in eyes:
        patient, rendered = _drawn(patient_class.lower(), slices, labels, [seed, len(rows)])
        for k, (image, label) in enumerate(zip(rendered.images, rendered.labels, strict=True)):
            directory = "/".join(filter(None, (case, eye, f"{k:03d}_{next(spellings[label])}.{suffix}")))
            _save(_as_exported(_on_canvas(image) if canvas else image), images / directory)
            rows.append((number, patient_class, eye or patient.eye, str(k), label.upper(), directory))


def write_ucsd_folder(
    folder: Path, seed: int, patients_per_class: int = 3, slices: int = 2, parts: Sequence[str] = ("train", "test")
) -> dict[str, list]:
    """Write phantoms as UCSD is published: grey ``part/CLASS/CLASS-patient-index.jpeg`` of mixed sizes.

    A slice lies in the folder of what it shows, so a patient may lie in several. The first patient of each class is
    the test's, the second that of val if parts name it, the others are train's; parts=() writes class folders only.

    Returns what was planted, as lists: "several classes" and "train and test", patients that lie in both; "identical
    across parts" (train, test) and "contradictory", pairs of byte-identical files, the latter of two classes;
    "borders", files with a white registration border.
    """
    if patients_per_class < max(len(parts), 2):
        raise ValueError(f"patients_per_class must be at least {max(len(parts), 2)}, not {patients_per_class}")
    folder, numbers = Path(folder), count(1001)
    planted: dict[str, list] = {
        "several classes": [], "borders": [], "contradictory": [], "train and test": [], "identical across parts": [],
    }  # fmt: skip
    written: dict[tuple[str, str], list[str]] = {}  # part and class of the patient -> its files

    def name_of(part: str, label: str, number: object, k: int) -> str:
        return "/".join([*([part] if parts else []), label.upper(), f"{label.upper()}-{number}-{k}.jpeg"])

    def copy(source: str, part: str, label: str, like: str) -> tuple[str, str]:
        """The same file once more, as another slice of the patient that a file is of."""
        target = name_of(part, label, like.split("-")[1], 90)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)
        return source, target

    for position, patient_class in enumerate(CLASS_NAMES):
        for i in range(patients_per_class):
            part = "test" if i == 0 else "val" if i == 1 and "val" in parts else "train"
            # The last drusen patient also has a slice without drusen, and the last cnv patient was registered.
            last = i == patients_per_class - 1
            labels = {patient_class, "normal"} if last and patient_class == "drusen" and slices > 1 else {patient_class}
            patient, rendered = _drawn(
                patient_class, slices, labels, [seed, position, i], registered=last and patient_class == "cnv"
            )
            number, size = next(numbers), UCSD_SIZES[(position + i) % len(UCSD_SIZES)]
            names = [name_of(part, label, number, k) for k, label in enumerate(rendered.labels, 1)]
            for name, image in zip(names, rendered.images, strict=True):
                _save(_resized(image, *size), folder / name)
            written.setdefault((part, patient_class), []).extend(names)
            planted["borders"] += names if patient.registered else []
            planted["several classes"] += [str(number)] if len(set(rendered.labels)) > 1 else []
    cnv = next(name for name in written["train", "cnv"] if "CNV/" in name)
    planted["contradictory"].append(copy(cnv, "train", "drusen", like=written["train", "drusen"][0]))
    if {"train", "test"} <= set(parts):
        tested = written["test", "dme"][0].split("-")[1]  # the test's patient, another slice of it for train
        _save(_resized(render_frames(draw_patient("normal", [0, int(tested)]), 1).images[0], 768, 496),
              folder / name_of("train", "normal", tested, 91))  # fmt: skip
        planted["train and test"].append(tested)
        same = copy(written["train", "normal"][0], "test", "normal", like=written["test", "normal"][0])
        planted["identical across parts"].append(same)
    return planted


def _drawn(
    patient_class: str, slices: int, labels: Collection[str], seed: list[int], registered: bool = False
) -> tuple[Patient, Rendered]:
    """The first phantom whose slices show all of ``labels``, and its frames; with white borders, if registered."""
    for number in range(TRIES):
        patient = draw_patient(patient_class, [*seed, number])
        if registered and not patient.registered:
            continue
        rendered = render_frames(patient, slices)
        if set(labels) <= set(rendered.labels):
            return patient, rendered
    raise ValueError(f"none of {TRIES} phantoms of class {patient_class} shows {', '.join(sorted(labels))}")


def _as_exported(image: np.ndarray) -> np.ndarray:
    """A grey frame (496, 768) as NEH's viewer exported it: grey stored as RGB, with a colored scale bar."""
    color = np.repeat(image[:, :, None], 3, axis=2)
    color[463:484, 13:16] = color[481:484, 13:64] = SCALE_BAR_COLOR
    return color


def _on_canvas(image: np.ndarray) -> np.ndarray:
    """A frame shrunk to half its size in the middle of a black one."""
    canvas = np.zeros_like(image)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    canvas[height // 2 : height // 2 + height, width // 2 : width // 2 + width] = _resized(image, width, height)
    return canvas


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 90} if path.suffix in (".jpg", ".jpeg") else {}
    Image.fromarray(pixels).save(path, **options)
