"""The model card of the file that ships: what it says of itself, and what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdoct_utils.datasets import PHANTOMS
from kdoct_utils.edge.classifier import OnnxClassifier, processor


def model_card(
    classifier: OnnxClassifier, *, name: str, data: Mapping[str, Any], scores: Mapping[str, Any],
    formats: Mapping[str, Mapping[str, float]], choice: str, training: str,
) -> str:  # fmt: skip
    """Markdown for whoever is handed the file of the classifier, whose decision must have been measured.

    data: the provenance record; dataset, title, license, citation, url and what was refused are printed where present.
    scores: of this very file, a section of metrics.json (accuracy, sensitivity, specificity, interval, n_scans,
      n_patients, and ece, per_class where present). formats: by name, each with bytes, latency_ms (median) and accuracy
      (0..1). choice: why this file and no other. training: one sentence on the recipe.
    Raises KeyError naming what was not measured; nothing is filled in.
    """
    about = classifier.about
    rule, size = about["decision"], classifier.stored_size
    low, high = scores["interval"]
    use = ["Teaching and research. It is not a medical device and must not inform care of a patient."]
    if data["dataset"] in PHANTOMS:
        use.append("It has seen synthetic scans only: what it scores on them says nothing about eyes.")
    part = "its retina band" if classifier.crop_to_band else "the whole of it"
    sections = {
        "Intended use": use,
        "Input and output": [
            f"- Input `image`: uint8, (batch, 1, {size}, {size}): a grey frame, white borders filled, {part}, as"
            f" `data/band.py` makes it. The file resizes to {classifier.image_size} pixels and normalizes.",
            f"- Output `logits`: float32, (batch, {len(classifier.class_names)}): {', '.join(classifier.class_names)}.",
            "- Output `distance`: float32, (batch,): how far the picture is from the training scans.",
            f"- Format: {about.get('quantized', 'fp32')}. Weights: SHA-256 `{about['weights_sha256']}`.",
        ],
        "Training": [training],
        "Data": [f"- {key}: {data[key]}" for key in ("title", "dataset", "version", "license", "citation", "url")
                 if data.get(key)],
        f"Results of this file on {scores['n_scans']} test scans of {scores['n_patients']} patients": [
            f"- accuracy {scores['accuracy']:.3f}, 95% interval over patients {low:.3f} to {high:.3f}",
            f"- sensitivity {scores['sensitivity']:.3f}, specificity {scores['specificity']:.3f} (macro, each class)",
            *([f"- expected calibration error {scores['ece']:.3f}, before the file's temperature"]
              if scores.get("ece") is not None else []),
        ],
        "When it answers": _rule_lines(rule),
        "Formats": [*_format_lines(formats), "", choice],
        "Limits": _limits(scores, data, high - low),
    }  # fmt: skip
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"# Model card: {name}\n\n{body}\n"


def _rule_lines(rule: Mapping[str, Any]) -> list[str]:
    found, spared = ("{estimate:.3f}, 95% interval {low:.3f} to {high:.3f} ({patients} patients)".format(**rule[name])
                     for name in ("sensitivity", "specificity"))  # fmt: skip
    return [
        f"Chosen on {rule['validation_scans']} validation scans, measured on the test scans, scan by scan.",
        "",
        f"- Calibrated with temperature {rule['temperature']:.2f}.",
        f"- Ill from a probability of disease of {rule['threshold']:.3f}, for a sensitivity of"
        f" {rule['wanted_sensitivity']:.0%}: sensitivity {found}; specificity {spared}.",
        f"- Not sure below a probability of {rule['sure_above']:.3f}: {rule['not_sure']:.1%} of the scans; among those"
        f" answered {rule['errors_answered']:.1%} are wrong, among all {rule['errors']:.1%}.",
        f"- Refused as no B-scan above a distance of {rule['refuse_above']:.1f}: {rule['refused']:.1%} of the scans.",
    ]


def _format_lines(formats: Mapping[str, Mapping[str, float]]) -> list[str]:
    used = processor()
    lines = ["| format | size (kB) | median latency (ms) | accuracy |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {row['bytes'] / 1000:,.0f} | {row['latency_ms']:.2f} | {row['accuracy']:.3f} |"
        for name, row in formats.items()
    ]
    integers = "with" if used["vnni"] else "without"
    return [*lines, "", f"Latency: batch 1, one thread, {used['name']} ({integers} VNNI), {used['runtime']}; measure"
            " it on yours."]  # fmt: skip


def _limits(scores: Mapping[str, Any], data: Mapping[str, Any], uncertain: float) -> list[str]:
    limits = ["- It knows no other disease, and may call it by one of its classes.",
              "- Other scanners, protocols and populations are untested."]  # fmt: skip
    if uncertain > 0.1:
        limits.append(f"- {scores['n_patients']} test patients leave the accuracy uncertain by {uncertain:.2f}.")
    known = {name: row["sensitivity"] for name, row in (scores.get("per_class") or {}).items()
             if row.get("sensitivity") is not None}  # fmt: skip
    if known:
        worst = min(known, key=known.get)
        limits.append(f"- Its weakest class is {worst}: it finds {known[worst]:.0%} of them.")
    refused = data.get("refused") or {}
    return limits + [f"- {count} scans were left out: {reason}." for reason, count in refused.items()]
