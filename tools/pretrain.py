"""Make the start weights of profile quick again: its teacher's backbone learns to name the tissues of phantoms."""

import argparse
from pathlib import Path

from safetensors.torch import save_file

from kdoct_utils.learn.models import PHANTOM_WEIGHTS, build_model, head_name
from kdoct_utils.learn.pretraining import pretrain_backbone
from kdoct_utils.profiles import get_profile
from kdoct_utils.runs import atomic_path


def pretrain_teacher(output: Path, **settings: int) -> float:
    """Write the backbone as float16 safetensors (under 2 MB). settings: patients and epochs, and seed.

    Returns the share of pixels of unseen phantoms whose tissue is named rightly.
    """
    profile = get_profile("quick")
    backbone = build_model(profile.teacher, 3, profile.channels, "none", settings["seed"])
    accuracy = pretrain_backbone(backbone, profile.image_size, profile.channels, **settings)
    head = head_name(backbone) + "."
    tensors = {k: v.half().contiguous() for k, v in backbone.state_dict().items() if not k.startswith(head)}
    with atomic_path(output) as temporary:
        save_file(tensors, temporary, metadata={k: str(v) for k, v in (settings | {"accuracy": accuracy}).items()})
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(PHANTOM_WEIGHTS))
    for name, default in {"patients": 1200, "epochs": 16, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(f"wrote {given.output}; tissues named rightly: {pretrain_teacher(**vars(given)):.1%} of the pixels")
