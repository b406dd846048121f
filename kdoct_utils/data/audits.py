"""What in a dataset would spoil a result: patients and images on both sides of a split, and shortcuts.

``audit`` runs everything on a ScanSet; ``kdoct data NAME --data-root ...`` and notebook 01 show what it finds. The
audits look at the scans that a run would use, after the reader's filters.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from kdoct_utils.data.duplicates import identical_images, near_identical
from kdoct_utils.data.scans import ScanSet
from kdoct_utils.data.shortcuts import NO_PATIENTS, PREDICTS, TOO_FEW, shortcuts, values_by_class
from kdoct_utils.data.splits import PART, ROLES, audit_leakage

__all__ = ["AuditReport", "audit", "identical_images", "near_identical", "same_patient", "shortcuts", "values_by_class"]

PATIENT_COLUMNS = ["kind", "where", "key", "lies_in", "n", "scan_ids"]
MAY_BE_DISEASE = ("mean brightness",)  # of the properties: the disease itself changes them too
PLACES = {
    "patient": "different patients:",
    "label": "different labels:",
    "part": "different official parts:",
    "role": "different roles:",
}


@dataclass(frozen=True)
class AuditReport:
    """What ``audit`` found; the functions of this module say what each table holds.

    patients: of same_patient. identical, near: of identical_images and near_identical. shortcuts: of shortcuts.
    values: of values_by_class. findings: every result as a sentence with its counts, also that nothing was found.
    """

    patients: pd.DataFrame
    identical: pd.DataFrame
    near: pd.DataFrame
    shortcuts: pd.DataFrame
    values: pd.DataFrame
    findings: list[str]

    def __str__(self) -> str:
        return "\n".join([*(f"- {finding}" for finding in self.findings), "", *shortcut_lines(self.shortcuts)])

    def as_dict(self) -> dict:
        """Plain JSON types. Scans are named by scan_id."""
        from kdoct_utils.runs import plain

        return plain(
            {
                "findings": self.findings,
                "same_patient": self.patients.to_dict("records"),
                "identical_images": self.identical.to_dict("records"),
                "near_identical": self.near.to_dict("records"),
                "shortcuts": self.shortcuts.to_dict("records"),
                "values_by_class": self.values.to_dict("index"),
            }
        )


def audit(scans: ScanSet, split: pd.DataFrame | None = None, fold: int = 0, progress: bool = True) -> AuditReport:
    """Run every audit. split: of splits.make_splits or official_splits, whose fold says the roles; None leaves them
    out. Every image is decoded once and measured, unless the cache holds its measures.

    Raises ScanError for an image that cannot be read, ValueError for a split of other scans.
    """
    table = scans.table
    measured = scans.measured(progress=progress)
    patients = same_patient(table, split, fold)
    identical = identical_images(table, scans.hashes, split, fold)
    near = near_identical(table, scans.thumbnails(progress=progress), scans.hashes, split, fold, progress)
    scores = shortcuts(table, measured)
    values = values_by_class(table, measured)
    known = bool((table["patient"] != "").any())
    findings = [
        *_patient_findings(patients, table, split, fold),
        _copy_finding("byte-identical", identical, _others(identical, "set", known)),
        _copy_finding("near-identical", near, _others(near, "pair", known)),
        *_shortcut_findings(scores, values, table["group"].nunique()),
    ]
    return AuditReport(patients, identical, near, scores, values, findings)


def same_patient(table: pd.DataFrame, split: pd.DataFrame | None = None, fold: int = 0) -> pd.DataFrame:
    """Patients, and groups of linked patients, that lie in two roles of a fold or in two of the publishers' parts.

    table: scan table, with the column part where the publishers fixed parts. split: None leaves roles out.
    Returns a DataFrame with the columns kind ("patient", or "group" for one of several patients), where ("role" or
    "part"), key (of the patient or group), lies_in (tuple of roles or parts), n (scans) and scan_ids (tuple).
    Unknown patients are nobody. Raises SplitError as splits.audit_leakage does.
    """
    known = table[table["patient"] != ""]
    found = []
    if split is not None:
        found.append(audit_leakage(known, split, fold).assign(where="role"))
    if PART in table:
        # The parts are a split too, with the publishers' names for the roles.
        parts = known[["scan_id", "group"]].assign(fold=0, role=known[PART])
        found.append(audit_leakage(known, parts, 0).assign(where="part") if len(known) else pd.DataFrame())
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if rows.empty:
        return pd.DataFrame(columns=PATIENT_COLUMNS)
    members = known.groupby("group")["patient"].nunique()
    rows = rows[(rows["kind"] == "patient") | (rows["key"].map(members) > 1)].rename(columns={"roles": "lies_in"})
    return rows.assign(n=rows["scan_ids"].map(len).astype(int))[PATIENT_COLUMNS].reset_index(drop=True)


# --- sentences -------------------------------------------------------------------------------------------------------


def _patient_findings(patients: pd.DataFrame, table: pd.DataFrame, split: pd.DataFrame | None, fold: int) -> list[str]:
    checked = {"part": "of the publishers' parts"} if PART in table else {}
    if split is not None:
        checked["role"] = f"of train, validation and test (fold {fold})"
    if checked and (table["patient"] == "").all():
        return ["whether a patient lies in two parts cannot be told: the dataset has no patient numbers"]
    sentences = []
    for where, name in checked.items():
        if not (patients["where"] == where).any():
            sentences.append(f"no patient lies in two {name}")
        for kind, one, many in (
            ("patient", "patient lies", "patients lie"),
            ("group", "group of linked patients lies", "groups of linked patients lie"),
        ):
            rows = patients[(patients["where"] == where) & (patients["kind"] == kind)]
            if len(rows):
                places = [" and ".join(role for role in ROLES if role in places) for places in rows["lies_in"]]
                counts = ", ".join(f"{place}: {count:,}" for place, count in pd.Series(places).value_counts().items())
                sentences.append(
                    f"{_count(len(rows), one, many)} in several {name} ({counts}), with {rows['n'].sum():,} scans; "
                    f"such as {rows['key'].iloc[0]}"
                )
    return sentences


def _copy_finding(what: str, sets: pd.DataFrame, ends: str) -> str:
    """A sentence on the sets of identical_images or near_identical; ends: what it says last, if anything."""
    end = f"; {ends}" if ends else ""
    if sets.empty:
        return f"no {what} images in two patients, labels, official parts or roles{end}"
    crossed = {name: sum(name in crosses for crosses in sets["crosses"]) for name in PLACES}
    across = ", ".join(f"{PLACES[name]} {count:,}" for name, count in crossed.items() if count)
    example = " and ".join(sets["scan_ids"].iloc[0][:2])
    many = f"{_count(len(sets), 'set', 'sets')} of {what} images ({sets['n'].sum():,} scans)"
    leaks = " (a leak)" if crossed["role"] else ""
    return f"{many} {'lies' if len(sets) == 1 else 'lie'} in {across}{leaks}; such as {example}{end}"


def _others(sets: pd.DataFrame, what: str, patients_known: bool) -> str:
    count = sets.attrs["harmless"]
    if not count:
        return ""
    if not patients_known:
        return f"{_count(count, what, what + 's')} with one label in one part"
    return f"{_count(count, what, what + 's')} within one patient {'does' if count == 1 else 'do'} no harm"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _shortcut_findings(scores: pd.DataFrame, values: pd.DataFrame, patients: int) -> list[str]:
    sentences = []
    for row in scores[scores["verdict"] == PREDICTS].itertuples():
        text = (
            f"{row.property} {'predict' if row.property not in values.index else 'alone predicts'} the class of unseen "
            f"patients: balanced accuracy {row.balanced_accuracy:.2f} [{row.low:.2f}, {row.high:.2f}], guessing gives "
            f"{row.chance:.2f}"
        )
        if row.property in values.index:
            held = "; ".join(f"{name}: {value}" for name, value in values.loc[row.property].items())
            text += f" ({held})"
        if row.property in MAY_BE_DISEASE:
            text += "; the disease itself may change it"
        sentences.append(text)
    for verdict, why in ((TOO_FEW, f"too few patients ({patients})"), (NO_PATIENTS, "no patient numbers")):
        open_ones = scores.loc[scores["verdict"] == verdict, "property"].tolist()
        if open_ones:
            sentences.append(f"whether {', '.join(open_ones)} predict the class cannot be told: {why}")
    if not sentences:
        sentences.append("neither file format, size, border, scale bar, canvas nor brightness predicts the class")
    return sentences


def shortcut_lines(scores: pd.DataFrame) -> list[str]:
    """The table of shortcuts as aligned text, a header first."""
    lines = [f"{'property':<16} balanced accuracy      guessing  verdict"]
    for row in scores.itertuples():
        score = f"{row.balanced_accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else "-"
        why = ": the same in all scans" if row.low == row.high == row.chance else ""
        lines.append(f"{row.property:<16} {score:<22} {row.chance:<9.2f} {row.verdict}{why}")
    return lines
