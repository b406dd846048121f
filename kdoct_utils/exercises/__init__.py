"""Exercises that answer back: checks for each notebook, and the making of exercises from solutions."""
