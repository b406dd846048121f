"""The course as a whole: the `kdoct` command, notebooks run in order, sweeps, reports, workshops.

May import every other room; nothing imports this one.
"""
