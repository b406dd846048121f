"""The four sizes of the course: every hyper-parameter has its one home here.

Everything that a profile does not have to change is the paper's
(Nourbakhsh et al., KD-OCT, arXiv 2512.09069).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, get_args

from annotated_types import Ge, Gt, Le, Lt

# The order of the classes is fixed once, here: readers map their own order to it.
CLASS_NAMES = ("normal", "drusen", "cnv", "dme")


@dataclass(frozen=True)
class ModelConfig:
    """One network, built by timm.

    architecture: a name that ``timm.list_models`` knows (the course registers three small ones).
    options: keyword arguments for ``timm.create_model``, such as depths and widths.
    pretrained_tag: timm's tag of the ImageNet weights, None where there are none.
    """

    architecture: str
    dropout: float
    drop_path: float = 0.0
    options: dict = field(default_factory=dict)
    pretrained_tag: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Epoch counts are at most; learning rates are per optimiser step."""

    epochs: int
    batch_size: int  # B-scans a forward pass
    accumulation: int  # forward passes an optimiser step
    learning_rate: float  # head (and everything, where backbone_learning_rate is None)
    backbone_learning_rate: float | None
    weight_decay: float
    warmup_epochs: float
    minimum_learning_rate: float  # floor of the cosine, for the head; scaled for other groups
    patience: int  # epochs without a better validation score
    frozen_epochs: int  # backbone held still at first
    select_on: str  # "loss" or "accuracy" of the validation scans; "last" keeps the end of the schedule
    swa_learning_rate: float | None = None  # None: no weight averaging
    swa_start: float = 0.75  # fraction of the schedule
    gradient_clip: float = 1.0  # largest gradient norm
    precision: str = "no"  # Accelerate's mixed_precision: "no", "bf16" or "fp16"
    threads: int | None = None  # of the processor; None: as many as torch likes. Small networks are best off with one
    fast: bool = False  # for long trainings: a live teacher in bfloat16, and on a GPU both networks compiled


@dataclass(frozen=True)
class Profile:
    """One size of the course, from a test on a laptop to the paper."""

    name: str
    purpose: str
    datasets: tuple[str, ...]  # what it is meant for; others are allowed
    image_size: int  # pixels, the square that the networks see
    channels: int  # 1: grey; 3: grey repeated, as ImageNet weights expect
    crop_to_band: bool  # small inputs crop to the retina first; the paper resizes the frame
    phantom_patients: int  # per class
    phantom_slices: int  # B-scans a patient
    phantom_test_patients: int  # per class, beyond the folds: they only test
    teacher: ModelConfig
    student: ModelConfig
    lite_student: ModelConfig  # of about its size, made for 8-bit integers: ReLU6, no squeeze-and-excitation
    start_weights: str  # "none", "phantom" or "imagenet"
    teacher_training: TrainingConfig
    student_training: TrainingConfig
    memory_gb: float  # what a run needs, host or GPU, whichever is larger
    seeds: int = 3  # repeats of every experiment
    gamma: float = 2.0  # focal loss
    temperature: float = 4.0  # distillation
    alpha: float = 0.7  # weight of the soft-label term; the rest is cross-entropy
    teacher_augmentation: float = 1.0  # strength of the teacher's pipeline, 1 is the paper's
    student_augmentation: float = 1.0  # strength of the student's, on whose views a live teacher is asked
    departs_from_paper: str = ""  # what time forbids, for the table

    @property
    def resize_size(self) -> int:
        """Side that scans are stored at: the paper resizes to 416 and crops 384."""
        return round(self.image_size * 416 / 384)

    @property
    def needs_gpu(self) -> bool:
        """What trains in mixed precision is meant for a GPU."""
        return self.teacher_training.precision != "no"


START_WEIGHTS = ("none", "phantom", "imagenet")

PAPER_TEACHER_TRAINING = TrainingConfig(
    epochs=150,
    batch_size=4,
    accumulation=4,
    learning_rate=1e-4,
    backbone_learning_rate=2e-5,
    weight_decay=0.05,
    warmup_epochs=10,
    minimum_learning_rate=1e-7,
    patience=25,
    frozen_epochs=5,
    select_on="loss",
    swa_learning_rate=1e-5,
    precision="bf16",
    fast=True,
)
PAPER_STUDENT_TRAINING = TrainingConfig(
    epochs=100,
    batch_size=8,
    accumulation=2,
    learning_rate=1e-3,
    backbone_learning_rate=None,
    weight_decay=0.01,
    warmup_epochs=5,
    minimum_learning_rate=1e-6,
    patience=20,
    frozen_epochs=0,
    select_on="accuracy",
    precision="bf16",
    fast=True,
)

