"""The arms of the ablations: one table that says what each changes, and what it is held against.

An arm is one way of training (or of testing) a network. It differs from the paper's recipe, as the profile has it, in
what ``changes`` lists and in nothing else. `kdoct_utils.lab.training` trains them, `kdoct_utils.lab.experiments`
compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from kdoct_utils.profiles import Profile

OBJECTIVES = ("kd", "labels", "focal", "dkd", "dist", "mixup", "one_sided")
ANSWERS = ("view", "scan", "permuted")
AUGMENTATIONS = ("student", "light", "heavy")
TEACHERS = ("course", "noisy", "cross_entropy", "weak", "middling", "blind")
SCANS = ("train", "clinic")
LABELED_BY = ("scan", "patient", "nobody")
STARTS = ("profile", "none", "phantom")
STUDENTS = ("profile", "lite")
WEIGHTS = ("average", "best")
NETWORKS = ("student", "teacher")


@dataclass(frozen=True)
class StudentRecipe:
    """How a student is trained. The defaults are KD-OCT's: a live teacher, the profile's temperature and alpha.

    objective: "kd"; "labels" (cross-entropy) or "focal" without a teacher; "dkd", "dist"; "mixup" (same blend to both,
    no labels); "one_sided" (kd, where only the teacher is softened: a known error).
    temperature, alpha: None for the profile's. class_weights: of "labels" and "focal". smoothing: of "labels".
    scans: the run's training scans, or those of a second "clinic" (phantoms only), with the last epoch's weights, for
    nobody there has clean labels to choose by. labeled_by: each scan has the label that it shows, its patient's
    diagnosis, or none. patients: that many labeled patients of each class, repeated to as many steps; 0 for all.
    answers: the teacher's to the very "view" that the student sees, to the plain "scan", or "permuted" among the scans
    of one label. views: that many views repeat; 0 for new ones in every epoch. augmentation: "student", "light" (LIGHT
    of its strength) or "heavy" (the paper's teacher's). noise: share of the training labels that are wrong. rare: share
    of RARE_CLASS's training patients that stay, 0 for all.
    teacher: the run's ("course"), or one of TEACHERS_OF. start: the profile's weights, "none", or "phantom"
    (pre-trained on layers of other phantoms). effort: epochs, as a multiple of the profile's. student: the profile's,
    or its "lite" one, made for 8-bit integers.
    """

    objective: str = "kd"
    temperature: float | None = None
    alpha: float | None = None
    class_weights: bool = False
    smoothing: float = 0.0
    scans: str = "train"
    labeled_by: str = "scan"
    patients: int = 0
    answers: str = "view"
    views: int = 0
    augmentation: str = "student"
    noise: float = 0.0
    rare: float = 0.0
    teacher: str = "course"
    start: str = "profile"
    effort: float = 1.0
    student: str = "profile"

    def __post_init__(self) -> None:
        _check_choices(self, objective=OBJECTIVES, answers=ANSWERS, augmentation=AUGMENTATIONS, teacher=TEACHERS)
        _check_choices(self, start=STARTS, scans=SCANS, labeled_by=LABELED_BY, student=STUDENTS)
        if self.student == "lite" and self.start == "phantom":
            raise ValueError("backbones are pre-trained for the profile's student, not for its lite one")
        if not self.can_be_kept and (self.views or self.answers != "view"):
            raise ValueError("repeated views, answers to plain scans and permuted ones need usual views and epochs")

    @property
    def asks_teacher(self) -> bool:
        return self.objective not in ("labels", "focal")

    @property
    def can_be_kept(self) -> bool:
        """Whether answers computed beforehand can serve: then they are shared by all arms of a seed."""
        usual = self.augmentation == "student" and self.teacher != "noisy" and self.effort == 1
        return usual and self.asks_teacher and self.objective != "mixup"


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher is trained, in a part of the profile's epochs: with every seed a teacher, a whole one is dear.

    gamma: of the focal loss, None for the profile's, 0 for cross-entropy. start: the profile's weights or "none".
    weights: those tested, the "average" (SWA) or the "best" epoch of the same training. noise: share of the training
    labels that are wrong. patients: of each class, 0 for all. unseen: a class whose scans are left out, "" for none.
    effort: epochs, as a multiple of the profile's.
    """

    gamma: float | None = None
    start: str = "profile"
    weights: str = "average"
    noise: float = 0.0
    patients: int = 0
    unseen: str = ""
    effort: float = 0.25

    def __post_init__(self) -> None:
        _check_choices(self, start=("profile", "none"), weights=WEIGHTS)


RECIPES = {"student": StudentRecipe, "teacher": TeacherRecipe}


