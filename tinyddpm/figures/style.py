"""How all figures look: one size of type, one set of colours, light axes."""

import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinyddpm.reporting.pictures import grid

# Okabe & Ito 2008: told apart with any kind of colour vision
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
# Yellow is too light for lines; dashes tell lines apart that share a colour or are printed in grey
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
GREY = "#767676"

# Inches and points that come to 1200 pixels, and are read well at 800
WIDTH = 8.0
RESOLUTION = 150

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}


def applied() -> AbstractContextManager[None]:
    """Within, Matplotlib draws in this style."""
    from matplotlib import rc_context

    return rc_context(SETTINGS)  # type: ignore[arg-type]


def line(number: int) -> dict[str, Any]:
    """Colour and dashes of the number-th line."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}


def new_figure(height: float, width: float = WIDTH) -> Any:
    """An empty Matplotlib figure of that many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Any) -> bytes:
    """The figure as PNG, in a palette of colours where that loses nothing that is seen."""
    from PIL import Image

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        figure.savefig(buffer, format="png", dpi=RESOLUTION, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    picture = Image.open(buffer).convert("RGB")
    flat = picture.quantize(256, dither=Image.Dither.NONE)
    # Photographs keep their colours
    worst = np.abs(np.asarray(flat.convert("RGB"), np.int16) - np.asarray(picture, np.int16)).max()
    out = io.BytesIO()
    (flat if worst <= 24 else picture).save(out, "PNG", optimize=True)
    return out.getvalue()


def show_images(axes: Any, images: np.ndarray, columns: int, title: str = "") -> None:
    """Draws images, uint8 (N, H, W, C), in rows with a gap between them."""
    sheet = grid(images, columns)
    axes.imshow(np.repeat(sheet, 3, axis=2) if sheet.shape[2] == 1 else sheet, interpolation="nearest")
    axes.set_title(title, parse_math=False)
    axes.set_axis_off()


def label_rows(axes: Any, labels: Sequence[str], height: int) -> None:
    """Writes a label left of each row of `show_images`; height: of an image."""
    for row, label in enumerate(labels):
        axes.text(-4, 2 + (row + 0.5) * (height + 2), label, ha="right", va="center", parse_math=False)


def label_columns(axes: Any, labels: Sequence[str], width: int, **more: Any) -> None:
    """Writes a label above each column of `show_images`; width: of an image."""
    for column, label in enumerate(labels):
        axes.text(2 + (column + 0.5) * (width + 2), -2, label, ha="center", va="bottom", parse_math=False, **more)
