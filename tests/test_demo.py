"""The demo page: the same pictures and answers as Python, offline, by keyboard, on a phone, and no picture leaves."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import os
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from browsing import CHROMIUM, axe_faults, open_page
from PIL import Image

from kdoct_utils.course import cli
from kdoct_utils.data.band import to_picture
from kdoct_utils.data.images import decode_image
from kdoct_utils.edge import demo
from kdoct_utils.edge.classifier import EdgeError, OnnxClassifier
from kdoct_utils.runs import open_run

ROOT = Path(__file__).resolve().parents[1]
UCSD = Path(os.environ.get("KDOCT_UCSD", ROOT.parent / "shared" / "oct_samples" / "ucsd"))
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no Chromium, or no playwright"
)
PICTURE = """([width, height, channels, pixels, size, crop]) => {
  const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
  const level = (k, channel) => channel === 3 ? 255 : bytes[k * channels + (channels === 3 ? channel : 0)];
  const rgba = Uint8ClampedArray.from({length: 4 * width * height}, (_, k) => level(k >> 2, k & 3));
  try { return Array.from(toPicture({width, height, rgba}, size, crop).picture); }
  catch (error) { return error.message; }
}"""
CLASSIFY = """async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return (await classify(new Blob([bytes]))).prepared.map(({answer}) => answer);
}"""


# --- without the runtime ---------------------------------------------------------------------------------------------


@needs_browser
def test_javascript_makes_the_pictures_that_python_makes():
    framed = demo.offered_phantoms(("normal", "drusen", "cnv"), 3)[1].frame.copy()
    framed[:40], framed[:, 700:] = 255, 255  # borders on two sides, one of them against a corner
    small = np.asarray(Image.fromarray(framed).resize((150, 97)))
    frames = {"borders": framed, "color channels": np.repeat(framed[..., None], 3, axis=2), "enlarged": small,
              "high resolution": np.repeat(framed, 2, axis=1), "transposed": framed.T.copy()}  # fmt: skip
    script = (files("kdoct_utils.edge") / "templates" / "picture.js").read_text(encoding="utf-8")
    with open_page() as page:
        page.add_script_tag(content=script)

        def in_browser(frame, size, crop):
            pixels = base64.b64encode(frame.tobytes()).decode()
            channels = frame.shape[2] if frame.ndim == 3 else 1
            return page.evaluate(PICTURE, [frame.shape[1], frame.shape[0], channels, pixels, size, crop])

        for name, frame in frames.items():
            for size, crop in ((69, True), (120, False)):
                wanted = to_picture(frame, size, crop).ravel().astype(int)
                difference = np.abs(np.array(in_browser(frame, size, crop)) - wanted)
                assert difference.max() <= 1 and difference.mean() < 0.01, name
        assert "there is no retina" in in_browser(np.full((90, 90), 7, np.uint8), 69, True)
        colored = frames["color channels"].copy()
        colored[200:230, :60, 0] = 255
        assert "it holds colors" in in_browser(colored, 69, True)


def test_the_runtime_is_taken_from_npm_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("KDOCT_CACHE", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "nowhere").as_uri())
    with pytest.raises(EdgeError, match=r"needs ONNX Runtime Web once \(33 MB\).*download that file; then put it here"):
        demo.runtime_parts()
    assert list(tmp_path.iterdir()) == []
    demo.runtime_file().write_bytes(b"something else")
    with pytest.raises(EdgeError, match="is not the published onnxruntime-web .*remove it"):
        demo.runtime_parts()


def test_a_run_without_students_says_which_notebook_trains_them(tmp_path, capsys):
    open_run(tmp_path / "run", profile="smoke", dataset="phantom")
    for name, message in (("none", "is not a run folder"), ("run", "notebook 05 trains the students")):
        with pytest.raises(SystemExit) as end:
            cli.main(["demo", "--run-dir", str(tmp_path / name)])
        assert end.value.code == 2 and message in capsys.readouterr().err


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a smoke run, and the ONNX files of its students in the page's order."""
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("no Chromium, or no playwright")
    try:
        demo.runtime_parts()
    except EdgeError as error:
        if "cannot be read" not in str(error):
            raise
        pytest.skip(f"npm's registry cannot be reached: {error}")
    from kdoct_utils.lab.stages import course_data
    from kdoct_utils.lab.training import train

    run = open_run(tmp_path_factory.mktemp("demo") / "runs" / "smoke", profile="smoke", dataset="phantom")
    data = course_data(run, progress=False)
    for arm in ("student_alone", "student_kd"):
        train(run, data, arm, 0, progress=False)
    cli.app(["demo", "--run-dir", str(run.path)], standalone_mode=False)
    return run.path / "demo" / "index.html", [run.path / "student_alone.onnx", run.onnx_file]


@pytest.fixture
def opened(made):
    """The page, open and done with its first phantom, with no network and a list of what it asked of one."""
    with open_page() as page:
        page.context.set_offline(True)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(made[0].as_uri())
        wait_for(page, "Phantom 1")
        yield page