@dataclass(frozen=True)
class Arm:
    """One arm. name: in predictions.csv. label: for readers. question: what it is there to answer.

    against: name of the arm that it is compared with, "" for a question's first arm. changes: fields of StudentRecipe
    or TeacherRecipe. test_views: the networks of ``against``, their logits averaged over the five test-time views.
    extra: left out unless asked for, because time is short. course: one of notebook 05's three students; its files lie
    in the run folder itself and bear its name, and its teacher is asked live.
    Raises ValueError for a network, field or value that is not valid, and for changes to networks of another arm.
    """

    name: str
    label: str
    question: str
    against: str = ""
    changes: Mapping[str, object] = field(default_factory=dict)
    network: str = "student"
    test_views: bool = False
    extra: bool = False
    course: bool = False

    def __post_init__(self) -> None:
        _check_choices(self, network=NETWORKS)
        if self.test_views and self.changes:
            raise ValueError(f"arm {self.name!r} tests the networks of {self.against!r}, so it changes nothing")
        valid = [one.name for one in fields(RECIPES[self.network])]
        for name in self.changes:
            if name not in valid:
                raise ValueError(f"arm {self.name!r} changes unknown {name!r}; valid: {', '.join(valid)}")
        _ = self.recipe  # its values are checked there

    @property
    def recipe(self) -> StudentRecipe | TeacherRecipe:
        return RECIPES[self.network](**self.changes)


def changed(recipe: StudentRecipe | TeacherRecipe) -> dict[str, object]:
    """What a training changes: fields that differ from the defaults. How it is tested is no change of the training."""
    usual = asdict(type(recipe)())
    return {key: value for key, value in asdict(recipe).items() if value != usual[key] and key != "weights"}


def _check_choices(record: object, **choices: tuple[str, ...]) -> None:
    for name, valid in choices.items():
        value = getattr(record, name)
        if value not in valid:
            raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")


# --- the table -------------------------------------------------------------------------------------------------------

LIGHT = 0.3  # strength of the "light" student augmentation, 1 is the paper's
NOISE = 0.3  # share of wrong labels
RARE, RARE_CLASS = 0.1, "drusen"  # share of its patients that stay
FEW_PATIENTS = 8  # labeled ones of each class
PATIENCE = 2.0  # epochs of the long arms, as a multiple of the profile's: far from the thousands of Beyer et al.

