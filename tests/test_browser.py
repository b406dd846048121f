"""Sliders as their reader meets them: drawn in an exported page, live in JupyterLab 4 and Notebook 7."""

import base64
import importlib.util
import json
import math
import re
import time
from pathlib import Path

import matplotlib
import nbformat
import pytest
from browsing import CHROMIUM, jupyter, open_page
from nbconvert import HTMLExporter
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kdoct_utils.show.live import WIDGET_VIEW
from kdoct_utils.show.output import with_alt_text
from kdoct_utils.show.sliders import Choice, Slider, sliders
from kdoct_utils.show.svg import bars_svg

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]
LOGITS = {"easy": (4.0, 1.0, 0.5), "hard": (2.0, 1.5, 0.5)}

# Takes every slider on the page through every combination of its values; tells what does not fit.
FITS = """async (font) => {
  await document.fonts.load(`14px ${font}`);
  return [...document.querySelectorAll("kdoct-slider")].flatMap((host) => {
    const root = host.shadowRoot, area = root.querySelector(".drawing"), found = new Set();
    root.appendChild(document.createElement("style")).textContent = `* { font-family: ${font} !important }`;
    const controls = [...root.querySelectorAll("input, select")];
    const look = () => {
      if (area.scrollHeight > area.clientHeight + 1) found.add("higher than its area");
      if (area.scrollWidth > area.clientWidth + 1) found.add("wider than its area");
      for (const svg of area.querySelectorAll("svg")) {
        const {width, height} = svg.viewBox.baseVal;
        for (const text of svg.querySelectorAll("text:not([transform])")) {
          const {x, y, width: across, height: down} = text.getBBox();
          if (x < 0 || y < 0 || x + across > width || y + down > height) found.add("cut off: " + text.textContent);
        }
      }
    };
    const walk = (i) => {
      if (i === controls.length) {
        controls[0].dispatchEvent(new Event("input", {bubbles: true}));
        return look();
      }
      const last = controls[i].options ? controls[i].options.length - 1 : Number(controls[i].max);
      for (let place = 0; place <= last; place++) {
        controls[i].value = place;
        walk(i + 1);
      }
    };
    walk(0);
    return [...found].map((what) => root.querySelector("[role=group]").ariaLabel + ": " + what);
  });
}"""
FONTS = {"wide": "DejaVuSans.ttf", "narrow": "cmss10.ttf"}  # both come with matplotlib


def shares(logits, temperature):
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def soft_label(temperature, scan):
    title = f"T = {temperature}, {scan}"
    return bars_svg(["normal", "drusen", "cnv"], shares(LOGITS[scan], temperature), title=title, maximum=1)


def export(path):
    """Write a page with one slider, as nbconvert exports a notebook."""
    temperature = Slider(1.0, 10.0, 4.0, 0.25, label="temperature T")
    panel = sliders(soft_label, temperature=temperature, scan=Choice(("easy", "hard")), height=180)
    output = nbformat.v4.new_output("display_data", data=panel._repr_mimebundle_())
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    path.write_text(HTMLExporter().from_notebook_node(with_alt_text(notebook))[0], encoding="utf-8")
    return path


def go_offline(page):
    """What a page asks of the network is empty; this machine answers."""
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.fulfill(body=""))


def drawn(page):
    """The bars' numbers and the title, of the first slider on the page."""
    texts = page.locator("kdoct-slider").first.locator("svg > text").all_text_contents()
    return [text for text in texts if re.fullmatch(r"[01]\.\d{3}", text)], texts[0]


def test_a_page_without_kernel_or_network_is_moved_by_keyboard(tmp_path):
    def shown(scan, temperature):
        return [f"{share:.3f}" for share in shares(LOGITS[scan], temperature)]

    with open_page() as page:
        go_offline(page)
        page.goto(export(tmp_path / "page.html").as_uri())
        slider = page.get_by_role("slider", name="temperature T")
        assert slider.get_attribute("aria-valuetext") == "4.00" and drawn(page)[0] == shown("easy", 4.0)
        height = page.locator("kdoct-slider").bounding_box()["height"]

        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert page.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == "5.00"
        assert drawn(page)[0] == shown("easy", 5.0)
        page.keyboard.press("Home")
        assert drawn(page)[0] == shown("easy", 1.0)
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")  # the next option of the choice
        assert page.get_by_label("scan").input_value() == "1" and drawn(page)[0] == shown("hard", 1.0)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Reset
        assert page.locator("output").inner_text() == "4.00" and drawn(page)[0] == shown("easy", 4.0)
        assert page.locator("kdoct-slider").bounding_box()["height"] == height

        page.get_by_role("slider").fill("0")  # JupyterLab takes cells off the page and puts them back
        page.evaluate(
            "() => { const slider = document.querySelector('kdoct-slider'), parent = slider.parentNode;"
            " slider.remove(); parent.append(slider); }"
        )
        assert page.get_by_role("slider").count() == 1 and page.locator("output").inner_text() == "1.00"
        assert page.said == []