def wait_for(page, name, seconds=120):
    page.locator(f'body[data-done="{name}"]').wait_for(timeout=1000 * seconds)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_every_answer_is_python_s_and_nothing_is_asked_of_a_network(opened, made):
    scans = {f"phantom {n}": scan.jpeg for n, scan in enumerate(demo.offered_phantoms(("normal", "drusen", "cnv"), 50))}
    real = sorted(UCSD.glob("*/*.jpeg"))
    scans |= {path.name: path.read_bytes() for path in real}
    noise = np.random.default_rng(0).integers(0, 256, (496, 512), np.uint8)
    scans |= {"noise": png(noise), "upside down": png(demo.offered_phantoms(["cnv"], 1)[0].frame[::-1])}
    python = [OnnxClassifier(file) for file in made[1]]
    decisions, worst = Counter(), 0.0
    for name, content in scans.items():
        answers = opened.evaluate(CLASSIFY, base64.b64encode(content).decode())
        for classifier, answer in zip(python, answers, strict=True):
            wanted = classifier.classify(decode_image(content, name).pixels)
            assert answer["decision"] == wanted.decision, name
            assert answer["distance"] == pytest.approx(wanted.distance, rel=2e-3), name
            decisions[wanted.decision] += 1
            if wanted.decision != "refused":
                assert answer["refer"] == wanted.refer, name
                differences = np.subtract(answer["probabilities"], list(wanted.probabilities.values()))
                worst = max(worst, float(np.abs(differences).max()))
    print(f"{len(scans)} scans ({len(real)} real), largest difference {worst:.1e}, {dict(decisions)}")
    assert worst < 1e-3 and decisions["refused"] > 0 and len(decisions) > 2
    assert not [url for url in opened.asked if not re.match("file:|data:|blob:", url)]
    assert opened.said == []


@pytest.mark.slow
def test_the_policy_of_the_page_forbids_connections(opened):
    tried = opened.evaluate("() => fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')")
    assert tried == "refused" and "Content Security Policy" in "".join(opened.said)


@pytest.mark.slow
def test_the_page_is_used_by_keyboard_and_refuses_what_is_no_scan(opened, tmp_path):
    cards = opened.locator("article")
    opened.get_by_role("radio").first.focus()
    opened.keyboard.press("ArrowRight")
    wait_for(opened, "Phantom 2")
    assert "Phantom 2. Student alone: " in opened.locator("#said").inner_text()
    slider, bars = opened.get_by_role("slider", name="Temperature T"), cards.first.locator("tbody td:last-child")
    shipped = bars.all_inner_texts()
    slider.focus()
    opened.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "9.85"
    hottest = [float(text) for text in bars.all_inner_texts()]
    assert sum(hottest) == pytest.approx(1, abs=0.002) and max(hottest) < max(map(float, shipped))
    opened.get_by_role("button", name="As shipped").press("Enter")
    assert bars.all_inner_texts() == shipped
    assert "ms here" in cards.first.inner_text() and "grey" in cards.first.locator("figcaption").inner_text()

    def choose(name, content):
        (tmp_path / name).write_bytes(content)
        opened.get_by_label("Choose a B-scan").set_input_files(tmp_path / name)

    choose("noise.png", png(np.random.default_rng(0).integers(0, 256, (496, 512), np.uint8)))
    wait_for(opened, "noise.png")
    for card in cards.all():
        assert card.locator(".decision").inner_text() == "Refused" and "refused above" in card.inner_text()
    scan = demo.offered_phantoms(["cnv"], 1)[0]
    clear = np.dstack([np.repeat(scan.frame[..., None], 3, axis=2), np.full(scan.frame.shape, 9, np.uint8)])
    for name, content, reason in (
        ("black.png", png(np.zeros((90, 90), np.uint8)), "there is no retina in it"),
        ("cut.jpg", scan.jpeg[: len(scan.jpeg) // 2], "the end of the JPEG is missing"),
        ("cut.png", png(scan.frame)[:9000], "the end of the PNG is missing"),
        ("deep.png", png(scan.frame.astype(np.uint16) * 257), "16 bits"),
        ("clear.png", png(clear), "partly transparent"),
        ("tiny.png", png(scan.frame[:9, :9]), "too few for a B-scan"),
        ("text.jpg", b"no image", "no JPEG, PNG or BMP"),
    ):
        choose(name, content)
        opened.get_by_role("alert").filter(has_text=name).wait_for()
        assert reason in opened.get_by_role("alert").inner_text() and not cards.first.is_visible()
    assert opened.said == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1366])
def test_the_page_passes_axe_and_fits_a_phone_and_a_laptop(made, width):
    for scheme in ("light", "dark"):
        with open_page(viewport={"width": width, "height": 740}, color_scheme=scheme) as page:
            page.goto(made[0].as_uri())
            wait_for(page, "Phantom 1")
            assert axe_faults(page) == {} and page.said == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("header").get_by_text("not a medical device").is_visible()
            if width > 1000:  # on one screen: all but the notes below
                bottom = page.locator("main").bounding_box()
                assert bottom["y"] + bottom["height"] <= 780


def test_the_page_names_its_scripts_by_their_hash():
    looks = {"cnv": {"label": "</script>"}}
    page = demo.page_text({"student-0": "AAAA"}, "phantoms", students=[], phantoms=[], looks=looks)
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    for script in scripts:
        named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{named}'" in page
    assert len(scripts) == 2 and "unsafe-inline" not in page and page.count("</script>") == 4
