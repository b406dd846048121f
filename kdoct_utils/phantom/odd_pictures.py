"""Pictures that are no B-scan, drawn in many kinds: what a device must refuse."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdoct_utils.phantom.anatomy import draw_patient
from kdoct_utils.phantom.render import render_frames

HEIGHT, WIDTH = 496, 768  # pixels, as a frame


def odd_pictures(count: int, seed: int = 0) -> list[tuple[str, np.ndarray]]:
    """`count` pictures of the kinds in turn: (kind, uint8 (496, 768), or (496, 768, 3) where in color)."""
    kinds = list(KINDS.items())
    drawn = []
    for number in range(count):
        kind, draw = kinds[number % len(kinds)]
        drawn.append((kind, draw(np.random.default_rng([seed, number]))))
    return drawn


def _phantom(random: np.random.Generator) -> np.ndarray:
    patient = draw_patient(("normal", "drusen", "cnv")[random.integers(3)], [int(random.integers(2**31))])
    return render_frames(patient, 1).images[0]


def _photograph(random: np.random.Generator) -> np.ndarray:
    """A part of one of two photographs that come with scikit-learn, in grey."""
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image(("china.jpg", "flower.jpg")[random.integers(2)])).convert("L")
    wide = int(random.integers(120, whole.width + 1))
    high = min(wide * HEIGHT // WIDTH, whole.height)
    left, top = random.integers(whole.width - wide + 1), random.integers(whole.height - high + 1)
    return np.asarray(whole.crop((left, top, left + wide, top + high)).resize((WIDTH, HEIGHT)))


def _fundus(random: np.random.Generator) -> np.ndarray:
    """The back of an eye from the front, as a camera sees it: a disc with vessels that spread from the optic nerve."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    far = np.hypot(rows - HEIGHT / 2, columns - WIDTH / 2) / random.uniform(200, 240)  # 1 at the disc's edge
    disc = random.uniform(90, 160) * (1 - 0.3 * far)
    picture = Image.fromarray(disc.clip(0, 255).astype(np.uint8))
    draw, nerve = ImageDraw.Draw(picture), (WIDTH / 2 + random.choice([-90, 90]), HEIGHT / 2)
    for angle, bend in zip(random.uniform(0, 2 * np.pi, 12), random.normal(0, 0.004, 12), strict=True):
        steps = np.arange(0, 400, 10)
        turned = angle + bend * steps
        line = np.stack([nerve[0] + steps * np.cos(turned), nerve[1] + steps * np.sin(turned)], axis=1)
        draw.line(line.ravel().tolist(), fill=int(random.integers(40, 80)), width=int(random.integers(3, 7)))
    draw.ellipse([nerve[0] - 28, nerve[1] - 32, nerve[0] + 28, nerve[1] + 32], fill=225)
    return np.where(far < 1, np.asarray(picture), 2).astype(np.uint8)


def _text(random: np.random.Generator) -> np.ndarray:
    """A page of words, black on white or white on black."""
    dark = random.random() < 0.5
    picture = Image.new("L", (WIDTH, HEIGHT), 0 if dark else 240)
    size = int(random.integers(14, 40))
    words = ["".join(random.choice(list("abcdefghiklmnoprstu"), random.integers(2, 9))) for _ in range(600)]
    across = WIDTH // (3 * size)
    lines = [" ".join(words[k : k + across]) for k in range(0, len(words), across)][: HEIGHT // size]
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((10, 5), "\n".join(lines), fill=230 if dark else 10, font=ImageFont.load_default(size))
    return np.asarray(picture)


KINDS = {
    "black": lambda random: np.full((HEIGHT, WIDTH), random.integers(0, 5), np.uint8),
    "noise": lambda random: random.gamma(1, random.uniform(10, 60), (HEIGHT, WIDTH)).clip(0, 255).astype(np.uint8),
    "photograph": _photograph,
    "fundus": _fundus,
    "text": _text,
    "upside down": lambda random: _phantom(random)[::-1],
    "on its side": lambda random: np.asarray(Image.fromarray(np.rot90(_phantom(random))).resize((WIDTH, HEIGHT))),
    "negative": lambda random: 255 - _phantom(random),
    "in color": lambda random: _phantom(random)[..., None] // np.array([1, 2, 3], np.uint8),
}
