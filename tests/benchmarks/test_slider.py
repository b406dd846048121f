"""How soon a slider answers in a browser: `make bench`."""

import importlib.util

import numpy as np
import pytest
from browsing import CHROMIUM, open_page

from kdoct_utils.show.sliders import Choice, Slider, sliders
from kdoct_utils.show.svg import bars_svg, scan_html

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no browser, or no playwright"
)

MOVE = """async () => {
  const root = document.querySelector("kdoct-slider").shadowRoot, input = root.querySelector("input");
  const changed = [], painted = [];
  for (let place = 0; place <= Number(input.max); place++) {
    await new Promise((later) => setTimeout(later, 30));
    const before = root.querySelector("svg"), start = performance.now();
    input.value = place;
    input.dispatchEvent(new Event("input", {bubbles: true}));
    if (root.querySelector("svg") === before) throw new Error("the drawing did not change");
    root.querySelector("svg").getBoundingClientRect(); // laid out, too
    changed.push(performance.now() - start);
    await new Promise((later) => requestAnimationFrame(() => setTimeout(later)));
    painted.push(performance.now() - start);
  }
  return {changed, painted};
}"""


def test_a_slider_with_pictures_answers_within_50_ms(tmp_path):
    random = np.random.default_rng(0)
    scans = [scan_html(random.integers(0, 256, (64, 64), dtype=np.uint8), f"scan {k}") for k in range(8)]

    def soft_label(temperature, first):
        powers = np.exp(np.array([4.0, 1.0, 0.5]) / temperature)
        bars = bars_svg(["normal", "drusen", "cnv"], powers / powers.sum(), title=f"T = {temperature}", maximum=1)
        return "".join(scans[first : first + 2]) + bars

    controls = {"temperature": Slider(1.0, 10.0, 4.0, 0.25), "first": Choice(tuple(range(7)))}
    panel = sliders(soft_label, height=360, **controls)
    (tmp_path / "page.html").write_text(f"<!doctype html>{panel.html}", encoding="utf-8")
    with open_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_role("slider").wait_for()
        found = page.evaluate(MOVE)
    medians = {what: float(np.median(found[what])) for what in found}
    print(f"\nslider: changed in {medians['changed']:.1f} ms, painted in {medians['painted']:.1f} ms")
    assert medians["changed"] < 50
