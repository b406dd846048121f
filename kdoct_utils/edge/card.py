"""The model card of an exported student, every number taken from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdoct_utils.datasets import PHANTOMS


def model_card(
    *, name: str, class_names: Sequence[str], image_size: int, stored_size: int, data: Mapping[str, Any],
    student: Mapping[str, Any], formats: Mapping[str, Mapping[str, float]], training: str,
) -> str:  # fmt: skip
    """Markdown for whoever is handed the file.

    data: the provenance record; dataset, title, license, citation, url and what was refused are printed where present.
    student: a section of metrics.json (accuracy, sensitivity, specificity, interval, n_scans, n_patients, and ece,
      per_class where present). formats: by name, each with bytes, latency_ms (median) and accuracy (0..1).
    training: one sentence on the recipe.
    Raises KeyError naming what was not measured; nothing is filled in.
    """
    low, high = student["interval"]
    use = ["Teaching and research. It is not a medical device and must not inform care of a patient."]
    if data["dataset"] in PHANTOMS:
        use.append("It has seen synthetic scans only: what it scores on them says nothing about eyes.")
    results = [
        f"- accuracy {student['accuracy']:.3f}, 95% interval over patients {low:.3f} to {high:.3f}"
        f" ({student['n_scans']} scans of {student['n_patients']} patients)",
        f"- sensitivity {student['sensitivity']:.3f}, specificity {student['specificity']:.3f}"
        " (macro, one class against the rest)",
    ]
    if student.get("ece") is not None:
        results.append(f"- expected calibration error {student['ece']:.3f}")
    limits = [f"- It answers with one of {', '.join(class_names)} whatever it is shown, other diseases included.",
              "- Other scanners, protocols and populations are untested."]  # fmt: skip
    if high - low > 0.1:
        limits.append(f"- {student['n_patients']} test patients leave the accuracy uncertain by {high - low:.2f}.")
    known = {name: row["sensitivity"] for name, row in (student.get("per_class") or {}).items()
             if row.get("sensitivity") is not None}  # fmt: skip
    if known:
        worst = min(known, key=known.get)
        limits.append(f"- Its weakest class is {worst}: it finds {known[worst]:.0%} of them.")
    limits += [f"- {count} scans were left out: {reason}." for reason, count in (data.get("refused") or {}).items()]
    named = ("title", "dataset", "version", "license", "citation", "url")
    sections = {
        "Intended use": use,
        "Input and output": [
            f"- Input `image`: uint8, (batch, 1, {stored_size}, {stored_size}), grey, cropped as in training. The file"
            f" itself resizes to {image_size} x {image_size} and normalizes.",
            f"- Output `logits`: float32, (batch, {len(class_names)}), in the order {', '.join(class_names)}.",
        ],
        "Training": [training],
        "Data": [f"- {key}: {data[key]}" for key in named if data.get(key)],
        "Results on test patients": results,
        "Formats": _formats(formats),
        "Limits": limits,
    }
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return f"# Model card: {name}\n\n{body}\n"


def _formats(formats: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| format | size (kB) | median latency (ms) | accuracy |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {row['bytes'] / 1000:,.0f} | {row['latency_ms']:.2f} | {row['accuracy']:.3f} |"
        for name, row in formats.items()
    ]
    lines += ["", "Latency: batch 1, one thread, on the CPU that wrote this card; measure it on yours."]
    if {"fp32", "int8"} <= set(formats):
        full, small = formats["fp32"], formats["int8"]
        size = times(full["bytes"] / small["bytes"], "smaller", "larger")
        pace = times(full["latency_ms"] / small["latency_ms"], "faster", "slower")
        points = 100 * (small["accuracy"] - full["accuracy"])
        lines.append(f"INT8 is {size} and {pace}; its accuracy changes by {points:+.1f} points.")
    return lines


def times(ratio: float, more: str, less: str) -> str:
    """A ratio in words: "2.0 times smaller", below 1 "1.5 times larger", and close to 1 neither of both."""
    if 0.95 < ratio < 1.05:
        return f"neither {more} nor {less}"
    return f"{ratio:.1f} times {more}" if ratio >= 1 else f"{1 / ratio:.1f} times {less}"
