"""Two students in a browser: one HTML file with the networks, ONNX Runtime Web and ten scans inside.

Nothing is loaded from elsewhere, and the page's own policy forbids every connection. It is one file, since a page
opened from a disk may not fetch the files beside it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import os
import tarfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from kdoct_utils.data.files import cache_root
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.runs import atomic_path

RUNTIME_VERSION = "1.30.0"
# As `npm view onnxruntime-web@1.30.0 dist.integrity` says.
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The smallest build for a processor, and the script that starts it: id in the page -> name in the package.
RUNTIME_PARTS = {"runtime-script": "ort.wasm.bundle.min.mjs", "runtime-wasm": "ort-wasm-simd-threaded.wasm"}
POLICY = "default-src 'none'; script-src blob: 'wasm-unsafe-eval' {scripts}; style-src {styles}; img-src data:"
FIRST_PATIENT = 8000  # cohorts number their patients from 0: these are strangers to every network of the course
JPEG_QUALITY = 90  # of the phantoms in the page: as scans are published


@dataclass(frozen=True)
class DemoScan:
    """A scan that the page offers: its grey pixels, uint8 (height, width), and the class that it shows."""

    frame: np.ndarray
    truth: str

    @property
    def jpeg(self) -> bytes:
        """As the page holds it, and as `OnnxClassifier` must be asked for the same answer."""
        buffer = io.BytesIO()
        Image.fromarray(self.frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


def offered_phantoms(classes: Sequence[str], count: int = 10, first: int = FIRST_PATIENT) -> list[DemoScan]:
    """Whole frames of phantom patients that no network has seen, class after class in turn: the middle slice of the
    first patients, counted from `first`, whose middle slice shows their class."""
    found: list[DemoScan] = []
    patients = {name: itertools.count(first) for name in classes}
    for name in itertools.islice(itertools.cycle(classes), count):
        rendered = (render_frames(draw_patient(name, [0, number]), slices=1) for number in patients[name])
        found.append(next(DemoScan(one.images[0], name) for one in rendered if one.labels[0] == name))
    return found


def write_demo(
    path: str | Path, students: Mapping[str, str | Path], scans: Sequence[DemoScan],
    looks: Mapping[str, Mapping[str, str]], trained_on: str,
) -> Path:  # fmt: skip
    """Write the page as one HTML file, whole or not at all.

    students: what the page calls each -> its ONNX file, with the rule it decides by. looks: by class, its label,
    color, marker and hatch. trained_on: of both, in words.
    Raises EdgeError for a file that cannot be used, or where the runtime is not to be had.
    """
    known, packed = [], {name: _packed(content) for name, content in runtime_parts().items()}
    for number, (title, file) in enumerate(students.items()):
        about = OnnxClassifier(file).about
        if "decision" not in about:
            raise EdgeError(f"{Path(file).name} holds no rule to decide by; set_decision writes one into it")
        content = Path(file).read_bytes()
        packed[f"student-{number}"] = _packed(content)
        known.append({"id": f"student-{number}", "title": title, "about": about, "bytes": len(content)})
    shown = [
        {"name": f"Phantom {number}", "truth": scan.truth, "image": f"data:image/jpeg;base64,{_base64(scan.jpeg)}"}
        for number, scan in enumerate(scans, start=1)
    ]
    text = page_text(packed, trained_on, students=known, phantoms=shown, looks=looks)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def page_text(packed: Mapping[str, str], trained_on: str, **content: object) -> str:
    """packed: what the page carries, by id. content: what its script reads, JSON-ready."""
    folder = files("kdoct_utils.edge") / "templates"
    style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in ("demo.css", "picture.js", "demo.js"))
    policy = POLICY.format(styles=_hash_source(style), scripts=" ".join(map(_hash_source, scripts)))
    environment = Environment(loader=PackageLoader("kdoct_utils.edge"), autoescape=True)
    return environment.get_template("demo.html").render(
        policy=policy, style=style, scripts=scripts, packed=packed, content=content, trained_on=trained_on,
        runtime_version=RUNTIME_VERSION,
    )  # fmt: skip


def runtime_file() -> Path:
    """Where npm's package of ONNX Runtime Web lies once it has been downloaded."""
    return cache_root() / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"


def runtime_parts() -> dict[str, bytes]:
    """ONNX Runtime Web as the page needs it, from npm's package: downloaded once, its hash checked each time.

    Raises EdgeError where there is no network and no package in the cache, or where its hash is not the known one.
    """
    archive = runtime_file()
    if not archive.is_file():
        registry = os.environ.get("npm_config_registry", "https://registry.npmjs.org").rstrip("/")
        source = f"{registry}/onnxruntime-web/-/{archive.name}"
        try:
            with urllib.request.urlopen(source, timeout=60) as answer:
                content = answer.read()
        except (OSError, ValueError) as error:  # no network, no such file; no address
            raise EdgeError(
                f"the page needs ONNX Runtime Web once (33 MB), and {source} cannot be read ({error}). Where there is "
                f"a network, download that file; then put it here as {archive}"
            ) from error
        with atomic_path(archive) as temporary:
            temporary.write_bytes(content)
    content = archive.read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != RUNTIME_SHA512:
        raise EdgeError(f"{archive} is not the published onnxruntime-web {RUNTIME_VERSION}; remove it and try again")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        return {key: package.extractfile(f"package/dist/{name}").read() for key, name in RUNTIME_PARTS.items()}


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))  # the same bytes give the same page


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _hash_source(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"