def what_does_not_fit(shown, width=760):
    """Of sliders, as notebooks show them: the width is that of an output in JupyterLab on a small screen."""
    faces = ""
    for name, file in FONTS.items():
        font = (Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file).read_bytes()
        uri = f"data:font/ttf;base64,{base64.b64encode(font).decode()}"
        faces += f"@font-face {{ font-family: {name}; src: url({uri}) }}"
    found = []
    for font in FONTS:
        with open_page() as page:
            page.set_content(f"<!doctype html><style>{faces}</style>"
                             f'<body style="font: 14px {font}; width: {width}px">{"".join(shown)}')  # fmt: skip
            page.wait_for_function("[...document.querySelectorAll('kdoct-slider')].every((one) => one.shadowRoot)")
            found += [f"{font}: {what}" for what in page.evaluate(FITS, font)]
    return found


@pytest.mark.slow
def test_every_drawing_of_the_course_fits_in_a_wide_and_a_narrow_font():
    def drawing(x):
        return f'<svg viewBox="0 0 100 50"><text y="20">{"a word " * x}</text></svg>' + "<p>high</p>" * (x == 3)

    shown = [sliders(drawing, name="one", height=125, x=Slider(1, 9, 1, 1)).html]
    found = what_does_not_fit(shown)  # what does not fit is seen
    for what in ("higher than its area", "cut off: " + "a word " * 9):
        assert {f"{font}: Slider: one: {what}" for font in FONTS} <= set(found)
    assert not [what for what in found if what.endswith("cut off: a word ")]
    for path in sorted([*(ROOT / "notebooks").glob("[0-9]*.ipynb"), *(ROOT / "notebooks").glob("more/[0-9]*.ipynb")]):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output.get("data", {}).get("text/html", "") for cell in cells for output in cell.get("outputs", [])]
        assert what_does_not_fit([text for text in map("".join, outputs) if "<kdoct-slider" in text]) == [], path.name


# --- in JupyterLab and Notebook 7 ------------------------------------------------------------------------------------

LIVE = """
import math

from kdoct_utils.show.sliders import Choice, Slider, sliders
from kdoct_utils.show.svg import bars_svg

LOGITS = {"easy": (4.0, 1.0, 0.5), "hard": (2.0, 1.5, 0.5)}


def soft_label(temperature, scan, number):
    if number == 13:
        raise ValueError("no scan <13>")
    powers = [math.exp(logit / temperature) for logit in LOGITS[scan]]
    shares = [power / sum(powers) for power in powers]
    return bars_svg(["normal", "drusen", "cnv"], shares, title=f"T = {temperature:g}, {scan}, {number}", maximum=1)


panel = sliders(soft_label, temperature=Slider(0.25, 20.0, 4.0, 1, "temperature T", log=True), height=180,
                scan=Choice(("easy", "hard")), number=Slider(1, 99, 1, 1, "number", live_only=True))
panel
"""


def live_control(page, label):
    """The handle of a live slider: ipywidgets ties no label to it."""
    return page.locator(".widget-slider", has_text=label).first.get_by_role("slider")


def live_texts(page):
    """Title and numbers of the first live drawing."""
    texts = page.locator(".widget-html svg").first.locator("text").all_text_contents()
    return texts[0], [text for text in texts if re.fullmatch(r"[01]\.\d{3}", text)]


def typed(page, label, value, expected):
    """Write a value beside a live slider, wait until the drawing's title has it; title and numbers."""
    page.locator(".widget-slider", has_text=label).first.locator(".widget-readout").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(value)
    page.keyboard.press("Enter")
    page.locator(".widget-html svg text", has_text=expected).first.wait_for()
    return live_texts(page)


