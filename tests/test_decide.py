"""The shipped file: the same pictures and logits as the course, and silence where it should not answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdoct_utils.data.band import to_picture
from kdoct_utils.data.images import ScanError, read_image
from kdoct_utils.data.scans import read_scans
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.edge.decide import coverage_risk, fit_decision, measure_decision, rates, set_decision, wilson
from kdoct_utils.edge.export import export_onnx
from kdoct_utils.learn.inference import predict_logits
from kdoct_utils.learn.models import build_model
from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.odd_pictures import KINDS, odd_pictures
from kdoct_utils.phantom.render import phantom_cohort, render_frames
from kdoct_utils.profiles import ModelConfig, get_profile

CLASSES = ("normal", "drusen", "cnv")
QUICK = get_profile("quick")
STORED, SIZE = QUICK.resize_size, QUICK.image_size
UCSD = Path(__file__).parents[1] / ".." / "shared" / "oct_samples" / "ucsd"
SHAPES = ((496, 768), (496, 512), (512, 512), (248, 384), (992, 1024), (400, 900))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A network (not trained: only its logits count), its file with a rule, and 300 phantoms of 100 patients."""
    images, table = phantom_cohort(34, 3, STORED, seed=3)
    target = table["label"].map(CLASSES.index).to_numpy()
    train = table["patient"].str[-4:].astype(int).to_numpy() % 2 == 0
    torch.manual_seed(0)
    model = build_model(ModelConfig("efficientnet_course_small", dropout=0.0), 3, 1, seed=0).eval()
    path = export_onnx(model, tmp_path_factory.mktemp("edge") / "student.onnx", image_size=SIZE, stored_size=STORED,
                       channels=1, class_names=CLASSES, training_images=images[train])  # fmt: skip
    rule = fit_decision(OnnxClassifier(path), images[~train], target[~train])
    set_decision(path, rule)
    return model, OnnxClassifier(path), images[~train], target[~train], table["patient"].to_numpy()[~train]


def frame(number, shape):
    """A whole phantom frame, some with white borders, scaled to a shape."""
    patient = draw_patient(CLASSES[number % 3], [77, number])
    return np.asarray(Image.fromarray(render_frames(patient, 1).images[0]).resize(shape[::-1]))


