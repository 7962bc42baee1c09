"""Captions: pictures stay as they are, and the text is under its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyddpm.errors import InputError
from tinyddpm.reporting import captions
from tinyddpm.reporting.captions import STRIP, caption_font, cut
from tinyddpm.reporting.pictures import GAP, save_grid


def pictures(count: int, channels: int, height: int = 8, width: int = 12) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, images: np.ndarray, texts: list[str] | None = None) -> np.ndarray:
    save_grid(path, images, captions=texts)
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_only_strips_are_put_in(tmp_path: Path, channels: int, count: int) -> None:
    images = pictures(count, channels)
    plain = saved(tmp_path / "plain.png", images)
    texts = [f"number {i}" if i != 1 else "" for i in range(count)]
    with_text = saved(tmp_path / "text.png", images, texts)
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    factor = plain.shape[1] // (columns * (12 + GAP) + GAP)
    band, cell = (8 + GAP) * factor, (12 + GAP) * factor
    kept = [row * (band + STRIP) + y for row in range(rows) for y in range(band)]
    np.testing.assert_array_equal(with_text[kept], plain[: rows * band])
    strips = np.stack([with_text[row * (band + STRIP) + band :][:STRIP] for row in range(rows)])
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        below = strips[row, :, column * cell : (column + 1) * cell]
        assert (below != plain[0, 0]).any() == (number < count and number != 1)
    assert len(with_text) == len(plain) + rows * STRIP


def test_text_is_cut_to_the_width_of_its_picture() -> None:
    font = caption_font()
    assert cut("cat", font, 200) == "cat"
    assert cut("two\nlines\tand  more", font, 1000) == "two lines and more"
    short = cut("a very long name of a class", font, 60)
    assert short.endswith("…")
    assert 30 < font.getlength(short) <= 60
    assert cut("wide", font, 0) == "…"


@pytest.mark.parametrize("text", ["Füße", "кот", "γάτα", "猫", "a\x00b", "\x7f", "😀", "a?b", "$x_2$", "\u202eabc"])
def test_any_name_can_be_written(tmp_path: Path, text: str) -> None:
    saved(tmp_path / "a.png", pictures(1, 1), [text])


def test_a_font_that_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    for text in ("cat", "猫"):
        saved(tmp_path / "a.png", pictures(1, 3), [text])


@pytest.mark.parametrize("count", [0, 2, 5])
def test_captions_that_do_not_go_with_the_rows(count: int) -> None:
    sheet = Image.new("L", (22, 22))
    with pytest.raises(InputError, match=f"{count} captions do not go with 2 rows of 2 pictures"):
        captions.add_captions(sheet, ["x"] * count, 8, 8, 2)
