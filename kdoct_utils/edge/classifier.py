"""The runtime: an exported student answers with numpy and onnxruntime alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime


class EdgeError(ValueError):
    """A model file or images that cannot be used; the message says which and why."""


class OnnxClassifier:
    """An exported student on ONNX Runtime's CPU provider, one thread: what a small device has to spare.

    Raises EdgeError when the file is missing, is no ONNX model, or was not written by `export_onnx`.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise EdgeError(f"no model file {path.name} in {path.parent}; export_onnx makes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # onnxruntime's own exceptions share no narrower base
        except Exception as error:
            raise EdgeError(f"{path.name} is not a readable ONNX model: {error}") from error
        about = self.session.get_modelmeta().custom_metadata_map
        missing = [key for key in ("class_names", "image_size", "stored_size") if key not in about]
        if missing:
            raise EdgeError(f"{path.name} has no {', '.join(missing)} in its metadata; export it with export_onnx")
        self.class_names: tuple[str, ...] = tuple(json.loads(about["class_names"]))
        self.image_size = int(about["image_size"])  # pixels, what the network sees
        self.stored_size = int(about["stored_size"])  # pixels, what the file takes

    def logits(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Logits (n, classes), float32, of images (n, R, R), uint8, where R is stored_size.

        Raises EdgeError for another type or shape: nothing is resized or rescaled unasked.
        """
        side = self.stored_size
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (side, side):
            raise EdgeError(f"images must be uint8 (n, {side}, {side}), got {images.dtype} of shape {images.shape}")
        batches = [images[i : i + batch_size, None] for i in range(0, len(images), batch_size)]
        parts = [self.session.run(["logits"], {"image": np.ascontiguousarray(batch)})[0] for batch in batches]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.class_names)), np.float32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class numbers (n,) of images (n, R, R), uint8."""
        return self.logits(images).argmax(axis=1)
