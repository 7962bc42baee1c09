"""Samples in files: there and back, several as one, and what is none."""

from pathlib import Path

import numpy as np
import pytest

from tinyddpm.errors import InputError, MissingDataError
from tinyddpm.generation.sample_file import Samples, joined, load_samples, save_samples


def samples(count: int = 3, side: int = 4, labelled: bool = True, about: str = "ddpm, 50 steps") -> Samples:
    images = np.random.default_rng(count).integers(0, 256, (count, side, side, 1)).astype(np.uint8)
    return Samples(images, np.arange(count) if labelled else None, about)


@pytest.mark.parametrize("labelled", [False, True])
def test_there_and_back(tmp_path: Path, labelled: bool) -> None:
    given = samples(labelled=labelled)
    save_samples(tmp_path / "new" / "a.npz", given)
    again = load_samples(tmp_path / "new" / "a.npz")
    np.testing.assert_array_equal(again.images, given.images)
    np.testing.assert_equal(again.labels, given.labels)
    assert again.about == given.about


def test_a_file_of_images_alone_goes_by_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "others.npz", images=samples().images)
    again = load_samples(tmp_path / "others.npz")
    assert (again.about, again.labels, len(again.images)) == ("others.npz", None, 3)


def test_several_are_one() -> None:
    parts = [samples(2, about="seed 0"), samples(5, about="seed 1"), samples(1, about="seed 0")]
    all_of_them = joined(parts)
    np.testing.assert_array_equal(all_of_them.images, np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(all_of_them.labels, [0, 1, 0, 1, 2, 3, 4, 0])
    assert all_of_them.about == "seed 0; seed 1"
    assert joined([samples(2, labelled=False)]).labels is None
    with pytest.raises(InputError, match=r"of one size, got \(4, 4, 1\), \(5, 5, 1\)"):
        joined([samples(), samples(side=5)])
    with pytest.raises(InputError, match="some were not; score them apart"):
        joined([samples(), samples(labelled=False)])


IMAGES = samples().images


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": IMAGES}, "is no .npz with the array images"),
        ({"images": IMAGES / 255}, r"must be uint8 of shape \(N, H, W, C\), got float64 \(3, 4, 4, 1\)"),
        ({"images": IMAGES[..., 0]}, "must be uint8"),
        ({"images": IMAGES[:0]}, "must be uint8"),
        ({"images": IMAGES, "labels": np.zeros(2, np.int64)}, "labels must be 3 integers"),
        ({"images": IMAGES, "labels": np.zeros(3)}, "labels must be 3 integers, got float64"),
        ({"images": np.array([{}], object)}, "is no .npz"),
    ],
)
def test_files_of_other_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load_samples(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"is no \.npz"):
        load_samples(tmp_path / "a.npz")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no samples at"):
        load_samples(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(InputError, match=r"is no \.npz"):
        load_samples(tmp_path / "a.npy")
