"""Seconds of the first step and of a later one, compiled or eager: python first_step.py WAY STEPS."""

import json
import sys

import numpy as np
from loops import QUICKER, WARM, bench_profile

from kdoct_utils.course.stretch import clock_steps, stretch_trainer

WAYS = {"eager": {"teacher_precision": "bf16"}, "compiled": QUICKER}

if __name__ == "__main__":
    trainer = stretch_trainer(bench_profile(**WAYS[sys.argv[1]]), "student", int(sys.argv[2]), None, None, 0)
    clock = clock_steps(trainer)
    trainer.fit()
    seconds = clock()
    print(json.dumps({"first": seconds[0], "later": float(np.median(seconds[WARM:]))}))
