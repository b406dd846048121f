"""From a trained network to ONNX files: float, then 8-bit integers.

torch, onnx and the quantizer are imported inside the functions, so that `edge` can be imported where they are not.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdoct_utils.edge.classifier import OnnxClassifier

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 18  # understood by onnxruntime 1.14 and later
CALIBRATION_METHODS = ("minmax", "entropy", "percentile")


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int,
    stored_size: int,
    channels: int,
    class_names: Sequence[str],
) -> Path:
    """Write a network, its preprocessing included, as one ONNX file; the model itself is left as it was.

    The file takes uint8 (batch, 1, stored_size, stored_size) and gives float32 logits (batch, classes), for any batch.
    Its preprocessing equals `augment.EVALUATION`, a test holds them together.
    Raises ValueError when class_names do not fit the network's output. Written whole or not at all.
    """
    import onnx
    import torch

    from kdoct_utils.runs import atomic_path

    network = deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    whole = _with_preprocessing(network, image_size, channels).eval()
    example = torch.zeros(2, 1, stored_size, stored_size, dtype=torch.uint8)
    with torch.inference_mode():
        classes = whole(example).shape[1]
    if classes != len(class_names):
        raise ValueError(f"the network has {classes} outputs for {len(class_names)} classes: {', '.join(class_names)}")
    with _quiet():
        program = torch.onnx.export(
            whole, (example,), input_names=["image"], output_names=["logits"], opset_version=OPSET, dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=4096)}}, verbose=False,
        )  # fmt: skip
    written = program.model_proto
    _strip_notes(written)
    onnx.helper.set_model_props(
        written,
        {"class_names": json.dumps(list(class_names)), "image_size": str(image_size), "stored_size": str(stored_size)},
    )
    with atomic_path(path) as temporary:
        onnx.save_model(written, temporary)
    return Path(path)


def _strip_notes(written: onnx.ModelProto) -> None:
    """Drop what the exporter notes for debugging: half of a small file, and it names folders of this machine."""
    graph = written.graph
    for item in (written, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        item.ClearField("metadata_props")
    graph.ClearField("value_info")


def _with_preprocessing(network: nn.Module, image_size: int, channels: int) -> nn.Module:
    """The network behind what `augment.apply` does to a scan that is not augmented."""
    import torch
    from torch import Tensor, nn

    from kdoct_utils.learn.augment import IMAGENET_MEAN, IMAGENET_STD

    class WithPreprocessing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])  # (3,) each
            if channels == 1:
                mean, std = mean.mean(), std.mean()
            self.network = network
            self.register_buffer("mean", mean.view(1, -1, 1, 1))
            self.register_buffer("std", std.view(1, -1, 1, 1))

        def forward(self, image: Tensor) -> Tensor:  # (batch, 1, R, R) uint8 -> (batch, classes)
            scan = image.float() / 255
            if scan.shape[-1] != image_size:
                scan = nn.functional.interpolate(scan, (image_size, image_size), mode="bilinear", align_corners=False)
            return self.network((scan - self.mean) / self.std)

    return WithPreprocessing()


def quantize_int8(
    path: str | Path,
    output: str | Path,
    calibration_images: np.ndarray,
    *,
    method: str = "minmax",
    operators: Sequence[str] | None = ("Conv", "Gemm", "MatMul"),
    float_first: int = 2,
    float_last: bool = True,
    per_channel: bool = True,
    reduce_range: bool = True,
) -> Path:
    """Write an 8-bit copy of a file from `export_onnx`: static quantization, calibrated on the given images only.

    calibration_images: uint8 (n, R, R), training scans; the range of every tensor is taken from them, so test
      scans do not belong here.
    method: one of CALIBRATION_METHODS. operators: kinds of nodes to quantize, None for all that can be.
    float_first, float_last: leave that many first convolutions, and the classifier, in float. In an EfficientNet the
      stem and the first depthwise convolution lose most, and a quantized classifier cuts off every logit beyond
      those of the calibration scans; they hold few weights.
    reduce_range: 7-bit weights, which cannot overflow on processors without VNNI; costs little accuracy.
    Weights are symmetric int8, per output channel unless told otherwise; activations uint8 (QDQ format).
    Raises ValueError for an unknown method or no images, EdgeError when the file cannot be used.
    """
    import onnx
    from onnxruntime import quantization

    from kdoct_utils.runs import atomic_path

    if method not in CALIBRATION_METHODS:
        raise ValueError(f"unknown calibration method {method!r}; valid: {', '.join(CALIBRATION_METHODS)}")
    if len(calibration_images) == 0:
        raise ValueError("calibration needs at least one image")
    classifier = OnnxClassifier(path)  # refuses what is missing or foreign
    classifier.logits(calibration_images[:1])  # and images of another size
    methods = quantization.CalibrationMethod
    # the entropy and percentile calibrators print their settings
    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, _quiet(), silent, atomic_path(output) as temporary:
        prepared = Path(folder) / "prepared.onnx"  # shapes known, batch norms folded into their convolutions
        quantization.quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        in_float = [node.name for node in nodes if node.op_type == "Conv"][:float_first]
        in_float += [node.name for node in nodes if "logits" in node.output] if float_last else []
        quantization.quantize_static(
            prepared,
            temporary,
            _reader(quantization, calibration_images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(operators) if operators is not None else None,
            nodes_to_exclude=in_float,
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method={"minmax": methods.MinMax, "entropy": methods.Entropy,
                              "percentile": methods.Percentile}[method],
        )  # fmt: skip
        written = onnx.load(temporary)
        _strip_notes(written)
        about = {item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props}
        onnx.helper.set_model_props(written, about | {"quantized": f"int8, {method}, {len(calibration_images)} scans"})
        onnx.save_model(written, temporary)
    return Path(output)


def _reader(quantization: object, images: np.ndarray) -> object:
    """The images, sixteen at a time, in the shape that the quantizer asks for."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([images[i : i + 16, None] for i in range(0, len(images), 16)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": np.ascontiguousarray(batch)}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice of the exporter and the quantizer out of a notebook; errors and other people's warnings pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "quantization" not in record.pathname

    root, silent = logging.getLogger(), logging.NullHandler()  # without a handler logging.info() would install one
    root.addFilter(keep)
    root.addHandler(silent)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir|onnx|copyreg)(\.|$)")
            yield
    finally:
        root.removeFilter(keep)
        root.removeHandler(silent)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