_LABELS, _NOISY = {"objective": "labels"}, {"noise": NOISE}
_CLINIC = {"scans": "clinic", "labeled_by": "patient"}
_POOL = {"scans": "clinic", "labeled_by": "nobody", "alpha": 1.0}
_BUDGET, _FAIR = "How long may a student train?", "Is it the teacher, or what comes with it?"
_TEACHER = "How good must the teacher be?"
_RARE = "What helps a rare class?"
_FROM_NOTHING = "Do the start weights matter?"
_TABLE = (
    Arm("student_alone", "labels alone", "Does a teacher help?", changes=_LABELS, course=True),
    Arm("student_kd", "KD, live teacher", "Does a teacher help?", "student_alone", course=True),
    Arm("student_cached", "answers to plain scans", "Must the teacher be live?", "student_kd", {"answers": "scan"},
        course=True),
    Arm("clinic_alone", "patients' labels alone", "Patients' labels at a second clinic",
        changes=_LABELS | _CLINIC),
    Arm("clinic_kd", "patients' labels, KD", "Patients' labels at a second clinic", "clinic_alone", _CLINIC),
    Arm("clinic_permuted", "patients' labels, permuted answers", "Patients' labels at a second clinic", "clinic_kd",
        _CLINIC | {"answers": "permuted"}, extra=True),
    Arm("pool_alone", "few labels alone", "Few labels and a pool",
        changes=_LABELS | {"scans": "clinic", "patients": FEW_PATIENTS}),
    Arm("pool_kd", "pool without labels, KD", "Few labels and a pool", "pool_alone", _POOL),
    Arm("pool_permuted", "pool, permuted answers", "Few labels and a pool", "pool_kd",
        _POOL | {"answers": "permuted"}, extra=True),
    Arm("kd_permuted", "KD, permuted answers", _FAIR, "student_kd", {"answers": "permuted"}),
    Arm("alone_weighted", "labels alone, class weights", _FAIR, "student_alone", _LABELS | {"class_weights": True}),
    Arm("alone_smoothed", "labels alone, smoothed", _FAIR, "student_alone", _LABELS | {"smoothing": 0.1}),
    Arm("alone_equal_seconds", "labels alone, as many seconds", _FAIR, "student_alone", _LABELS | {"effort": 1.3}),
    Arm("alone_half_longer", "labels alone, 1.5 times the epochs", _FAIR, "student_alone", _LABELS | {"effort": 1.5},
        extra=True),
    Arm("kd_alpha_1", "KD, α = 1", _FAIR, "student_kd", {"alpha": 1.0}),
    Arm("kd_cross_entropy_teacher", "KD, teacher by cross-entropy", _TEACHER, "student_kd",
        {"teacher": "cross_entropy"}),
    Arm("kd_weak_teacher", "KD, weak teacher", _TEACHER, "student_kd", {"teacher": "weak"}),
    Arm("kd_middling_teacher", "KD, middling teacher", _TEACHER, "student_kd", {"teacher": "middling"}),
    Arm("kd_blind_teacher", "KD, teacher never saw drusen", _TEACHER, "student_kd", {"teacher": "blind"}),
    Arm("alone_short", "labels alone, short", _BUDGET, "student_alone", _LABELS | {"effort": 0.3}),
    Arm("kd_short", "KD, short", _BUDGET, "alone_short", {"effort": 0.3}),
    Arm("kd_one_sided", "KD, T on the teacher only", "Which temperature?", "student_kd", {"objective": "one_sided"}),
    Arm("kd_views_1", "1 view, replayed", "Must the teacher be live?", "student_kd", {"views": 1}),
    Arm("kd_views_4", "4 views, replayed", "Must the teacher be live?", "student_kd", {"views": 4}),
    *(
        Arm(f"kd_temperature_{t}", f"T = {t}", "Which temperature?", "student_kd", {"temperature": float(t)})
        for t in (1, 2, 6, 20)
    ),
    *(
        Arm(f"kd_cross_entropy_teacher_{t}", f"KD, teacher by cross-entropy, T = {t}", "Which temperature?",
            "kd_cross_entropy_teacher", {"teacher": "cross_entropy", "temperature": float(t)}, extra=True)
        for t in (1, 2, 20)
    ),
    *(Arm(f"kd_alpha_{a}", f"α = {a}", "Which α?", "student_kd", {"alpha": a}) for a in (0.5, 0.9)),
    Arm("alone_focal", "labels alone, focal loss", "Focal loss or cross-entropy?", "student_alone",
        {"objective": "focal"}, extra=True),
    *(
        Arm(f"{start}_{strength}", f"{label}, {strength} views", "How strong an augmentation?", f"student_{start}",
            changes | {"augmentation": strength}, extra=start == "kd")
        for start, label, changes in (("alone", "labels alone", _LABELS), ("kd", "KD", {}))
        for strength in ("light", "heavy")
    ),
    Arm("noisy_alone", "wrong labels, alone", "What do wrong labels do?", "student_alone", _LABELS | _NOISY),
    Arm("noisy_focal", "wrong labels, focal loss", "What do wrong labels do?", "noisy_alone",
        {"objective": "focal"} | _NOISY),
    Arm("noisy_kd", "wrong labels, to teacher and student", "What do wrong labels do?", "noisy_alone",
        {"teacher": "noisy"} | _NOISY),
    Arm("noisy_kd_right_teacher", "wrong labels, teacher had right ones", "What do wrong labels do?", "noisy_alone",
        _NOISY, extra=True),
    Arm("rare_alone", "a rare class", _RARE, "student_alone", _LABELS | {"rare": RARE}),
    Arm("rare_weighted", "a rare class, class weights", _RARE, "rare_alone",
        _LABELS | {"rare": RARE, "class_weights": True}),
    Arm("rare_focal", "a rare class, focal loss", _RARE, "rare_alone", {"objective": "focal", "rare": RARE}),
    Arm("rare_weighted_focal", "a rare class, weights and focal loss", _RARE, "rare_weighted",
        {"objective": "focal", "rare": RARE, "class_weights": True}),
    Arm("alone_pretrained", "labels alone, pre-trained", _FROM_NOTHING, "student_alone",
        _LABELS | {"start": "phantom"}),
    Arm("kd_pretrained", "KD, pre-trained", _FROM_NOTHING, "alone_pretrained", {"start": "phantom"}),
    Arm("alone_scratch", "labels alone, from scratch", _FROM_NOTHING, "student_alone", _LABELS | {"start": "none"}),
    Arm("kd_scratch", "KD, from scratch", _FROM_NOTHING, "alone_scratch", {"start": "none"}),
    Arm("kd_test_views", "KD, five test-time views", "Test-time augmentation?", "student_kd", test_views=True),
    Arm("kd_lite", "KD, student made for integers", "Which student survives 8 bits?", "student_kd", {"student": "lite"},
        extra=True),
    Arm("kd_decoupled", "DKD", "Is there a better loss?", "student_kd", {"objective": "dkd"}),
    Arm("kd_relations", "DIST", "Is there a better loss?", "student_kd", {"objective": "dist", "temperature": 1.0}),
    Arm("kd_mixup", "same view and mixup, no labels", "Patient and consistent?", "student_kd", {"objective": "mixup"}),
    Arm("alone_longer", "labels alone, longer", "Patient and consistent?", "student_alone",
        _LABELS | {"effort": PATIENCE}),
    Arm("kd_longer", "KD, longer", "Patient and consistent?", "alone_longer", {"effort": PATIENCE}),
    Arm("kd_mixup_longer", "same view and mixup, longer", "Patient and consistent?", "kd_longer",
        {"objective": "mixup", "effort": PATIENCE}),
    Arm("teacher_average", "teacher, SWA", "SWA or none?", network="teacher"),
    Arm("teacher_best", "teacher, best epoch", "SWA or none?", "teacher_average", {"weights": "best"}, "teacher"),
    Arm("teacher_cross_entropy", "teacher, cross-entropy", "Focal loss or cross-entropy?", "teacher_average",
        {"gamma": 0.0}, "teacher"),
    Arm("teacher_scratch", "teacher, from scratch", _FROM_NOTHING, "teacher_average", {"start": "none"}, "teacher"),
)  # fmt: skip
ARMS = {arm.name: arm for arm in _TABLE}


