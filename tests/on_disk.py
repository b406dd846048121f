"""Small datasets on disk, read as the tests read them; and NEH in every form that a download leaves it in: extracted,
zipped once, and a zip within a zip.
"""

import io
import shutil
import zipfile

import numpy as np
import pandas as pd
from PIL import Image

from kdoct_utils.data.scans import read_scans
from kdoct_utils.datasets import DataOptions
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.miniature import NEH_COLUMNS, NEH_IMAGES, NEH_TABLE
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.profiles import CLASS_NAMES, PROFILES

TITLE = "Labeled Retinal OCT"  # the folder that a download of a whole record wraps its files in
INNER = "NEH_UT_2021RetinalOCTDataset.zip"


def read(dataset, root, **options):
    """The scans of the smallest profile."""
    return read_scans(dataset, root, profile=PROFILES["smoke"], seed=0, options=DataOptions(**options), progress=False)


def slab(seed=0, height=48, width=64):
    """A small frame with a bright slab, different for every seed: uint8 (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width), dtype=np.uint8)
    pixels[height * 2 // 5 : height * 3 // 5] += 120
    return pixels


def write_images(folder, names):
    """A slab of its own under each name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(slab(seed)).save(folder / name)


def edit(table, change):
    """Rewrite a CSV file through ``change`` (DataFrame of strings -> DataFrame)."""
    change(pd.read_csv(table, dtype=str, keep_default_na=False)).to_csv(table, index=False)


def zip_bytes(entries, compression=zipfile.ZIP_STORED):
    """A zip archive as bytes. entries: name -> bytes; a name that ends in / is a folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def files_under(folder):
    """Name with forward slashes -> bytes of every file, in sorted order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def forms(folder, target):
    """Form -> data_root. folder: NEH as extracted."""
    files = files_under(folder)
    table = files.pop("data_information.csv")
    shutil.copytree(folder, target / "around" / TITLE / "data")
    inner = zip_bytes(files | {"__MACOSX/._data_information.csv": b"x", ".DS_Store": b"x"}, zipfile.ZIP_DEFLATED)
    outer = {f"{TITLE}/": b"", f"{TITLE}/{INNER}": inner, f"{TITLE}/data_information.csv": table}
    all_in_one = zip_bytes(files | {"data_information.csv": table})
    for name, content in {f"beside/{INNER}": inner, f"flat/{INNER}": all_in_one,
                          "nested/a/8kt969dhx6-1.zip": zip_bytes(outer)}.items():  # fmt: skip
        (target / name).parent.mkdir(parents=True)
        (target / name).write_bytes(content)
    shutil.copy(folder / "data_information.csv", target / "beside")
    return {
        "extracted": folder,
        "two folders around": target / "around",
        "images still zipped": target / "beside",
        "one zip": target / "flat" / INNER,
        "folder with zip in zip": target / "nested",
    }


def write_neh_folder(folder, patients_per_class, slices, seed):
    """Phantoms as NEH is published, without its oddities: every third patient has an OD or OS folder."""
    rows = []
    for patient_class in CLASS_NAMES[:3]:
        for number in range(1, patients_per_class + 1):
            patient = draw_patient(patient_class, [seed, number])
            rendered = render_frames(patient, slices)
            case = f"{patient_class.upper()}/{number}" + (f"/{patient.eye}" if number % 3 == 0 else "")
            for k, (image, label) in enumerate(zip(rendered.images, rendered.labels, strict=True)):
                directory = f"{case}/{k:03d}_{label.upper() if label == 'cnv' else label.capitalize()}.jpg"
                path = folder / NEH_IMAGES / directory
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).convert("RGB").save(path, quality=90)
                rows.append((number, patient_class.upper(), patient.eye, k, label.upper(), directory))
    pd.DataFrame(rows, columns=NEH_COLUMNS).to_csv(folder / NEH_TABLE, index=False)