# A processor trains small networks: plain batches, in float32, with one thread.
_ON_CPU = {"batch_size": 32, "accumulation": 1, "precision": "no", "fast": False, "threads": 1}
_ON_SMALL_GPU = {"epochs": 30, "batch_size": 16, "accumulation": 1, "patience": 8, "precision": "fp16"}

QUICK_TEACHER = ModelConfig(
    "convnextv2_atto",
    dropout=0.3,
    drop_path=0.1,
    options={"depths": (1, 1, 3, 1), "dims": (24, 48, 96, 192), "stem_type": "overlap_tiered"},
)

PROFILES = {
    "smoke": Profile(
        name="smoke",
        purpose="tests: every cell runs, nothing is learned",
        datasets=("phantom",),
        image_size=32,
        channels=1,
        crop_to_band=True,
        phantom_patients=10,
        phantom_slices=4,
        phantom_test_patients=8,
        teacher=ModelConfig(
            "convnextv2_atto",
            dropout=0.3,
            options={"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
        ),
        student=ModelConfig("efficientnet_course_tiny", dropout=0.3),
        lite_student=ModelConfig("efficientnet_course_lite", dropout=0.3),
        start_weights="none",
        teacher_training=replace(
            PAPER_TEACHER_TRAINING,
            epochs=2,
            learning_rate=1e-3,
            backbone_learning_rate=1e-3,
            warmup_epochs=0.5,
            frozen_epochs=0,
            swa_start=0.5,
            swa_learning_rate=1e-4,
            **_ON_CPU,
        ),
        student_training=replace(PAPER_STUDENT_TRAINING, epochs=1, warmup_epochs=0.2, **_ON_CPU),
        memory_gb=1.0,
        seeds=2,
        departs_from_paper="tiny networks, 32 px, one or two epochs: a test of the plumbing",
    ),
    "quick": Profile(
        name="quick",
        purpose="a laptop or Binder: the whole story on phantoms in ten minutes",
        datasets=("phantom",),
        image_size=64,
        channels=1,
        crop_to_band=True,
        phantom_patients=150,
        phantom_slices=5,
        phantom_test_patients=400,
        teacher=QUICK_TEACHER,
        student=ModelConfig("efficientnet_course_small", dropout=0.3),
        lite_student=ModelConfig("efficientnet_course_lite", dropout=0.3),
        start_weights="phantom",
        teacher_training=replace(
            PAPER_TEACHER_TRAINING,
            epochs=60,
            learning_rate=1e-3,
            backbone_learning_rate=5e-4,
            warmup_epochs=1,
            minimum_learning_rate=1e-6,
            frozen_epochs=1,
            swa_learning_rate=2e-4,
            **_ON_CPU,
        ),
        student_training=replace(
            PAPER_STUDENT_TRAINING, epochs=10, learning_rate=2e-3, warmup_epochs=0.5, patience=10, **_ON_CPU
        ),
        memory_gb=1.5,
        teacher_augmentation=0.4,  # the full pipeline wants the paper's 150 epochs
        student_augmentation=0.4,  # the teacher is asked about views such as it was trained on
        departs_from_paper="small networks of the same families, 64 px retina band, few epochs at larger learning "
        "rates, the teacher's augmentation at 0.4 of its strength",
    ),
    "colab": Profile(
        name="colab",
        purpose="one small GPU: real networks at 224 px",
        datasets=("neh", "ucsd", "octmnist", "phantom"),
        image_size=224,
        channels=3,
        crop_to_band=True,
        phantom_patients=100,
        phantom_slices=12,
        phantom_test_patients=100,
        teacher=ModelConfig("convnextv2_tiny", dropout=0.3, drop_path=0.2, pretrained_tag="fcmae_ft_in22k_in1k"),
        student=ModelConfig("efficientnet_b0", dropout=0.3, pretrained_tag="ra_in1k"),
        lite_student=ModelConfig("efficientnet_lite0", dropout=0.3, pretrained_tag="ra_in1k"),
        start_weights="imagenet",
        teacher_training=replace(PAPER_TEACHER_TRAINING, warmup_epochs=3, frozen_epochs=2, **_ON_SMALL_GPU),
        student_training=replace(PAPER_STUDENT_TRAINING, warmup_epochs=2, **_ON_SMALL_GPU),
        memory_gb=8.0,
        departs_from_paper="smaller networks of the same families, 224 px, 30 epochs",
    ),
    "paper": Profile(
        name="paper",
        purpose="NEH or UCSD on a large GPU: the published recipe",
        datasets=("neh", "ucsd"),
        image_size=384,
        channels=3,
        crop_to_band=False,
        phantom_patients=150,
        phantom_slices=19,
        phantom_test_patients=50,
        teacher=ModelConfig("convnextv2_large", dropout=0.3, drop_path=0.3, pretrained_tag="fcmae_ft_in22k_in1k"),
        student=ModelConfig("efficientnet_b2", dropout=0.3, pretrained_tag="ra_in1k"),
        lite_student=ModelConfig("tf_efficientnet_lite2", dropout=0.3, pretrained_tag="in1k"),
        start_weights="imagenet",
        teacher_training=PAPER_TEACHER_TRAINING,
        student_training=PAPER_STUDENT_TRAINING,
        memory_gb=24.0,
    ),
}


def get_profile(name: str) -> Profile:
    """The profile of that name. Raises ValueError, with the valid names, for any other."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; valid profiles: {', '.join(PROFILES)}")
    return PROFILES[name]


# What a number given to a notebook, a sweep or an arm may be, and what it is. None of them may be inf or nan.
PARAMETERS = {
    "seed": Annotated[int, Ge(0), Lt(2**32), "decides phantoms, split, start weights and draws"],
    "fold": Annotated[int, Ge(0), Le(4), "whose test patients are tested"],
    "temperature": Annotated[float, Gt(0), "flattens the answers of teacher and student before they are compared"],
    "alpha": Annotated[float, Ge(0), Le(1), "weight of the soft-label term; the rest is cross-entropy"],
    "gamma": Annotated[float, Ge(0), "how strongly focal loss looks away from easy scans; 0 is cross-entropy"],
    "repeats": Annotated[int, Ge(3), "how often each kind of split is drawn anew"],
    "largest": Annotated[int, Ge(100), "B-scans at most in the experiment on splits"],
    "gate": Annotated[float, Ge(0), Le(1), "validation accuracy that a teacher needs before it may teach"],
    "snapshot_epochs": Annotated[int, Ge(3), "short extra epochs for the experiment on averaging"],
    "snapshot_scans": Annotated[int, Ge(1), "training scans in each of these epochs, at most"],
    "plane_side": Annotated[int, Ge(2), "places along each side of the picture of the loss"],
    "probe_scans": Annotated[int, Ge(1), "training scans for the probe of the start weights, at most"],
    "calibration_scans": Annotated[int, Ge(1), "training scans that set the ranges of the 8-bit tensors, at most"],
    "latency_runs": Annotated[int, Ge(1), "timed calls a format in each turn"],
    "wanted_sensitivity": Annotated[float, Ge(0), Le(1), "of the threshold that is chosen on validation patients"],
    "jobs": Annotated[int, Ge(1), "trainings at a time"],
}
_IN_WORDS = {Ge: "at least {0.ge}", Gt: "above {0.gt}", Le: "at most {0.le}", Lt: "below {0.lt}"}


def check_parameter(name: str, value: object, kind: object = None) -> object:
    """``value`` as the type of the parameter ``name``, within its range; text is read as that type.

    kind: the type, for a parameter that ``PARAMETERS`` does not hold; where None belongs to it, "none" is read as None.
    Raises ValueError, with the valid range, for a value that does not fit: 1.5 is no int, 2 is no alpha, nan no number.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    kind = PARAMETERS[name] if kind is None else kind
    given = value.item() if hasattr(value, "item") else value  # one number of numpy's
    if isinstance(given, str) and given.lower() == "none" and type(None) in get_args(kind):
        given = None
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_python(given, strict=not isinstance(given, str))
    except ValidationError:
        raise ValueError(f"parameter {name!r} takes {_parameter_text(kind)}, not {value!r}") from None


def _parameter_text(kind: object) -> str:
    """ "float, at least 0 and at most 1 (weight of the soft-label term)"."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind):
        return f"{_parameter_text(parts[0])} or none"
    if not hasattr(kind, "__metadata__"):
        return kind.__name__
    *bounds, meaning = kind.__metadata__
    limits = " and ".join(_IN_WORDS[type(bound)].format(bound) for bound in bounds)
    return f"{kind.__origin__.__name__}, {limits} ({meaning})"
