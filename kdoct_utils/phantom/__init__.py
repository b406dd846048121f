"""Synthetic retinal B-scans with known layers and lesions: phantoms, not patients.

May import the ground only (profiles).
"""
