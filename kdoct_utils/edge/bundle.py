"""A bundle: a model and all that it needs on a machine with numpy, pillow and onnxruntime, as one folder or zip."""

import hashlib
import io
import json
import platform
import shutil
import tempfile
import zipfile
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier, processor
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames
from kdoct_utils.profiles import CLASS_NAMES
from kdoct_utils.runs import atomic_path

# What pyproject.toml asks of them; a test holds the two together.
REQUIREMENTS = ("numpy>=1.26", "onnxruntime>=1.20", "pillow>=10.3")
# The files that training uses too, byte for byte, in the folders that their imports name.
SOURCES = ("__init__.py", "data/__init__.py", "data/band.py", "data/images.py", "edge/__init__.py",
           "edge/classifier.py")  # fmt: skip
PROGRAMS = ("classify.py", "check.py", "timing.py", "README.md")
# Of a probability: other processors add in another order, and some have no 8-bit or 16-bit arithmetic.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.01, "int8": 0.03}
SEED = 20_000  # of the phantom patients whose frames are packed


def write_bundle(model: str | Path, output: str | Path, card: str | Path | None = None) -> Path:
    """Pack the model, the programs, the course's own files and frames with this machine's answers.

    model: a file of `export_onnx` that holds its decision. output: a ``.zip``, or a folder that is new or an earlier
    bundle. card: its model card. Written whole or not at all.
    Raises EdgeError for a file that is no such model, or a folder that holds something else.
    """
    model, output = Path(model), Path(output)
    contents = _contents(model)
    if card is not None:
        contents["model_card.md"] = Path(card).read_bytes()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents["manifest.json"] = _as_json({"sha256": digests})
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".zip":
        with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(zipfile.ZipInfo(f"{output.stem}/{name}"), content, zipfile.ZIP_DEFLATED)
        return output
    if output.exists() and not (output / "manifest.json").is_file():
        raise EdgeError(f"{output} is there already and is no bundle; choose another --output")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as beside:
        for name, content in contents.items():
            (place := Path(beside, "new", name)).parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        if output.exists():
            shutil.move(output, Path(beside, "old"))
        shutil.move(Path(beside, "new"), output)
    return output


def _contents(model: Path) -> dict[str, bytes]:
    """Everything but the manifest, by its path in the bundle."""
    classifier = OnnxClassifier(model)
    package = files("kdoct_utils")
    contents = {"model.onnx": model.read_bytes(), "requirements.txt": ("\n".join(REQUIREMENTS) + "\n").encode()}
    contents |= {name: (package / "edge" / "board" / name).read_bytes() for name in PROGRAMS}
    contents |= {f"kdoct_utils/{name}": package.joinpath(*name.split("/")).read_bytes() for name in SOURCES}
    frames = parity_frames()
    answers = {name: asdict(classifier.classify(frame)) for name, frame in frames.items()}
    contents |= {f"parity/{name}": _encoded(frame, "PNG") for name, frame in frames.items()}
    contents["example.jpeg"] = _encoded(frames["native_1.png"], "JPEG")
    kind = str(classifier.about.get("quantized", "fp32")).partition(",")[0]  # "fp32", "fp16", or "int8, how"
    about = processor()
    where = f"{about['name']}, {about['runtime']}, Python {platform.python_version()}"
    contents["parity/expected.json"] = _as_json({"made_on": where, "tolerance": TOLERANCE[kind], "answers": answers})
    return contents


def parity_frames() -> dict[str, np.ndarray]:
    """Phantom frames by file name, uint8 (H, W) or (H, W, 3): native, small, large, in three channels, noise."""
    native = {
        f"native_{k}.png": render_frames(draw_patient(name, [SEED, k]), 1).images[0]
        for k, name in enumerate(CLASS_NAMES[:3])
    }
    resized = {
        name: np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
        for (name, size), frame in zip((("small.png", (512, 330)), ("large.png", (1024, 661))), native.values(),
                                       strict=False)
    }  # fmt: skip
    color = np.repeat(native["native_2.png"][..., None], 3, axis=2)
    noise = np.random.default_rng(SEED).integers(0, 256, (496, 768), np.uint8)
    return native | resized | {"grey_as_color.png": color, "noise.png": noise}


def _encoded(frame: np.ndarray, kind: str) -> bytes:
    Image.fromarray(frame).save(into := io.BytesIO(), kind)
    return into.getvalue()


def _as_json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
