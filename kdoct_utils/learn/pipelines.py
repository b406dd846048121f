"""The paper's augmentation pipelines as data, and the numbers that each image draws from them.

`draw` gives every image its own parameters from (seed, view, index of the scan) alone, so that a view can be made
again whatever batch the scan is in: a teacher's cached logits and a student's images then belong together.
`kdoct_utils.learn.augment` applies them. Scans are grey and stay grey: saturation and hue (and RandAugment's "color")
are listed and drawn, without effect. Source: KD-OCT, arXiv 2512.09069, and the authors' public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

# RandAugment's operations: value without effect, change at magnitude 30, whether the sign is drawn. Operations and
# ranges are torchvision's, so that magnitude 9 is 9/30 of the way (timm's own scale would count it as 9/10); shears
# turn about the center, not the corner. The reference code has six operations of its own and gives torchvision a
# translation of M/100 pixels, less than one, where this moves 150/331 * M/30 of the side.
# Units: shear tangents, fractions of the side, degrees (clockwise), factors, bits kept, threshold 0..255.
RANDAUGMENT_SPACE = {
    "identity": (0.0, 0.0, False),
    "shear_x": (0.0, 0.3, True),
    "shear_y": (0.0, 0.3, True),
    "translate_x": (0.0, 150 / 331, True),
    "translate_y": (0.0, 150 / 331, True),
    "rotate": (0.0, 30.0, True),
    "brightness": (1.0, 0.9, True),
    "color": (1.0, 0.9, True),
    "contrast": (1.0, 0.9, True),
    "sharpness": (1.0, 0.9, True),
    "posterize": (8.0, -4.0, False),
    "solarize": (255.0, -255.0, False),
    "autocontrast": (0.0, 0.0, False),
    "equalize": (0.0, 0.0, False),
}

_PROBABILITIES = ("horizontal_flip", "vertical_flip", "blur", "posterize", "erasing")


@dataclass(frozen=True)
class AugmentConfig:
    """One pipeline, fields in the paper's order; the defaults do nothing but resize.

    Probabilities and areas are fractions; angles are degrees, drawn from -value..value.
    """

    name: str
    crop: float = 1.0  # side of the random crop, fraction of the stored side
    randaugment_operations: int = 0  # N
    randaugment_magnitude: float = 0.0  # M of 30
    randaugment_space: tuple[str, ...] = tuple(RANDAUGMENT_SPACE)  # the operations to draw from
    rotation: float = 0.0
    shear: float = 0.0  # horizontal
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0  # jitter: factors from 1 - value..1 + value
    contrast: float = 0.0
    saturation: float = 0.0  # no effect on grey
    hue: float = 0.0  # no effect on grey
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    blur: float = 0.0  # probability of a 3 x 3 Gaussian
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    posterize: float = 0.0  # probability
    posterize_bits: int = 4
    erasing: float = 0.0  # probability
    erasing_area: tuple[float, float] = (0.02, 0.15)  # fraction of the image, erased to black
    erasing_ratio: tuple[float, float] = (0.3, 3.3)  # height / width

    def __post_init__(self) -> None:
        limits = dict.fromkeys((*_PROBABILITIES, "crop", "brightness", "contrast"), 1) | {"randaugment_magnitude": 30}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be between 0 and {limit}, got {getattr(self, name)}")


TEACHER = AugmentConfig(
    "teacher", crop=384 / 416, randaugment_operations=2, randaugment_magnitude=9, rotation=20, shear=15,
    scale=(0.85, 1.15), brightness=0.3, contrast=0.3, saturation=0.2, hue=0.05, horizontal_flip=0.5,
    vertical_flip=0.3, blur=0.2, posterize=0.2, posterize_bits=4, erasing=0.25, erasing_area=(0.02, 0.15),
)
STUDENT = AugmentConfig(
    "student", crop=384 / 416, randaugment_operations=2, randaugment_magnitude=7, rotation=15, brightness=0.2,
    contrast=0.2, saturation=0.2, horizontal_flip=0.5, erasing=0.2, erasing_area=(0.02, 0.10),
)
EVALUATION = AugmentConfig("evaluation")

# Steps in the paper's order: the fields that switch each on, those that only say how, and all of them in words.
_STEPS = {
    "crop": (("crop",), (), "a random window of {crop:.3f} of the side"),
    "randaugment": (("randaugment_operations",), ("randaugment_magnitude", "randaugment_space"),
                    "N = {randaugment_operations}, M = {randaugment_magnitude:g} of 30"),
    "rotation": (("rotation",), (), "±{rotation:g}°"),
    "shear": (("shear",), (), "±{shear:g}°"),
    "scale": (("scale",), (), "{scale[0]:g} to {scale[1]:g}"),
    "jitter": (("brightness", "contrast", "saturation", "hue"), (),
               "brightness {brightness:g}, contrast {contrast:g}, saturation {saturation:g}, hue {hue:g} "
               "(the last two do nothing to grey)"),
    "horizontal_flip": (("horizontal_flip",), (), "p = {horizontal_flip:g}"),
    "vertical_flip": (("vertical_flip",), (), "p = {vertical_flip:g}"),
    "blur": (("blur",), ("blur_sigma",),
             "p = {blur:g}, 3 x 3 Gaussian, sigma {blur_sigma[0]:g} to {blur_sigma[1]:g} px"),
    "posterize": (("posterize",), ("posterize_bits",), "p = {posterize:g}, {posterize_bits} bits"),
    "erasing": (("erasing",), ("erasing_area", "erasing_ratio"),
                "p = {erasing:g}, {erasing_area[0]:.0%} to {erasing_area[1]:.0%} of the area, black"),
}  # fmt: skip


def steps(config: AugmentConfig) -> tuple[str, ...]:
    """Names of the steps that the pipeline has switched on, in the paper's order."""
    neutral = vars(AugmentConfig(config.name))
    on = {name for name, value in vars(config).items() if value != neutral[name]}
    return tuple(step for step, (switches, _, _) in _STEPS.items() if on & set(switches))


