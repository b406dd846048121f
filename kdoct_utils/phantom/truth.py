"""What is true of a phantom scan and cannot be known of a real one: how high its lesion is, and the eye before it.

Heights are micrometers above Bruch's membrane (for edema: of thickening).
"""

from dataclasses import fields, replace

import numpy as np

from kdoct_utils.phantom.anatomy import Patient, draw_patient, lesion_profiles
from kdoct_utils.phantom.render import band_view, slice_positions
from kdoct_utils.phantom.scanners import SCANNERS

# Which lesions give a scan its class; the highest of them counts.
LESIONS_OF_CLASS = {"normal": (), "drusen": ("drusen",), "cnv": ("detachment", "fluid"), "dme": ("thickening",)}


def redraw_patient(name: str, patient_class: str, patients_per_class: int, seed: int) -> Patient:
    """The patient that ``phantom_cohort`` called ``name`` (``phantom/0007``): the same seed gives the same eye."""
    dataset, position = name.split("/")
    number = (int(position) - 1) % patients_per_class
    return draw_patient(patient_class, [seed, number, *SCANNERS[dataset].seed_stream])


def lesion_heights(patient: Patient, slices: int, size: int) -> np.ndarray:
    """Highest point, in each slice of a volume, of the lesion that gives the patient's class: (slices,) um, 0 for none.

    size: pixels of the retina band; only its width counts, since a lesion outside the band is not seen.
    """
    profile = lesion_profiles(patient, band_view(patient, size).x_um, slice_positions(slices))
    heights = [profile[name].max(axis=1) for name in LESIONS_OF_CLASS[patient.patient_class]]
    return np.max(heights, axis=0) if heights else np.zeros(slices, np.float32)


def without_lesions(patient: Patient) -> Patient:
    """The same eye before it fell ill: layers, vessels and noise stay, every lesion is gone."""
    none = {field.name: getattr(patient.lesions, field.name)[:0] for field in fields(patient.lesions)}
    return replace(patient, lesions=replace(patient.lesions, **none))
