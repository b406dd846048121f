"""Exported students: same answers as torch, smaller as integers, and a runtime that needs no torch."""

import contextlib
import io
import subprocess
import sys
import warnings
from copy import deepcopy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from kdoct_utils.edge import export
from kdoct_utils.edge.card import model_card
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier, processor
from kdoct_utils.edge.decide import fit_decision, measure_decision, set_decision
from kdoct_utils.edge.export import export_onnx, quantize_int8, to_fp16, weights_hash
from kdoct_utils.edge.measure import check_parity, run_without_torch, time_by_operation, time_calls
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.inference import predict_logits
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.pipelines import EVALUATION
from kdoct_utils.profiles import ModelConfig

CLASSES = ("normal", "drusen", "cnv")
STORED, SIZE = 35, 32  # the files take 35 px and resize to 32 themselves


def scans(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright band under speckle, uint8 (count, R, R); its height on the scan is the class (count,)."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, count)
    place = np.array([7, 17, 27])[target, None, None] + rng.uniform(-3, 3, (count, 1, 1))
    band = np.exp(-(((np.arange(STORED)[None, :, None] - place) / 3) ** 2))
    speckle = rng.gamma(4, 0.25, (count, STORED, STORED))
    return np.clip(180 * band * speckle + 10, 0, 255).astype(np.uint8), target


IMAGES, TARGET = scans(40, seed=0)


def taught(model: torch.nn.Module) -> torch.nn.Module:
    """A few seconds of training: integers can only be judged where the logits mean something."""
    images, target = scans(32 * 40, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for rows in np.arange(len(images)).reshape(-1, 32):
        batch = augment(torch.from_numpy(images[rows]), rows, EVALUATION, 0, 0, SIZE, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.train()(batch), torch.from_numpy(target[rows])).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A grey student in training mode, its file, and whatever the export said aloud."""
    model = taught(build_model(ModelConfig("efficientnet_course_small", dropout=0.3), 3, 1, seed=0)).train()
    path = tmp_path_factory.mktemp("edge") / "student.onnx"
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(said):
        with contextlib.redirect_stderr(said):
            warnings.simplefilter("always")
            export_onnx(model, path, image_size=SIZE, stored_size=STORED, channels=1, class_names=CLASSES,
                        training_images=scans(200, seed=2)[0], provenance={"dataset": "made up"})  # fmt: skip
    return model, path, said.getvalue() + "".join(str(item.message) for item in warned)


@pytest.fixture(scope="module")
def path(student):
    return student[1]


@pytest.fixture(scope="module")
def int8_path(path):
    return quantize_int8(path, path.with_name("student_int8.onnx"), IMAGES[:24])


def test_file_answers_as_torch_does(student):
    model, path, _ = student
    parity = check_parity(predict_logits(model, IMAGES, SIZE, 1), path, IMAGES)
    assert parity["max_difference"] < 1e-4 and parity["agreement"] == 1


def test_color_channels_and_no_resizing(tmp_path):
    model = build_model(ModelConfig("efficientnet_course_tiny", dropout=0.0), 3, 3, seed=0)
    images = np.ascontiguousarray(IMAGES[:, :SIZE, :SIZE])
    file = export_onnx(
        model, tmp_path / "c.onnx", image_size=SIZE, stored_size=SIZE, channels=3, class_names=CLASSES
    )
    assert check_parity(predict_logits(model, images, SIZE, 3), file, images)["max_difference"] < 1e-4


def test_export_leaves_the_model_as_it_was_and_says_nothing(student):
    model, path, said = student
    assert model.training and said == ""
    assert [item.name for item in path.parent.iterdir() if "int8" not in item.name] == ["student.onnx"]


def test_file_describes_itself_and_names_no_folder(path, int8_path):
    for file in (path, int8_path):
        classifier = OnnxClassifier(file)
        assert (classifier.class_names, classifier.image_size, classifier.stored_size) == (CLASSES, SIZE, STORED)
        assert b"site-packages" not in file.read_bytes() and b"kdoct_utils" not in file.read_bytes()


def test_any_batch_size(path):
    classifier = OnnxClassifier(path)
    for batch in (1, 7):
        np.testing.assert_allclose(classifier.logits(IMAGES[:7], batch), classifier.logits(IMAGES)[:7], atol=1e-5)
    assert classifier.logits(IMAGES[:0]).shape == (0, 3)


def test_export_refuses_class_names_that_do_not_fit(student, tmp_path):
    settings = {"image_size": SIZE, "stored_size": STORED, "channels": 1, "class_names": ("normal", "cnv")}
    with pytest.raises(ValueError, match="3 outputs for 2 classes: normal, cnv"):
        export_onnx(student[0], tmp_path / "x.onnx", **settings)
    assert not list(tmp_path.iterdir())


def test_int8_is_smaller_and_close(path, int8_path):
    assert int8_path.stat().st_size < 0.6 * path.stat().st_size
    full, small = (OnnxClassifier(file).logits(IMAGES) for file in (path, int8_path))
    assert (full.argmax(axis=1) == TARGET).mean() >= 0.9, "the student of this test has not learned"
    assert (small.argmax(axis=1) == full.argmax(axis=1)).mean() >= 0.9
    error = np.sqrt(((small - full) ** 2).mean() / full.var(axis=0).mean())
    assert 0 < error < 0.25  # zero would mean that nothing was quantized


def test_int8_keeps_the_named_ends_in_float(path, int8_path):
    def weights(file):
        return {item.name: item.data_type for item in onnx.load(file).graph.initializer}

    graph = onnx.load(int8_path).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [node.input[1] in dequantized for node in convolutions[:3]] == [False, False, True]
    assert TensorProto.INT8 in weights(int8_path).values() and TensorProto.INT8 not in weights(path).values()


def test_silu_and_gates_run_in_integers(path, int8_path, tmp_path):
    """With Sigmoid and Mul among the operators far fewer translations are left; preprocessing and distance stay."""
    def translations(file):
        return sum("QuantizeLinear" in node.op_type for node in optimized(file).graph.node)

    plain = quantize_int8(path, tmp_path / "plain.onnx", IMAGES[:24], operators=("Conv", "Gemm", "MatMul"))
    assert translations(int8_path) < 0.6 * translations(plain)
    full, small = (OnnxClassifier(file).outputs(IMAGES)[1] for file in (path, int8_path))
    np.testing.assert_allclose(full, small, rtol=1e-4)


def optimized(file):
    """The graph as ONNX Runtime rewrote it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".optimized"))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def test_seven_bits_only_where_the_processor_needs_them(path, tmp_path, monkeypatch):
    largest = {}
    for vnni in (False, True):
        monkeypatch.setattr(export, "processor", lambda vnni=vnni: {"vnni": vnni})
        file = quantize_int8(path, tmp_path / f"{vnni}.onnx", IMAGES[:16])
        weights = [onnx.numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer]
        largest[vnni] = max(abs(item.astype(int)).max() for item in weights if item.dtype == np.int8 and item.ndim > 1)
        assert ("7-bit" in OnnxClassifier(file).about["quantized"]) == (not vnni)
    assert largest == {False: 64, True: 127}


