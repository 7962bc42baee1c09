"""A folder of images: formats, sizes, colour, classes, splits, and whatever else can lie in a folder."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tinyddpm.data import load
from tinyddpm.errors import InputError

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RED, BLUE = (220, 30, 20), (10, 40, 200)


def save(path, value=100, size=(6, 4), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def quadrants(width=4, height=2, mode="RGB"):
    """Red in the upper left corner, black elsewhere."""
    image = Image.new("RGB", (width, height))
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image.convert(mode)


def test_order_shape_and_name(tmp_path):
    for value, name in enumerate(("b.png", "c/a.png", "a/z.png", "a-b/x.png", "a/b/c.png")):
        save(tmp_path / name, value)
    dataset = load(tmp_path)
    assert dataset.images.shape == (5, 4, 6, 1)
    # a-b after a: paths are compared part by part.
    assert dataset.images[:, 0, 0, 0].tolist() == [4, 2, 3, 0, 1]
    assert dataset.name == str(tmp_path)
    assert dataset.images.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif", "webp", "PNG", "JPG"])
@pytest.mark.parametrize(("mode", "value"), [("L", 100), ("RGB", RED)])
def test_formats(tmp_path, suffix, mode, value):
    save(tmp_path / f"a.{suffix}", value, (16, 16), mode)
    dataset = load(tmp_path, color=mode == "RGB")
    assert dataset.notes == ()
    assert np.abs(dataset.images[0].astype(int) - value).max() <= 6


def test_one_coloured_image_makes_all_coloured(tmp_path):
    save(tmp_path / "a.png", 100)
    save(tmp_path / "b.png", RED, mode="RGB")
    for color in (None, True):
        images = load(tmp_path, color=color).images
        assert images[:, 0, 0].tolist() == [[100] * 3, list(RED)]
    luma = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    assert load(tmp_path, color=False).images[:, 0, 0].tolist() == [[100], [luma]]


def test_only_grey_images_are_grey(tmp_path):
    save(tmp_path / "a.png", 100)
    save(tmp_path / "b.png", 1, mode="1")
    save(tmp_path / "c.png", (50, 255), mode="LA")
    save(tmp_path / "d.png", 65535, mode="I;16")
    assert load(tmp_path).images[:, 0, 0].tolist() == [[100], [255], [50], [255]]
    assert load(tmp_path, color=True).images.shape[-1] == 3


def test_palettes(tmp_path):
    coloured = Image.new("P", (6, 4), 1)
    coloured.putpalette([*BLACK, *BLUE])
    coloured.save(tmp_path / "a.png")
    assert load(tmp_path).images[0, 0, 0].tolist() == list(BLUE)
    grey = Image.new("P", (6, 4), 1)
    grey.putpalette([0, 0, 0, 77, 77, 77])
    grey.save(tmp_path / "a.png")
    assert load(tmp_path).images[0, 0, 0].tolist() == [77]


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        load(tmp_path).images[0, :, :, 0], np.rint(values.astype(float) / 257).astype(np.uint8)
    )


def test_transparency_is_put_on_white(tmp_path):
    save(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")
    save(tmp_path / "b.png", (*BLUE, 255), mode="RGBA")
    save(tmp_path / "c.png", (0, 128), mode="LA")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([*BLACK, *BLUE])
    palette.save(tmp_path / "d.png", transparency=1)
    palette.save(tmp_path / "e.gif", transparency=1)
    save(tmp_path / "f.png", RED, mode="RGB", transparency=RED)
    pixels = load(tmp_path).images[:, 0, 0].tolist()
    assert pixels == [list(WHITE), list(BLUE), [127] * 3, list(WHITE), list(WHITE), list(WHITE)]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_of_photographs(tmp_path, suffix):
    upright = np.asarray(quadrants(64, 32)).astype(int)
    # What a camera stores when it is held so that the picture must be turned back by 90 degrees.
    stored = quadrants(64, 32).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    image = load(tmp_path, color=True).images[0]
    assert image.shape == (32, 64, 3)
    assert np.abs(image - upright).mean() < 6
    small = load(tmp_path, color=True, image_size=8).images[0]
    assert small[1, 1, 0] > 150
    assert small[6, 1, 0] < 60


def late_exif(path, orientation):
    """A PNG that stores its orientation behind the pixels, as the format allows."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = io.BytesIO()
    quadrants(6, 4).save(raw, "png")
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", exif.tobytes()[6:])
    content = raw.getvalue()
    path.write_bytes(content[:-12] + chunk.getvalue() + content[-12:])


