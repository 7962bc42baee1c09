"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets: TINYDDPM_DATA, else ../shared/data beside the repository; or skip."""
    named = os.environ.get("TINYDDPM_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data sets are not in {folder}; name their folder by TINYDDPM_DATA")
    return folder