def test_fp16_halves_the_weights_and_keeps_the_answers(path, tmp_path):
    half = to_fp16(path, tmp_path / "half.onnx")
    assert half.stat().st_size < 0.75 * path.stat().st_size
    (full, far), (small, near) = (OnnxClassifier(file).outputs(IMAGES) for file in (path, half))
    assert 0 < abs(full - small).max() < 0.05
    np.testing.assert_allclose(far, near, rtol=1e-4)


def test_file_says_where_it_comes_from(student, int8_path):
    model, path, _ = student
    for file in (path, int8_path):
        about = OnnxClassifier(file).about
        assert about["weights_sha256"] == weights_hash(model) and about["provenance"] == {"dataset": "made up"}
    with torch.no_grad():
        changed = deepcopy(model)
        next(changed.parameters()).add_(1e-6)
    assert weights_hash(changed) != weights_hash(model)


def test_quantizing_is_silent_and_refuses_bad_input(path, tmp_path, capfd, recwarn):
    quantize_int8(path, tmp_path / "q.onnx", IMAGES[:16], per_channel=False, float_first=0, float_last=False)
    assert "".join(capfd.readouterr()) == "" and not recwarn.list
    with pytest.raises(ValueError, match="at least one image"):
        quantize_int8(path, tmp_path / "r.onnx", IMAGES[:0])
    with pytest.raises(EdgeError, match=r"uint8 \(n, 35, 35\), got uint8 of shape \(1, 8, 8\)"):
        quantize_int8(path, tmp_path / "r.onnx", IMAGES[:, :8, :8])
    assert [file.name for file in tmp_path.iterdir()] == ["q.onnx"]


def test_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(EdgeError, match="no model file lost.onnx"):
        OnnxClassifier(tmp_path / "lost.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"not a model")
    with pytest.raises(EdgeError, match="torn.onnx is not a readable ONNX model"):
        OnnxClassifier(tmp_path / "torn.onnx")
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["a"], ["b"])
    graph = helper.make_graph([node], "g", [value("a", 1, [1])], [value("b", 1, [1])])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(EdgeError, match="foreign.onnx has no class_names, healthy, image_size, stored_size"):
        OnnxClassifier(tmp_path / "foreign.onnx")


