"""The runtime: from a frame to an answer, or to none, with numpy, onnxruntime and Pillow alone."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from kdoct_utils.data.band import to_picture
from kdoct_utils.data.images import read_image

COLORED = 16  # levels that the channels of a colored pixel are apart, of 255; JPEG leaves grey areas without any
MOST_COLORED = 2e-4  # share of a frame's pixels; a scale bar of NEH has twice as many
DESCRIBED = ("class_names", "healthy", "image_size", "stored_size", "crop_to_band")  # by export_onnx in each file


class EdgeError(ValueError):
    """A model file or images that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Answer:
    """What the classifier says of one frame.

    decision: a class name, "not sure" or "refused". probabilities: by class, calibrated; empty where refused.
    refer: whether the probability of any disease reaches the threshold; None where refused. distance: how far the
    picture is from the scans of the training, None where the frame gave no picture. reason: why it was not answered.
    """

    decision: str
    probabilities: dict[str, float]
    refer: bool | None
    distance: float | None
    reason: str = ""


class OnnxClassifier:
    """An exported student on ONNX Runtime's CPU provider; one thread is what a small device has to spare.

    about: what the file says of itself, a dictionary (see `export_onnx` and `set_decision`).
    Raises EdgeError when the file is missing, is no ONNX model, or was not written by `export_onnx`.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        path = Path(path)
        if not path.is_file():
            raise EdgeError(f"no model file {path.name} in {path.parent}; export_onnx makes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # onnxruntime's own exceptions share no narrower base
        except Exception as error:
            raise EdgeError(f"{path.name} is not a readable ONNX model: {error}") from error
        kept = self.session.get_modelmeta().custom_metadata_map
        if missing := [key for key in DESCRIBED if key not in kept]:
            raise EdgeError(f"{path.name} has no {', '.join(missing)} in its metadata; export it with export_onnx")
        self.name = path.name
        self.about = {key: json.loads(value) for key, value in kept.items()}
        self.class_names: tuple[str, ...] = tuple(self.about["class_names"])
        self.image_size: int = self.about["image_size"]  # pixels, what the network sees
        self.stored_size: int = self.about["stored_size"]  # pixels, what the file takes
        self.crop_to_band: bool = self.about["crop_to_band"]  # or the whole frame

    def outputs(self, images: np.ndarray, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, classes) and distances (n,), float32, of pictures uint8 (n, R, R), where R is stored_size.

        Raises EdgeError for another type or shape: nothing is resized or rescaled unasked.
        """
        side = self.stored_size
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (side, side):
            raise EdgeError(f"images must be uint8 (n, {side}, {side}), got {images.dtype} of shape {images.shape}")
        batches = [np.ascontiguousarray(images[i : i + batch_size, None]) for i in range(0, len(images), batch_size)]
        parts = [self.session.run(["logits", "distance"], {"image": batch}) for batch in batches]
        if not parts:
            return np.zeros((0, len(self.class_names)), np.float32), np.zeros(0, np.float32)
        logits, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, distance

    def logits(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Logits (n, classes), as ``outputs`` gives them."""
        return self.outputs(images, batch_size)[0]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class numbers (n,) of pictures (n, R, R), uint8: the largest logit, whatever the picture is."""
        return self.logits(images).argmax(axis=1)

    def classify(self, frame: np.ndarray) -> Answer:
        """The answer to one frame as a scanner gives it, uint8 (H, W) or (H, W, 3).

        Raises EdgeError for another type or shape, and where the file holds no rule to decide by.
        """
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3):
            raise EdgeError(f"a frame must be uint8 (H, W) or (H, W, 3), got {frame.dtype} of shape {frame.shape}")
        if frame.ndim == 3 and (np.ptp(frame, axis=2) > COLORED).mean() > MOST_COLORED:
            return Answer("refused", {}, None, None, "The frame holds colors; a B-scan is grey.")
        try:
            picture = to_picture(frame, self.stored_size, self.crop_to_band)
        except ValueError as error:
            return Answer("refused", {}, None, None, f"{error}.")
        logits, distance = self.outputs(picture[None])
        return self.decide(logits[0], float(distance[0]))

    def classify_file(self, path: str | Path) -> Answer:
        """The answer to one image file. Raises ScanError, a ValueError, for one that is damaged, huge or no image."""
        return self.classify(read_image(path))

    def decide(self, logits: np.ndarray, distance: float) -> Answer:
        """The rule that the file carries, on the outputs for one picture: logits (classes,) and distance."""
        rule = self.about.get("decision")
        if rule is None:
            raise EdgeError(f"{self.name} holds no rule to decide by; set_decision writes one into it")
        if distance > rule["refuse_above"]:
            far = f"distance {distance:.1f} from the scans of the training, {rule['refuse_above']:.1f} allowed"
            return Answer("refused", {}, None, distance, f"This is no B-scan as the network knows them: {far}.")
        odds = np.exp((logits - logits.max()).astype(float) / rule["temperature"])
        p = odds / odds.sum()
        healthy = self.class_names.index(self.about["healthy"])
        top, refer = int(p.argmax()), bool(1 - p[healthy] >= rule["threshold"])
        sure = p[top] >= rule["sure_above"] and (top != healthy) == refer
        reason = "" if sure else f"The probability of {self.class_names[top]} is {p[top]:.2f}: too close to call."
        probabilities = dict(zip(self.class_names, p.tolist(), strict=True))
        return Answer(self.class_names[top] if sure else "not sure", probabilities, refer, distance, reason)


def processor() -> dict[str, str | bool]:
    """What a latency was measured on: name of the CPU, whether it multiplies 8-bit integers in one step (vnni), and
    the runtime. Where the system does not tell, the name is the architecture and vnni false."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    told = {key.strip(): value.strip() for key, value in told.items()}
    flags = told.get("flags", told.get("Features", "")).split()
    vnni = bool({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"} & set(flags))  # x86; ARM's dot products
    return {"name": told.get("model name", platform.machine()), "vnni": vnni,
            "runtime": f"onnxruntime {onnxruntime.__version__}"}  # fmt: skip
