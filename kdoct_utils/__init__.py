"""Teach, run and test KD-OCT: knowledge distillation for retinal OCT B-scans.

The notebooks build the ideas; this package holds what they have built and checked.
Importing it is cheap: torch and timm load when a module that needs them is imported.
"""

__version__ = "0.1.0"
