"""A run folder that a module of tests works in, and the scans of that run."""

import pytest

from kdoct_utils.lab import stages
from kdoct_utils.profiles import Profile
from kdoct_utils.runs import open_run


def run_and_data(profile: Profile, seed: int = 3, dataset: str = "phantom"):
    """Two fixtures, to be called ``run`` and ``data`` in the module."""

    @pytest.fixture(scope="module")
    def run(tmp_path_factory):
        return open_run(tmp_path_factory.mktemp("run"), profile=profile, dataset=dataset, seed=seed)

    @pytest.fixture(scope="module")
    def data(run):
        return stages.course_data(run, progress=False)

    return run, data