def describe(config: AugmentConfig) -> list[tuple[str, str]]:
    """(step, its numbers) in the paper's order, from resize to normalize, for a table or a gallery."""
    listed = [(step, _STEPS[step][2].format(**vars(config))) for step in steps(config)]
    resize = "to 416/384 of the input side" if "crop" in steps(config) else "to the input side"
    return [("resize", resize), *listed, ("normalize", "ImageNet mean and standard deviation")]


def weakened(config: AugmentConfig, strength: float) -> AugmentConfig:
    """The same steps in the same order with every magnitude and probability times ``strength``, 0 to 1.

    For short trainings, which have no time to learn from the full pipeline. Horizontal flips, which change
    nothing that matters, keep their probability; erased areas and the number of operations stay too.
    """
    magnitudes = ("randaugment_magnitude", "rotation", "shear", "brightness", "contrast", "saturation", "hue")
    scaled = {name: strength * getattr(config, name) for name in (*magnitudes, *_PROBABILITIES)}
    scaled["horizontal_flip"] = config.horizontal_flip
    scaled["crop"] = 1 - strength * (1 - config.crop)
    scaled["scale"] = tuple(1 + strength * (bound - 1) for bound in config.scale)
    return replace(config, **scaled)


def only(config: AugmentConfig, step: str) -> AugmentConfig:
    """The same pipeline with one of its ``steps`` on, which then happens to every image: for looking at it.

    Its random numbers are those of the whole pipeline: an image turns by the same angle with and without the rest.
    """
    switches, details, _ = _STEPS[step]
    kept = {name: 1.0 if name in _PROBABILITIES else getattr(config, name) for name in switches + details}
    return AugmentConfig(f"{config.name}, {step} only", **kept)


