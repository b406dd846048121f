"""What ``kdoct data`` prints: the facts of a dataset, and what was found in a folder beside what was published."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from kdoct_utils.datasets import DataOptions, DatasetInfo
from kdoct_utils.profiles import get_profile

if TYPE_CHECKING:
    from kdoct_utils.data.audits import AuditReport

WIDTH = 110
SPLIT_TITLES = {"patient": "Split over patients", "official": "Split with the publishers' test part held out"}


def facts_text(info: DatasetInfo) -> str:
    """Where a dataset is to be had, its license, citation, layout and caveats."""
    facts = {
        "get it": "; ".join(part for part in (info.download, info.url) if part),
        "license": info.license,
        "cite": info.citation,
        "classes": ", ".join(info.classes),
        "layout": info.layout,
        "published": _counted(info.published_counts),
    }
    version = f", version {info.version}" if info.version else ""
    lines = [f"{info.name}: {info.title}{version}"]
    lines += [_wrapped(f"  {name:<12}", text) for name, text in facts.items() if text]
    return "\n".join(lines + [_wrapped("  caveat      ", caveat) for caveat in info.caveats])


def read_data(
    dataset: str, data_root: str, options: DataOptions, audits: bool = True
) -> tuple[dict, AuditReport | None]:
    """Read a dataset from its folder, split it as a run with seed 0 would, and audit it.

    Returns the provenance record with ``split`` added ("roles": scans of each role in fold 0, "warnings"), in plain
    JSON types without paths of this machine, and the audits, None where they were not asked for.
    Raises as scans.read_scans does.
    """
    from kdoct_utils.data.scans import read_scans
    from kdoct_utils.data.splits import SplitError, new_split

    profile = get_profile("smoke")  # matters to phantoms only
    scans = read_scans(dataset, data_root, profile=profile, seed=0, options=options)
    split, told = None, {"roles": {}, "warnings": []}
    try:
        split = new_split(scans.table, 0, options, scans.class_names)
        told = {"roles": split.loc[split["fold"] == 0, "role"].value_counts().to_dict(), **split.attrs}
    except SplitError as error:
        told["warnings"] = [str(error)]
    record = {**scans.provenance, "split": told}
    if not audits:
        return record, None
    from kdoct_utils.data.audits import audit  # imports scikit-learn, which counting does not need

    return record, audit(scans, split)


def report_text(record: dict, audits: AuditReport | None) -> str:
    """What read_data gave, to be read."""
    found, published, counts = record["found"], record["published"], record["counted"]
    labels, roles = _counted(found["labels"]), _counted(record["split"]["roles"])
    left_out = [
        f"{number:,} x {reason}, such as {', '.join(map(str, record['refused_examples'][reason][:2]))}"
        for reason, number in record["refused"].items()
    ]
    agree = _counted({what: number for what, number in published.items() if counts.get(what) == number})
    lines = [
        f"{record['dataset']}: {record['title']}; license {record['license']}; cite {record['citation']}",
        f"{found['scans']:,} scans of {found['patients']:,} patients, {found['groups']:,} groups: {labels}",
        *_section("Differs from what was published", record["differences"]),
        *_section("As published", [agree] if agree else []),
        *_section("Left out", left_out),
        *_section("Notes", record["notes"]),
        *_section(SPLIT_TITLES[record["options"]["split"]], [f"fold 0: {roles}"] if roles else []),
        *_section("Warnings of the split", record["split"]["warnings"]),
    ]
    return "\n".join([*lines, *(["", "Audits", str(audits)] if audits else [])])


def _section(title: str, texts: list[str]) -> list[str]:
    return ["", title, *(_wrapped("  - ", text) for text in texts)] if texts else []


def _counted(counts: dict[str, int]) -> str:
    return "; ".join(f"{what} {number:,}" for what, number in counts.items())


def _wrapped(start: str, text: str) -> str:
    style = {"initial_indent": start, "subsequent_indent": " " * len(start), "break_long_words": False}
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, **style)
