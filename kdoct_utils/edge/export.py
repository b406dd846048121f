"""From a trained network to ONNX files: float, then 8-bit integers. Making files needs torch; using them does not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from kdoct_utils.edge.classifier import OnnxClassifier, processor
from kdoct_utils.edge.distance import DistanceToTraining
from kdoct_utils.learn.augment import IMAGENET_MEAN, IMAGENET_STD
from kdoct_utils.runs import atomic_path

OPSET = 18  # understood by onnxruntime 1.14 and later
OPERATORS = ("Conv", "Gemm", "MatMul", "Sigmoid", "Mul", "Add", "Clip", "ReduceMean", "GlobalAveragePool")


class Shipped(nn.Module):
    """The network behind what `augment.apply` does to a scan that is not augmented, and beside it the distance."""

    def __init__(self, network: nn.Module, image_size: int, channels: int, distance: nn.Module):
        super().__init__()
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])  # (3,) each
        if channels == 1:
            mean, std = mean.mean(), std.mean()
        self.network, self.distance, self.image_size = network, distance, image_size
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: (batch, 1, R, R) uint8. Returns logits (batch, classes) and distance (batch,)."""
        whole = image.float()
        scan = whole / 255
        if scan.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            scan = nn.functional.interpolate(scan, size, mode="bilinear", align_corners=False)
        return self.network((scan - self.mean) / self.std), self.distance(whole)


def export_onnx(
    model: nn.Module, path: str | Path, *, image_size: int, stored_size: int, channels: int,
    class_names: Sequence[str], training_images: np.ndarray | None = None, crop_to_band: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a network, its preprocessing included, as one ONNX file; the model itself is left as it was.

    The file takes uint8 (batch, 1, stored_size, stored_size), for any batch, and gives float32 logits
    (batch, classes) and distance (batch,): how far a picture is from the training scans (see `distance`).
    Its preprocessing equals `augment.EVALUATION`, a test holds them together.
    training_images: uint8 (n, stored_size, stored_size); None for a file whose every distance is 0: nothing is refused.
    crop_to_band: whether these are bands or whole frames, for `classify`. provenance: JSON-ready; kept in the file.
    Raises ValueError when class_names do not fit the network's output. Written whole or not at all.
    """
    network = deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    whole = Shipped(network, image_size, channels, DistanceToTraining(training_images)).eval()
    example = torch.zeros(2, 1, stored_size, stored_size, dtype=torch.uint8)
    with torch.inference_mode():
        classes = whole(example)[0].shape[1]
    if classes != len(class_names):
        raise ValueError(f"the network has {classes} outputs for {len(class_names)} classes: {', '.join(class_names)}")
    with _quiet():
        program = torch.onnx.export(
            whole, (example,), input_names=["image"], output_names=["logits", "distance"], opset_version=OPSET,
            dynamo=True, dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=4096)}}, verbose=False,
        )  # fmt: skip
    written = program.model_proto
    about = {
        "class_names": list(class_names), "healthy": class_names[0], "image_size": image_size,
        "stored_size": stored_size, "crop_to_band": crop_to_band, "weights_sha256": weights_hash(network),
        "provenance": dict(provenance or {}),
    }  # fmt: skip
    _describe(written, {key: json.dumps(value) for key, value in about.items()})
    with atomic_path(path) as temporary:
        onnx.save_model(written, temporary)
    return Path(path)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over all weights and buffers of a network, in the order of their names."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def to_fp16(path: str | Path, output: str | Path) -> Path:
    """Write a copy of a file from `export_onnx` with weights and arithmetic of 16 bits; input, outputs and the
    distance stay in float. Raises EdgeError when the file cannot be used."""
    OnnxClassifier(path)  # refuses a missing or foreign file
    model = onnx.load(path)
    in_float = {node.name for node in model.graph.node} - _nodes_of_the_network(model.graph)
    with _quiet(), atomic_path(output) as temporary:
        about = {item.key: item.value for item in model.metadata_props}
        small = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(in_float))
        _without_detours(small.graph)
        _describe(small, about | {"quantized": json.dumps("fp16")})
        onnx.save_model(small, temporary)
    return Path(output)


def _without_detours(graph: onnx.GraphProto) -> None:
    """Mend what the converter makes of nodes that stay in float: between two of them it casts to 16 bits and back, and
    it repeats a cast for each that reads its result."""
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT:
            origin = f"{node.input[0]}_cast_to_fp16"
            node.input[0] = origin if origin in made else node.input[0]
    once = {node.output[0]: node for node in graph.node}
    del graph.node[:]
    graph.node.extend(once.values())


def quantize_int8(
    path: str | Path, output: str | Path, calibration_images: np.ndarray, *, float_first: int = 2,
    float_last: bool = True, per_channel: bool = True, operators: Sequence[str] = OPERATORS,
    reduce_range: bool | None = None,
) -> Path:  # fmt: skip
    """Write an 8-bit copy of a file from `export_onnx`: static quantization, calibrated on the given images only.

    calibration_images: uint8 (n, R, R), training scans; the range of every tensor is taken from them, so test
      scans do not belong here.
    float_first, float_last: leave that many first convolutions, and the classifier, in float. In an EfficientNet the
      stem and the first depthwise convolution lose most, and a quantized classifier cuts off every logit beyond
      those of the calibration scans; they hold few weights.
    operators: ONNX names of what is computed in integers. Without Sigmoid and Mul, the two halves of SiLU, every
      activation is translated to float and back.
    reduce_range: weights of 7 bits, whose sums cannot overflow 16 bits, as processors without VNNI add them; None:
      only where this processor is one. The file says which.
    Weights are symmetric, per output channel unless told otherwise; activations uint8 (QDQ format).
    Raises ValueError for no images, EdgeError when the file cannot be used.
    """
    if len(calibration_images) == 0:
        raise ValueError("calibration needs at least one image of a training scan")
    OnnxClassifier(path).logits(calibration_images[:1])  # refuses a missing or foreign file, and images of another size
    reduce_range = not processor()["vnni"] if reduce_range is None else reduce_range
    with tempfile.TemporaryDirectory() as folder, _quiet(), atomic_path(output) as temporary:
        prepared = Path(folder) / "prepared.onnx"  # shapes known, batch norms folded into their convolutions
        quantization.quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        in_float = {node.name for node in graph.node} - _nodes_of_the_network(graph)
        in_float |= {*[node.name for node in graph.node if node.op_type == "Conv"][:float_first]}
        in_float |= {node.name for node in graph.node if "logits" in node.output} if float_last else set()
        quantization.quantize_static(
            prepared,
            temporary,
            CalibrationImages(calibration_images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=sorted(in_float),
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        written = onnx.load(temporary)
        about = {item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props}
        bits = "7-bit weights, for processors without VNNI too" if reduce_range else "8-bit weights, for VNNI"
        note = f"int8, minmax of {len(calibration_images)} training scans, {bits}"
        _describe(written, about | {"quantized": json.dumps(note)})
        onnx.save_model(written, temporary)
    return Path(output)


def _nodes_of_the_network(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from the first convolution to the logits: neither preprocessing nor distance."""
    made_by = {name: node for node in graph.node for name in node.output}

    def before(names: Iterable[str]) -> set[str]:
        found, waiting = set(), list(names)
        while waiting:
            node = made_by.get(waiting.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                waiting += node.input
        return found

    first = next(node for node in graph.node if node.op_type == "Conv")
    return before(["logits"]) - before(first.input)


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
