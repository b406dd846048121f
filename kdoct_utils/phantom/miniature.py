"""Phantoms written to disk as published datasets are, small, and with what is odd about those datasets planted.

The readers' tests and notebook 01 read them where no real dataset is at hand. Phantoms are not patients.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from itertools import count
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
SCALE_BAR_COLOR = (0, 200, 255)
UCSD_SIZES = ((768, 496), (512, 496), (512, 512))  # width and height, pixels
TRIES = 200  # phantoms drawn until one has the slices that are wanted


def write_neh_folder(folder: Path, patients_per_class: int, slices: int, seed: int) -> None:
    """Write phantoms as NEH is published: RGB frames with a scale bar, and ``data_information.csv``.

    Layout and columns are NEH's (Sotoudeh-Paima et al. 2021): patient numbers restart at 1 in
    each class folder; every third patient has an OD or OS folder, the others are flat; Class
    is the patient's and Label the B-scan's own.
    """
    rows = []
    for patient_class in CLASS_NAMES[:3]:
        for number in range(1, patients_per_class + 1):
            patient = draw_patient(patient_class, [seed, number])
            rendered = render_frames(patient, slices)
            case = f"{patient_class.upper()}/{number}" + (f"/{patient.eye}" if number % 3 == 0 else "")
            for k, (image, label) in enumerate(zip(rendered.images, rendered.labels, strict=True)):
                name = label.upper() if label == "cnv" else label.capitalize()
                directory = f"{case}/{k:03d}_{name}.jpg"
                _save(_as_exported(image), Path(folder) / NEH_IMAGES / directory)
                rows.append((number, patient_class.upper(), patient.eye, k, label.upper(), directory))
    pd.DataFrame(rows, columns=NEH_COLUMNS).to_csv(Path(folder) / NEH_TABLE, index=False)


def write_quirky_neh(folder: Path, seed: int) -> dict[str, list]:
    """Write a miniature NEH of 11 patients with every oddity of the published set (facts: datasets.DATASETS["neh"]).

    Returns what was planted, as lists: "twins", pairs of byte-identical cases; "contradictory", those of them that
    lie in two classes; "duplicate rows", "other row's file" (a row that differs from another in letter case only),
    "other letter case" (a row whose file is spelled otherwise) and "no file", the paths in such rows; "tif",
    "canvas" (small pictures on a black canvas), "two eyes" and "not the class" (label is not the patient's class),
    files or cases. Cases and files are named as in ``data_information.csv``.
    """
    neh = _MiniatureNEH(Path(folder), seed)
    neh.add("NORMAL/1", slices=3)
    neh.add("NORMAL/2", eyes=("OD", "OS"), suffix="tif")
    neh.add("DRUSEN/1", slices=3, labels={"drusen", "normal"}, suffix="tif")
    neh.add("DRUSEN/2", eyes=("OD", "OS"))
    neh.add("DRUSEN/3", slices=3, labels={"drusen", "normal"})
    neh.add("CNV/1", slices=3, labels={"cnv"})
    neh.add("CNV/2")
    neh.add("CNV/3", canvas=True, labels={"cnv"})
    neh.add("DRUSEN/4", canvas=True, labels={"drusen"})
    neh.twin("DRUSEN/3", "NORMAL/3")  # one of the two classes is wrong
    neh.twin("CNV/2", "CNV/4")  # one patient, counted as two
    neh.odd_rows()
    pd.DataFrame(neh.rows, columns=NEH_COLUMNS).to_csv(Path(folder) / NEH_TABLE, index=False)
    return neh.planted


class _MiniatureNEH:
    def __init__(self, folder: Path, seed: int) -> None:
        self.images, self.seed, self.rows = folder / NEH_IMAGES, seed, []
        self.planted: dict[str, list] = {
            name: []
            for name in ("twins", "contradictory", "duplicate rows", "other row's file", "other letter case",
                         "no file", "tif", "canvas", "two eyes", "not the class")
        }  # fmt: skip
        self._spelled = dict.fromkeys(NEH_SPELLINGS, 0)

    def add(
        self, case: str, *, slices: int = 2, labels: Collection[str] = (), eyes: tuple[str, ...] = ("",),
        suffix: str = "jpg", canvas: bool = False,
    ) -> None:  # fmt: skip
        """One patient. labels: that its slices must show, at least. eyes: folders, "" for a flat case."""
        for number, eye in enumerate(eyes):
            patient, rendered = _drawn(case.split("/")[0].lower(), slices, labels, [self.seed, len(self.rows)])
            for k, (image, label) in enumerate(zip(rendered.images, rendered.labels, strict=True)):
                spellings = NEH_SPELLINGS[label]
                name = f"{k:03d}_{spellings[self._spelled[label] % len(spellings)]}.{suffix}"
                self._spelled[label] += 1
                directory = "/".join(filter(None, (case, eye, name)))
                _save(_as_exported(_on_canvas(image) if canvas else image), self.images / directory)
                self._row(case, eye or patient.eye, k, label, directory)
                self.planted["tif"] += [directory] if suffix == "tif" else []
                self.planted["canvas"] += [directory] if canvas else []
            self.planted["two eyes"] += [case] if number else []

    def _row(self, case: str, eye: str, k: int, label: str, directory: str) -> None:
        patient_class, number = case.split("/")
        self.rows.append((number, patient_class, eye, str(k), label.upper(), directory))
        self.planted["not the class"] += [directory] if label.upper() != patient_class else []

    def twin(self, case: str, copy: str) -> None:
        """The same files once more, as another patient."""
        shutil.copytree(self.images / case, self.images / copy)
        for number, patient_class, eye, k, label, directory in list(self.rows):
            if f"{patient_class}/{number}" == case:
                self._row(copy, eye, int(k), label.lower(), directory.replace(case, copy, 1))
        self.planted["twins"].append((case, copy))
        self.planted["contradictory"] += [(case, copy)] if case.split("/")[0] != copy.split("/")[0] else []

    def odd_rows(self) -> None:
        """Rows that occur twice, and rows whose path is no file's."""
        flat = [position for position, row in enumerate(self.rows) if row[5].startswith("CNV/1/")]
        twice = [self.rows[flat[0]], self.rows[0]]
        odd = (*self.rows[flat[1]][:5], self.rows[flat[1]][5].lower())
        lost = ("1", "CNV", self.rows[flat[0]][2], "90", "CNV", "CNV/1/090_CNV.jpg")
        last = self.rows[flat[2]]
        respelled = last[5].replace(".jpg", ".JPG")
        self.rows[flat[2]] = (*last[:5], respelled)
        self.rows += [*twice, odd, lost]
        self.planted["duplicate rows"] += [row[5] for row in twice]
        self.planted["other row's file"].append(odd[5])
        self.planted["no file"].append(lost[5])
        self.planted["other letter case"].append(respelled)


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
    planted: dict[str, list] = {"several classes": [], "borders": []}
    written: dict[tuple[str, str], list[str]] = {}  # part and class of the patient -> its files
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
            for k, (image, label) in enumerate(zip(rendered.images, rendered.labels, strict=True), 1):
                name = f"{label.upper()}/{label.upper()}-{number}-{k}.jpeg"
                name = f"{part}/{name}" if parts else name
                _save(_resized(image, *size), folder / name)
                written.setdefault((part, patient_class), []).append(name)
                planted["borders"] += [name] if patient.registered else []
            planted["several classes"] += [str(number)] if len(set(rendered.labels)) > 1 else []
    return planted | _plant_copies(folder, written, parts)


def _plant_copies(folder: Path, written: dict[tuple[str, str], list[str]], parts: Sequence[str]) -> dict[str, list]:
    def copy(source: str, number: str, label: str, part: str) -> tuple[str, str]:
        name = f"{label.upper()}/{label.upper()}-{number}-90.jpeg"
        target = f"{part}/{name}" if parts else name
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)
        return source, target

    def number_of(name: str) -> str:
        return name.split("-")[1]

    drusen, normal = (written["train", name][0] for name in ("drusen", "normal"))
    cnv = next(name for name in written["train", "cnv"] if "CNV/" in name)
    planted: dict[str, list] = {"contradictory": [copy(cnv, number_of(drusen), "drusen", "train")]}
    planted |= {"train and test": [], "identical across parts": []}
    if "train" in parts and "test" in parts:
        tested = written["test", "dme"][0]
        shared = f"train/NORMAL/NORMAL-{number_of(tested)}-91.jpeg"  # the test's patient, another slice of it
        _save(_resized(render_frames(draw_patient("normal", [0, int(number_of(tested))]), 1).images[0], 768, 496),
              folder / shared)  # fmt: skip
        planted["train and test"].append(number_of(tested))
        planted["identical across parts"].append(
            copy(normal, number_of(written["test", "normal"][0]), "normal", "test")
        )
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
