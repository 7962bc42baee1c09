"""Runs and pictures for the tests of commands, made once for each file of tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, UNET_OPTIONS, succeed


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the simple U-Net."""
    folder = tmp_path_factory.mktemp("runs") / "simple"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--steps", 3, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the full U-Net with classes, trained so fast that its output is not zero."""
    folder = tmp_path_factory.mktemp("runs") / "labelled"
    succeed("train", *UNET_OPTIONS, *QUICK, "--steps", 6, "--lr", 0.5, "--warmup-steps", 0, "--out", folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 24 photographs of two kinds and several sizes, and a file that is none."""
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (24, 20, 16, 3)).astype(np.uint8)):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 12 + i % 3]).save(place / f"{i}.png")
    (tmp_path / "photos" / "cats" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "photos"
