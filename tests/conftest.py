"""Fixtures for all tests, and one BLAS thread for each of pytest's workers."""

import os
import signal

# Before NumPy loads: two workers with two threads each on two cores would wait for one another
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from pathlib import Path

import pytest

# Programs leave signals ignored that their parent ignored, as a shell does for what runs in the background
for number, handler in ((signal.SIGINT, signal.default_int_handler), (getattr(signal, "SIGHUP", None), signal.SIG_DFL)):
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets: TINYDDPM_DATA, else ../shared/data beside the repository; or skip."""
    named = os.environ.get("TINYDDPM_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data sets are not in {folder}; name their folder by TINYDDPM_DATA")
    return folder