# --- what each image draws -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What happens to each image of a batch; made by `draw`, used by `apply`. NumPy arrays, one row an image.

    Free of image sizes: geometry is in units of half a side, x to the right and y down, origin at the center.
    """

    window: float  # side of the crop, fraction of the stored side
    offset: np.ndarray  # (batch, 2): where the crop lies, x and y, 0..1 of the room there is
    matrix: np.ndarray  # (batch, 3, 3): from a place in the output to the place in the crop it is read from
    operations: np.ndarray  # (batch, slots): names from RANDAUGMENT_SPACE in the order they happen
    values: np.ndarray  # (batch, slots): in the units of RANDAUGMENT_SPACE
    blur_sigma: np.ndarray  # (batch,): pixels, 0 for none
    erasing: np.ndarray  # (batch, 4): area (0 for none), height / width, place x and y (0..1 of the room)

    def __len__(self) -> int:
        return len(self.offset)


def draw(config: AugmentConfig, indices: Tensor | np.ndarray | Sequence[int], seed: int, view: int) -> Draw:
    """Parameters for a batch. Those of an image depend on (config, seed, view, its index) and on nothing else.

    indices: (batch,) integers that name the scans in the whole dataset. view: for example the epoch.
    """
    indices = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    slots = range(config.randaugment_operations)
    names = (*_DRAWN, *(f"{kind}_{slot}" for slot in slots for kind in ("operation", "sign")))
    uniform = dict(zip(names, _uniforms(indices, seed, view, len(names)).T, strict=True))  # each (batch,)
    randaugment = [_draw_randaugment(config, uniform[f"operation_{k}"], uniform[f"sign_{k}"]) for k in slots]
    operations, values = zip(*randaugment, *_draw_intensity(config, uniform), strict=True)
    area = np.where(uniform["erasing"] < config.erasing, _between(uniform["erasing_area"], *config.erasing_area), 0.0)
    ratio = np.exp(_between(uniform["erasing_ratio"], *np.log(config.erasing_ratio)))
    return Draw(
        window=config.crop,
        offset=np.stack([uniform["crop_x"], uniform["crop_y"]], axis=1),
        matrix=_compose_geometry(config, uniform, randaugment),
        operations=np.stack(operations, axis=1),
        values=np.stack(values, axis=1),
        blur_sigma=np.where(uniform["blur"] < config.blur, _between(uniform["blur_sigma"], *config.blur_sigma), 0.0),
        erasing=np.stack([area, ratio, uniform["erasing_x"], uniform["erasing_y"]], axis=1),
    )


def affine(batch: int, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0) -> np.ndarray:
    """(batch, 3, 3) from entries that are numbers or (batch,)."""
    entries = (np.broadcast_to(entry, batch) for entry in (xx, xy, x, yx, yy, y, 0.0, 0.0, 1.0))
    return np.stack(list(entries), axis=1).reshape(batch, 3, 3)


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Inverse of a clockwise rotation; (batch,) to (batch, 3, 3)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return affine(len(degrees), xx=cos, xy=sin, yx=-sin, yy=cos)


# Every random number has its own place in the counter: new ones go to the end, so that old draws stay.
_DRAWN = (
    "crop_x", "crop_y", "rotation", "shear", "scale", "brightness", "contrast", "jitter_order", "horizontal_flip",
    "vertical_flip", "blur", "blur_sigma", "posterize", "erasing", "erasing_area", "erasing_ratio", "erasing_x",
    "erasing_y",
)


def _uniforms(indices: np.ndarray, seed: int, view: int, count: int) -> np.ndarray:
    """(batch, count) numbers in 0..1 from a hash of (seed, view, index, column): no state, no order."""
    state = np.zeros((1, 1), dtype=np.uint64)
    seed, view = (np.array([[number % 2**64]], np.uint64) for number in (seed, view))
    for word in (seed, view, indices[:, None].astype(np.uint64), np.arange(count, dtype=np.uint64)[None]):
        state = _mix(state ^ word)
    return (state >> np.uint64(32)) * 2.0**-32


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64: one step of its counter and its finalizer (Steele et al., OOPSLA 2014), on uint64 arrays."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniform


def _draw_randaugment(config: AugmentConfig, which: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One of the N operations: names and values, (batch,) each."""
    names = config.randaugment_space
    chosen = (which * len(names)).astype(int)
    neutral, change, signed = np.array([RANDAUGMENT_SPACE[name] for name in names])[chosen].T
    direction = np.where((signed > 0) & (sign < 0.5), -1.0, 1.0)
    return np.array(names)[chosen], neutral + direction * change * config.randaugment_magnitude / 30


def _draw_intensity(config: AugmentConfig, uniform: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Jitter, in an order drawn per image as torchvision's, then posterizing: (names, values) per slot."""
    limits = {"brightness": config.brightness, "contrast": config.contrast}
    names = [name if limit else "identity" for name, limit in limits.items()]
    values = [1 + _between(uniform[name], -limit, limit) for name, limit in limits.items()]
    first = uniform["jitter_order"] < 0.5
    posterized = uniform["posterize"] < config.posterize
    return [
        (np.where(first, *names), np.where(first, *values)),
        (np.where(first, *names[::-1]), np.where(first, *values[::-1])),
        (np.where(posterized, "posterize", "identity"), np.full(len(posterized), float(config.posterize_bits))),
    ]


def _compose_geometry(config: AugmentConfig, uniform: dict, randaugment: list) -> np.ndarray:
    """(batch, 3, 3): the product of the inverses, first step leftmost, as an output place is traced back."""
    batch = len(uniform["rotation"])
    matrix = affine(batch)
    moves = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    for operation, value in randaugment:
        rotate, shear_x, shear_y, translate_x, translate_y = (np.where(operation == name, value, 0.0) for name in moves)
        inverse = rotation(rotate)  # the identity for all others, whose entries can then be added
        inverse[:, 0, 1] += shear_x
        inverse[:, 1, 0] += shear_y
        inverse[:, :2, 2] -= 2 * np.stack([translate_x, translate_y], axis=1)  # a side is 2 units long
        matrix = matrix @ inverse
    matrix = matrix @ rotation(_between(uniform["rotation"], -config.rotation, config.rotation))
    scale = _between(uniform["scale"], *config.scale)
    slant = np.tan(np.radians(_between(uniform["shear"], -config.shear, config.shear)))
    matrix = matrix @ affine(batch, xx=1 / scale, xy=slant / scale, yy=1 / scale)
    flip_x = np.where(uniform["horizontal_flip"] < config.horizontal_flip, -1.0, 1.0)
    flip_y = np.where(uniform["vertical_flip"] < config.vertical_flip, -1.0, 1.0)
    return matrix @ affine(batch, xx=flip_x, yy=flip_y)
