"""Test-wide settings: hypothesis profiles, one thread per process, no network, a private cache."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.register_profile("dev", settings.get_profile("ci"), max_examples=25, derandomize=False)
settings.register_profile("long", settings.get_profile("ci"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache; processes of one run share one."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    os.environ["HWOPT_CACHE"] = str(shared / "hwopt-cache")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data given in place (HWOPT_REFERENCE); the test is skipped without."""
    root = Path(os.environ.get("HWOPT_REFERENCE", "../shared/reference"))
    if not root.is_dir():
        pytest.skip("reference data not given (set HWOPT_REFERENCE)")
    return root
