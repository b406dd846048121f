"""Exercises that answer back: one file of checks for each notebook, and what they share.

May import learn, data, judge and the ground; lab, show and course know nothing of exercises.
"""
