"""The paper's augmentation pipelines as data: what each step is called, its numbers, their order.

`kdoct_utils.learn.augment` draws and applies them. Source: KD-OCT, arXiv 2512.09069, and the authors' public code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
        for name in (*_PROBABILITIES, "crop", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.randaugment_magnitude <= 30:
            raise ValueError(f"randaugment_magnitude must be between 0 and 30, got {self.randaugment_magnitude}")
        unknown = [name for name in self.randaugment_space if name not in RANDAUGMENT_SPACE]
        if unknown or not self.randaugment_space:
            raise ValueError(f"unknown RandAugment operations {unknown}; valid ones: {', '.join(RANDAUGMENT_SPACE)}")


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

# Steps in the paper's order: the fields that switch each on, and those that only say how.
_STEPS = {
    "crop": (("crop",), ()),
    "randaugment": (("randaugment_operations",), ("randaugment_magnitude", "randaugment_space")),
    "rotation": (("rotation",), ()),
    "shear": (("shear",), ()),
    "scale": (("scale",), ()),
    "jitter": (("brightness", "contrast", "saturation", "hue"), ()),
    "horizontal_flip": (("horizontal_flip",), ()),
    "vertical_flip": (("vertical_flip",), ()),
    "blur": (("blur",), ("blur_sigma",)),
    "posterize": (("posterize",), ("posterize_bits",)),
    "erasing": (("erasing",), ("erasing_area", "erasing_ratio")),
}
_NUMBERS = {
    "crop": "a random window of {crop:.3f} of the side",
    "randaugment": "N = {randaugment_operations}, M = {randaugment_magnitude:g} of 30",
    "rotation": "±{rotation:g}°",
    "shear": "±{shear:g}°",
    "scale": "{scale[0]:g} to {scale[1]:g}",
    "jitter": "brightness {brightness:g}, contrast {contrast:g}, saturation {saturation:g}, hue {hue:g} "
    "(the last two do nothing to grey)",
    "horizontal_flip": "p = {horizontal_flip:g}",
    "vertical_flip": "p = {vertical_flip:g}",
    "blur": "p = {blur:g}, 3 x 3 Gaussian, sigma {blur_sigma[0]:g} to {blur_sigma[1]:g} px",
    "posterize": "p = {posterize:g}, {posterize_bits} bits",
    "erasing": "p = {erasing:g}, {erasing_area[0]:.0%} to {erasing_area[1]:.0%} of the area, black",
}


def steps(config: AugmentConfig) -> tuple[str, ...]:
    """Names of the steps that the pipeline has switched on, in the paper's order."""
    neutral = AugmentConfig(config.name)
    return tuple(
        step
        for step, (switches, _) in _STEPS.items()
        if any(getattr(config, name) != getattr(neutral, name) for name in switches)
    )


def describe(config: AugmentConfig) -> list[tuple[str, str]]:
    """(step, its numbers) in the paper's order, from resize to normalize, for a table or a gallery."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    listed = [(step, _NUMBERS[step].format(**values)) for step in steps(config)]
    resize = "to 416/384 of the input side" if "crop" in steps(config) else "to the input side"
    return [("resize", resize), *listed, ("normalize", "ImageNet mean and standard deviation")]


def weakened(config: AugmentConfig, strength: float) -> AugmentConfig:
    """The same steps in the same order with every magnitude and probability times ``strength``, 0 to 1.

    For short trainings, which have no time to learn from the full pipeline. Horizontal flips, which change
    nothing that matters, keep their probability; erased areas and the number of operations stay too.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be between 0 and 1, got {strength}")
    magnitudes = ("randaugment_magnitude", "rotation", "shear", "brightness", "contrast", "saturation", "hue")
    scaled = {name: strength * getattr(config, name) for name in (*magnitudes, *_PROBABILITIES)}
    scaled["horizontal_flip"] = config.horizontal_flip
    scaled["crop"] = 1 - strength * (1 - config.crop)
    scaled["scale"] = tuple(1 + strength * (bound - 1) for bound in config.scale)
    return replace(config, **scaled)


def only(config: AugmentConfig, step: str) -> AugmentConfig:
    """The same pipeline with a single step on, which then happens to every image: for looking at it.

    Its random numbers are those of the whole pipeline: an image turns by the same angle with and without the rest.

    Raises ValueError, with the steps that the pipeline has, for any other.
    """
    if step not in steps(config):
        raise ValueError(f"no step {step!r} in {config.name!r}; its steps: {', '.join(steps(config)) or 'none'}")
    switches, details = _STEPS[step]
    kept = {name: 1.0 if name in _PROBABILITIES else getattr(config, name) for name in switches + details}
    return AugmentConfig(f"{config.name}, {step} only", **kept)
