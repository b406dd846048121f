"""Networks of a run on another dataset: another scanner, another clinic, over the classes that both have.

Nothing is trained: all scans of the other dataset are test scans. A network that knows further classes is only asked
for the shared ones: the softmax is taken over their logits alone, on the run's own test patients too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from kdoct_utils.data.images import ScanError
from kdoct_utils.datasets import DATASETS, PHANTOMS
from kdoct_utils.judge.metrics import evaluate_networks, hits, paired_difference, unpaired_difference
from kdoct_utils.lab import reading
from kdoct_utils.lab.stages import CourseData
from kdoct_utils.learn.inference import ScanImages, predict_logits
from kdoct_utils.runs import RunError, RunFolder

AUTO = "auto"
PHANTOM_PATIENTS = 60  # of each class, at most
SAME_EYES = ({"ucsd", "octmnist"},)  # OCTMNIST is made of UCSD's scans: patients of one were trained on in the other


@dataclass(frozen=True)
class SharedScans:
    """Test scans of the classes that a run and another dataset share.

    dataset: where they are from. class_names: shared, in the run's order; columns: (shared,) their places among the
    run's classes. images: uint8 (m, R, R); rows: (n,) where the scans are in it. target: (n,) indexes class_names.
    groups: (n,) the independent patients. Of another dataset also left_out: reason -> number of scans, and provenance:
    its record as it was read.
    """

    dataset: str
    class_names: tuple[str, ...]
    columns: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    target: np.ndarray
    groups: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)


def choose_other(run: RunFolder, dataset: str = AUTO, data_root: str | Path | None = "") -> str:
    """The name of the other dataset, "" for none: what a notebook's parameters ask for, checked before any work.

    "auto" is the other kind of phantom where the run itself is on phantoms, and none where it is on real scans, of
    which phantoms would say nothing. Raises RunError for an unknown dataset, the run's own or one with the same
    patients, and for a data_root that is missing, superfluous or not there.
    """
    if dataset == AUTO and run.dataset in PHANTOMS and not data_root:
        return next(name for name in PHANTOMS if name != run.dataset)
    if dataset in (AUTO, ""):
        if data_root:
            raise RunError(f"other_data_root is {data_root}, but other_dataset is {dataset!r}; say which dataset it is")
        return ""
    if dataset not in DATASETS:
        raise RunError(f"unknown other dataset {dataset!r}; valid: {AUTO}, {', '.join(DATASETS)}, or '' for none")
    if bool(data_root) == (dataset in PHANTOMS):
        layout = DATASETS[dataset].layout
        wanted = "must be empty, phantoms are drawn" if data_root else f"is needed; expected there: {layout}"
        raise RunError(f"other dataset {dataset}: other_data_root {wanted}")
    root = Path(data_root).expanduser().resolve() if data_root else None
    if root is not None and not root.exists():
        raise RunError(f"other dataset {dataset}: there is no {data_root}")
    if dataset == run.dataset and (dataset != "csv" or root == run.data_root):
        raise RunError(f"the other dataset is the run's own, {dataset}: its patients may have been trained on")
    if {dataset, run.dataset} in SAME_EYES:
        raise RunError(f"{dataset} and {run.dataset} hold scans of the same patients: neither can test the other")
    return dataset


def other_data(
    run: RunFolder,
    data: CourseData,
    dataset: str,
    data_root: str | Path | None = "",
    progress: bool = True,
) -> SharedScans:
    """All scans of another dataset that have a class of the run's, as pictures of the run's size.

    dataset, data_root: as in `choose_other`. It is read as the run's own is, so that the worst-case filter holds for
    both. Phantoms, at most PHANTOM_PATIENTS of a class, are kept in the run folder.
    Patients with an image that the run has too are left out: they may have been trained on.
    Raises RunError as `choose_other`; ScanError for faults in the data, or fewer than two shared classes.
    """
    dataset = choose_other(run, dataset, data_root)
    if not dataset:
        raise RunError("no other dataset is named")
    theirs = replace(
        run, path=run.path / f"other_{dataset}", dataset=dataset, shared=None,
        data_root=Path(data_root).expanduser().resolve() if data_root else None,
        profile=replace(run.profile, phantom_patients=min(PHANTOM_PATIENTS, run.profile.phantom_patients)),
    )  # fmt: skip
    if dataset in PHANTOMS:
        table, record = reading.kept_scans(theirs, progress)
        images = reading.kept_pictures(theirs, table, progress)
    else:
        table, images, record = reading.read_now(theirs, progress)
    known = table["image_hash"].isin(set(data.hashes.values()))
    known_patient = table["group"].isin(table.loc[known, "group"])
    new = table[~known_patient]
    counts = new["label"].value_counts()
    left_out = {"of patients with an image that the run has too": int(known_patient.sum())}
    left_out |= {f"of class {name}": int(n) for name, n in counts.items() if name not in data.class_names}
    shared = tuple(name for name in data.class_names if name in counts)
    if len(shared) < 2:
        raise ScanError(
            f"{dataset} and the run share {len(shared)} classes, two are needed; "
            f"the run: {', '.join(data.class_names)}; {dataset}: {', '.join(counts.index)}"
        )
    kept = new[new["label"].isin(shared)]
    return SharedScans(
        dataset,
        shared,
        columns=np.array([data.class_names.index(name) for name in shared]),
        images=images,
        rows=np.array(kept.index),
        target=np.array(kept["label"].map(shared.index), np.int64),
        groups=kept["group"].to_numpy(dtype=object),
        left_out={reason: n for reason, n in left_out.items() if n},
        provenance=record["provenance"],
    )


def own_test(data: CourseData, other: SharedScans) -> SharedScans:
    """The run's own test scans of the classes that it shares with the other dataset, to compare with.

    Raises ScanError where there are none.
    """
    rows = data.rows("test")
    rows = rows[np.isin(data.target[rows], other.columns)]
    if len(rows) == 0:
        raise ScanError(f"the run's test patients show none of the shared classes: {', '.join(other.class_names)}")
    return SharedScans(
        data.provenance["dataset"],
        other.class_names,
        columns=other.columns,
        images=data.images,
        rows=rows,
        target=np.searchsorted(other.columns, data.target[rows]),  # columns rise: both are in the run's order
        groups=data.groups[rows],
    )


def other_logits(run: RunFolder, scans: SharedScans, model: nn.Module) -> np.ndarray:
    """Logits (n, shared) of a network of the run for the scans, of the shared classes alone."""
    part = ScanImages(scans.images, scans.target, rows=scans.rows)
    return predict_logits(model, part, run.profile.image_size, run.profile.channels)[:, scans.columns]


def right(scans: SharedScans, logits: Sequence[np.ndarray]) -> np.ndarray:
    """(seeds, n) bool: which scans each network names correctly. logits: (n, shared) of each."""
    return hits(logits, scans.target)


def score_shared(scans: SharedScans, logits: Sequence[np.ndarray]) -> dict:
    """metrics.evaluate_networks for these scans, and sensitivity_interval: [low, high] of the macro sensitivity.

    logits: (n, shared) of each network.
    """
    correct = right(scans, logits)
    sensitivity = paired_difference(correct, np.zeros_like(correct), scans.groups, classes=scans.target)
    return evaluate_networks(logits, scans.target, scans.groups, scans.class_names) | {
        "sensitivity_interval": [sensitivity["low"], sensitivity["high"]]
    }


def drop(own: SharedScans, on_own: Sequence[np.ndarray], other: SharedScans, on_other: Sequence[np.ndarray]) -> dict:
    """Macro sensitivity on the run's own test patients minus that on the other dataset, of the same networks.

    on_own, on_other: logits (n, shared) of each network. Averaged over the classes that both sets of scans hold, so
    that their shares do not matter. Returns estimate, low, high and seeds, see metrics.unpaired_difference.
    """
    sides = []
    for scans, many in ((own, on_own), (other, on_other)):
        both = np.isin(scans.target, np.intersect1d(own.target, other.target))
        sides.append((right(scans, many)[:, both], scans.groups[both], scans.target[both]))
    return unpaired_difference(*sides)


def caveat(own: str, other: str) -> str:
    """What a comparison of these two datasets can say at most, in a sentence or two for the reader."""
    if own in PHANTOMS and other in PHANTOMS:
        return (
            "Both are phantoms, and the second scanner is invented: coarser speckle, a higher noise floor, a little "
            "blur and another display curve. A drop shows that a network can lean on how a scanner draws. How much "
            "a network loses between two real scanners it does not say."
        )
    if own in PHANTOMS:
        return (
            "These networks have seen phantoms only. Real scans differ from them in much more than the scanner, so "
            "this measures how far phantoms are from eyes; it does not test a scanner."
        )
    if other in PHANTOMS:
        return (
            "The other scans are phantoms, while the run is on real ones. They differ in much more than the scanner: "
            "this is **no evidence** about other scanners. Name a second real dataset for that."
        )
    return (
        "Two real datasets differ in scanner, clinic, patients and in how labels were given. A drop says that these "
        "networks do not carry over as they are; it does not say which of the four is the cause."
    )
