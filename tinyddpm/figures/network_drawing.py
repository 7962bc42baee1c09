"""The U-Nets drawn from their own layers: channels, resolutions, skips, attention, and parameters of each block."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tinyddpm.figures import style
from tinyddpm.figures.network_parts import Part, parts
from tinyddpm.figures.plate import Plate
from tinyddpm.figures.workshop import Workshop
from tinyddpm.networks.registry import NetworkConfig
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig

FILLS = {
    "time embedding": "#F7F0C0",
    "embedding": "#F7F0C0",
    "convolution": "#DCEBF7",
    "norm, convolution": "#DCEBF7",
    "residual block": "#CFE8DF",
    "double convolution": "#CFE8DF",
    "attention": "#F6D9C4",
    "halving": "#E9DDEA",
    "doubling": "#E9DDEA",
}
SHORT = {
    "residual block": "ResBlock",
    "double convolution": "2 × conv",
    "norm, convolution": "norm, conv",
    "convolution": "conv",
    "time embedding": "time",
}
# Inches: of a box and an attention's, from row to row, and of what is between
BOX, HEIGHT, BESIDE, ROW = 2.12, 0.25, 0.98, 0.38
LEFT, INDENT, MIDDLE_GAP = 1.05, 0.16, 0.9


def unet(workshop: Workshop) -> list[Plate]:
    """The full and the simple U-Net that the recipes train."""
    full = UNetConfig(image_size=28, base_channels=32, channel_mults=(1, 2, 4), attention_resolutions=(7,))
    simple = SimpleUNetConfig(image_size=28, base_channels=32, channel_mults=(1, 2, 4))
    return [plate("unet-full", full), plate("unet-simple", simple)]


def plate(name: str, config: NetworkConfig) -> Plate:
    """The network of any config, drawn."""
    found = parts(config)
    total = sum(part.parameters for part in found)
    heaviest = max(found, key=lambda part: part.parameters)
    skips = sum(bool(part.skip) for part in found)
    embedded = sum(part.embedded for part in found)
    attended = sum(part.heads > 0 for part in found)
    sizes = list(dict.fromkeys(f"{part.size[0]} × {part.size[1]}" for part in found))
    caption = (
        f"{type(config).__name__.removesuffix('Config')} of {total:,} parameters, drawn from its layers: down on the "
        f"left, through {', '.join(sizes)} pixels, up on the right. Lines across are the {skips} skip connections, "
        "whose channels are counted in with the inputs of the block that they enter. The time enters "
        f"{'each block with a dot' if embedded > 1 else 'once, at the part with a dot'}; "
        f"{f'{attended} blocks are followed by attention' if attended else 'there is no attention'}. "
        f"The low resolutions hold most of the parameters: {heaviest.name} alone {heaviest.parameters / total:.0%}."
    )
    header = tuple(Part.__dataclass_fields__)
    rows = [[written(getattr(part, column)) for column in header] for part in found]
    return Plate(name, style.to_png(draw(found)), header, rows, caption)


def written(value: Any) -> Any:
    """A value of a part as the table has it."""
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else int(value) if isinstance(value, bool) else value


@dataclass(frozen=True)
class Place:
    """Where a part is drawn, in inches from the top left: x of its left side, y of its middle, width."""

    part: Part
    x: float
    y: float
    width: float = BOX

    @property
    def end(self) -> float:
        """Its right side."""
        return self.x + self.width


def layout(found: list[Part]) -> tuple[list[Place], list[tuple[int, float, float]], float]:
    """A place for each part, in their order; for each level its number, upper and lower edge; the height of all.

    A skip runs level: what it leaves and what it enters share a row. An attention stands right of the block before it.
    """
    depth = 1 + max(part.level for part in found)
    beside = BESIDE if any(part.heads for part in found) else 0.0
    right = LEFT + INDENT * (2 * depth - 2) + BOX + beside + MIDDLE_GAP
    rows: dict[str, float] = {}
    levels, y = [], ROW
    for level in range(depth):
        top = y
        here = [part for part in found if part.level == level and not part.heads and part.path != "middle"]
        # From top to bottom; what a skip enters has the row of what it leaves
        first = [part for part in here if part.path in ("time", "out")]
        for part in first:
            rows[part.name] = y
        y += ROW if first else 0
        for part in here:
            if part.path in ("in", "down"):
                rows[part.name] = y
                y += ROW
        rows |= {part.name: rows[part.skip] for part in here if part.skip}
        for part in here:
            if part.path == "up" and not part.skip:
                rows[part.name] = y
                y += ROW
        levels.append((level, top - ROW / 2, y - ROW / 2))
        y += 0.12
    # The middle goes on in the last level
    y += 0.08 if levels[-1][2] > levels[-1][1] else -0.12
    middle = [part for part in found if part.path == "middle"]
    widths = [BESIDE if part.heads else BOX for part in middle]
    x = (LEFT + right + BOX - sum(widths) - 0.3 * (len(widths) - 1)) / 2
    places = []
    for part in found:
        if part.path == "middle":
            places.append(Place(part, x, y, widths.pop(0)))
            x = places[-1].end + 0.3
        elif part.heads:
            places.append(Place(part, places[-1].end + 0.1, places[-1].y, BESIDE))
        else:
            shift = INDENT * part.level
            places.append(Place(part, right - shift if part.path in ("up", "out") else LEFT + shift, rows[part.name]))
    levels[-1] = (levels[-1][0], levels[-1][1], y + ROW / 2)
    return places, levels, y + ROW / 2 + 0.3


def draw(found: list[Part]) -> Any:
    """The Matplotlib figure."""
    from matplotlib.patches import FancyBboxPatch

    places, levels, height = layout(found)
    width = max(place.end for place in places) + 0.1
    figure = style.new_figure(height, width)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    sizes = {part.level: part.size for part in found}
    for level, top, bottom in levels:
        axes.axhspan(top, bottom, color="#F4F4F4" if level % 2 == 0 else "white", zorder=0)
        label = f"{sizes[level][0]} × {sizes[level][1]}"
        axes.text(0.1, (top + bottom) / 2, label, va="center", size=10, weight="bold")
    by_name = {place.part.name: place for place in places}
    for place in places:
        part = place.part
        box = FancyBboxPatch((place.x, place.y - HEIGHT / 2), place.width, HEIGHT, "round,pad=0,rounding_size=0.05")
        box.set(facecolor=FILLS[part.kind], edgecolor=style.GREY, linewidth=0.7, zorder=3)
        axes.add_patch(box)
        axes.text(place.x + place.width / 2, place.y, text(part), ha="center", va="center", size=7.8, zorder=4)
        if part.embedded:
            axes.plot(place.x + 0.08, place.y - 0.07, "o", color=style.ORANGE, markersize=4.5, zorder=5)
        if part.skip:
            source = by_name[part.skip]
            start = max(other.end for other in places if other.y == source.y and other.x < place.x)
            arrow(axes, (start, place.y), (place.x, place.y), style.BLUE)
    forward = [place for place in places if place.part.path != "time"]
    for before, after in pairwise(forward):
        flow(axes, before, after)
    axes.plot(LEFT + 0.08, height - 0.14, "o", color=style.ORANGE, markersize=4.5)
    key = "the time enters     blue: skip connections     in each box: channels in → out · parameters"
    axes.text(LEFT + 0.2, height - 0.14, key, va="center", size=7.8)
    return figure


def flow(axes: Any, before: Place, after: Place) -> None:
    """An arrow from a part to the one that comes after it."""
    if before.y == after.y:
        arrow(axes, (before.end, before.y), (after.x, after.y), style.GREY)
        return
    down = HEIGHT / 2 if after.y > before.y else -HEIGHT / 2
    if before.part.heads and before.part.path != "middle":
        # The block that it stands beside, whose box the eye follows
        before = Place(before.part, before.x - 0.1 - BOX, before.y)
    middle = (max(before.x, after.x) + min(before.end, after.end)) / 2
    arrow(axes, (middle, before.y + down), (middle, after.y - down), style.GREY)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """A thin arrow."""
    shape = {"arrowstyle": "-|>,head_width=0.14,head_length=0.25", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    axes.annotate("", end, start, arrowprops={**shape, "color": color, "linewidth": 1.1}, zorder=2)


def text(part: Part) -> str:
    """What is written in a part's box."""
    channels = f"{part.inputs} → {part.outputs}" if part.inputs != part.outputs else f"{part.outputs}"
    count = f"{part.parameters / 1000:.3g} k" if part.parameters >= 1000 else str(part.parameters)
    if part.heads:
        return f"{part.heads} heads · {count}"
    return f"{SHORT.get(part.kind, part.kind)}  {channels}  ·  {count}"
