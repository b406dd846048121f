"""Say what a B-scan shows: python classify.py FRAME.jpeg [MORE ...]

Exit status 0: every frame was answered, "refused" and "not sure" included; 2: a file could not be used.
Teaching and research only: this is not a medical device.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from kdoct_utils.edge.classifier import OnnxClassifier

MODEL = Path(__file__).with_name("model.onnx")


def main(arguments: list[str] | None = None) -> int:
    """Print one line a frame; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", nargs="+", type=Path, help="PNG, JPEG or TIFF files, one B-scan each")
    parser.add_argument("--model", type=Path, default=MODEL, help="an ONNX file of the course")
    parser.add_argument("--json", action="store_true", help="one JSON object a frame")
    given = parser.parse_args(arguments)
    try:
        classifier = OnnxClassifier(given.model)
    except (ValueError, OSError) as error:
        print(f"classify: {error}", file=sys.stderr)
        return 2
    failed = False
    for frame in given.frames:
        try:
            answer = classifier.classify_file(frame)
        except (ValueError, OSError) as error:  # EdgeError and ScanError are ValueErrors
            print(f"classify: {error}", file=sys.stderr)
            failed = True
            continue
        if given.json:
            print(json.dumps({"frame": str(frame)} | asdict(answer)))
        else:
            chances = ", ".join(f"{name} {chance:.3f}" for name, chance in answer.probabilities.items())
            print(f"{frame}: {answer.decision}", f"({'; '.join(filter(None, [chances, answer.reason]))})")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