def test_orientation_behind_the_pixels(tmp_path):
    late_exif(tmp_path / "a.png", 3)
    image = load(tmp_path).images[0]
    assert image[-1, -1].tolist() == list(RED)
    assert image[0, 0].tolist() == list(BLACK)
    late_exif(tmp_path / "b.png", 6)
    with pytest.raises(InputError, match=r"2 sizes \(width x height\)"):
        load(tmp_path)
    assert load(tmp_path, image_size=8).images.shape == (2, 8, 8, 3)


def test_sizes_must_agree_or_be_given(tmp_path):
    for i in range(3):
        save(tmp_path / f"a{i}.png", size=(6, 4))
    save(tmp_path / "b.png", size=(4, 6))
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "images of 2 sizes (width x height): 6x4 (3 images), 4x6 (1 images)" in message
    assert "image_size=32" in message
    for i in range(3):
        save(tmp_path / f"c{i}.png", size=(9, 9 + i))
    with pytest.raises(InputError, match=r"5 sizes .* and 2 more"):
        load(tmp_path)
    assert load(tmp_path, image_size=8).images.shape == (7, 8, 8, 1)


@pytest.mark.parametrize("resize", ["auto", "fit"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_fit_crops_the_centre(tmp_path, resize, suffix):
    image = Image.new("L", (300, 100), 0)
    image.paste(200, (100, 0, 200, 100))
    image.save(tmp_path / f"a.{suffix}", quality=95)
    pixels = load(tmp_path, image_size=10, resize=resize).images[0, :, 1:-1, 0]
    assert np.abs(pixels.astype(int) - 200).max() <= 8


def test_shrinking_keeps_edges_sharp_by_the_filter_of_lanczos(tmp_path):
    """Its negative lobes overshoot on either side of an edge, which no average of neighbours does."""
    image = Image.new("L", (90, 90), 60)
    image.paste(200, (44, 0, 90, 90))
    image.save(tmp_path / "a.png")
    row = load(tmp_path, image_size=30).images[0, 15, :, 0].astype(int)
    assert row.min() < 60 < row[0] + 1
    assert row.max() > 200
    # Nearest, bilinear and bicubic: none, none, less
    assert row.max() - 200 > 8


def test_pad(tmp_path):
    save(tmp_path / "a.png", 100, (6, 4))
    save(tmp_path / "b.png", 200, (3, 8))
    images = load(tmp_path, image_size=8, resize="pad").images[..., 0]
    assert [np.count_nonzero(image) for image in images] == [24, 24]
    assert (images[0, 2:6, 1:7] == 100).all()
    assert (images[1, :, 2:5] == 200).all()
    with pytest.raises(InputError, match=r"3x8 \(width x height\) cannot be padded to image_size=7"):
        load(tmp_path, image_size=7, resize="pad")


def test_classes_are_the_subfolders(tmp_path):
    for name in ("dog/a.png", "cat/a.png", "cat/b.png", "emu/a.png"):
        save(tmp_path / name)
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.labels.dtype == np.int64
    assert dataset.num_classes == 3


def test_classes_in_the_current_directory(tmp_path, monkeypatch):
    for name in ("dog/a.png", "cat/a.png"):
        save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert load(".").class_names == ("cat", "dog")
    save(tmp_path / "top.png")
    assert load(".").labels is None


def test_no_classes_unless_all_images_are_in_several_subfolders(tmp_path):
    save(tmp_path / "one" / "a.png")
    save(tmp_path / "one" / "b.png")
    assert (load(tmp_path).labels, load(tmp_path).notes) == (None, ())
    save(tmp_path / "two" / "deep" / "a.png")
    dataset = load(tmp_path)
    assert (dataset.labels, dataset.class_names) == (None, None)
    assert dataset.notes == ("no class labels: 1 of 3 images do not lie directly in a sub-folder",)


def test_split(tmp_path):
    for i in range(25):
        save(tmp_path / f"{i:02}.png", i)
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert test.images[:, 0, 0, 0].tolist() == [9, 19]
    assert train.images[:, 0, 0, 0].tolist() == [i for i in range(25) if i not in (9, 19)]


def test_splits_go_together(tmp_path):
    for i in range(19):
        save(tmp_path / "cat" / f"{i:02}.png")
    save(tmp_path / "dog" / "a.png", RED, mode="RGB")
    train, test = load(tmp_path), load(tmp_path, split="test")
    # The dog is the 20th image: both splits know of the class, and of the colour.
    assert test.labels.tolist() == [0, 1]
    assert set(train.labels) == {0}
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.images.shape[-1] == test.images.shape[-1] == 3


def test_too_few_to_split(tmp_path):
    for i in range(19):
        save(tmp_path / f"{i}.png")
    assert len(load(tmp_path)) == 19
    with pytest.raises(InputError, match="has 19 images, too few for a test split; give at least 20"):
        load(tmp_path, split="test")


def test_links(tmp_path):
    root = tmp_path / "root"
    save(root / "z" / "a.png", 1)
    save(root / "y" / "a.png", 2)
    save(tmp_path / "outside" / "a.png", 3)
    (root / "elsewhere").symlink_to(tmp_path / "outside")
    (root / "z" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "z")
    (root / "self").symlink_to(root / "self")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    dataset = load(root)
    assert dataset.images[:, 0, 0, 0].tolist() == [3, 2, 1]
    assert dataset.class_names == ("elsewhere", "y", "z")
    assert dataset.notes == (
        "skipped 2 files that are not readable images: gone.png, self",
        "skipped 2 folders already read by another path: again, z/loop",
    )


def test_animations_give_their_first_picture(tmp_path):
    pictures = [Image.new("L", (6, 4), value) for value in (10, 200)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    assert load(tmp_path, color=False).images[0, 0, 0, 0] == 10


def grey_png(path, depth, row, transparent, colour_type=0):
    """A PNG of one row of four pixels, given as its bytes, with a transparent value in 16 bits."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", 4, 1, depth, colour_type, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (16, struct.pack(">4H", 0, 500, 501, 65535), 0, [255, 2, 2, 255]),
        (16, struct.pack(">4H", 0, 500, 30000, 65535), 500, [0, 255, 117, 255]),
        (8, bytes([0, 5, 10, 255]), 5, [0, 255, 10, 255]),
        (4, bytes([0x05, 0xAF]), 5, [0, 255, 170, 255]),
        (2, bytes([0b00011011]), 1, [0, 255, 170, 255]),
        (1, bytes([0b01010000]), 0, [255] * 4),
        (1, bytes([0b01010000]), 1, [0, 255, 0, 255]),
    ],
)
def test_a_transparent_grey_of_any_depth_is_put_on_white(tmp_path, depth, row, transparent, expected):
    grey_png(tmp_path / "a.png", depth, row, [transparent])
    for color, pixels in ((None, [[value] for value in expected]), (True, [[value] * 3 for value in expected])):
        assert load(tmp_path, color=color).images[0, 0].tolist() == pixels
    shown = load(tmp_path, image_size=4).images
    assert shown.shape == (1, 4, 4, 1)


@pytest.mark.parametrize(("depth", "form"), [(8, ">12B"), (16, ">12H")])
def test_a_transparent_colour_of_either_depth_is_put_on_white(tmp_path, depth, form):
    top = 255 if depth == 8 else 65535
    values = [0, 0, 0, top // 2, 0, 0, top // 3, 0, 0, top, 0, 0]
    grey_png(tmp_path / "a.png", depth, struct.pack(form, *values), values[3:6], colour_type=2)
    assert load(tmp_path).images[0, 0].tolist() == [[0, 0, 0], [255] * 3, [85, 0, 0], [255, 0, 0]]


def test_pictures_of_which_only_the_centre_is_used_are_counted(tmp_path):
    for i, size in enumerate([(8, 8), (8, 9), (12, 8), (16, 16)]):
        save(tmp_path / f"{i}.png", size=size)
    note = "2 of 4 images are not square: only their centre is used"
    assert load(tmp_path, image_size=8).notes == (note,)
    assert load(tmp_path, image_size=16, resize="pad").notes == ()
    for i in (1, 2):
        (tmp_path / f"{i}.png").unlink()
    assert load(tmp_path, image_size=8).notes == ()


def test_pictures_at_their_own_size_are_whole(tmp_path):
    save(tmp_path / "a.png", size=(12, 8))
    assert load(tmp_path).notes == ()


def test_classes_are_ordered_with_numbers_as_numbers(tmp_path):
    for name in ("10", "2", "1", "item 9", "item 10"):
        save(tmp_path / name / "a.png", int(name.split()[-1]))
    dataset = load(tmp_path)
    assert dataset.class_names == ("1", "2", "10", "item 9", "item 10")
    # Each picture's grey is the number in its folder's name.
    for label, image in zip(dataset.labels, dataset.images, strict=True):
        assert dataset.class_names[label].split()[-1] == str(image.max())


def test_the_summary_is_of_the_whole_folder(tmp_path):
    for i in range(30):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.png", i)
    train, test = load(tmp_path), load(tmp_path, split="test", image_size=8, color=True)
    assert train.summary == test.summary
    assert train.summary.counts == (15, 15)
    (tmp_path / "note.txt").touch()
    assert load(tmp_path).summary == train.summary
    before = (tmp_path / "a" / "00.png").read_bytes()
    (tmp_path / "a" / "00.png").write_bytes(before + b"\0")
    assert train.summary.change(load(tmp_path).summary) == "30 images as before, but not the same ones"