def test_images_are_never_converted_unasked(path):
    for images in (IMAGES.astype(np.float32), IMAGES[0], IMAGES[:, 1:, 1:], IMAGES[:, None]):
        with pytest.raises(EdgeError, match=r"must be uint8 \(n, 35, 35\)"):
            OnnxClassifier(path).logits(images)


def test_parity_counts_disagreement_and_refuses_uneven_input(path):
    reference = OnnxClassifier(path).logits(IMAGES[:4])
    changed = reference.copy()
    changed[0, (reference[0].argmax() + 1) % 3] += 100
    parity = check_parity(changed, path, IMAGES[:4])
    assert parity["agreement"] == 0.75 and parity["max_difference"] == pytest.approx(100, rel=1e-5)
    with pytest.raises(EdgeError, match="3 rows of logits for 4 images"):
        check_parity(reference[:3], path, IMAGES[:4])


def test_runs_where_torch_cannot_be_imported(int8_path, tmp_path):
    np.save(tmp_path / "scans.npy", IMAGES)
    answer = run_without_torch(int8_path, tmp_path / "scans.npy")
    np.testing.assert_array_equal(answer["predictions"], OnnxClassifier(int8_path).predict(IMAGES))
    assert answer["class_names"] == CLASSES and "torch" in answer["forbidden"] and answer["seconds"] > 0
    # the ban is real: what the runtime does need cannot be imported either once it is on the list
    with pytest.raises(EdgeError, match="import of numpy halted"):
        run_without_torch(int8_path, tmp_path / "scans.npy", forbidden=["numpy"])


def test_importing_edge_loads_no_training_package():
    code = "import sys, kdoct_utils.edge.measure as _; "
    code += "print([m for m in ('torch', 'timm', 'onnx', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_time_calls_counts_and_orders():
    calls = []
    times = time_calls(lambda: calls.append(0), runs=5, warmup=2)
    assert len(calls) == 7 and 0 <= times["median_ms"] <= times["p90_ms"]


def test_time_by_operation_names_what_the_runtime_ran(path, int8_path):
    full, small = time_by_operation(path, runs=3), time_by_operation(int8_path, runs=3)
    assert full["Conv"] >= 0 and "QLinearConv" not in full and {"QLinearConv", "QuantizeLinear"} <= set(small)
    assert list(small.values()) == sorted(small.values(), reverse=True)


SCORES = {
    "accuracy": 0.812, "sensitivity": 0.8, "specificity": 0.9, "interval": [0.7, 0.9], "n_scans": 50,
    "n_patients": 9, "per_class": {"normal": {"sensitivity": 0.9}, "cnv": {"sensitivity": 0.456}},
}  # fmt: skip
CARD = {
    "name": "student", "data": {"dataset": "phantom", "title": "Phantoms", "license": "MIT"}, "scores": SCORES,
    "formats": {"INT8": {"bytes": 200_000, "latency_ms": 0.2, "accuracy": 0.790}}, "choice": "Ship INT8.",
    "training": "Distilled.",
}  # fmt: skip


def test_card_tells_of_the_very_file(int8_path, tmp_path):
    file = tmp_path / "ships.onnx"
    file.write_bytes(int8_path.read_bytes())
    rule = fit_decision(OnnxClassifier(file), IMAGES, TARGET)
    with pytest.raises(KeyError, match="decision"):  # nothing is filled in
        model_card(OnnxClassifier(file), **CARD)
    set_decision(file, measure_decision(OnnxClassifier(file), rule, IMAGES, TARGET, np.arange(len(IMAGES))))
    classifier = OnnxClassifier(file)
    card, about = model_card(classifier, **CARD), classifier.about
    for words in (
        "Results of this file on 50 test scans of 9 patients", "95% interval over patients 0.700 to 0.900",
        "| INT8 | 200 | 0.20 | 0.790 |", "Ship INT8.", "weakest class is cnv: it finds 46% of them",
        "not a medical device", "synthetic scans only", "uint8, (batch, 1, 35, 35)", about["weights_sha256"],
        f"temperature {rule['temperature']:.2f}", f"probability of disease of {rule['threshold']:.3f}",
        about["quantized"], processor()["name"], onnxruntime.__version__,
        "sensitivity {estimate:.3f}, 95% interval {low:.3f} to {high:.3f}".format(**about["decision"]["sensitivity"]),
    ):  # fmt: skip
        assert words in card, words
    real = model_card(classifier, **CARD | {"data": {"dataset": "ucsd", "refused": {"not an image": 2}}})
    assert "synthetic" not in real and "2 scans were left out: not an image." in real
    with pytest.raises(KeyError, match="interval"):
        model_card(classifier, **CARD | {"scores": {"accuracy": 0.8}})
