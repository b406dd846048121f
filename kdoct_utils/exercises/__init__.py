"""Exercises that answer back: one module of checks for each notebook, and the making of exercises from solutions."""