@pytest.mark.parametrize("count", [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_course_and_runtime_agree_on_phantom_frames_of_several_sizes(shipped, tmp_path, count):
    model, classifier, *_ = shipped
    rows = []
    for number in range(count):
        Image.fromarray(frame(number, SHAPES[number % len(SHAPES)])).save(tmp_path / f"{number:04d}.png")
        rows.append(f"{number:04d}.png,{CLASSES[number % 3]},p{number}")
    (tmp_path / "scans.csv").write_text("path,label,patient\n" + "\n".join(rows))
    scans = read_scans("csv", tmp_path, profile=QUICK, seed=0, progress=False)
    pictures = scans.images(STORED, crop_to_band=True, progress=False)
    theirs = np.stack([to_picture(read_image(tmp_path / name), STORED) for name in scans.table["path"]])
    np.testing.assert_array_equal(theirs, pictures)
    difference = classifier.logits(theirs) - predict_logits(model, np.array(pictures), SIZE, 1)
    assert abs(difference).max() < 1e-4


@pytest.mark.skipif(not UCSD.is_dir(), reason="no real B-scans at ../shared/oct_samples/ucsd")
def test_course_and_runtime_agree_on_real_scans(shipped):
    model, classifier, *_ = shipped
    scans = read_scans("ucsd", UCSD, profile=QUICK, seed=0, progress=False)
    expected = predict_logits(model, np.array(scans.images(STORED, crop_to_band=True, progress=False)), SIZE, 1)
    assert len(expected) >= 13
    for name, logits in zip(scans.table["path"], expected, strict=True):
        picture = to_picture(read_image(UCSD / name), classifier.stored_size, classifier.crop_to_band)
        np.testing.assert_allclose(classifier.logits(picture[None])[0], logits, atol=1e-4)


def test_odd_pictures_are_refused_and_phantoms_are_not(shipped):
    _, classifier, *_ = shipped
    odd = odd_pictures(len(KINDS) * 23)
    assert len(odd) >= 200
    refused = np.array([classifier.classify(picture).decision == "refused" for _, picture in odd])
    assert refused.mean() >= 0.95, sorted({kind for (kind, _), gone in zip(odd, refused, strict=True) if not gone})
    whole = [classifier.classify(frame(number, SHAPES[number % 4])) for number in range(100, 160)]
    assert np.mean([answer.decision == "refused" for answer in whole]) <= 0.05
    black = classifier.classify(np.zeros((496, 768), np.uint8))
    assert (black.decision, black.probabilities) == ("refused", {}) and "flat" in black.reason


def test_photographs_of_many_kinds_are_refused(shipped):
    _, classifier, *_ = shipped
    data = pytest.importorskip("skimage.data")
    for name in ("camera", "astronaut", "coins", "page", "text", "retina", "moon", "brick", "grass", "chelsea"):
        picture = getattr(data, name)()
        for pixels in (picture, np.asarray(Image.fromarray(picture).convert("L"))):
            assert classifier.classify(np.ascontiguousarray(pixels)).decision == "refused", name


def test_the_rule_keeps_what_it_promises_on_validation_scans(shipped):
    _, classifier, images, target, patients = shipped
    rule = classifier.about["decision"]
    measured = measure_decision(classifier, rule, images, target, patients)
    assert measured["sensitivity"]["estimate"] >= 0.95 and measured["refused"] <= 0.01
    assert measured["answered"] >= 0.9 - 0.02
    assert measured["sensitivity"]["low"] < measured["sensitivity"]["estimate"] <= measured["sensitivity"]["high"]
    looser = fit_decision(classifier, images, target, wanted_sensitivity=0.5, coverage=0.5)
    assert looser["threshold"] > rule["threshold"]


def test_the_answer_follows_the_rule(shipped):
    _, classifier, *_ = shipped
    rule = {"temperature": 2.0, "threshold": 0.3, "sure_above": 0.6, "refuse_above": 10.0}
    before, classifier.about["decision"] = classifier.about["decision"], rule
    cases = [((4, 0, 0), 1, "normal", False), ((0, 0, 4), 1, "cnv", True), ((0.8, 0, 0), 1, "not sure", True),
             ((0, 1, 0.9), 1, "not sure", True), ((4, 0, 0), 10.5, "refused", None)]  # fmt: skip
    for logits, distance, decision, refer in cases:
        answer = classifier.decide(np.array(logits, np.float32), distance)
        assert (answer.decision, answer.refer) == (decision, refer)
        if decision != "refused":
            expected = np.exp(np.array(logits) / 2)
            np.testing.assert_allclose(list(answer.probabilities.values()), expected / expected.sum())
        assert (answer.reason == "") == (decision in CLASSES)
    classifier.about["decision"] = before


def test_wilson_and_rates():
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-3) and wilson(0.5, 0) == (0, 1)
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    found = rates([0.9, 0.4, 0.6, 0.1], np.array([True, True, False, False]), 0.5, ["a", "a", "b", "c"])
    assert found["sensitivity"]["estimate"] == found["specificity"]["estimate"] == 0.5
    assert (found["sensitivity"]["patients"], found["specificity"]["patients"]) == (1, 2)


def test_risk_falls_where_confidence_tells_right_from_wrong():
    sure, right = np.array([0.9, 0.5, 0.8, 0.6]), np.array([True, False, True, True])
    coverage, risk = coverage_risk(sure, right)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 0, 0, 0.25])


def test_bad_input_is_one_clear_error(shipped, tmp_path):
    model, classifier, images, target, _ = shipped
    with pytest.raises(EdgeError, match="with disease and without"):
        fit_decision(classifier, images[target == 0], target[target == 0])
    bare = export_onnx(model, tmp_path / "bare.onnx", image_size=SIZE, stored_size=STORED, channels=1,
                       class_names=CLASSES)  # fmt: skip
    assert not OnnxClassifier(bare).outputs(images[:2])[1].any()
    with pytest.raises(EdgeError, match="bare.onnx holds no rule to decide by; set_decision"):
        OnnxClassifier(bare).classify(frame(0, (496, 768)))
    with pytest.raises(EdgeError, match="no sure_above, refuse_above; fit_decision"):
        set_decision(bare, {"temperature": 1, "threshold": 0.5})
    for wrong in (np.zeros((9, 9, 4), np.uint8), np.zeros((50, 50)), np.zeros(4, np.uint8)):
        with pytest.raises(EdgeError, match="a frame must be uint8"):
            classifier.classify(wrong)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    Image.new("L", (5000, 4000)).save(tmp_path / "huge.png")
    for name, why in (("torn.png", "cannot be read"), ("huge.png", "too many"), ("lost.png", "cannot be read")):
        with pytest.raises(ScanError, match=why):
            classifier.classify_file(tmp_path / name)
