"""From a trained network to ONNX files: float, then 8-bit integers. Making files needs torch; using them does not."""

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

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from torch import Tensor, nn

from kdoct_utils.edge.classifier import OnnxClassifier
from kdoct_utils.learn.augment import IMAGENET_MEAN, IMAGENET_STD
from kdoct_utils.runs import atomic_path

OPSET = 18  # understood by onnxruntime 1.14 and later


class WithPreprocessing(nn.Module):
    """The network behind what `augment.apply` does to a scan that is not augmented."""

    def __init__(self, network: nn.Module, image_size: int, channels: int):
        super().__init__()
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])  # (3,) each
        if channels == 1:
            mean, std = mean.mean(), std.mean()
        self.network, self.image_size = network, image_size
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:  # (batch, 1, R, R) uint8 -> (batch, classes)
        scan = image.float() / 255
        if scan.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            scan = nn.functional.interpolate(scan, size, mode="bilinear", align_corners=False)
        return self.network((scan - self.mean) / self.std)


def export_onnx(
    model: nn.Module, path: str | Path, *, image_size: int, stored_size: int, channels: int,
    class_names: Sequence[str],
) -> Path:  # fmt: skip
    """Write a network, its preprocessing included, as one ONNX file; the model itself is left as it was.

    The file takes uint8 (batch, 1, stored_size, stored_size) and gives float32 logits (batch, classes), for any batch.
    Its preprocessing equals `augment.EVALUATION`, a test holds them together.
    Raises ValueError when class_names do not fit the network's output. Written whole or not at all.
    """
    network = deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    whole = WithPreprocessing(network, image_size, channels).eval()
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
    about = {"class_names": json.dumps(list(class_names)), "image_size": str(image_size)}
    _describe(written, about | {"stored_size": str(stored_size)})
    with atomic_path(path) as temporary:
        onnx.save_model(written, temporary)
    return Path(path)


def quantize_int8(
    path: str | Path, output: str | Path, calibration_images: np.ndarray, *, float_first: int = 2,
    float_last: bool = True, per_channel: bool = True,
) -> Path:  # fmt: skip
    """Write an 8-bit copy of a file from `export_onnx`: static quantization, calibrated on the given images only.

    calibration_images: uint8 (n, R, R), training scans; the range of every tensor is taken from them, so test
      scans do not belong here.
    float_first, float_last: leave that many first convolutions, and the classifier, in float. In an EfficientNet the
      stem and the first depthwise convolution lose most, and a quantized classifier cuts off every logit beyond
      those of the calibration scans; they hold few weights.
    Weights are symmetric, per output channel unless told otherwise, of 7 bits, which cannot overflow on processors
    without VNNI; activations uint8 (QDQ format).
    Raises ValueError for no images, EdgeError when the file cannot be used.
    """
    if len(calibration_images) == 0:
        raise ValueError("calibration needs at least one image")
    OnnxClassifier(path).logits(calibration_images[:1])  # refuses a missing or foreign file, and images of another size
    with tempfile.TemporaryDirectory() as folder, _quiet(), atomic_path(output) as temporary:
        prepared = Path(folder) / "prepared.onnx"  # shapes known, batch norms folded into their convolutions
        quantization.quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        in_float = [node.name for node in nodes if node.op_type == "Conv"][:float_first]
        in_float += [node.name for node in nodes if "logits" in node.output] if float_last else []
        quantization.quantize_static(
            prepared,
            temporary,
            CalibrationImages(calibration_images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=in_float,
            per_channel=per_channel,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        written = onnx.load(temporary)
        about = {item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props}
        _describe(written, about | {"quantized": f"int8, minmax, {len(calibration_images)} scans"})
        onnx.save_model(written, temporary)
    return Path(output)


class CalibrationImages(quantization.CalibrationDataReader):
    """The images, sixteen at a time, in the shape that the quantizer asks for."""

    def __init__(self, images: np.ndarray):
        self.batches = iter([images[i : i + 16, None] for i in range(0, len(images), 16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": np.ascontiguousarray(batch)}


def _describe(written: onnx.ModelProto, about: dict[str, str]) -> None:
    """Write what the file says of itself in the place of the exporter's notes: half of a small file, and they name
    folders of this machine."""
    graph = written.graph
    for item in (written, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        item.ClearField("metadata_props")
    graph.ClearField("value_info")
    onnx.helper.set_model_props(written, about)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice of the exporter and the quantizer out of a notebook."""
    root, silent, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(silent)  # without a handler logging.info() would install one
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir|onnx|copyreg)(\.|$)")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