TEACHERS_OF = {
    name: Arm(f"teacher_{name}", f"teacher, {label}", "", network="teacher", changes=changes)
    for name, label, changes in (
        ("noisy", "wrong labels", _NOISY), ("cross_entropy", "cross-entropy", {"gamma": 0.0, "effort": 1.0}),
        ("weak", "few patients", {"patients": FEW_PATIENTS, "effort": 1.0}),
        ("middling", "some patients", {"patients": 3 * FEW_PATIENTS, "effort": 1.0}),
        ("blind", "without drusen", {"unseen": "drusen"}),
    )
}  # fmt: skip


def find_arm(arm: str | Arm) -> Arm:
    """The arm of that name, or the arm itself. Raises ValueError, with the valid names, for any other name."""
    if isinstance(arm, str) and arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}; valid arms: {', '.join(ARMS)}")
    return ARMS[arm] if isinstance(arm, str) else arm


def arms_for(profile: Profile, extra: bool = False, clinic: bool = True) -> list[Arm]:
    """The arms that make sense in a profile, in the order of the table; with ``extra`` also those that cost more.

    clinic: whether the data have a second clinic, as phantoms do. Pre-trained arms are for profiles whose student
    starts from nothing, arms from scratch for the others.
    """
    imagenet, bare = profile.start_weights == "imagenet", profile.start_weights == "none"

    def fits(arm: Arm) -> bool:
        if arm.network == "teacher":
            return not (bare and arm.recipe.start == "none")
        if arm.recipe.scans == "clinic" and not clinic:
            return False
        return arm.recipe.start == "profile" or (arm.recipe.start == "none") == imagenet

    return [arm for arm in _TABLE if fits(arm) and (extra or not arm.extra)]


FEW = ("student_alone", "student_kd", "student_cached", "kd_alpha_0.5", "kd_test_views")
CORE = (*FEW, "teacher_average", "teacher_best", "teacher_cross_entropy", "kd_views_1", "kd_views_4",
        "kd_temperature_2", "kd_temperature_6", "kd_alpha_0.9", "alone_light", "alone_heavy", "noisy_alone",
        "noisy_focal", "noisy_kd", "kd_decoupled", "kd_relations")  # fmt: skip
SETS = ("few", "core", "all")


def choose_arms(profile: Profile, wanted: str, clinic: bool = True) -> list[Arm]:
    """The arms of a set ("few", "core" or "all"), or those named with commas between, in the order of the table.

    The arms that they are held against come along. clinic: as in `arms_for`. Raises ValueError for a name that is not
    valid in the profile.
    """
    valid = {arm.name: arm for arm in arms_for(profile, True, clinic)}
    names = {"few": FEW, "core": CORE, "all": tuple(valid)}.get(wanted, tuple(wanted.replace(" ", "").split(",")))
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise ValueError(f"unknown arm {unknown[0]!r}; valid: {', '.join(SETS)}, or of {', '.join(valid)}")
    chosen: set[str] = set()
    for name in names:
        while name and name not in chosen:
            chosen.add(name)
            name = valid[name].against
    return [arm for arm in valid.values() if arm.name in chosen]