def test_in_jupyterlab_a_live_slider_computes_what_no_drawn_frame_holds(tmp_path):
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    path = tmp_path / "notebooks" / "live.ipynb"
    path.parent.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}  # none: it asks
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIVE)], metadata=kernel), path)
    with jupyter("jupyterlab", path.parent, tmp_path) as server, open_page() as page:
        go_offline(page)
        page.goto(f"{server}/lab/tree/live.ipynb?reset", timeout=90_000)
        run_all(page, server)
        page.locator(".widget-html svg").wait_for(timeout=60_000)
        box = page.locator(".jp-OutputArea-child .widget-vbox")
        height = box.bounding_box()["height"]
        title, numbers = typed(page, "temperature T", "3.25", "T = 3.25")
        assert title == "T = 3.25, easy, 1" and numbers == [f"{share:.3f}" for share in shares(LOGITS["easy"], 3.25)]
        live_control(page, "temperature T").focus()
        page.keyboard.press("ArrowRight")  # a tenth of a doubling
        page.locator(".widget-html svg text", has_text="T = 3.48").wait_for()
        typed(page, "number", "14", "easy, 14")
        page.keyboard.press("Control+a")
        page.keyboard.type("13")
        page.keyboard.press("Enter")
        page.locator(".widget-html [role=alert]", has_text="no scan <13>").wait_for()
        assert box.bounding_box()["height"] == height  # nothing jumps
        page.get_by_role("button", name="Reset").click()
        page.locator(".widget-html svg text", has_text="T = 4, easy, 1").wait_for()
        output = saved_outputs(page, path)[0]["data"]
        assert {WIDGET_VIEW, "text/html", "text/plain"} == set(output)
        assert "kdoct-slider" in "".join(output["text/html"])  # what stays once the kernel has gone
        assert page.said == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "address"), [("jupyterlab", "lab/tree/{name}?reset"), ("notebook", "notebooks/{name}")]
)  # fmt: skip
def test_notebook_04_is_run_and_its_temperature_moved(app, address, tmp_path):
    pytest.importorskip(app, reason=f"{app} is not installed")
    source = ROOT / "notebooks" / "04_temperature_and_soft_labels.ipynb"
    path = tmp_path / "notebooks" / source.name
    path.parent.mkdir()
    parameters = {"profile": "smoke", "run_dir": str(tmp_path / "run")}
    notebook = parameterize_notebook(load_notebook_node(str(source)), parameters)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    with jupyter(app, path.parent, tmp_path) as server, open_page() as page:
        go_offline(page)
        page.goto(f"{server}/{address.format(name=path.name)}", timeout=90_000)
        run_all(page, server)
        outputs = saved_outputs(page, path)
        assert [output for output in outputs if output["output_type"] == "error"] == []
        scrolled_to(page, live_control(page, "temperature T"))
        title, before = live_texts(page)
        moved = typed(page, "temperature T", "6.96", "T = 6.96")  # no drawn frame holds it
        assert "T = 4" in title and moved[0] == title.replace("T = 4", "T = 6.96")
        cooler, hotter = (max(map(float, texts[:3])) for texts in (before, moved[1]))
        assert hotter < cooler  # hotter is softer, in the teacher's three classes
        page.get_by_role("button", name="Reset").first.click()
        page.wait_for_timeout(1000)
        assert live_texts(page) == (title, before)
        # Notebook 7.6 reads a setting that it lacks: an error of its own bundle
        assert [error for error in page.said if f"{server}/static/" not in error] == []


def run_all(page, server, seconds=120):
    """Menu Run, Run All Cells, once the kernel has been idle with this page for a moment: before, a click is lost."""
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < 3:
        assert time.monotonic() < deadline, f"no idle kernel after {seconds} s"
        page.wait_for_timeout(1000)
        kernels = json.loads(page.request.get(f"{server}/api/kernels").text())
        ready = [kernel for kernel in kernels if kernel["connections"] and kernel["execution_state"] == "idle"]
        quiet = quiet + 1 if ready else 0
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()


def saved_outputs(page, path, seconds=240):
    """Save until every code cell has been executed; all their outputs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(2000)
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except json.JSONDecodeError:  # being written
            continue
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        if all(cell["execution_count"] for cell in code) or any(o["output_type"] == "error" for o in outputs):
            return outputs
    raise AssertionError(f"not all cells had run after {seconds} s")


def scrolled_to(page, locator):
    """A notebook holds only the cells near its window: wheel up, then down, until the locator is there."""
    page.locator(".jp-Notebook").hover()
    for distance in [-100_000] + [500] * 150:
        page.mouse.wheel(0, distance)
        page.wait_for_timeout(150)
        if locator.count() and locator.is_visible():
            locator.scroll_into_view_if_needed()
            return locator
    raise AssertionError(f"{locator} was never on the page")
