"""Experiments, each trained once and kept: the store, the table of arms, the stages of a run, other scanners.

May import learn, data, judge, phantom and the ground (runs, datasets, profiles).
"""
