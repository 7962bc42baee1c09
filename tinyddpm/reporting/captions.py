"""A grid of pictures with a line of text under each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinyddpm.errors import InputError

# In pixels: the letters, and the strip that they stand in
LETTERS, STRIP = 11, 16
BRIGHTNESS = 220


def add_captions(sheet: Image.Image, captions: Sequence[str], height: int, width: int, gap: int) -> Image.Image:
    """The sheet with a strip under each of its rows, in which every picture's caption stands, cut to its width.

    sheet: of mode L or RGB, pictures of height x width pixels in rows, a gap around each. Raises InputError for fewer
    captions than would fill all rows but the last, or more than there are places.
    """
    columns, rows = (sheet.width - gap) // (width + gap), (sheet.height - gap) // (height + gap)
    if -(-len(captions) // columns) != rows:
        raise InputError(f"{len(captions)} captions do not go with {rows} rows of {columns} pictures")
    font = caption_font()
    ground = np.asarray(sheet)[0, 0].tolist()
    taller = Image.new(
        sheet.mode, (sheet.width, sheet.height + rows * STRIP), tuple(ground) if sheet.mode == "RGB" else ground
    )
    pen = ImageDraw.Draw(taller)
    colour = BRIGHTNESS if sheet.mode == "L" else (BRIGHTNESS,) * 3
    for row in range(rows):
        top, bottom = row * (height + gap), (row + 1) * (height + gap)
        taller.paste(sheet.crop((0, top, sheet.width, bottom)), (0, top + row * STRIP))
        for column, text in enumerate(captions[row * columns : (row + 1) * columns]):
            middle = (gap + column * (width + gap) + width / 2, bottom + row * STRIP + STRIP / 2)
            pen.text(middle, cut(text, font, width), colour, font, anchor="mm")
    return taller


def caption_font() -> ImageFont.FreeTypeFont:
    """The font that comes with Matplotlib, which knows most alphabets, otherwise Pillow's own."""
    from matplotlib import get_data_path

    path = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():  # some distributions keep fonts elsewhere
        return ImageFont.load_default(LETTERS)  # type: ignore[return-value]
    return ImageFont.truetype(path, LETTERS, layout_engine=ImageFont.Layout.BASIC)


def cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, its end left out where it would be wider."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
