"""Does this machine say what the machine said that made the bundle? python check.py

Classifies the frames in parity/ and compares. Exit status 0: the same decisions, and probabilities within the tolerance
that parity/expected.json names; 1: something differs.
"""

import hashlib
import json
import sys
from pathlib import Path

from kdoct_utils.edge.classifier import OnnxClassifier

HERE = Path(__file__).resolve().parent


def main(folder: Path = HERE) -> int:
    """Print what differs; the exit status."""
    expected = json.loads((folder / "parity" / "expected.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    wrong = [
        f"{name} is not the file that was packed" for name, digest in manifest["sha256"].items()
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]  # fmt: skip
    try:
        classifier = OnnxClassifier(folder / "model.onnx")
        for name, there in expected["answers"].items():
            here, chances = classifier.classify_file(folder / "parity" / name), there["probabilities"]
            if here.decision != there["decision"] or here.probabilities.keys() != chances.keys():
                wrong.append(f"{name}: {here.decision!r} here, {there['decision']!r} there")
            elif (apart := max((abs(here.probabilities[k] - p) for k, p in chances.items()), default=0)) > expected[
                "tolerance"
            ]:
                wrong.append(f"{name}: a probability is {apart:.1e} off; {expected['tolerance']:g} is allowed")
    except (ValueError, OSError) as error:
        wrong.append(str(error))
    print("\n".join(wrong) or f"{len(expected['answers'])} frames: the same answers as on {expected['made_on']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
