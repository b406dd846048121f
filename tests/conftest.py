"""What every test runs with: a cache folder of this session alone, never the user's."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """KDOCT_CACHE, for this process and those it starts; what one test leaves there, the next may find."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDOCT_CACHE", str(folder))
        yield folder
