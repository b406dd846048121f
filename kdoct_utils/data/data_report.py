"""What ``kdoct data`` prints: the facts of a dataset, and what was found in a folder beside what was published."""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from kdoct_utils.datasets import DATASETS, DataOptions, DatasetInfo
from kdoct_utils.profiles import PROFILES, get_profile

if TYPE_CHECKING:
    from kdoct_utils.data.audits import AuditReport

WIDTH = 110
INDENT = 12  # columns of the names on the left
SPLIT_TITLES = {"patient": "Split over patients", "official": "Split with the publishers' test part held out"}


def wrapped(start: str, text: str) -> str:
    """``start`` and the text, wrapped beside it; the same in a terminal and in a file."""
    style = {"initial_indent": start, "subsequent_indent": " " * len(start), "break_long_words": False}
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, **style)


def named(texts: dict[str, str]) -> list[str]:
    """Each text that is not empty beside its name."""
    return [wrapped(f"  {name:<{INDENT}}", text) for name, text in texts.items() if text]


def section(title: str, texts: list[str]) -> list[str]:
    """A title over bullets; nothing where there are no texts."""
    return ["", title, *(wrapped("  - ", text) for text in texts)] if texts else []


def counted(counts: dict[str, int]) -> str:
    """``rows 16,822; patients 441``."""
    return "; ".join(f"{what} {number:,}" for what, number in counts.items())


def facts_text(info: DatasetInfo) -> str:
    """Where a dataset is to be had, its license, citation, layout and caveats."""
    facts = {
        "get it": "; ".join(part for part in (info.download, info.url) if part),
        "license": info.license,
        "cite": info.citation,
        "classes": ", ".join(info.classes),
        "layout": info.layout,
        "published": counted(info.published_counts),
    }
    version = f", version {info.version}" if info.version else ""
    names = ["caveats", *[""] * len(info.caveats)]
    caveats = [wrapped(f"  {name:<{INDENT}}", f"- {caveat}") for name, caveat in zip(names, info.caveats, strict=False)]
    return "\n".join([f"{info.name}: {info.title}{version}", *named(facts), *caveats])


@dataclass(frozen=True)
class DataReport:
    """A dataset as found in a folder.

    provenance: of the ScanSet. split: "roles", the scans of each role in fold 0; "warnings" of the split; "fault", why
    there is none, or "". audits: None where they were not asked for. steps: commands to run next -> what for.
    """

    info: DatasetInfo
    provenance: dict
    split: dict
    audits: AuditReport | None
    steps: dict[str, str]

    def as_dict(self) -> dict:
        """The provenance record with split and audits added, in plain JSON types, without paths of this machine."""
        return {**self.provenance, "split": self.split, "audits": self.audits.as_dict() if self.audits else None}

    def __str__(self) -> str:
        record, found = self.provenance, self.provenance["found"]
        patients = f"of {found['patients']:,} patients" if found["patients"] else "without patient numbers"
        labels = ", ".join(f"{label} {number:,}" for label, number in found["labels"].items())
        scans = f"{found['scans']:,} {patients}, in {found['groups']:,} independent groups: {labels}"
        left_out = [
            f"{number:,} x {reason}, such as {', '.join(map(str, record['refused_examples'][reason][:2]))}"
            for reason, number in record["refused"].items()
        ]
        roles = ", ".join(f"{role} {number:,}" for role, number in self.split["roles"].items())
        split = [self.split["fault"] or f"fold 0, seed 0, in scans: {roles}", *self.split["warnings"]]
        lines = [
            f"{self.info.name}: {self.info.title}",
            *named({"license": self.info.license, "cite": self.info.citation, "scans": scans}),
            *_beside_published(record["published"], record["counted"]),
            *section("Left out", left_out),
            *section("Notes", record["notes"]),
            *section(SPLIT_TITLES[record["options"]["split"]], split),
        ]
        if self.audits is not None:
            lines += section(f"Audits of these {found['scans']:,} scans", self.audits.findings)
            lines += ["", "Shortcuts: what one property alone tells of the class in patients it was not learned from"]
            lines += [f"  {line}" for line in self.audits.shortcut_lines()]
        lines += ["", "Next"] if self.steps else []
        lines += [f"  {command}\n      {purpose}" for command, purpose in self.steps.items()]
        return "\n".join(lines)


def _beside_published(published: dict[str, int], counts: dict[str, int]) -> list[str]:
    """Counts that differ from the published ones as a table, those that agree as a line."""
    agree = {what: counts[what] for what in published if counts.get(what) == published[what]}
    differ = [what for what in published if what in counts and what not in agree]
    lines = named({"published": f"found the same: {counted(agree)}"}) if agree else []
    if differ:
        wide = max(32, *map(len, differ))
        lines += ["", f"{'Differs from what was published':<{wide + 2}}{'found':>9}  {'published':>9}"]
        lines += [f"  {what:<{wide}}{counts[what]:>9,}  {published[what]:>9,}" for what in differ]
    return lines


def read_data(
    dataset: str, data_root: str, options: DataOptions, audits: bool = True, progress: bool = True
) -> DataReport:
    """Read a dataset from its folder, split it as a run with seed 0 would, and audit it. Raises as read_scans does."""
    from kdoct_utils.data.scans import read_scans
    from kdoct_utils.data.splits import ROLES, UNUSED, SplitError, make_splits, official_splits

    profile = get_profile("smoke")  # matters to phantoms only
    scans = read_scans(dataset, data_root, profile=profile, seed=0, options=options, progress=progress)
    split, told = None, {"roles": {}, "warnings": [], "fault": ""}
    try:
        settings = {"class_names": scans.class_names, "allow_tiny": True}
        if options.split == "official":
            split = official_splits(scans.table, 0, keep_shared=options.keep_shared, **settings)
        else:
            split = make_splits(scans.table, 0, **settings)
        counts = split.loc[split["fold"] == 0, "role"].value_counts()
        told["roles"] = {role: int(counts.get(role, 0)) for role in (*ROLES, UNUSED) if role in (*ROLES, *counts.index)}
        told["warnings"] = split.attrs["warnings"]
    except SplitError as error:
        told["fault"] = str(error)
    report = None
    if audits:
        from kdoct_utils.data.audits import audit  # imports scikit-learn, which counting does not need

        report = audit(scans, split, progress=progress)
    steps = next_steps(dataset, data_root, options, possible=split is not None, parts="part" in scans.table)
    return DataReport(DATASETS[dataset], scans.provenance, told, report, steps)


def next_steps(dataset: str, data_root: str, options: DataOptions, possible: bool, parts: bool) -> dict[str, str]:
    """The commands to run after this one, the cheapest first, and what each is for.

    possible: whether the dataset can be split as asked. parts: whether its publishers fixed parts.
    """
    end = f"{dataset} --data-root {shlex.quote(data_root)}"
    if not possible:
        official = {f"kdoct data {end} --split official": "the parts that the publishers fixed"}
        return official if parts and options.split == "patient" else {}
    changed = [one.name for one in fields(options) if getattr(options, one.name) != one.default]
    end += "".join(f" -p {name}={str(getattr(options, name)).lower()}" for name in changed)
    fitting = [name for name, profile in PROFILES.items() if dataset in profile.datasets and name != "smoke"]
    names = ["smoke", *(fitting or ["quick", "colab"])]
    return {f"kdoct run --profile {name} --dataset {end}": PROFILES[name].purpose for name in names}
